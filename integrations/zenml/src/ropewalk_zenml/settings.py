"""The plugin's settings, from the server's environment.

How NATS is reached stands in the variables that Ropewalk's own programs read.
What is the plugin's alone begins with ``ZENML_ROPEWALK_``.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from ropewalk_zenml.errors import RopewalkError

ImageMode = Literal["reuse", "prebuilt", "build"]

_CLOSED = "ZENML_KUBERNETES_WORKLOAD_MANAGER_"
_OWN = "ZENML_ROPEWALK_"
_KNOWN = {_OWN + name for name in ("QUEUE", "IMAGE_MODE", "POD", "LABELS", "RETRY", "TIMEOUT", "REPORT")}


@dataclass(frozen=True)
class Settings:
    """What the plugin goes by."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    credentials: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    inbox: str | None = None
    """What the subjects begin with that answers come in on; None is NATS's _INBOX."""
    queue: str = "default"
    """The queue whose limit the runs count against."""
    image_mode: ImageMode | None = None
    """The way to the runner's image; None leaves it to Ropewalk's operator."""
    registry: str | None = None
    runner_image: str | None = None
    pod: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    retry: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 10.0
    """Seconds that a request to the server waits for NATS before it gives up."""
    report: bool = True
    """Whether runs that end without the runner's word are set to failed."""

    @property
    def address(self) -> str:
        """The servers for people: without user and password."""
        return ", ".join(re.sub(r"//[^@/]*@", "//", server) for server in self.servers)

    @property
    def wants_tls(self) -> bool:
        """Whether nothing may be sent in the clear."""
        return bool(self.tls_ca or self.tls_cert) or any(s.startswith(("tls://", "wss://")) for s in self.servers)

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment; everything that is wrong is told by one :class:`RopewalkError`."""
        return _Reader(os.environ if environment is None else environment).read()


def _is_address(server: str) -> bool:
    """Whether a NATS client can make something of it; without a scheme it is nats://."""
    try:
        parts = urlsplit(server if "://" in server else "nats://" + server)
        return parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        return False


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self.environment.get(name, "").strip() or None

    def object(self, name: str, example: str, strings: bool = False) -> dict[str, Any]:
        text = self.text(name)
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and not (strings and any(not isinstance(v, str) for v in value.values())):
            return value
        self.problems.append(f"{name} is not a JSON object{' of strings' if strings else ''} such as {example}")
        return {}

    def seconds(self, name: str, default: float) -> float:
        text = self.text(name) or str(default)
        try:
            value = float(text.removesuffix("s"))
        except ValueError:
            value = 0
        if 0 < value <= 600:
            return value
        self.problems.append(f"{name} is not a number of seconds from 0 to 600, such as 10s")
        return default

    def truth(self, name: str, default: bool) -> bool:
        text = (self.text(name) or str(default)).lower()
        if text in ("true", "1", "yes", "on"):
            return True
        if text not in ("false", "0", "no", "off"):
            self.problems.append(f"{name} is neither true nor false")
        return False

    def image_mode(self) -> ImageMode | None:
        name = _OWN + "IMAGE_MODE"
        mode = self.text(name)
        if mode in get_args(ImageMode):
            return cast(ImageMode, mode)
        if mode is not None:
            self.problems.append(f"{name} is not one of {', '.join(get_args(ImageMode))}")
        elif self.text(_CLOSED + "BUILD_RUNNER_IMAGE") is not None and self.truth(
            _CLOSED + "BUILD_RUNNER_IMAGE", False
        ):
            return "build"
        elif self.text(_CLOSED + "RUNNER_IMAGE"):
            return "prebuilt"
        return None

    def servers(self) -> tuple[str, ...]:
        name = "ROPEWALK_NATS_URL"
        servers = [server.strip() for server in (self.text(name) or ",".join(Settings.servers)).split(",")]
        for server in filter(None, servers):
            if not _is_address(server):
                # As it may hold a password, it is not repeated.
                self.problems.append(f"{name} has what is no address such as nats://nats.example.com:4222")
                break
        return tuple(filter(None, servers))

    def inbox(self) -> str | None:
        name = "ROPEWALK_NATS_INBOX"
        inbox = self.text(name)
        if inbox is not None and not re.fullmatch(r"[^\s.*>]+(\.[^\s.*>]+)*", inbox):
            self.problems.append(f"{name} is not what a subject may begin with, such as _INBOX.zenml")
        return inbox

    def read(self) -> Settings:
        for name in self.environment:
            if name.startswith(_OWN) and name not in _KNOWN:
                self.problems.append(f"{name} is not known; there are {', '.join(sorted(_KNOWN))}")
        queue = self.text(_OWN + "QUEUE") or Settings.queue
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", queue):
            self.problems.append(
                f"{_OWN}QUEUE is not the name of a queue: at most 40 lower-case letters, digits and '-'"
            )
        settings = Settings(
            servers=self.servers(),
            credentials=self.text("ROPEWALK_NATS_CREDENTIALS"),
            user=self.text("ROPEWALK_NATS_USER"),
            password=self.text("ROPEWALK_NATS_PASSWORD"),
            token=self.text("ROPEWALK_NATS_TOKEN"),
            tls_ca=self.text("ROPEWALK_NATS_TLS_CA"),
            tls_cert=self.text("ROPEWALK_NATS_TLS_CERT"),
            tls_key=self.text("ROPEWALK_NATS_TLS_KEY"),
            inbox=self.inbox(),
            queue=queue,
            image_mode=self.image_mode(),
            registry=self.text(_CLOSED + "DOCKER_REGISTRY"),
            runner_image=self.text(_CLOSED + "RUNNER_IMAGE"),
            pod=self.object(_OWN + "POD", '{"resources": {"requests": {"cpu": "500m"}}}'),
            labels=self.object(_OWN + "LABELS", '{"team": "ml"}', strings=True),
            retry=self.object(_OWN + "RETRY", '{"attempts": 2}'),
            timeout=self.seconds(_OWN + "TIMEOUT", Settings.timeout),
            report=self.truth(_OWN + "REPORT", True),
        )
        if self.problems:
            raise RopewalkError("Ropewalk's settings are wrong: " + "; ".join(self.problems) + ".")
        return settings
