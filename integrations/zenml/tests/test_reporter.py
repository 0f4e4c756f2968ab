"""The reporter against a real NATS server and a real dispatcher."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from ropewalk_zenml.link import Link
from ropewalk_zenml.reporter import Reporter
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.workload_manager import WorkloadManager

from .conftest import Nats, eventually
from .test_workload_manager import ended, messages, start


class Told:
    """A server that is told of failures, and fails itself as often as wanted."""

    def __init__(self, failing: int = 0) -> None:
        self.reasons: dict[UUID, list[str]] = {}
        self.failing = failing

    def __call__(self, run_id: UUID, reason: str) -> bool:
        """Take note, as the server would."""
        if self.failing:
            self.failing -= 1
            raise OSError("the database is away")
        self.reasons.setdefault(run_id, []).append(reason)
        return True


@pytest.fixture
def link(nats: Nats) -> Iterator[Link]:
    made = Link(Settings(servers=(nats.url,), timeout=5))
    yield made
    made.close()


@pytest.mark.usefixtures("dispatcher")
def test_a_failure_is_told_and_ends_the_servers_log(manager: WorkloadManager, link: Link) -> None:
    told, fine, wrong = Told(failing=2), uuid4(), uuid4()
    Reporter(link, told, pause=0.05).start()
    start(manager, fine, fine, "true")
    start(manager, wrong, wrong, "echo no; exit 3")
    [reason] = eventually(lambda: told.reasons.get(wrong, []))
    assert reason.startswith("AppError: ")
    assert "3" in reason
    eventually(lambda: any(message.startswith("AppError: ") for message in messages(manager, wrong)))
    assert set(told.reasons) == {wrong}


@pytest.mark.usefixtures("dispatcher")
def test_what_happened_while_the_server_was_away_is_told(manager: WorkloadManager, link: Link) -> None:
    wrong = uuid4()
    start(manager, wrong, wrong, "exit 1")
    ended(manager, wrong)
    told = Told()
    Reporter(link, told, pause=0.05).start()
    assert eventually(lambda: told.reasons.get(wrong))


@pytest.mark.usefixtures("dispatcher")
def test_it_goes_on_after_nats_was_away(manager: WorkloadManager, link: Link, nats: Nats) -> None:
    told, first, second = Told(), uuid4(), uuid4()
    Reporter(link, told, pause=0.05).start()
    start(manager, first, first, "exit 1")
    eventually(lambda: told.reasons.get(first))
    nats.kill()
    nats.start()
    start(manager, second, second, "exit 1")
    eventually(lambda: told.reasons.get(second))
    assert len(told.reasons[first]) == 1


def test_before_any_dispatcher_it_waits(link: Link, nats: Nats, tmp_path_factory: pytest.TempPathFactory) -> None:
    from .conftest import Dispatcher

    told, run_id = Told(), uuid4()
    Reporter(link, told, pause=0.05).start()
    dispatcher = Dispatcher(tmp_path_factory.mktemp("later"), nats)
    manager = WorkloadManager(Settings(servers=(nats.url,), report=False))
    try:
        start(manager, run_id, run_id, "exit 1")
        assert eventually(lambda: told.reasons.get(run_id))
    finally:
        manager.close()
        dispatcher.stop()
