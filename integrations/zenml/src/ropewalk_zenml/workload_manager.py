"""The seam by which every version of the ZenML server starts its runners."""

import asyncio
import functools
import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from uuid import UUID

from nats.js import JetStreamContext

from ropewalk_zenml import logs, request, runs, server, wire
from ropewalk_zenml.errors import QueueFullError, RopewalkError, UnreachableError
from ropewalk_zenml.link import Link
from ropewalk_zenml.reporter import Reporter
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.workloads import Workloads

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
"""Lines that are kept of one of those: the server writes one or two."""
_WITHDRAW_SECONDS = 600.0
"""Seconds that a run is withdrawn for, which NATS may have stored unheard."""
_WITHDRAW_PAUSE = 5.0
"""Seconds to the next try where NATS says that no waiting helps."""


class WorkloadManager(WorkloadManagerInterface):
    """Hands the server's runners to Ropewalk.

    The server makes one when it starts, and calls it from many threads. Nothing
    is reached before it is needed, and nothing that is wrong stops the server.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._lock = threading.Lock()
        self._planned: OrderedDict[UUID, request.Planned] = OrderedDict()
        self._unsent: OrderedDict[str, list[tuple[int, bytes]]] = OrderedDict()
        self._workloads = Workloads()
        self._readers = threading.BoundedSemaphore(logs.READERS)
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
        how it ends is told by the reporter. It blocks for as long as
        :meth:`Link.call` does and raises :class:`RopewalkError`; then nothing runs.
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
        again, snapshot = request.resumes(arguments), request.option(arguments, "snapshot_id")
        submitted: list[runs.Ref] = []

        async def submit(js: JetStreamContext) -> None:
            ref = submitted[0] if submitted else await self._workloads.ref(js, settings.queue, run_id, again)
            submitted[:] = [ref]
            for name in {run_id, workload}:
                await self._workloads.note(js, name, ref)
            if snapshot and snapshot != workload:
                await self._workloads.note_snapshot(js, snapshot, ref)
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

        until = time.monotonic() + _WITHDRAW_SECONDS
        while True:
            try:
                return await self._link.within(cancel, max(1.0, until - time.monotonic()))
            except RopewalkError as problem:
                if time.monotonic() >= until or not isinstance(problem, UnreachableError):
                    logger.error("Run %s may have been stored and cannot be withdrawn: %s", ref.id, problem)
                    return
            await asyncio.sleep(_WITHDRAW_PAUSE)

    def delete_workload(self, workload_id: UUID) -> None:
        """Cancel the runs of a workload and forget it. Logs stay as long as they are kept.

        Safe to repeat; it raises :class:`RopewalkError`.
        """

        async def delete(js: JetStreamContext) -> None:
            for ref in await self._workloads.runs_of(js, str(workload_id)):
                await runs.cancel(js, ref)
            await self._workloads.forget(js, str(workload_id))

        self._link.call(delete)

    def get_logs(self, workload_id: UUID) -> str:
        """Return what the runner and the server have written, archived or not.

        It is every attempt at every run that the workload became, oldest first,
        as far as that comes within 25 s. What is wrong with the logs is a line
        among them: whoever looks at them is the one to know. It never raises.
        """
        if not self._readers.acquire(blocking=False):
            return wire.note(
                f"The logs of {logs.READERS} other runs are being read; look again in a moment.", wire.WARNING
            )
        try:
            return "\n".join(self._story(workload_id).lines(server.most_entries()))
        except (RopewalkError, ValueError) as problem:
            return wire.note(f"The logs cannot be read: {problem}", wire.ERROR)
        finally:
            self._readers.release()

    def _story(self, workload_id: UUID) -> logs.Story:
        story, workload, queue = logs.Story(), str(workload_id), self._settings.queue

        async def read(js: JetStreamContext) -> None:
            refs = await self._workloads.runs_of(js, workload)
            story.unknown = not refs
            await story.gather(js, refs or [runs.Ref(queue, workload)])

        try:
            self._link.call(read, logs.SECONDS)
        except UnreachableError as problem:
            story.broke = f"The logs cannot be read{' to their end' if story.begun else ''}: {problem}"
        except RopewalkError as problem:
            story.broke = f"The logs cannot be read: {problem}"
        return story

    def log(self, workload_id: UUID, message: str) -> None:
        """Add to the log of a workload's run, or keep it until there is a run.

        It blocks for as long as :meth:`Link.call` does, and never raises.
        """
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
            refs = self._link.call(lambda js: self._workloads.runs_of(js, workload))
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


__all__ = ["QueueFullError", "WorkloadManager"]
