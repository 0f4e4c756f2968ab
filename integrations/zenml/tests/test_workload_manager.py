"""The workload manager against a real NATS server and a real dispatcher."""

import contextlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from ropewalk_zenml import wire
from ropewalk_zenml.errors import QueueFullError, RopewalkError, UnreachableError
from ropewalk_zenml.link import Link
from ropewalk_zenml.runs import Ref, record
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.workload_manager import WorkloadManager
from ropewalk_zenml.workloads import LIFETIME

from .conftest import LIMIT, Dispatcher, Nats, Proxy, eventually, free_port

DOCKERFILE = "FROM zenmldocker/zenml:0.98.0-py3.11\nRUN uv pip install 'kubernetes'"
IMAGE = "zenml-runner:0123456789abcdef"


def entry_point(run_id: UUID, *more: str) -> list[str]:
    """Return the arguments that the server gives."""
    return ["--run_id", str(run_id), "--placeholder_run_id", str(run_id), *more]


def state(manager: WorkloadManager, run: object, queue: str = "default") -> dict[str, Any]:
    return manager._link.call(lambda js: record(js, Ref(queue, str(run)))) or {}


def ended(manager: WorkloadManager, run: object) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        seen = state(manager, run)
        return seen if seen.get("finishedAt") else {}

    return eventually(look)


def messages(manager: WorkloadManager, workload: UUID) -> list[str]:
    return [json.loads(line)["message"] for line in manager.get_logs(workload_id=workload).split("\n")]


def until(file: Path) -> str:
    """Return what has a script go on once there is a file."""
    return f"until [ -e {file} ]; do sleep 0.05; done"


def start(manager: WorkloadManager, workload: UUID, run_id: UUID, script: str, **more: Any) -> None:
    """Do what the server does from the image to the run, by its newer signature."""
    image = manager.build_and_push_image(
        workload_id=workload, workload_type="snapshot", dockerfile=DOCKERFILE, image_name=IMAGE, sync=True
    )
    manager.log(workload_id=workload, message="Starting pipeline run.")
    manager.run(
        workload_id=workload,
        image=image,
        command=["sh", "-c", script],
        arguments=entry_point(run_id),
        environment={"ZENML_VERSION": "0.98.0", "ZENML_STORE_API_TOKEN": "very-secret", **more.pop("environment", {})},
        sync=True,
        timeout_in_seconds=180,
        **more,
    )
    manager.log(workload_id=workload, message="Pipeline run started successfully.")


@contextlib.contextmanager
def almighty(nats: Nats) -> Iterator[Link]:
    """Give a connection that may change streams."""
    link = Link(Settings(servers=(nats.url,)))
    try:
        yield link
    finally:
        link.close()


@pytest.mark.usefixtures("dispatcher")
def test_a_snapshot_runs_and_its_log_is_found_under_both_ids(manager: WorkloadManager, tmp_path: Path) -> None:
    snapshot, run_id = uuid4(), uuid4()
    start(manager, snapshot, run_id, 'echo "running with $ZENML_STORE_API_TOKEN" | sed s/very-/not-/')
    seen = ended(manager, run_id)
    assert seen["state"] == "succeeded"
    assert seen["labels"][wire.LABEL_RUN] == str(run_id)
    assert seen["request"]["timeout"] == "3m0s"
    assert seen["request"]["image"]["build"] == {"dockerfile": DOCKERFILE, "name": IMAGE}
    wanted = ["Starting pipeline run.", "running with not-secret", "Pipeline run started successfully."]
    for workload in (snapshot, run_id):
        eventually(lambda workload=workload: sorted(messages(manager, workload)) == sorted(wanted))  # type: ignore[misc]
    # The token is in no record, and the archive has what the stream has not.
    assert "very-secret" not in json.dumps(seen)
    archived = tmp_path / "logs" / "v1" / str(run_id) / "1"
    eventually(lambda: any(path.name == "run.ndjson.zst" for path in archived.rglob("*.zst")))
    assert sorted(messages(manager, snapshot)) == sorted(wanted)


@pytest.mark.usefixtures("dispatcher")
def test_the_older_signature_works(manager: WorkloadManager) -> None:
    run_id = uuid4()
    for image in (
        manager.build_and_push_image(workload_id=run_id, dockerfile=DOCKERFILE, image_name=IMAGE, sync=True),
        manager.build_and_push_image(run_id, DOCKERFILE, IMAGE),
    ):
        assert image == IMAGE
    manager.run(workload_id=run_id, image=image, command=["true"], arguments=[])
    seen = ended(manager, run_id)
    assert seen["state"] == "succeeded"
    assert seen["request"]["image"] == {"build": {"dockerfile": DOCKERFILE, "name": IMAGE}}


