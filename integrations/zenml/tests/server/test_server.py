"""The plugin inside a real ZenML server, with real runners as processes on this machine."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ropewalk_zenml.link import Link
from ropewalk_zenml.runs import Ref, cancel, record

from ..conftest import Dispatcher, Nats, eventually
from .zenml_server import AnswerError, ZenmlServer, register_snapshot

IMAGE = "registry.example.com/zenml/demo:1"


@dataclass
class World:
    """All that runs."""

    folder: Path
    nats: Nats
    server: ZenmlServer
    snapshot: str
    link: Link

    def trigger(self) -> str:
        """Run the snapshot, as the dashboard does."""
        return str(self.server.call("POST", f"pipeline_snapshots/{self.snapshot}/runs", {})["id"])

    def record(self, run: str) -> dict[str, Any]:
        """Return what Ropewalk knows of a run."""
        return self.link.call(lambda js: record(js, Ref("default", run))) or {}

    def cancel(self, run: str) -> None:
        """Ask Ropewalk to stop a run."""
        self.link.call(lambda js: cancel(js, Ref("default", run)))

    def dispatcher(self) -> Dispatcher:
        """Start a dispatcher whose runs find this Python."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return Dispatcher(self.folder, self.nats, PATH=path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    nats = Nats(folder)
    server = ZenmlServer(folder, nats)  # before there is a dispatcher
    link = Link(nats.settings())
    try:
        yield World(folder, nats, server, register_snapshot(server, IMAGE), link)
    finally:
        link.close()
        server.kill()
        nats.kill()


@pytest.fixture
def dispatcher(world: World) -> Iterator[Dispatcher]:
    running = world.dispatcher()
    yield running
    running.stop()


def failed(world: World, run: str) -> str:
    """Wait until the server says that a run has failed, and return why."""

    def look() -> str | None:
        status, reason = world.server.status(run)
        return (reason or "no reason") if status == "failed" else None

    return eventually(look) or ""


@pytest.mark.usefixtures("dispatcher")
def test_a_snapshot_becomes_a_run_and_its_log_comes_back(world: World) -> None:
    run = world.trigger()
    seen = eventually(lambda: world.record(run))
    request = seen["request"]
    assert request["image"]["reference"] == IMAGE
    assert request["image"]["build"]["dockerfile"].startswith("FROM zenmldocker/zenml:")
    assert request["secretEnv"] == {"ZENML_STORE_API_TOKEN": "[redacted]"}
    assert request["env"]["ZENML_STORE_URL"] == world.server.url
    assert request["args"][-2:] == ["--placeholder_run_id", run]
    # The real runner starts, loads the stack from the server with the run's
    # token, and finds that the integration of its orchestrator is not here.
    reason = failed(world, run)
    assert reason.startswith("AppError: ")

    def told() -> bool:
        log = world.server.runner_log(run)
        return "Starting pipeline run." in log and any("kubernetes" in line for line in log)

    eventually(told)
    assert "Pipeline run started successfully." in world.server.runner_log(run)
    assert any(line.startswith("AppError: ") for line in world.server.runner_log(run))


def test_a_burst_is_taken_on_and_waits(world: World) -> None:
    # The server's own pool takes two at a time and refuses the others.
    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(lambda _: world.trigger(), range(6)))
    assert len(set(runs)) == 6
    assert {world.server.status(run)[0] for run in runs} == {"initializing"}
    waiting = world.server.runner_log(runs[0])
    assert waiting[-1].startswith(f"Run {runs[0]} waits in Ropewalk's queue default") or "Starting" in waiting[0]
    for run in runs:
        world.cancel(run)
    running = world.dispatcher()
    try:
        for run in runs:
            assert failed(world, run).startswith("Cancelled: ")
    finally:
        running.stop()


def test_a_run_that_ended_while_the_server_was_away_is_failed(world: World) -> None:
    run = world.trigger()
    world.server.kill()
    world.cancel(run)
    running = world.dispatcher()
    try:
        eventually(lambda: world.record(run).get("finishedAt"))
    finally:
        running.stop()
    world.server.start()
    assert failed(world, run).startswith("Cancelled: ")


def test_while_nats_is_away_a_run_fails_in_words_and_the_server_goes_on(world: World) -> None:
    world.nats.kill()
    try:
        with pytest.raises(AnswerError) as refusal:
            world.trigger()
        assert refusal.value.code == 500
        newest = world.server.call("GET", "runs?sort_by=desc:created&size=1")["items"][0]["id"]
        assert failed(world, newest) == "Failed to queue run."
        assert "No NATS server answers at nats://127.0.0.1" in world.server.log.read_text()
        assert "cannot be read: No NATS server answers" in json.dumps(world.server.runner_log(newest))
    finally:
        world.nats.start()

    def taken_on() -> bool:
        try:
            return world.server.status(world.trigger())[0] == "initializing"
        except AnswerError as refusal:
            if refusal.code != 500:
                raise
            return False  # it has not noticed yet

    eventually(taken_on)


def test_the_workload_manager_does_alone_what_older_servers_ask(world: World) -> None:
    # Without the newer seam the server's own pool calls the workload manager.
    folder = world.folder / "older"
    folder.mkdir()
    source = "ZENML_SERVER_SNAPSHOT_RUN_DISPATCHER_IMPLEMENTATION_SOURCE"
    server = ZenmlServer(folder, world.nats, **{source: ""})
    try:
        older = World(world.folder, world.nats, server, register_snapshot(server, IMAGE), world.link)
        run = older.trigger()
        eventually(lambda: "Pipeline run started successfully." in server.log.read_text())
        older.cancel(run)
        running = world.dispatcher()
        try:
            # Both servers follow the records; only one knows this run.
            assert failed(older, run).startswith("Cancelled: ")
            assert older.record(run)["request"]["image"]["reference"] == IMAGE
        finally:
            running.stop()
    finally:
        server.kill()
