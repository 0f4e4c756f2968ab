"""Tells the server of runs that ended without their runner's word.

When a run of ours ends otherwise than by success, and the server still waits for
its runner, the run of the pipeline is set to failed with Ropewalk's reason. What
has been told is kept by NATS: a durable consumer of the records of the queue,
one for each server, which all processes of the server share. A record is
acknowledged when the server knows it, and comes again until then, to whichever
process there is, over restarts of NATS and of the server.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from ropewalk_zenml import runs, server, wire
from ropewalk_zenml.link import Link

logger = logging.getLogger(__name__)

_BATCH = 20
"""How many records are taken at a time: few enough to be settled well before
they would come again."""
_WAIT = 2.0
"""Seconds that a request for records is open."""
_ACK_WAIT = 60.0
"""Seconds after which records come again that a process took along when it ended."""
_LONGEST_PAUSE = 60.0
"""Seconds, at most, until a record comes again that the server could not be told."""
_FORGOTTEN = 14 * 24 * 3600.0
"""Seconds after which NATS forgets what a server was told that has not asked.
Should it come back, it is told of every record that there is, which does no harm."""


class Reporter:
    """Follows records for as long as the process lives."""

    def __init__(
        self,
        link: Link,
        fail: Callable[[UUID, str], bool] = server.fail_run,
        identity: Callable[[], UUID] = server.identity,
        pause: float = 1.0,
    ) -> None:
        """Take what tells the server, what names it, and the seconds to the next try."""
        self._link = link
        self._fail = fail
        self._identity = identity
        self._pause = pause
        self._told = ""

    def start(self) -> None:
        """Begin, in the background; it never raises, and never ends."""
        self._link.spawn(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                await self._link.persist(self._read)
            except NotFoundError:
                self._tell("no dispatcher has run on this NATS server yet")
            except Exception as problem:
                self._tell(str(problem) or type(problem).__name__)
            await asyncio.sleep(self._pause)

    def _tell(self, problem: str) -> None:
        if self._told != problem:
            self._told = problem
            logger.warning("Cannot follow Ropewalk's runs, trying until it works: %s", problem)

    async def _read(self, js: JetStreamContext) -> None:
        """Settle records until the connection or the consumer is lost."""
        queue, stream = self._link.settings.queue, f"KV_{wire.RECORDS}"
        config = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT,
            max_deliver=-1,
            deliver_policy=DeliverPolicy.ALL,
            inactive_threshold=_FORGOTTEN,
        )
        name = f"zenml-{(await asyncio.to_thread(self._identity)).hex}-{queue}"
        subject = f"$KV.{wire.RECORDS}.{queue}.>"
        subscription = await js.pull_subscribe(subject, durable=name, stream=stream, config=config)
        self._told = ""
        try:
            while True:
                try:
                    messages = await subscription.fetch(_BATCH, timeout=_WAIT)
                except nats.errors.TimeoutError:
                    if not js._nc.is_connected:
                        raise
                    # Finds out whether the consumer is still there.
                    await subscription.consumer_info()
                    continue
                for message in messages:
                    await self._settle(message)
        finally:
            if js._nc.is_connected:
                await subscription.unsubscribe()

    async def _settle(self, message: Msg) -> None:
        try:
            told = await self._take(message.data)
        except Exception as problem:
            tries = message.metadata.num_delivered or 1
            if tries == 1:
                logger.warning("Cannot tell the server how a run ended, trying until it works: %s", problem)
            await message.nak(delay=min(self._pause * 2 ** min(tries, 16), _LONGEST_PAUSE))
        else:
            # What took the database's time is worth hearing that NATS knows.
            await (message.ack_sync() if told else message.ack())

    async def _take(self, data: bytes) -> bool:
        """Do what a record asks for; tell whether the server was told anything."""
        try:
            record: dict[str, Any] = json.loads(data or b"null") or {}
            run_id = UUID((record.get("labels") or {}).get(wire.LABEL_RUN, ""))
        except ValueError:
            return False  # a removal, or not one of ours
        if not runs.is_final(record):
            return False
        ref = runs.Ref(record["queue"], record["id"])
        reason = explain(record)
        if reason:
            failed = await asyncio.to_thread(self._fail, run_id, reason)
            if failed:
                logger.info("Pipeline run %s is set to failed: %s", run_id, reason)
        lines = [(wire.now_nanos(), text) for text in wire.texts_of(reason)] if reason else []
        attempt = int(record.get("attempt") or 1)

        async def end(js: JetStreamContext) -> None:
            await runs.write(js, ref, lines, attempt, end=True)

        try:
            await self._link.within(end, self._link.settings.timeout)
        except ValueError as problem:
            logger.warning("Cannot end the server's log of run %s: %s", ref.id, problem)
        return reason is not None


def explain(record: dict[str, Any]) -> str | None:
    """Say why a run ended, or None when it succeeded."""
    if record["state"] == "succeeded":
        return None
    reason, message = record.get("reason") or record["state"], record.get("message") or ""
    return f"{reason}: {message}".rstrip(": ")
