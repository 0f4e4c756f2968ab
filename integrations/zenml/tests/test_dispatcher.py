"""The seam of newer servers: what it answers when it cannot take on a run."""

from uuid import uuid4

import pytest
from zenml.zen_server.pipeline_execution import utils
from zenml.zen_server.pipeline_execution.snapshot_run_dispatcher import (
    SnapshotRunExecutionRequest,
    SnapshotRunQueueFullError,
)

from ropewalk_zenml import QueueFullError, SnapshotRunDispatcher, dispatcher


def request() -> SnapshotRunExecutionRequest:
    return SnapshotRunExecutionRequest(run_id=uuid4(), snapshot_id=uuid4())


def test_a_thread_that_gets_no_turn_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "_TURN", 0.05)
    seam = SnapshotRunDispatcher()
    for _ in range(dispatcher._AT_ONCE):
        assert seam._turns.acquire(blocking=False)
    with pytest.raises(SnapshotRunQueueFullError, match="takes on 16 runs already"):
        seam.submit(request())


def test_a_full_queue_is_the_servers_own_error_and_gives_the_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(_: SnapshotRunExecutionRequest) -> None:
        # As the server wraps what the workload manager raises.
        raise RuntimeError("Failed to start pipeline run.") from QueueFullError("Ropewalk's queue is full")

    monkeypatch.setattr(utils, "execute_snapshot_run", execute)
    seam = SnapshotRunDispatcher()
    for _ in range(2 * dispatcher._AT_ONCE):
        with pytest.raises(SnapshotRunQueueFullError, match="queue is full"):
            seam.submit(request())


def test_what_else_goes_wrong_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(_: SnapshotRunExecutionRequest) -> None:
        raise KeyError("no such snapshot")

    monkeypatch.setattr(utils, "execute_snapshot_run", execute)
    with pytest.raises(KeyError):
        SnapshotRunDispatcher().submit(request())
