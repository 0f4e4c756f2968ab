"""The formats, against what Ropewalk's own programs read and write."""

import json

import pytest

from ropewalk_zenml import wire


def test_a_run_is_in_the_partition_that_shippers_expect() -> None:
    # As internal/logstream computes them.
    assert [wire.partition(run) for run in ("r1", "abc", "")] == [12, 11, 5]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 300])
def test_the_next_batch_goes_on_where_the_last_one_ended(count: int) -> None:
    lines = [(1_700_000_000_000_000_000 + at, b"x" * at) for at in range(count)]
    assert wire.decode_head(wire.encode_batch(1000, lines)) == wire.Head(1000 + count, False)
    assert wire.decode_head(wire.encode_batch(1000, lines, end=True)) == wire.Head(1000 + count, True)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00\x01\x00", b"\x01\x00\xff"])
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="the server's log"):
        wire.decode_head(data)


def line(text: str, time: str = "2026-01-02T03:04:05.123456789Z", container: str = "run", **more: object) -> bytes:
    return json.dumps(
        {"attempt": 1, "pod": "p", "container": container, "seq": 1, "time": time, "text": text, **more}
    ).encode()


def test_lines_of_several_logs_come_by_time_and_each_log_in_its_order() -> None:
    pages = [
        b"\n".join(
            [
                line("first", "2026-01-02T03:04:05Z"),
                line("third", "2026-01-02T03:04:05.3Z"),
                line("fourth, by a clock that was set back", "2026-01-02T03:04:05.1Z"),
            ]
        ),
        line("second", "2026-01-02T03:04:05.25Z", container="server"),
    ]
    messages = [json.loads(entry)["message"] for entry in wire.entries(pages)]
    assert messages == ["first", "second", "third", "fourth, by a clock that was set back"]


def test_a_line_in_parts_is_one_line_and_a_gap_is_a_warning() -> None:
    entries = [
        json.loads(entry)
        for entry in wire.entries([line("one ", partial=True), line("line"), line("lines are missing", gap=True)])
    ]
    assert [(entry["message"], entry["level"]) for entry in entries] == [
        ("one line", 20),
        ("ropewalk: lines are missing", 30),
    ]


def test_a_structured_line_of_the_runner_stays_as_it_is() -> None:
    own = '{"message": "from the runner", "level": 10}'
    assert wire.entries([line(own), line("{no json}")])[0] == own


def test_the_server_reads_every_line() -> None:
    from zenml.log_stores.artifact.artifact_log_store import parse_log_entry

    entries = wire.entries([line("plain"), line('{"message": 1}'), line("gone", gap=True), line("", base64="/w==")])
    parsed = [parse_log_entry(entry) for entry in [*entries, wire.note("a note")]]
    assert [entry.message for entry in parsed if entry] == [
        "plain",
        '{"message": 1}',
        "ropewalk: gone",
        "\N{REPLACEMENT CHARACTER}",
        "a note",
    ]
    assert all(entry and entry.timestamp and entry.timestamp.year >= 2026 for entry in parsed)
