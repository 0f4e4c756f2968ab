"""The seam by which every version of the ZenML server starts its runners."""

import functools
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from uuid import UUID

from nats.js import JetStreamContext

from ropewalk_zenml import request, runs, server, wire
from ropewalk_zenml.errors import QueueFullError, RopewalkError, UnreachableError
from ropewalk_zenml.link import Link
from ropewalk_zenml.reporter import Reporter
from ropewalk_zenml.settings import Settings

if TYPE_CHECKING:
    from zenml.zen_server.pipeline_execution.workload_manager_interface import WorkloadManagerInterface
else:
    try:
        from zenml.zen_server.pipeline_execution.workload_manager_interface import WorkloadManagerInterface
    except ModuleNotFoundError:  # as it was called before snapshots
        from zenml.zen_server.template_execution.workload_manager_interface import WorkloadManagerInterface

logger = logging.getLogger(__name__)

_REMEMBERED = 256
"""Workloads that are between their image and their run: a moment each."""
_LINES = 100
_LOG_BYTES = 16 << 20
_WITHDRAW_SECONDS = 600.0


class WorkloadManager(WorkloadManagerInterface):
    """Hands the server's runners to Ropewalk.

    The server makes one when it starts, and calls it from many threads. Nothing
    is reached before it is needed, and nothing that is wrong stops the server.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._lock = threading.Lock()
        self._planned: OrderedDict[UUID, request.Planned] = OrderedDict()
        self._unsent: OrderedDict[str, list[tuple[int, bytes]]] = OrderedDict()
        self._given = settings
        try:
            if self._settings.report:
                self._reporter = Reporter(self._link)
                self._reporter.start()
        except RopewalkError as problem:
            # Said again by each run; the server does other things besides.
            logger.error("%s", problem)

    @functools.cached_property
    def _settings(self) -> Settings:
        return self._given or Settings.load()

    @functools.cached_property
    def _link(self) -> Link:
        return Link(self._settings)

    def close(self) -> None:
        """End the connection; the server never does, tests do."""
        self._link.close()

    def build_and_push_image(
        self,
        workload_id: UUID,
        workload_type: str | None = None,
        dockerfile: str = "",
        image_name: str = "",
        sync: bool = True,
        timeout_in_seconds: int = 0,
    ) -> str:
        """Remember what the image is made of, and return its reference at once.

        Ropewalk builds it, if it has to, once the run is its turn: the build is
        part of the run, and its failure the run's.
        """
        if workload_type is not None and workload_type not in ("snapshot", "run"):
            # Older servers have no such parameter, and may not name theirs.
            dockerfile, image_name = workload_type, dockerfile
        settings = self._settings
        pipeline_image = server.pipeline_image(workload_id) if settings.image_mode in (None, "reuse") else None
        reference = request.reference(settings, image_name, pipeline_image)
        planned = request.Planned(reference, dockerfile, image_name, pipeline_image)
        with self._lock:
            self._planned[workload_id] = planned
            while len(self._planned) > _REMEMBERED:
                self._planned.popitem(last=False)
        return reference

    def run(
        self,
        workload_id: UUID,
        image: str,
        command: list[str],
        arguments: list[str],
        environment: dict[str, str] | None = None,
        sync: bool = True,
        timeout_in_seconds: int = 0,
    ) -> None:
        """Publish the run and return once it is stored, whatever sync says.

        The same run published again is the same run. It may wait in its queue;
        how it ends is told by the reporter.
        """
        settings, workload = self._settings, str(workload_id)
        run_id = request.pipeline_run(workload_id, arguments, environment or {})
        with self._lock:
            planned = self._planned.get(workload_id)
        wanted = request.build(
            settings,
            workload_id,
            run_id,
            request.image(settings, image, planned),
            command,
            arguments,
            environment or {},
            timeout_in_seconds,
        )
        again = request.resumes(arguments)
        submitted: list[runs.Ref] = []

        async def submit(js: JetStreamContext) -> None:
            ref = submitted[0] if submitted else await _ref(js, settings.queue, run_id, again)
            submitted[:] = [ref]
            for name in {run_id, workload}:
                await runs.remember(js, name, ref)
            await runs.publish(js, ref, wanted)

        try:
            self._link.call(submit)
        except UnreachableError:
            # It is not known whether it was stored. The server is told that it
            # was not, so it must not run.
            for ref in submitted:
                self._link.spawn(self._withdraw(ref))
            raise
        with self._lock:
            self._planned.pop(workload_id, None)
            lines = self._unsent.pop(workload, [])
        if lines:
            self._write(submitted[0], lines)

    async def _withdraw(self, ref: runs.Ref) -> None:
        async def cancel(js: JetStreamContext) -> None:
            await runs.cancel(js, ref)

        try:
            await self._link.within(cancel, _WITHDRAW_SECONDS)
        except RopewalkError as problem:
            logger.error("Run %s may have been stored and cannot be withdrawn: %s", ref.id, problem)

    def delete_workload(self, workload_id: UUID) -> None:
        """Cancel the runs of a workload and forget it. Logs stay as long as they are kept."""

        async def delete(js: JetStreamContext) -> None:
            for ref in await runs.remembered(js, str(workload_id)):
                await runs.cancel(js, ref)
            await runs.forget(js, str(workload_id))

        self._link.call(delete)

    def get_logs(self, workload_id: UUID) -> str:
        """Return what the runner and the server have written, archived or not.

        What is wrong with the logs is a line among them: whoever looks at them
        is the one to know.
        """

        async def read(js: JetStreamContext) -> list[str]:
            lines: list[str] = []
            for ref in await runs.remembered(js, str(workload_id)) or [
                runs.Ref(self._settings.queue, str(workload_id))
            ]:
                lines += await _logs_of(js, ref)
            return lines

        try:
            return "\n".join(self._link.call(read))
        except RopewalkError as problem:
            return wire.note(f"The logs cannot be read: {problem}", wire.ERROR)

    def log(self, workload_id: UUID, message: str) -> None:
        """Add to the log of a workload's run, or keep it until there is a run."""
        workload = str(workload_id)
        logger.info("Workload %s: %s", workload, message)
        lines = [(wire.now_nanos(), text) for text in wire.texts_of(message)]
        with self._lock:
            known = workload_id not in self._planned
            if not known:
                kept = self._unsent.setdefault(workload, [])
                kept += lines[: _LINES - len(kept)]
                while len(self._unsent) > _REMEMBERED:
                    self._unsent.popitem(last=False)
                return
        try:
            refs = self._link.call(lambda js: runs.remembered(js, workload))
        except RopewalkError as problem:
            logger.warning("Cannot log to workload %s: %s", workload, problem)
            return
        if refs:
            self._write(refs[-1], lines)

    def _write(self, ref: runs.Ref, lines: list[tuple[int, bytes]]) -> None:
        # A line that is lost must not make a run fail that is stored.
        try:
            self._link.call(lambda js: runs.write(js, ref, lines))
        except (RopewalkError, ValueError) as problem:
            logger.warning("Cannot write to the log of run %s: %s", ref.id, problem)


