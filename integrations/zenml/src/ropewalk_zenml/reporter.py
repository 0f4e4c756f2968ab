"""Tells the server of runs that ended without their runner's word.

It follows the records of all runs from a day back on. When one of ours ends
otherwise than by success, and the server still waits for its runner, the run of
the pipeline is set to failed with Ropewalk's reason. Every process of the server
does so; the second one finds that it is done.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from ropewalk_zenml import runs, server, wire
from ropewalk_zenml.link import Link

logger = logging.getLogger(__name__)

_LOOK_BACK = timedelta(days=1)
"""How long a server may be away without a run being left unfinished."""
_BATCH = 100
_WAIT = 2.0
_TRIES = 5


class Reporter:
    """Follows records for as long as the process lives."""

    def __init__(self, link: Link, fail: Callable[[UUID, str], bool] = server.fail_run, pause: float = 1.0) -> None:
        self._link = link
        self._fail = fail
        self._pause = pause
        self._next: int | None = None

    def start(self) -> None:
        """Begin, in the background; it never raises."""
        self._link.spawn(self._follow())

    async def _follow(self) -> None:
        told = False
        while True:
            try:
                await self._link.persist(self._read)
            except asyncio.CancelledError:
                raise
            except NotFoundError:
                told = self._tell(told, "no dispatcher has run on this NATS server yet")
            except Exception as problem:
                told = self._tell(told, problem)
            await asyncio.sleep(self._pause)

    def _tell(self, told: bool, problem: object) -> bool:
        if not told:
            logger.warning("Cannot follow Ropewalk's runs, trying until it works: %s", problem)
        return True

    async def _read(self, js: JetStreamContext) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=60.0)
        if self._next is None:
            config.deliver_policy = DeliverPolicy.BY_START_TIME
            config.opt_start_time = (datetime.now(timezone.utc) - _LOOK_BACK).isoformat()  # type: ignore[assignment]
        else:
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, self._next
        stream = f"KV_{wire.RECORDS}"
        subject = f"$KV.{wire.RECORDS}.>"
        subscription = await js.pull_subscribe(subject, durable=None, stream=stream, config=config)
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
                    await self._take(message.data)
                    self._next = message.metadata.sequence.stream + 1
        finally:
            if js._nc.is_connected:
                await subscription.unsubscribe()

    async def _take(self, data: bytes) -> None:
        try:
            record: dict[str, Any] = json.loads(data or b"null") or {}
            run_id = UUID((record.get("labels") or {}).get(wire.LABEL_RUN, ""))
        except ValueError:
            return  # a removal, or not one of ours
        if not runs.is_final(record):
            return
        ref = runs.Ref(record["queue"], record["id"])
        reason = explain(record)
        if reason and await self._report(run_id, reason):
            logger.info("Pipeline run %s is set to failed: %s", run_id, reason)
        lines = [(wire.now_nanos(), text) for text in wire.texts_of(reason)] if reason else []
        try:
            await runs.write(await self._link.jetstream(), ref, lines, end=True)
        except Exception as problem:
            logger.warning("Cannot end the server's log of run %s: %s", ref.id, problem)

    async def _report(self, run_id: UUID, reason: str) -> bool:
        for attempt in range(1, _TRIES + 1):
            try:
                return await asyncio.to_thread(self._fail, run_id, reason)
            except Exception:
                if attempt == _TRIES:
                    logger.exception("Cannot tell the server that run %s has failed.", run_id)
                    return False
                await asyncio.sleep(self._pause * attempt)
        return False


def explain(record: dict[str, Any]) -> str | None:
    """Say why a run ended, or None when it succeeded."""
    if record["state"] == "succeeded":
        return None
    reason, message = record.get("reason") or record["state"], record.get("message") or ""
    return f"{reason}: {message}".rstrip(": ")
