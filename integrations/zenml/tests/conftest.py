"""What the tests run against: a real nats-server and a real dispatcher, as processes."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import pytest

from ropewalk_zenml.settings import Settings
from ropewalk_zenml.workload_manager import WorkloadManager

T = TypeVar("T")

PROGRAMS = Path(os.environ.get("ROPEWALK_PROGRAMS", Path(__file__).parents[3] / "bin"))


LIMIT = 300.0
"""Seconds that a test waits for anything, as in internal/testing/wait of the Go
tests. It says nothing about how long things may take: it only ends a test that
would otherwise wait forever."""


def eventually(look: Callable[[], T]) -> T:
    """Return what look returns as soon as that counts as true."""
    deadline = time.monotonic() + LIMIT
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {LIMIT} s; last seen: {seen!r}")
        time.sleep(0.03)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


ACCOUNTS = Path(__file__).parents[3] / "deploy" / "nats" / "accounts.conf"
PASSWORD = "only-for-tests-0"


class Nats:
    """A nats-server process, which keeps its address and its store over restarts.

    Its users are those of deploy/nats/accounts.conf, as they are, and one who may
    do everything: dispatcher and shipper are one process here. The plugin is the
    user zenml, so that every test shows that its permissions are enough.
    """

    ALMIGHTY = "tests"

    def __init__(self, folder: Path, more: str = "") -> None:
        self.port = free_port()
        self.folder = folder
        self.config = folder / "nats.conf"
        self.more = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{folder / "store"}" }}\n' + more
        self.configure()
        self.start()

    def configure(self, more: str = "", zenml: str = PASSWORD) -> None:
        """Write the configuration, with the password of the user zenml."""
        accounts, begin = ACCOUNTS.read_text(), "    users: [\n"
        assert accounts.count(begin) == 1
        for name in re.findall(r"\$(NATS_\w+)", accounts):
            accounts = accounts.replace("$" + name, zenml if name == "NATS_ZENML_PASSWORD" else PASSWORD)
        accounts = accounts.replace(begin, f"{begin}      {{ user: {self.ALMIGHTY}, password: {PASSWORD} }}\n")
        self.config.write_text(self.more + more + accounts)

    @property
    def url(self) -> str:
        """Where clients connect, as the user who may do everything."""
        return f"nats://{self.ALMIGHTY}:{PASSWORD}@127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """Where clients connect, without a user."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """How the plugin connects, as the server's environment has it."""
        return {
            "ROPEWALK_NATS_URL": self.address,
            "ROPEWALK_NATS_USER": "zenml",
            "ROPEWALK_NATS_PASSWORD": PASSWORD,
            "ROPEWALK_NATS_INBOX": "_INBOX.zenml",
        }

    def settings(self, **more: Any) -> Settings:
        """Return how the plugin connects, without a reporter unless more says so.

        The time limit is one that no call meets on a busy machine. A request that
        a server has lost is made again after a quarter of it.
        """
        login = {"user": "zenml", "password": PASSWORD, "inbox": "_INBOX.zenml"}
        return Settings(**{"servers": (self.address,), "report": False, "timeout": 20, **login, **more})

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.folder / "nats.log").open("a") as log:
            self.process = subprocess.Popen([PROGRAMS / "nats-server", "-c", self.config], stdout=log, stderr=log)

        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "nats.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(answers)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self.process.kill()
        self.process.wait()


class Proxy:
    """A way to a server that, once it has carried certain bytes, swallows the answers."""

    def __init__(self, port: int, mute_after: bytes) -> None:
        self.port, self.mute_after = port, mute_after
        self.muted, self.sent = threading.Event(), bytearray()
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.listener.getsockname()[1]}"

    def speak(self) -> None:
        """Let answers through again, on new connections: what was swallowed is gone."""
        self.mute_after = b"\x00never\x00"
        self.muted.clear()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections."""
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            self.open += [client, server]
            for source, target, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._carry, args=(source, target, answers), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not answers:
                    self.sent += data
                    if self.mute_after in data:
                        self.muted.set()
                if not (answers and self.muted.is_set()):
                    target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Dispatcher:
    """A `dispatcher serve` process, whose runs are processes on this machine."""

    def __init__(self, folder: Path, nats: Nats, **settings: str) -> None:
        port = free_port()
        self.log = folder / "dispatcher.log"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ROPEWALK_NATS_URL": nats.url,
            "ROPEWALK_LAUNCHER": "local",
            "ROPEWALK_HTTP_ADDR": f"127.0.0.1:{port}",
            "ROPEWALK_DATA_DIR": str(folder / "data"),
            "ROPEWALK_LOG_ARCHIVE": f"file://{folder / 'logs'}",
            "ROPEWALK_SHIP_AGE": "100ms",
            **settings,
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen([PROGRAMS / "dispatcher", "serve"], env=environment, stdout=log, stderr=log)

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(ready)

    def stop(self) -> None:
        """Stop it, as an orderly shutdown does."""
        self.process.terminate()
        self.process.wait(LIMIT)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def dispatcher(tmp_path: Path, nats: Nats) -> Iterator[Dispatcher]:
    process = Dispatcher(tmp_path, nats)
    yield process
    process.stop()


@pytest.fixture
def manager(nats: Nats) -> Iterator[WorkloadManager]:
    made = WorkloadManager(nats.settings())
    yield made
    made.close()
