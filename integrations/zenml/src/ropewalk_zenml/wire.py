"""The formats that the plugin shares with Ropewalk: names, and batches of lines."""

import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

RUNS = "RUNS"
QUEUES = "ropewalk-queues"
RECORDS = "ropewalk-runs"
CANCELLATIONS = "ropewalk-cancels"
LOGS = "RUN_LOGS"
WORKLOADS = "ropewalk-zenml"
"""The plugin's own bucket: which runs a workload of the server became."""

LABEL_RUN = "zenml.io/run-id"
LABEL_WORKLOAD = "zenml.io/workload-id"
LABEL_PROJECT = "zenml.io/project-id"
LABEL_STACK = "zenml.io/stack-id"

SERVER_POD = "zenml-server"
SERVER_CONTAINER = "server"
END_TTL_SECONDS = 14 * 24 * 3600
LONGEST_TEXT = 128 << 10

_PARTITIONS = 16
_VERSION = 1
_END = 1


def run_subject(queue: str, run: str) -> str:
    """Where the request for a run is published."""
    return f"ropewalk.runs.{queue}.{run}"


def ask_subject(run: str) -> str:
    """Where the logs of a run are asked for."""
    return f"ropewalk.ask.logs.{run}"


def server_log_subject(queue: str, run: str, attempt: int = 1) -> str:
    """Where the server's own lines about an attempt at a run go."""
    return f"ropewalk.logs.{partition(run):02d}.{queue}.{run}.{attempt}.{SERVER_POD}.{SERVER_CONTAINER}"


def partition(run: str) -> int:
    """Return the part that the logs of a run are in: FNV-1a, 32 bits, modulo 16."""
    value = 2166136261
    for byte in run.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value % _PARTITIONS


@dataclass(frozen=True)
class Head:
    """What the next batch of a log has to know of the last one."""

    next: int
    ended: bool


def encode_batch(first: int, lines: Iterable[tuple[int, bytes]], end: bool = False) -> bytes:
    """Encode lines, each a time in nanoseconds and a text, as one message."""
    body, count, last = bytearray(), 0, 0
    for at, text in lines:
        body += _signed(at - last) + bytes([0]) + _unsigned(len(text)) + text
        count, last = count + 1, at
    head = bytes([_VERSION, _END if end else 0]) + _unsigned(first) + _unsigned(count)
    return head + _signed(last) + _unsigned(1) + _unsigned(0) + bytes(body)


def decode_head(data: bytes) -> Head:
    """Read how far a batch goes."""
    if len(data) < 2 or data[0] != _VERSION:
        raise ValueError("the last batch of the server's log is not in a format that this version knows")
    first, at = _read_unsigned(data, 2)
    count, _ = _read_unsigned(data, at)
    return Head(first + count, bool(data[1] & _END))


def _unsigned(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _signed(value: int) -> bytes:
    return _unsigned(value << 1 if value >= 0 else (-value << 1) - 1)


def _read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("the last batch of the server's log is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def texts_of(message: str) -> list[bytes]:
    """Split what the server logs into lines that a log can hold."""
    lines = message.encode(errors="replace").split(b"\n")
    return [line[at : at + LONGEST_TEXT] for line in lines for at in range(0, max(len(line), 1), LONGEST_TEXT)]


def entries(answers: Iterable[bytes]) -> list[str]:
    """Make what is answered to a request for logs the lines that the server reads.

    Lines of one log keep their order; the logs of an attempt are put together by
    time, and attempts stand one after the other, each but the first under a
    line of its own. A line that is no JSON raises ValueError.
    """
    latest: dict[tuple[int, str, str], str] = {}
    going_on: dict[tuple[int, str, str], dict[str, Any]] = {}
    ordered: list[tuple[int, str, int, str]] = []
    for answer in answers:
        for text in answer.splitlines():
            line = json.loads(text)
            log = (line["attempt"], line["pod"], line["container"])
            line["text"] = _text(line)
            if log in going_on:
                going_on[log]["text"] += line["text"]
                line, partial = going_on[log], line.get("partial")
            else:
                partial = line.get("partial")
            if partial:
                going_on[log] = line
                continue
            going_on.pop(log, None)
            latest[log] = max(latest.get(log, ""), _sortable(line["time"]))
            ordered.append((line["attempt"], latest[log], len(ordered), _entry(line)))
    ordered.sort(key=lambda item: item[:3])
    made: list[str] = []
    for at, (attempt, moment, _, entry) in enumerate(ordered):
        if at and attempt != ordered[at - 1][0]:
            made.append(_json(f"Attempt {attempt}.", INFO, moment + "Z"))
        made.append(entry)
    return made


INFO, WARNING, ERROR = 20, 30, 40
"""Levels as the server's lines have them."""


def note(message: str, level: int = INFO) -> str:
    """Make a line of our own that the dashboard shows with a time."""
    return _json(message, level, datetime.now(timezone.utc).isoformat())


def _text(line: dict[str, Any]) -> str:
    if "base64" in line:
        return base64.b64decode(line["base64"]).decode(errors="replace")
    return str(line["text"])


def _sortable(timestamp: str) -> str:
    # Fractions have up to nine digits, and none when they are zero.
    moment, _, fraction = timestamp.rstrip("Z").partition(".")
    return f"{moment}.{fraction:0<9}"


def _entry(line: dict[str, Any]) -> str:
    text = str(line["text"]).rstrip("\r")
    if line.get("gap"):
        return _json("ropewalk: " + text, WARNING, line["time"])
    if text.startswith("{") and text.endswith("}"):
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict) and isinstance(parsed.get("message"), str):
            return str(text)  # the runner's own structured line
    return _json(text, INFO, line["time"])


def _json(message: str, level: int, timestamp: str) -> str:
    return json.dumps({"message": message, "level": level, "timestamp": _microseconds(timestamp)})


def _microseconds(timestamp: str) -> str:
    moment, point, fraction = timestamp.removesuffix("Z").partition(".")
    if not timestamp.endswith("Z"):
        return timestamp
    return moment + (point + fraction[:6] if point else "") + "Z"


def now_nanos() -> int:
    """Return the time of a line that is written now."""
    return time.time_ns()


def now_text() -> str:
    """Return the time as JSON has it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