@pytest.mark.usefixtures("dispatcher")
def test_the_same_run_twice_is_one_run(manager: WorkloadManager, tmp_path: Path) -> None:
    snapshot, run_id, count, go = uuid4(), uuid4(), tmp_path / "count", tmp_path / "go"
    for _ in range(2):
        start(manager, snapshot, run_id, f"echo ran >> {count}; {until(go)}")
    go.touch()
    ended(manager, run_id)
    start(manager, snapshot, run_id, f"echo ran >> {count}")  # the server does not know that it is over
    after = uuid4()
    start(manager, uuid4(), after, "true")
    ended(manager, after)
    assert count.read_text() == "ran\n"
    assert len(state(manager, run_id)["history"]) == len(ended(manager, run_id)["history"])


@pytest.mark.usefixtures("dispatcher")
def test_a_run_that_is_resumed_runs_again_once(manager: WorkloadManager, tmp_path: Path) -> None:
    run_id, count = uuid4(), tmp_path / "count"
    start(manager, run_id, run_id, f"echo first >> {count}")
    ended(manager, run_id)
    for resumed in ("r1", "r2"):
        for _ in range(2):
            manager.run(
                workload_id=run_id,
                image="",
                command=["sh", "-c", f"echo {resumed} >> {count}; echo {resumed} is here; {until(tmp_path / resumed)}"],
                arguments=entry_point(run_id, "--resume", "True"),
            )
        (tmp_path / resumed).touch()  # it was asked for twice while it ran
        assert ended(manager, f"{run_id}-{resumed}")["state"] == "succeeded"
    assert count.read_text() == "first\nr1\nr2\n"
    eventually(lambda: {"r1 is here", "r2 is here"} <= set(messages(manager, run_id)))


@pytest.mark.usefixtures("dispatcher")
def test_what_is_noted_has_the_replicas_of_the_records_and_a_lifetime(manager: WorkloadManager, nats: Nats) -> None:
    async def older(js: JetStreamContext) -> None:
        await js.create_key_value(bucket=wire.WORKLOADS)

    async def config(js: JetStreamContext) -> tuple[Any, ...]:
        seen = (await js.stream_info(f"KV_{wire.WORKLOADS}")).config
        return seen.num_replicas, seen.max_age, seen.allow_direct, seen.max_msgs_per_subject

    with almighty(nats) as link:
        link.call(older)
        start(manager, uuid4(), uuid4(), "true")
        assert link.call(config) == (1, LIFETIME, True, 1)


def test_on_a_cluster_what_is_noted_has_as_many_replicas_as_the_records(tmp_path: Path) -> None:
    ports, servers = [free_port() for _ in range(3)], []
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with contextlib.ExitStack() as ending:
        for at, port in enumerate(ports):
            (folder := tmp_path / f"nats-{at}").mkdir()
            cluster = f'cluster {{ name: "c", listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
            servers.append(Nats(folder, f'server_name: "nats-{at}"\n{cluster}'))
            ending.callback(servers[-1].kill)
        with almighty(servers[0]) as link:
            link.call(lambda js: js.account_info(), seconds=LIMIT)  # once they have a leader
        running = Dispatcher(tmp_path, servers[0], ROPEWALK_NATS_REPLICAS="3")
        ending.callback(running.stop)
        addresses = tuple(server.address for server in servers)
        manager = WorkloadManager(servers[0].settings(servers=addresses))
        ending.callback(manager.close)
        run_id = uuid4()
        start(manager, uuid4(), run_id, "true")

        async def replicas(js: JetStreamContext) -> int | None:
            return (await js.stream_info(f"KV_{wire.WORKLOADS}")).config.num_replicas

        assert manager._link.call(replicas) == 3
        # With one of the servers gone, everything goes on once the others agree.
        servers[0].kill()
        found = manager._link.call(lambda js: manager._workloads.runs_of(js, str(run_id)), seconds=LIMIT)
        assert found == [Ref("default", str(run_id))]


@pytest.mark.usefixtures("dispatcher")
def test_many_threads_share_one_connection(manager: WorkloadManager) -> None:
    run_ids = [uuid4() for _ in range(40)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda run_id: start(manager, run_id, run_id, "echo hello"), run_ids))
    assert {ended(manager, run_id)["state"] for run_id in run_ids} == {"succeeded"}

    async def connection(js: JetStreamContext) -> Client:
        return js._nc

    client = manager._link.call(connection)
    assert client is manager._link._process().connection._client
    assert client.stats["in_msgs"] > 40


