"""The logs of a workload, as far as they can be had in the time that there is.

Whoever asks is a browser behind the server, so that what has come is shown, and
what has not come is a line that says so. What is gathered is kept outside of the
requests for it: a time that runs out loses nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.js import JetStreamContext

from ropewalk_zenml import wire
from ropewalk_zenml.errors import RopewalkError
from ropewalk_zenml.runs import Ref, record

SECONDS = 25.0
"""How long the logs of a workload are gathered: a client of the server gives up
after 30 s."""
READERS = 8
"""How many threads of a process gather logs at a time: as many requests as one
shipper answers at a time. Each may hold as many bytes as below."""
BYTES = 16 << 20
"""Of text, at most, in an answer."""

_ATTEMPTS = 10
"""How many attempts at a run are asked for one by one."""


class NobodyAnswersError(RopewalkError):
    """Nobody ships logs, so that nobody can be asked for them."""


@dataclass
class Answer:
    """What has come of a request for logs."""

    pages: list[bytes] = field(default_factory=list)
    ended: bool = False
    """Whether the answer is there to its end."""
    more: bool = False
    """Whether the answer stops at its limit of bytes."""
    problem: str = ""
    """What whoever answers says is wrong."""
    attempts: set[int] = field(default_factory=set)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.pages))


@dataclass
class Part:
    """The logs of one run."""

    ref: Ref
    answers: list[Answer] = field(default_factory=list)
    """By attempt, the newest first; or one for all of them."""
    record: dict[str, Any] | None = None
    left_out: list[int] = field(default_factory=list)
    """Attempts that there was no room for."""
    no_room: bool = False
    """Whether newer runs took all the room."""
    nobody: str = ""
    """Why nobody could be asked, if so."""

    @property
    def whole(self) -> bool:
        """Whether everything that was asked for has come."""
        return bool(self.answers) and all(answer.ended for answer in self.answers)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(answer.size for answer in self.answers)


@dataclass
class Story:
    """The logs of a workload: the runs that it became, the newest first."""

    parts: list[Part] = field(default_factory=list)
    broke: str = ""
    """Why the gathering ended before its end."""
    unknown: bool = False
    """Whether Ropewalk knows of no run."""

    async def gather(self, js: JetStreamContext, refs: Sequence[Ref]) -> None:
        """Ask for everything, from the newest run and attempt on.

        Done again, it begins again, except that what has come stays until more
        has come.
        """
        before = {part.ref: part for part in self.parts}
        self.parts = [before.get(ref) or Part(ref) for ref in reversed(refs)]
        for at, old in enumerate(self.parts):
            if old.whole:
                continue
            self.parts[at] = Part(old.ref)
            try:
                await self._gather(js, self.parts[at])
            finally:
                if old.size > self.parts[at].size:
                    self.parts[at] = old

    async def _gather(self, js: JetStreamContext, part: Part) -> None:
        part.record = await record(js, part.ref)
        answer = Answer()
        part.answers.append(answer)
        if self._room() <= 0:
            part.no_room = answer.ended = True
            return
        try:
            await ask(js, part.ref, answer, self._room())
        except NobodyAnswersError as nobody:
            part.nobody = str(nobody)
            answer.ended = True
            return
        attempts = answer.attempts | set(range(1, _last(part.record) + 1))
        if not answer.more or len(attempts) < 2:
            return
        # The newest attempt is what somebody looks for.
        part.answers = []
        for attempt in sorted(attempts, reverse=True):
            room = self._room()
            if room <= 0 or len(part.answers) == _ATTEMPTS:
                part.left_out.append(attempt)
                continue
            part.answers.append(Answer())
            await ask(js, part.ref, part.answers[-1], room, attempt)

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return any(part.size for part in self.parts)

    def _room(self) -> int:
        return BYTES - sum(part.size for part in self.parts)

    def lines(self, most: int) -> list[str]:
        """Return the lines that the server reads, oldest first, that many at most."""
        lines: list[str] = []
        for part in reversed(self.parts):
            lines += _lines(part, self.unknown, bool(self.broke))
        if self.broke:
            lines.append(wire.note(self.broke, wire.ERROR))
        if len(lines) <= most:
            return lines
        left_out = len(lines) - most + 1
        told = f"The first {left_out} lines are left out; all of them: {_command(self.parts)}"
        return [wire.note(told, wire.WARNING), *lines[left_out:]]


async def ask(js: JetStreamContext, ref: Ref, answer: Answer, limit: int, attempt: int | None = None) -> None:
    """Have the logs of a run come in, of all attempts unless one is given.

    It waits for the end of the answer for as long as it takes, and raises
    :class:`NobodyAnswersError` and what the library raises.
    """
    client = js._nc
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    request: dict[str, int] = {"bytes": limit}
    if attempt is not None:
        request["attempt"] = attempt
    try:
        await client.publish(wire.ask_subject(ref.id), json.dumps(request).encode(), reply=inbox)
        while True:
            message = await subscription.next_msg(timeout=2 * SECONDS)
            headers = message.headers or {}
            if headers.get("Status") == "503":
                raise NobodyAnswersError(
                    "nobody answers for them; start a logshipper, and have ROPEWALK_LOG_ARCHIVE say where logs stay."
                )
            if "Ropewalk-End" not in headers:
                answer.pages.append(message.data)
                continue
            summary = json.loads(message.data)
            answer.problem = str(summary.get("error") or "")
            answer.more = bool(summary.get("more"))
            answer.attempts = {int(log["attempt"]) for log in summary.get("logs") or []}
            answer.ended = True
            return
    finally:
        if not client.is_closed:
            await _drop(subscription)


async def _drop(subscription: Any) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error:
        return  # it ended with its connection


def _lines(part: Part, unknown: bool, broke: bool) -> list[str]:
    pages = [page for answer in reversed(part.answers) for page in answer.pages]
    lines = wire.entries(pages)
    if part.left_out:
        attempts = ", ".join(map(str, sorted(part.left_out)))
        lines.insert(
            0, wire.note(f"There is no room for attempts {attempts}; all of it: {_command([part])}", wire.WARNING)
        )
    for answer in part.answers:
        if answer.problem:
            lines.append(wire.note(f"The logs cannot be read to their end: {answer.problem}", wire.ERROR))
            break
    if any(answer.more for answer in part.answers):
        lines.append(wire.note(f"The log goes on; all of it: {_command([part])}", wire.WARNING))
    elif lines and not part.whole:
        lines.append(wire.note(f"The rest has not come; all of it: {_command([part])}", wire.WARNING))
    if part.no_room:
        return [wire.note(f"There is no room for run {part.ref.id}: {_command([part])}", wire.WARNING)]
    if lines or broke:
        return lines
    if unknown and part.record is None:
        return [wire.note(f"Ropewalk knows of no run {part.ref.id}; nothing has been submitted, or it is forgotten.")]
    known = part.record
    state = "waits in Ropewalk's queue " + part.ref.queue if known is None else f"is {known['state']}"
    lines.append(wire.note(f"Run {part.ref.id} {state}. {(known or {}).get('message') or ''}".rstrip()))
    if part.nobody and known is not None:
        lines.append(wire.note(f"The logs cannot be read: {part.nobody}", wire.WARNING))
    return lines


def _command(parts: Sequence[Part]) -> str:
    return " && ".join(f"dispatcher logs {part.ref.id}" for part in reversed(parts))


def _last(known: dict[str, Any] | None) -> int:
    return int((known or {}).get("attempt") or 1)
