"""The connection to NATS, for a server whose threads know nothing of asyncio.

One daemon thread runs an event loop with the one connection. It connects when
it is first needed, and again for as long as it takes; what is asked meanwhile
waits up to the time limit and then fails with a sentence that says what to do.
"""

import asyncio
import logging
import os
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from ropewalk_zenml.errors import RopewalkError, UnreachableError
from ropewalk_zenml.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOST = (
    nats.errors.ConnectionClosedError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.TimeoutError,
    OSError,
)
"""What the library raises when the connection is lost on the way."""

_LOOK_AGAIN = 0.05
"""How often somebody who waits for the connection looks, in seconds."""


class Link:
    """A connection that is made when it is needed. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._client: Client | None = None
        self._connecting: asyncio.Lock | None = None
        self._told = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. After a fork the child gets its own."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._client, self._connecting = None, asyncio.Lock()
                threading.Thread(target=self._loop.run_forever, name="ropewalk", daemon=True).start()
            return self._loop

    def call(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], patience: float | None = None) -> T:
        """Do work on the connection from any thread but the loop's own.

        The work is done again when the connection is lost meanwhile, so it must
        be safe to repeat.
        """
        limit = patience or self.settings.timeout
        return asyncio.run_coroutine_threadsafe(self.within(work, limit), self.loop()).result()

    async def within(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], seconds: float) -> T:
        """Do work for as long as that; for the loop's own tasks."""
        try:
            async with _timeout(seconds):
                return await self.persist(work)
        except (asyncio.TimeoutError, nats.errors.Error, OSError) as problem:
            raise self.explain(problem) from problem

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        """Have a task run beside everything else."""
        asyncio.run_coroutine_threadsafe(task, self.loop())

    async def persist(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
        """Do work until the connection lasts for as long as it takes.

        A server that has just started may take a request and never answer it,
        so that one without an answer is made again too.
        """
        while True:
            jetstream = await self.jetstream()
            try:
                return await work(jetstream)
            except LOST:
                await asyncio.sleep(_LOOK_AGAIN)

    async def jetstream(self) -> JetStreamContext:
        """Return the connection once it is up; for the loop's own tasks."""
        while True:
            client = await self._connected()
            if client.is_connected:
                # Room for more than one try.
                return client.jetstream(timeout=max(0.5, self.settings.timeout / 4))
            await asyncio.sleep(_LOOK_AGAIN)

    async def _connected(self) -> Client:
        assert self._connecting is not None, "the loop makes it"  # noqa: S101
        async with self._connecting:
            while self._client is None or self._client.is_closed:
                client = Client()
                try:
                    await client.connect(**self._options())
                    self._client, self._told = client, False
                except (OSError, nats.errors.NoServersError, asyncio.TimeoutError) as problem:
                    await self._problem(problem)
                    await asyncio.sleep(0.25)
                except BaseException:
                    await client.close()
                    raise
            return self._client

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": "ropewalk-zenml",
            # A connection that is lost is replaced by a new one, in one place.
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": 3,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            # What cannot be sent now is not sent behind the caller's back
            # later, when the server has been told that it failed.
            "pending_size": 0,
            "error_cb": self._problem,
        }
        for name, value in (
            ("user_credentials", settings.credentials),
            ("user", settings.user),
            ("password", settings.password),
            ("token", settings.token),
        ):
            if value:
                options[name] = value
        if settings.tls_ca or settings.tls_cert:
            context = ssl.create_default_context(cafile=settings.tls_ca)
            if settings.tls_cert:
                context.load_cert_chain(settings.tls_cert, settings.tls_key)
            options["tls"] = context
        return options

    async def _problem(self, problem: BaseException) -> None:
        # A server that is away says so once, not four times a second.
        if not self._told:
            self._told = True
            logger.warning("The connection to NATS at %s: %s", self.settings.address, problem or type(problem).__name__)

    def explain(self, problem: BaseException) -> RopewalkError:
        """Turn what the library raises into a sentence."""
        at = self.settings.address
        if "authorization" in str(problem).lower():
            return RopewalkError(
                f"NATS at {at} refuses these credentials; set ROPEWALK_NATS_CREDENTIALS, "
                "or ROPEWALK_NATS_USER and ROPEWALK_NATS_PASSWORD, for the ZenML server."
            )
        if isinstance(problem, (asyncio.TimeoutError, *LOST)):
            return UnreachableError(
                f"No NATS server answers at {at} within {self.settings.timeout:g} s; see whether it runs and "
                "whether ROPEWALK_NATS_URL of the ZenML server names it, and run the snapshot again."
            )
        return RopewalkError(f"NATS at {at} refuses: {problem}")

    def close(self) -> None:
        """End the connection and its thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or self._process != os.getpid():
            return

        async def finish() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._client is not None:
                await self._client.close()

        asyncio.run_coroutine_threadsafe(finish(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)


class _timeout:
    """asyncio.timeout, which Python 3.10 does not have."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __aenter__(self) -> None:
        self.task = asyncio.current_task()
        self.over = False
        self.timer = asyncio.get_running_loop().call_later(self.seconds, self._expire)

    def _expire(self) -> None:
        self.over = True
        if self.task is not None:
            self.task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.timer.cancel()
        if self.over and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError from error