@pytest.mark.usefixtures("dispatcher")
def test_a_workload_that_is_deleted_is_cancelled(manager: WorkloadManager) -> None:
    snapshot, run_id = uuid4(), uuid4()
    start(manager, snapshot, run_id, "echo up; sleep 3600")
    eventually(lambda: "up" in messages(manager, snapshot))  # its log is there while it runs
    assert state(manager, run_id)["state"] == "running"
    manager.delete_workload(workload_id=snapshot)
    assert ended(manager, run_id)["state"] == "cancelled"
    manager.delete_workload(workload_id=snapshot)  # safe to repeat
    start(manager, snapshot, uuid4(), "true")  # and the id may be used again


@pytest.mark.usefixtures("dispatcher")
def test_a_reconnection_is_not_noticed(manager: WorkloadManager, nats: Nats) -> None:
    start(manager, uuid4(), uuid4(), "true")
    nats.kill()
    with ThreadPoolExecutor(4) as threads:
        run_ids = [uuid4() for _ in range(4)]
        started = [threads.submit(start, manager, run_id, run_id, "true") for run_id in run_ids]
        nats.start()
        for each in started:
            each.result()
    assert {ended(manager, run_id)["state"] for run_id in run_ids} == {"succeeded"}


def test_without_nats_it_is_made_and_says_so_when_needed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    with monkeypatch.context() as patch:
        patch.setattr(Link, "call", lambda *_: pytest.fail("NATS is waited for while it is made"))
        manager = WorkloadManager(Settings(servers=(f"nats://user:hidden@127.0.0.1:{free_port()}",), timeout=1))
    try:
        with pytest.raises(UnreachableError, match=r"No NATS server answers at nats://127.*ROPEWALK_NATS_URL"):
            start(manager, uuid4(), uuid4(), "true")
        assert "cannot be read: No NATS server answers" in manager.get_logs(workload_id=uuid4())
    finally:
        manager.close()
    assert "hidden" not in caplog.text
    assert len([r for r in caplog.records if "connection to NATS" in r.message]) == 1


def test_what_was_stored_without_an_answer_is_withdrawn(nats: Nats, tmp_path: Path) -> None:
    Dispatcher(tmp_path, nats).stop()  # leaves the queue
    proxy, run_id, marker = Proxy(nats.port, mute_after=b"ropewalk.runs."), uuid4(), tmp_path / "ran"
    manager = WorkloadManager(nats.settings(servers=(proxy.address,), timeout=5))
    try:
        with pytest.raises(UnreachableError):
            start(manager, uuid4(), run_id, f"touch {marker}")
        assert proxy.muted.is_set()
        proxy.speak()
        # The server was told that it is not stored. It is, so it must not run.
        with almighty(nats) as link:
            link.call(lambda js: wanted_cancelled(js, run_id), seconds=LIMIT)
        dispatcher = Dispatcher(tmp_path, nats)
        try:
            assert ended(manager, run_id)["state"] == "cancelled"
        finally:
            dispatcher.stop()
        assert not marker.exists()
    finally:
        manager.close()
        proxy.close()


async def wanted_cancelled(js: JetStreamContext, run_id: UUID) -> None:
    bucket = await js.key_value(wire.CANCELLATIONS)
    watcher = await bucket.watch(f"default.{run_id}")
    while await watcher.updates(timeout=LIMIT) is None:  # type: ignore[no-untyped-call]
        pass


def test_before_any_dispatcher_it_says_what_to_start(manager: WorkloadManager) -> None:
    with pytest.raises(RopewalkError, match="no queue default; start a dispatcher"):
        start(manager, uuid4(), uuid4(), "true")


@contextlib.contextmanager
def unanswered(nats: Nats) -> Iterator[None]:
    """Have nobody answer who publishes runs, as while a cluster has no leader for them."""

    async def listen(js: JetStreamContext, subjects: list[str]) -> list[str]:
        config = (await js.stream_info(wire.RUNS)).config
        before, config.subjects = config.subjects, subjects
        await js.update_stream(config)
        return before or []

    with almighty(nats) as link:
        before = link.call(lambda js: listen(js, ["ropewalk.runs.nobody.>"]))
        yield
        link.call(lambda js: listen(js, before))


