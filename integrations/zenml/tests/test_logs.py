"""What get_logs shows: the right runs and attempts, what there is of them, and the truth about the rest."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from ropewalk_zenml import logs, server
from ropewalk_zenml.link import Link
from ropewalk_zenml.reporter import Reporter
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.workload_manager import WorkloadManager

from .conftest import PROGRAMS, Nats, eventually
from .test_workload_manager import almighty, ended, entry_point, messages, start, state

ONE = {"attempt": 1, "pod": "p", "container": "c", "seq": 1, "time": "2026-01-02T03:04:05Z", "text": "one line"}


@contextlib.contextmanager
def shipper(nats: Nats, *answers: tuple[bytes, bool]) -> Iterator[None]:
    """Answer requests for logs with these messages, of which true ones end an answer."""

    async def answer(message: Msg) -> None:
        for data, ends in answers:
            headers = {"Ropewalk-End": "true"} if ends else None
            await message._client.publish(message.reply, data, headers=headers)

    async def subscribe(js: JetStreamContext) -> None:
        await js._nc.subscribe("ropewalk.ask.logs.*", cb=answer)
        await js._nc.flush()

    with almighty(nats) as link:
        link.call(subscribe)
        yield


def test_what_replays_a_run_is_found_by_the_snapshot_that_was_made_for_it(
    manager: WorkloadManager, dispatcher: object
) -> None:
    # The server starts it as a run's workload, and asks for its log by the snapshot.
    snapshot, replay, shared, triggered = uuid4(), uuid4(), uuid4(), [uuid4(), uuid4()]
    for made_for, run_id in ((snapshot, replay), (shared, triggered[0]), (shared, triggered[1])):
        manager.run(
            workload_id=run_id,
            image="",
            command=["sh", "-c", f"echo {run_id} is here"],
            arguments=["--snapshot_id", str(made_for), *entry_point(run_id)],
        )
    eventually(lambda: f"{replay} is here" in messages(manager, snapshot))
    assert messages(manager, snapshot) == messages(manager, replay)
    # Runs that a trigger starts are told apart.
    for run_id in triggered:
        eventually(lambda run_id=run_id: messages(manager, run_id) == [f"{run_id} is here"])  # type: ignore[misc]


def test_what_resumes_a_run_is_found_by_the_first_runs_workload(manager: WorkloadManager, dispatcher: object) -> None:
    snapshot, run_id = uuid4(), uuid4()
    start(manager, snapshot, run_id, "echo first")
    ended(manager, run_id)
    manager.run(
        workload_id=run_id,
        image="",
        command=["sh", "-c", "echo resumed"],
        arguments=["--snapshot_id", str(snapshot), *entry_point(run_id, "--resume", "True")],
    )
    for workload in (snapshot, run_id):
        seen = eventually(lambda w=workload: [m for m in messages(manager, w) if m in ("first", "resumed")][1:])  # type: ignore[misc]
        assert seen == ["resumed"]


def test_the_newest_run_is_there_when_there_is_no_room_for_all(
    manager: WorkloadManager, dispatcher: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BYTES", 1000)
    run_id = uuid4()
    start(manager, run_id, run_id, "seq -f 'old %g' 20")
    ended(manager, run_id)
    manager.run(
        workload_id=run_id,
        image="",
        command=["sh", "-c", "seq -f 'new %g' 20"],
        arguments=entry_point(run_id, "--resume", "True"),
    )
    seen = eventually(
        lambda: [m for m in messages(manager, run_id) if m.startswith("new")] and messages(manager, run_id)
    )
    assert seen[0].startswith(f"There is no room for run {run_id}: dispatcher logs {run_id}")
    assert seen[-1].startswith(f"The log goes on; all of it: dispatcher logs {run_id}-r1")


def test_attempts_stand_one_after_the_other_with_how_each_ended(nats: Nats, dispatcher: object, tmp_path: Path) -> None:
    manager, link = WorkloadManager(nats.settings()), Link(nats.settings())
    identity = uuid4()
    Reporter(link, lambda *_: True, lambda: identity, pause=0.05).start()
    try:
        run_id, marker = uuid4(), tmp_path / "tried"
        start(manager, uuid4(), run_id, f"if [ -e {marker} ]; then echo second; exit 4; fi; touch {marker}; exit 3")
        eventually(lambda: any(message.startswith("AppError") for message in messages(manager, run_id)))
        replay = [str(PROGRAMS / "dispatcher"), "replay", str(run_id)]
        subprocess.run(replay, env={"ROPEWALK_NATS_URL": nats.url}, check=True, capture_output=True)
        eventually(lambda: state(manager, run_id).get("attempt") == 2 and state(manager, run_id).get("finishedAt"))

        def both() -> list[str]:
            seen = messages(manager, run_id)
            failures = sum(message.startswith("AppError") for message in seen)
            return seen if failures == 2 and "second" in seen else []

        seen = eventually(both)
        at = seen.index("Attempt 2.")
        assert "Starting pipeline run." in seen[:at]
        assert next(m for m in seen[:at] if m.startswith("AppError")).count("3") == 1
        assert seen[at + 1] == "second"
        assert "4" in seen[at + 2]
    finally:
        link.close()
        manager.close()


def test_the_newest_attempt_is_there_when_there_is_no_room_for_all(
    nats: Nats, dispatcher: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BYTES", 4000)
    manager, marker, run_id = (
        WorkloadManager(nats.settings(retry={"attempts": 2, "first": "10ms"})),
        tmp_path / "tried",
        uuid4(),
    )
    try:
        start(
            manager,
            run_id,
            run_id,
            f"if [ -e {marker} ]; then seq -f 'new %g' 5; exit; fi; touch {marker}; seq -f 'old %g' 500; exit 3",
        )
        assert ended(manager, run_id)["attempt"] == 2
        seen = eventually(lambda: [m for m in messages(manager, run_id) if m.startswith("new")])
        assert seen == [f"new {number}" for number in range(1, 6)]
        assert any(f"dispatcher logs {run_id}" in message for message in messages(manager, run_id))
        monkeypatch.setattr(server, "most_entries", lambda: 3)
        seen = messages(manager, run_id)
        assert len(seen) == 3
        assert "lines are left out" in seen[0]
    finally:
        manager.close()


def test_what_has_come_is_shown_when_the_rest_does_not(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SECONDS", 5.0)  # time enough for one line
    # The time limit for everything else is no limit for logs, and longer.
    manager, run_id = WorkloadManager(nats.settings(timeout=30)), uuid4()
    try:
        with shipper(nats, (json.dumps(ONE).encode() + b"\n", False)):
            seen = messages(manager, run_id)
        assert seen[0] == "one line"
        assert f"dispatcher logs {run_id}" in seen[1]
        assert "cannot be read to their end" in seen[2]
        assert "is connected but has not answered within" in seen[2]
        assert "No NATS server" not in "".join(seen)
    finally:
        manager.close()


def test_a_slow_answer_is_waited_for_longer_than_nats(nats: Nats) -> None:
    manager, run_id = WorkloadManager(nats.settings(timeout=2)), uuid4()
    slow: list[str] = []

    async def subscribe(js: JetStreamContext) -> None:
        async def answer(message: Msg) -> None:
            client = message._client
            # Other requests time out meanwhile, one after the other, for longer than
            # the manager's time limit.
            while len(slow) < 5:
                await client.flush()
                try:
                    await client.request("ropewalk.nothing.answers", b"", timeout=0.5)
                except Exception as problem:
                    slow.append(str(problem))
            await client.publish(message.reply, json.dumps(ONE).encode() + b"\n")
            await client.publish(message.reply, b'{"logs": []}', headers={"Ropewalk-End": "true"})

        async def silent(_: Msg) -> None:
            return

        await js._nc.subscribe("ropewalk.nothing.answers", cb=silent)
        await js._nc.subscribe("ropewalk.ask.logs.*", cb=answer)
        await js._nc.flush()

    try:
        with almighty(nats) as link:
            link.call(subscribe)
            assert messages(manager, run_id) == ["one line"]
            assert len(slow) == 5
    finally:
        manager.close()


def test_what_whoever_answers_says_is_wrong_stands_below_the_lines(manager: WorkloadManager, nats: Nats) -> None:
    end = json.dumps({"logs": [], "error": "the bucket is gone"}).encode()
    with shipper(nats, (json.dumps(ONE).encode() + b"\n", False), (end, True)):
        seen = messages(manager, uuid4())
    assert seen == ["one line", "The logs cannot be read to their end: the bucket is gone"]


def test_a_connection_that_is_lost_on_the_way_is_said(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SECONDS", 5.0)  # time enough for one line
    manager = WorkloadManager(nats.settings(timeout=5))
    asked: list[str] = []

    async def subscribe(js: JetStreamContext) -> None:
        async def answer(message: Msg) -> None:
            asked.append(message.subject)
            await message._client.publish(message.reply, json.dumps(ONE).encode() + b"\n")
            await message._client.flush()
            nats.kill()

        await js._nc.subscribe("ropewalk.ask.logs.*", cb=answer)
        await js._nc.flush()

    try:
        with almighty(nats) as link:
            link.call(subscribe)
            seen = messages(manager, uuid4())
        assert asked
        assert seen[0] == "one line"
        assert "No NATS server answers" in seen[-1]
    finally:
        manager.close()


def test_nobody_knows_a_workload_that_never_ran(manager: WorkloadManager, dispatcher: object) -> None:
    workload = uuid4()
    [seen] = messages(manager, workload)
    assert seen.startswith(f"Ropewalk knows of no run {workload}")


def test_more_readers_than_are_allowed_are_told_to_look_again(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = WorkloadManager(Settings(report=False))
    for _ in range(logs.READERS):
        assert manager._readers.acquire(blocking=False)
    assert "look again" in json.loads(manager.get_logs(workload_id=UUID(int=1)))["message"]
