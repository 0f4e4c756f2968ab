"""The one connection to NATS, for the tasks of the loop that it lives on.

It connects when it is first needed, and again, in the background, whenever it is
lost. Whoever waits for it is told at once what no waiting mends (see
:mod:`ropewalk_zenml.trouble`).
"""

import asyncio
import contextlib
import logging
import math
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from ropewalk_zenml.errors import RopewalkError, UnreachableError
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.trouble import NETWORK, ForbiddenError, Trouble, UnreadableError, judge

logger = logging.getLogger(__name__)
T = TypeVar("T")

_AGAIN = 0.05
"""Seconds between two tries of what the connection was lost under."""
_PAUSES = (0.25, 0.5)
"""Seconds from one attempt to connect to the next: at first, and at most. A
server that is back is noticed within the second that callers wait at least."""
_FINAL_PAUSE = 5.0
"""The same after what is final: a file of credentials may be replaced."""
_GLANCE = 1.0
"""Seconds that is waited for a connection that has been away for longer than
the time limit: each of the server's threads that waits does nothing else."""


class Connection:
    """A connection that is kept up. For one loop; not safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._dialer: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._trouble: Trouble | None = None
        self._said: BaseException | None = None
        self._forbidden: tuple[float, ForbiddenError] | None = None
        self._complained: set[str] = set()
        self._away_since: float | None = None
        self._ended = False

    @property
    def up(self) -> bool:
        """Whether there is a connection now."""
        return self._client is not None and self._client.is_connected

    async def jetstream(self) -> JetStreamContext:
        """Return the connection once it is up.

        It waits for as long as it takes, and raises :class:`UnreachableError`
        when that is of no use.
        """
        while not self.up:
            self._dial_if_down()
            if self._trouble is not None and self._trouble.final:
                raise UnreachableError(self._trouble.text)
            await self._tried.wait()
        assert self._client is not None, "it is up"  # noqa: S101
        # Room for more than one try.
        return self._client.jetstream(timeout=max(0.5, self._settings.timeout / 4))

    async def persist(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
        """Do work until the connection lasts for as long as it takes.

        A server that has just started may take a request and never answer it,
        so that one without an answer is made again too: work must be safe to
        repeat. What does not pass by itself is raised as it is.
        """
        while True:
            jetstream = await self.jetstream()
            began = time.monotonic()
            try:
                return await work(jetstream)
            except NETWORK as problem:
                # What is forbidden is told apart from the request, which then
                # never gets an answer.
                if self._forbidden is not None and self._forbidden[0] >= began:
                    raise RopewalkError(judge(self._forbidden[1], self._settings).text) from problem
                if judge(problem, self._settings).final:
                    raise
                await asyncio.sleep(_AGAIN)

    async def within(
        self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], seconds: float, held: bool = False
    ) -> T:
        """Do work for at most so many seconds.

        Where it holds a thread of the server's, it waits less for a connection:
        no longer than the time limit after that was lost. It raises
        :class:`RopewalkError`, and :class:`UnreachableError` where it is not
        known what became of the work.
        """
        began = time.monotonic()
        try:
            async with timeout(min(seconds, self._patience()) if held else seconds):
                await self.jetstream()
            async with timeout(max(_GLANCE, began + seconds - time.monotonic())):
                return await self.persist(work)
        except NETWORK as problem:
            raise self._explain(problem, time.monotonic() - began) from problem

    async def close(self) -> None:
        """End it for good."""
        self._ended = True
        if self._client is not None:
            await _close(self._client)

    def _patience(self) -> float:
        if self.up or self._away_since is None:
            return self._settings.timeout
        return max(_GLANCE, self._away_since + self._settings.timeout - time.monotonic())

    def _explain(self, problem: BaseException, waited: float) -> RopewalkError:
        trouble = judge(problem, self._settings)
        if trouble.final:
            return RopewalkError(trouble.text)
        if self.up:
            return UnreachableError(
                f"NATS at {self._settings.address} is connected but has not answered within {waited:.0f} s; see "
                "whether JetStream is well there, and run the snapshot again."
            )
        return UnreachableError((self._trouble or trouble).text)

    def _dial_if_down(self) -> None:
        if self._ended or self.up or (self._dialer is not None and not self._dialer.done()):
            return
        self._trouble = None
        self._away_since = time.monotonic()
        self._dialer = asyncio.get_running_loop().create_task(self._dial_until_up())

    async def _dial_until_up(self) -> None:
        pause, told = _PAUSES[0], ""
        while not self._ended:
            try:
                self._client = await self._dial()
            except Exception as problem:
                cause = self._said if isinstance(problem, nats.errors.NoServersError) and self._said else problem
                self._trouble = trouble = judge(cause, self._settings)
                # A server that is away says so once, not every second.
                if told != trouble.text:
                    logger.warning("The connection to NATS at %s: %s", self._settings.address, trouble.text)
                    told = trouble.text
            else:
                self._trouble = self._away_since = self._forbidden = None
                self._complained.clear()
            self._tried.set()
            self._tried = asyncio.Event()
            if self.up:
                return
            await asyncio.sleep(_FINAL_PAUSE if self._trouble and self._trouble.final else pause)
            pause = min(2 * pause, _PAUSES[1])

    async def _dial(self) -> Client:
        client = Client()
        try:
            await client.connect(**self._options(client))
            self._require_tls(client)
        except BaseException:
            await _close(client)
            raise
        return client

    def _options(self, client: Client) -> dict[str, Any]:
        settings = self._settings
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
            "error_cb": self._hear,
            "closed_cb": self._lose,
        }
        if settings.inbox:
            options["inbox_prefix"] = settings.inbox
        if settings.credentials:
            _readable("ROPEWALK_NATS_CREDENTIALS", settings.credentials)
            options["user_credentials"] = settings.credentials
        if settings.user:
            options["user"] = settings.user
        for name, secret in (("password", settings.password), ("token", settings.token)):
            if secret:
                options[name] = self._over_tls(client, secret)
        if settings.tls_ca or settings.tls_cert:
            for name, file in (("CA", settings.tls_ca), ("CERT", settings.tls_cert), ("KEY", settings.tls_key)):
                if file:
                    _readable(f"ROPEWALK_NATS_TLS_{name}", file)
            context = ssl.create_default_context(cafile=settings.tls_ca)
            if settings.tls_cert:
                context.load_cert_chain(settings.tls_cert, settings.tls_key)
            options["tls"] = context
        return options

    def _require_tls(self, client: Client) -> None:
        # The library goes on in the clear with a server that asks for no TLS.
        if self._settings.wants_tls and not client._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError

    def _over_tls(self, client: Client, secret: str) -> Callable[[], str]:
        def reveal() -> str:
            self._require_tls(client)
            return secret

        return reveal

    async def _hear(self, problem: Exception) -> None:
        self._said = problem
        text = str(problem).removeprefix("nats: ")
        if "permissions violation" not in text.lower():
            return
        # Where answers come in is subscribed once: what is wrong with it stays
        # so for as long as the connection.
        until = math.inf if "subscription" in text.lower() else time.monotonic()
        if self._forbidden is None or until >= self._forbidden[0]:
            self._forbidden = (until, ForbiddenError(text))
        if text not in self._complained:
            self._complained.add(text)
            logger.warning("NATS at %s: %s", self._settings.address, text)

    async def _lose(self) -> None:
        if self._client is not None:
            self._dial_if_down()


async def _close(client: Client) -> None:
    # After a TLS handshake that failed, the library waits for ever.
    with contextlib.suppress(Exception):
        async with timeout(_GLANCE):
            await client.close()


def _readable(name: str, file: str) -> None:
    try:
        with open(file, "rb"):
            return
    except OSError as problem:
        raise UnreadableError(f"{name}={file}: {problem.strerror or problem}") from problem


class timeout:
    """asyncio.timeout, which Python 3.10 does not have. In seconds."""

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
