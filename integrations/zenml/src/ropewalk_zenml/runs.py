"""What the plugin does with Ropewalk, over NATS. Everything is safe to repeat."""

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    NoStreamResponseError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from ropewalk_zenml import wire
from ropewalk_zenml.errors import QueueFullError, RopewalkError

logger = logging.getLogger(__name__)

_STREAM_FULL = 10077
_WRONG_SEQUENCE = 10071
_FINAL = frozenset({"succeeded", "failed", "cancelled", "timed_out", "rejected"})


@dataclass(frozen=True)
class Ref:
    """A run of Ropewalk's: its queue and its id."""

    queue: str
    id: str

    @property
    def key(self) -> str:
        """The run's key in the buckets."""
        return f"{self.queue}.{self.id}"


def is_final(record: dict[str, Any]) -> bool:
    """Whether a run is over."""
    return record.get("state") in _FINAL


async def publish(js: JetStreamContext, ref: Ref, request: dict[str, Any]) -> None:
    """Put a request on its queue. A run that is there already is the same run."""
    data = json.dumps(request).encode()
    try:
        await js.publish(wire.run_subject(ref.queue, ref.id), data, stream=wire.RUNS, headers={"Nats-Msg-Id": ref.id})
    except NoStreamResponseError:
        raise RopewalkError(
            f"Ropewalk has no queue {ref.queue}; start a dispatcher on this NATS server, make the queue "
            f"(dispatcher queue set {ref.queue} --concurrency 2), or set ZENML_ROPEWALK_QUEUE."
        ) from None
    except nats.errors.MaxPayloadError:
        raise RopewalkError(
            f"The request has {len(data)} bytes, which is more than NATS takes; raise max_payload on its server."
        ) from None
    except APIError as refusal:
        if refusal.err_code != _STREAM_FULL:
            raise
        if "per subject" not in (refusal.description or ""):
            raise QueueFullError(
                f"Ropewalk's queue is full ({refusal.description}); try again later, or raise the limits of "
                f"stream {wire.RUNS}."
            ) from None


async def record(js: JetStreamContext, ref: Ref) -> dict[str, Any] | None:
    """Return the record of a run, or None when no dispatcher has taken it up."""
    try:
        bucket = await js.key_value(wire.RECORDS)
        entry = await bucket.get(ref.key)
    except NotFoundError:
        return None
    return json.loads(entry.value or b"null") or None


async def cancel(js: JetStreamContext, ref: Ref) -> None:
    """Ask for a run to be stopped. One that is over stays as it is."""
    known = await record(js, ref)
    if known is not None and is_final(known):
        return
    try:
        bucket = await js.key_value(wire.CANCELLATIONS)
    except BucketNotFoundError:
        raise RopewalkError("No dispatcher has ever run on this NATS server; there is nothing to cancel.") from None
    attempt = known.get("attempt", 1) if known else 1
    wish = {"queue": ref.queue, "id": ref.id, "attempt": attempt, "requestedAt": wire.now_text()}
    await bucket.put(ref.key, json.dumps(wish).encode())


async def _workloads(js: JetStreamContext) -> KeyValue:
    try:
        return await js.key_value(wire.WORKLOADS)
    except BucketNotFoundError:
        return await js.create_key_value(
            bucket=wire.WORKLOADS, description="Ropewalk: which runs a workload of a ZenML server became"
        )


async def remember(js: JetStreamContext, workload: str, ref: Ref) -> None:
    """Note that a workload became a run, for whoever asks for its logs later."""
    bucket = await _workloads(js)
    while True:
        known, revision = await _entry(bucket, workload)
        if ref in known:
            return
        value = json.dumps([{"queue": one.queue, "id": one.id} for one in [*known, ref]]).encode()
        try:
            await bucket.update(workload, value, last=revision)
        except APIError as refusal:
            if refusal.err_code != _WRONG_SEQUENCE:
                raise
        else:
            return


async def remembered(js: JetStreamContext, workload: str) -> list[Ref]:
    """Return the runs that a workload became, oldest first."""
    known, _ = await _entry(await _workloads(js), workload)
    return known


async def forget(js: JetStreamContext, workload: str) -> None:
    """Drop what was noted of a workload."""
    await (await _workloads(js)).delete(workload)


async def _entry(bucket: KeyValue, workload: str) -> tuple[list[Ref], int]:
    try:
        entry = await bucket.get(workload)
    except KeyNotFoundError as missing:
        # A deleted key is there as a marker, which an update has to name.
        marker = getattr(missing, "entry", None)
        return [], (marker.revision or 0) if marker else 0
    return [Ref(one["queue"], one["id"]) for one in json.loads(entry.value or b"[]")], entry.revision or 0


async def write(js: JetStreamContext, ref: Ref, lines: Iterable[tuple[int, bytes]], end: bool = False) -> None:
    """Add lines to the server's log of a run, or end that log.

    Where nobody follows logs there is no stream to hold them: they are in the
    server's own log only then.
    """
    subject, lines = wire.server_log_subject(ref.queue, ref.id), list(lines)
    sent: bytes | None = None
    while True:
        try:
            last = await js.get_last_msg(wire.LOGS, subject)
        except NotFoundError as missing:
            if missing.err_code == 10059:  # there is no such stream
                return
            head, version = wire.Head(1, False), 0
        else:
            if sent is not None and last.data == sent:
                return  # it was stored, only the answer got lost
            head, version = wire.decode_head(last.data or b""), last.seq or 0
        if head.ended or (end and version == 0 and not lines):
            return
        sent = wire.encode_batch(head.next, lines, end)
        headers = {"Nats-Expected-Last-Subject-Sequence": str(version)}
        if end:
            headers["Nats-TTL"] = f"{wire.END_TTL_SECONDS}s"
        try:
            await js.publish(subject, sent, headers=headers)
        except APIError as refusal:
            if refusal.err_code != _WRONG_SEQUENCE:
                raise
        except nats.errors.TimeoutError:
            continue
        else:
            return


class NobodyAnswersError(RopewalkError):
    """Nobody ships logs, so that nobody can be asked for them."""


async def logs(js: JetStreamContext, ref: Ref, limit: int) -> tuple[list[str], bool]:
    """Return the lines of a run's logs, and whether there are more."""
    client = js._nc
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    pages: list[bytes] = []
    try:
        await client.publish(wire.ask_subject(ref.id), json.dumps({"bytes": limit}).encode(), reply=inbox)
        while True:
            message = await subscription.next_msg(timeout=30)
            headers = message.headers or {}
            if headers.get("Status") == "503":
                raise NobodyAnswersError(
                    "nobody answers for them; start a logshipper, and have ROPEWALK_LOG_ARCHIVE say where logs stay."
                )
            if "Ropewalk-End" not in headers:
                pages.append(message.data)
                continue
            summary = json.loads(message.data)
            if summary.get("error"):
                raise RopewalkError(f"The logs of run {ref.id} cannot be read: {summary['error']}")
            return await asyncio.to_thread(wire.entries, pages), bool(summary.get("more"))
    finally:
        await subscription.unsubscribe()
