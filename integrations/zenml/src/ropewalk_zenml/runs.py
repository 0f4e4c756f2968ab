"""What the plugin does with Ropewalk, over NATS. Everything is safe to repeat."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    NoStreamResponseError,
    NotFoundError,
)

from ropewalk_zenml import wire
from ropewalk_zenml.errors import QueueFullError, RopewalkError
from ropewalk_zenml.trouble import OVERTAKEN

_STREAM_FULL = 10077
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
    """Put a request on its queue. A run that is there already is the same run.

    It raises :class:`QueueFullError` when the queue is full, and
    :class:`RopewalkError` when there is no such queue or the request is too large.
    """
    data = json.dumps(request).encode()
    try:
        await js.publish(wire.run_subject(ref.queue, ref.id), data, stream=wire.RUNS, headers={"Nats-Msg-Id": ref.id})
    except NoStreamResponseError:
        if why := await _takes_none(js, ref.queue):
            raise RopewalkError(why) from None
        raise nats.errors.NoRespondersError from None  # which passes
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


async def _takes_none(js: JetStreamContext, queue: str) -> str:
    """Say why a queue takes no runs, as far as anybody has decided that.

    Its definition tells, which each server that holds it reads out, also while
    the stream of requests has no leader, so that nobody answers a publisher.
    """
    missing = (
        f"Ropewalk has no queue {queue}; start a dispatcher on this NATS server, make the queue "
        f"(dispatcher queue set {queue} --concurrency 2), or set ZENML_ROPEWALK_QUEUE."
    )
    try:
        last = await js.get_last_msg(f"KV_{wire.QUEUES}", f"$KV.{wire.QUEUES}.{queue}", direct=True)
    except NotFoundError:
        return missing
    except nats.errors.NoRespondersError:
        # No dispatcher has ever run, or the servers are not up yet.
        try:
            await js.stream_info(f"KV_{wire.RECORDS}")
        except NotFoundError:
            return missing
        raise
    if not last.data:
        return missing
    try:
        draining = json.loads(last.data).get("draining", False)
    except (ValueError, AttributeError):  # the dispatchers say what is wrong with it
        draining = False
    if draining:
        return (
            f"Ropewalk's queue {queue} is drained and takes no more runs; have it take them again "
            f"(dispatcher queue resume {queue}), or set ZENML_ROPEWALK_QUEUE."
        )
    return ""


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


async def write(
    js: JetStreamContext, ref: Ref, lines: Iterable[tuple[int, bytes]], attempt: int = 1, end: bool = False
) -> None:
    """Add lines to the server's log of an attempt at a run, or end that log.

    Where nobody follows logs there is no stream to hold them: they are in the
    server's own log only then. It raises ValueError where the log is in a format
    that this version does not know.
    """
    subject, lines = wire.server_log_subject(ref.queue, ref.id, attempt), list(lines)
    sent: bytes | None = None
    while True:
        try:
            last = await js.get_last_msg(wire.LOGS, subject, direct=True)
        except nats.errors.NoRespondersError:
            # The stream is missing, or its server is not up yet.
            try:
                await js.stream_info(wire.LOGS)
            except NotFoundError:
                return
            raise
        except NotFoundError:
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
            if refusal.err_code not in OVERTAKEN:
                raise
        except nats.errors.TimeoutError:
            continue
        else:
            return
