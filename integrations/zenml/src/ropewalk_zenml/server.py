"""What the plugin asks of the ZenML server that it runs in."""

import logging
from typing import Any
from uuid import UUID

logger = logging.getLogger(__name__)

_LONGEST_REASON = 250
"""The server's column takes 255 characters where it is not SQLite."""


def _store() -> Any:
    from zenml.zen_server.utils import zen_store

    return zen_store()


def identity() -> UUID:
    """Return what tells this server, all its processes together, from others."""
    return UUID(str(_store().get_store_info().id))


def most_entries() -> int:
    """Return how many lines of a log the server shows: the first ones."""
    import zenml.constants

    return int(getattr(zenml.constants, "LOGS_MAX_ENTRIES_PER_REQUEST", 50_000))


def pipeline_image(workload: UUID, snapshot: UUID | None = None) -> str | None:
    """Return the image that was built for a pipeline, if there is one.

    The workload is a snapshot, or a run of one; the server's word for a snapshot
    used to be deployment. A server without it answers nothing, and the run goes
    on with what else it has.
    """
    try:
        store = _store()
        get = getattr(store, "get_snapshot", None) or store.get_deployment
        try:
            found = get(snapshot or workload, hydrate=True)
        except KeyError:
            run = store.get_run(workload, hydrate=True)
            found = getattr(run, "snapshot", None) or getattr(run, "deployment", None)
        build = getattr(found, "build", None)
        if build is None or getattr(build, "is_local", False):
            return None
        images = build.images
        item = images.get("orchestrator") or next(iter(images.values()), None)
        return str(item.image) if item else None
    except Exception as problem:
        logger.warning("Cannot look up the image of workload %s: %s", workload, problem)
        return None


def fail_run(run_id: UUID, reason: str) -> bool:
    """Set a run to failed that no runner has taken further; tell whether it was.

    It blocks on the database, raises what the store raises, and may be called
    again: a run that is over stays as it is.

    A run that its runner has handed to an orchestrator is the orchestrator's:
    what becomes of the runner's Job then says nothing about it.
    """
    from zenml.enums import ExecutionStatus
    from zenml.models import PipelineRunUpdate

    store = _store()
    try:
        status = store.get_run(run_id, hydrate=False).status
    except KeyError:
        return False  # deleted, or another server's
    waiting = {getattr(ExecutionStatus, name, None) for name in ("INITIALIZING", "RESUMING")}
    if status not in waiting:
        return False
    update: dict[str, Any] = {"status": ExecutionStatus.FAILED}
    if "status_reason" in PipelineRunUpdate.model_fields:
        update["status_reason"] = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
    store.update_run(run_id=run_id, run_update=PipelineRunUpdate(**update))
    return True
