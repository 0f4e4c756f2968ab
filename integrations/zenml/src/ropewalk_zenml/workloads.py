"""Which runs of Ropewalk a workload of the ZenML server became.

It stands in a bucket of the plugin's own, so that every process of the server,
and one that is started later, finds the logs of a workload.
"""

import json
import re

from nats.js import JetStreamContext
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from ropewalk_zenml import wire
from ropewalk_zenml.runs import Ref, is_final, record
from ropewalk_zenml.trouble import OVERTAKEN

LIFETIME = 90 * 24 * 3600
"""Seconds that a workload is remembered after the last run that it became: three
times as long as Ropewalk keeps records unless told otherwise. It bounds the
bucket: some 300 bytes for each run and each snapshot."""

_RESUMED = re.compile(r"-r\d+$")


class Workloads:
    """The bucket. It holds no connection; its coroutines are safe to repeat."""

    def __init__(self) -> None:
        self._settled = False

    async def note(self, js: JetStreamContext, workload: str, ref: Ref) -> None:
        """Note that a workload became a run, after those that it became before."""
        bucket = await self._made(js)
        while True:
            known, revision = await _entry(bucket, workload)
            if ref in known:
                return
            if await _update(bucket, workload, [*known, ref], revision):
                return

    async def note_snapshot(self, js: JetStreamContext, snapshot: str, ref: Ref) -> None:
        """Note the run that a snapshot was made for.

        The server makes a copy of the snapshot for a run, also for one that
        replays another, and asks for logs by it. What triggers start shares one
        snapshot and is asked for by its run: it is enough to note the first.
        """
        bucket = await self._made(js)
        known, revision = await _entry(bucket, snapshot)
        if not known:
            await _update(bucket, snapshot, [ref], revision)

    async def runs_of(self, js: JetStreamContext, workload: str) -> list[Ref]:
        """Return the runs that a workload became, oldest first, with those that resumed them."""
        try:
            bucket = await js.key_value(wire.WORKLOADS)
        except BucketNotFoundError:
            return []
        found: list[Ref] = []
        for ref in (await _entry(bucket, workload))[0]:
            # What resumes a run is noted under the pipeline's run.
            resumed, _ = await _entry(bucket, base(ref))
            found += [ref, *resumed]
        return list(dict.fromkeys(found))

    async def forget(self, js: JetStreamContext, workload: str) -> None:
        """Drop what was noted of a workload."""
        try:
            await (await js.key_value(wire.WORKLOADS)).delete(workload)
        except BucketNotFoundError:
            return

    async def ref(self, js: JetStreamContext, queue: str, run_id: str, resumes: bool) -> Ref:
        """Return the run that a call is for.

        A pipeline's run that is resumed is the same one to the server, and another
        one to Ropewalk: the first that is not over is meant, or a new one.
        """
        if not resumes:
            return Ref(queue, run_id)
        known = [ref for ref in await self.runs_of(js, run_id) if ref.id != run_id]
        if known:
            last = await record(js, known[-1])
            if last is None or not is_final(last):
                return known[-1]
        return Ref(queue, f"{run_id}-r{len(known) + 1}")

    async def _made(self, js: JetStreamContext) -> KeyValue:
        """Return the bucket, with as many replicas as Ropewalk's records have."""
        try:
            bucket = await js.key_value(wire.WORKLOADS)
        except BucketNotFoundError:
            bucket = None
        if bucket is not None and self._settled:
            return bucket
        try:
            replicas = (await js.stream_info(f"KV_{wire.RECORDS}")).config.num_replicas or 1
        except NotFoundError:
            replicas = 1  # no dispatcher has run yet; looked at again next time
        else:
            self._settled = True
        if bucket is None:
            return await js.create_key_value(
                bucket=wire.WORKLOADS,
                description="Ropewalk: which runs a workload of a ZenML server became",
                ttl=LIFETIME,
                replicas=replicas,
                direct=True,
            )
        config = (await js.stream_info(f"KV_{wire.WORKLOADS}")).config
        if self._settled and (config.num_replicas, config.max_age, config.allow_direct) != (replicas, LIFETIME, True):
            config.num_replicas, config.max_age, config.allow_direct = replicas, LIFETIME, True
            await js.update_stream(config)
            return await js.key_value(wire.WORKLOADS)  # how it is read has changed
        return bucket


def base(ref: Ref) -> str:
    """Return the pipeline's run that a run is of, or resumes."""
    return _RESUMED.sub("", ref.id)


async def _entry(bucket: KeyValue, workload: str) -> tuple[list[Ref], int]:
    try:
        entry = await bucket.get(workload)
    except KeyNotFoundError as missing:
        # A deleted key is there as a marker, which an update has to name.
        marker = getattr(missing, "entry", None)
        return [], (marker.revision or 0) if marker else 0
    return [Ref(one["queue"], one["id"]) for one in json.loads(entry.value or b"[]")], entry.revision or 0


async def _update(bucket: KeyValue, workload: str, refs: list[Ref], revision: int) -> bool:
    """Write an entry; tell whether nobody was quicker."""
    value = json.dumps([{"queue": one.queue, "id": one.id} for one in refs]).encode()
    try:
        await bucket.update(workload, value, last=revision)
    except APIError as refusal:
        if refusal.err_code not in OVERTAKEN:
            raise
        return False
    return True