def test_it_waits_while_a_queue_has_no_leader(
    manager: WorkloadManager, nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dispatcher(tmp_path, nats).stop()
    run_id, tries, publish = uuid4(), [], JetStreamContext.publish

    async def counted(self: JetStreamContext, subject: str, *more: Any, **options: Any) -> Any:
        if subject.startswith(f"ropewalk.runs.default.{run_id}"):
            tries.append(subject)
        return await publish(self, subject, *more, **options)

    monkeypatch.setattr(JetStreamContext, "publish", counted)
    with ThreadPoolExecutor(1) as threads:
        with unanswered(nats):
            starting = threads.submit(start, manager, uuid4(), run_id, "true")
            eventually(lambda: len(tries) > 1)  # it was told once that nobody answers
            assert not starting.done()
        starting.result()
    assert messages(manager, run_id)[0].startswith(f"Run {run_id} waits in Ropewalk's queue default.")


def test_a_queue_without_an_answer_for_long_is_told_as_that(nats: Nats, tmp_path: Path) -> None:
    Dispatcher(tmp_path, nats).stop()
    manager = WorkloadManager(nats.settings(timeout=5))
    try:
        with unanswered(nats), pytest.raises(UnreachableError, match="see whether JetStream is well there"):
            start(manager, uuid4(), uuid4(), "true")
    finally:
        manager.close()


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        (b"", "no queue default; start a dispatcher"),
        (b'{"name": "default", "concurrency": 2, "draining": true}', "is drained .*dispatcher queue resume default"),
    ],
)
def test_a_queue_that_takes_no_runs_is_told_at_once(
    manager: WorkloadManager, nats: Nats, tmp_path: Path, definition: bytes, told: str
) -> None:
    Dispatcher(tmp_path, nats).stop()

    async def define(js: JetStreamContext) -> None:
        await (await js.key_value(wire.QUEUES)).put("default", definition)

    with almighty(nats) as link:
        link.call(define)
    with unanswered(nats), pytest.raises(RopewalkError, match=told):
        start(manager, uuid4(), uuid4(), "true")


def test_a_full_queue_is_told_apart_from_a_duplicate(manager: WorkloadManager, nats: Nats, tmp_path: Path) -> None:
    Dispatcher(tmp_path, nats).stop()  # leaves the queue, and nobody to empty it

    async def limit(js: JetStreamContext) -> None:
        config = (await js.stream_info(wire.RUNS)).config
        config.max_msgs = 1
        await js.update_stream(config)

    with almighty(nats) as link:
        link.call(limit)
    run_id = uuid4()
    start(manager, uuid4(), run_id, "true")
    start(manager, uuid4(), run_id, "true")
    assert messages(manager, run_id)[0].startswith(f"Run {run_id} waits in Ropewalk's queue default.")
    with pytest.raises(QueueFullError, match="try again later"):
        start(manager, uuid4(), uuid4(), "true")


def test_wrong_settings_do_not_stop_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENML_ROPEWALK_POD", "[1]")
    monkeypatch.setenv("ZENML_ROPEWALK_QUEU", "gpu")
    manager = WorkloadManager()
    with pytest.raises(RopewalkError, match=r"QUEU is not known.*POD is not a JSON object"):
        start(manager, uuid4(), uuid4(), "true")


@pytest.mark.parametrize(
    ("environment", "reference", "image"),
    [
        ({}, IMAGE, {"build": {"dockerfile": DOCKERFILE, "name": IMAGE}}),
        (
            {
                "ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true",
                "ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY": "registry.example.com/zenml",
            },
            f"registry.example.com/zenml/{IMAGE}",
            {"build": {"dockerfile": DOCKERFILE, "name": IMAGE}, "mode": "build"},
        ),
        (
            {"ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE": "registry.example.com/zenml:0.98.0"},
            "registry.example.com/zenml:0.98.0",
            {"mode": "prebuilt"},
        ),
    ],
)
def test_the_image_is_that_of_the_settings(
    nats: Nats, tmp_path: Path, environment: dict[str, str], reference: str, image: dict[str, Any]
) -> None:
    running = Dispatcher(tmp_path, nats)
    own = {
        **nats.environment,
        "ZENML_ROPEWALK_REPORT": "false",
        "ZENML_ROPEWALK_POD": '{"nodeSelector": {"a": "b"}}',
    }
    manager = WorkloadManager(Settings.load({**environment, **own}))
    try:
        run_id = uuid4()
        given = manager.build_and_push_image(workload_id=run_id, dockerfile=DOCKERFILE, image_name=IMAGE)
        assert given == reference
        manager.run(workload_id=run_id, image=given, command=["true"], arguments=entry_point(run_id))
        seen = ended(manager, run_id)["request"]
        assert seen["image"] == image
        assert seen["pod"] == {"nodeSelector": {"a": "b"}}
    finally:
        manager.close()
        running.stop()
