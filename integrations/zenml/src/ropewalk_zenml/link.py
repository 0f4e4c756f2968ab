"""The way to NATS, for a server whose threads know nothing of asyncio.

One daemon thread runs an event loop with the one connection. What is asked while
NATS is away waits up to the time limit, and then fails with a sentence that says
what to do; how many threads wait at a time is bounded, since they are the
server's.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nats.js import JetStreamContext

from ropewalk_zenml.connection import Connection
from ropewalk_zenml.errors import UnreachableError
from ropewalk_zenml.settings import Settings

T = TypeVar("T")

_THREADS = 20
"""How many threads wait for NATS at a time: half of those that a ZenML server
has by default, so that it goes on with everything else."""
_TURN = 1.0
"""Seconds that one waits to be among them. A call takes milliseconds, so that
whoever waits longer waits behind those whom NATS does not answer."""
_AGAIN = 0.5
"""Seconds after which a task that was to end is told so again."""


@dataclass
class _Process:
    """What one process has; a fork makes its own."""

    settings: Settings
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    id: int = field(default_factory=os.getpid)
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_THREADS))
    tasks: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.connection = Connection(self.settings)
        threading.Thread(target=self.loop.run_forever, name="ropewalk", daemon=True).start()


class Link:
    """A connection that is made when it is needed. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._mine: _Process | None = None

    def _process(self) -> _Process:
        with self._lock:
            if self._mine is None or self._mine.id != os.getpid():
                self._mine = _Process(self.settings)
            return self._mine

    def call(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], seconds: float | None = None) -> T:
        """Do work on the connection from any thread but the loop's own.

        It blocks for at most so many seconds, the settings' time limit unless
        given, and a second for its turn. The work is done again when the
        connection is lost meanwhile, so it must be safe to repeat. It raises
        :class:`RopewalkError`; as :class:`UnreachableError`, the work may have
        been done or not.
        """
        process = self._process()
        if not process.turns.acquire(timeout=_TURN):
            raise UnreachableError(
                f"{_THREADS} requests to this ZenML server wait for NATS at {self.settings.address} already, "
                "which answers slowly or not at all; try again later."
            )
        try:
            limit = seconds or self.settings.timeout
            doing = process.connection.within(work, limit, held=True)
            return asyncio.run_coroutine_threadsafe(doing, process.loop).result()
        finally:
            process.turns.release()

    async def within(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], seconds: float) -> T:
        """Do work for so many seconds at most; for the loop's own tasks."""
        return await self._process().connection.within(work, seconds)

    async def persist(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
        """Do work however long NATS is away; for the loop's own tasks."""
        return await self._process().connection.persist(work)

    async def jetstream(self) -> JetStreamContext:
        """Return the connection once it is up; for the loop's own tasks."""
        return await self._process().connection.jetstream()

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        """Have a task run beside everything else, until it ends or :meth:`close`."""
        process = self._process()
        # A loop by itself would let go of it.
        running = asyncio.run_coroutine_threadsafe(task, process.loop)
        process.tasks.add(running)
        running.add_done_callback(process.tasks.discard)

    def close(self) -> None:
        """End the connection, the tasks and the thread; it takes 10 s at most."""
        with self._lock:
            process, self._mine = self._mine, None
        if process is None or process.id != os.getpid():
            return

        async def finish() -> None:
            # More than once: a cancellation that meets the end of what the task
            # waits for is lost in asyncio.wait_for.
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                done, _ = await asyncio.wait(tasks, timeout=_AGAIN)
                await asyncio.gather(*done, return_exceptions=True)
            await process.connection.close()

        asyncio.run_coroutine_threadsafe(finish(), process.loop).result(10)
        process.loop.call_soon_threadsafe(process.loop.stop)