async def _ref(js: JetStreamContext, queue: str, run_id: str, again: bool) -> runs.Ref:
    """Return the run that a call is for.

    A pipeline's run that is resumed is the same one to the server, and another
    one to Ropewalk: the first that is not over is meant, or a new one.
    """
    if not again:
        return runs.Ref(queue, run_id)
    known = [ref for ref in await runs.remembered(js, run_id) if ref.id != run_id]
    if known:
        record = await runs.record(js, known[-1])
        if record is None or not runs.is_final(record):
            return known[-1]
    return runs.Ref(queue, f"{run_id}-r{len(known) + 1}")


async def _logs_of(js: JetStreamContext, ref: runs.Ref) -> list[str]:
    lines: list[str] = []
    more = False
    problem: RopewalkError | None = None
    try:
        lines, more = await runs.logs(js, ref, _LOG_BYTES)
    except runs.NobodyAnswersError as nobody:
        problem = nobody
    if more:
        lines.append(wire.note(f"The log goes on; all of it: dispatcher logs {ref.id}", wire.WARNING))
    if lines:
        return lines
    record = await runs.record(js, ref)
    state = "waits in Ropewalk's queue " + ref.queue if record is None else f"is {record['state']}"
    message = (record or {}).get("message") or ""
    lines.append(wire.note(f"Run {ref.id} {state}. {message}".rstrip()))
    if problem and record is not None:
        lines.append(wire.note(f"The logs cannot be read: {problem}", wire.WARNING))
    return lines


__all__ = ["QueueFullError", "WorkloadManager"]
