"""The reporter against a real NATS server and a real dispatcher."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from ropewalk_zenml import reporter
from ropewalk_zenml.link import Link
from ropewalk_zenml.reporter import Reporter
from ropewalk_zenml.workload_manager import WorkloadManager

from .conftest import Nats, eventually
from .test_workload_manager import ended, messages, start

SERVER = uuid4()


def one_server() -> UUID:
    return SERVER


class Told:
    """A server that is told of failures, and fails itself as often as wanted.

    What it knows already does not change it, as with the real one.
    """

    def __init__(self, failing: int = 0) -> None:
        self.reasons: dict[UUID, list[str]] = {}
        self.failing = failing

    def __call__(self, run_id: UUID, reason: str) -> bool:
        """Take note, as the server would."""
        if self.failing:
            self.failing -= 1
            raise OSError("the database is away")
        if run_id in self.reasons:
            return False
        self.reasons[run_id] = [reason]
        return True


@pytest.fixture
def link(nats: Nats) -> Iterator[Link]:
    made = Link(nats.settings())
    yield made
    made.close()


@pytest.mark.usefixtures("dispatcher")
def test_a_failure_is_told_and_ends_the_servers_log(manager: WorkloadManager, link: Link) -> None:
    told, fine, wrong = Told(failing=2), uuid4(), uuid4()
    Reporter(link, told, one_server, pause=0.05).start()
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
    Reporter(link, told, one_server, pause=0.05).start()
    assert eventually(lambda: told.reasons.get(wrong))


@pytest.mark.usefixtures("dispatcher")
def test_it_goes_on_after_nats_was_away(manager: WorkloadManager, link: Link, nats: Nats) -> None:
    told, first, second = Told(), uuid4(), uuid4()
    Reporter(link, told, one_server, pause=0.05).start()
    start(manager, first, first, "exit 1")
    eventually(lambda: told.reasons.get(first))
    nats.kill()
    nats.start()
    start(manager, second, second, "exit 1")
    eventually(lambda: told.reasons.get(second))
    assert set(told.reasons) == {first, second}


@pytest.mark.usefixtures("dispatcher")
def test_it_goes_on_until_the_server_can_be_told(
    manager: WorkloadManager, link: Link, nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_ACK_WAIT", 2.0)
    told, wrong, other = Told(failing=1 << 30), uuid4(), uuid4()
    Reporter(link, told, one_server, pause=0.001).start()
    start(manager, wrong, wrong, "exit 1")
    eventually(lambda: told.failing < (1 << 30) - 7)
    nats.kill()
    nats.start()
    before = told.failing
    eventually(lambda: told.failing < before)
    told.failing = 0
    assert eventually(lambda: told.reasons.get(wrong))
    start(manager, other, other, "exit 1")
    assert eventually(lambda: told.reasons.get(other))


@pytest.mark.usefixtures("dispatcher")
def test_what_one_process_could_not_tell_the_next_one_tells(
    manager: WorkloadManager, link: Link, nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_ACK_WAIT", 2.0)
    broken, told, elsewhere, wrong, right = Told(failing=1 << 30), Told(), Told(), uuid4(), uuid4()
    first = Link(nats.settings())
    Reporter(first, broken, one_server, pause=0.001).start()
    start(manager, wrong, wrong, "exit 1")
    eventually(lambda: broken.failing < 1 << 30)
    first.close()
    Reporter(link, told, one_server, pause=0.05).start()
    assert eventually(lambda: told.reasons.get(wrong))
    # Another server follows by itself, and what is told is not told again.
    other = Link(nats.settings())
    again = Told()
    try:
        Reporter(other, elsewhere, lambda: UUID(int=7), pause=0.05).start()
        assert eventually(lambda: elsewhere.reasons.get(wrong))
        link.close()
        Reporter(other, again, one_server, pause=0.05).start()
        start(manager, right, right, "exit 1")
        assert eventually(lambda: again.reasons.get(right))
        assert wrong not in again.reasons
    finally:
        other.close()


def test_before_any_dispatcher_it_waits(link: Link, nats: Nats, tmp_path_factory: pytest.TempPathFactory) -> None:
    from .conftest import Dispatcher

    told, run_id = Told(), uuid4()
    Reporter(link, told, one_server, pause=0.05).start()
    dispatcher = Dispatcher(tmp_path_factory.mktemp("later"), nats)
    manager = WorkloadManager(nats.settings())
    try:
        start(manager, run_id, run_id, "exit 1")
        assert eventually(lambda: told.reasons.get(run_id))
    finally:
        manager.close()
        dispatcher.stop()
