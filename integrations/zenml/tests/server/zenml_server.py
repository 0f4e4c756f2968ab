"""A real ZenML server as a process, with what a snapshot needs registered in it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from ..conftest import LIMIT, Nats, eventually, free_port

PASSWORD = "only-for-tests-1"


class ZenmlServer:
    """The server on loopback, with SQLite, and the plugin loaded by its variables."""

    def __init__(self, folder: Path, nats: Nats, host: str = "127.0.0.1", **environment: str) -> None:
        self.url = f"http://{host}:{free_port()}"
        self.log = folder / "zenml.log"
        self.folder = folder
        (folder / "zenml").mkdir(exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ZENML_CONFIG_PATH": str(folder / "zenml"),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_SERVER": "true",
            "ZENML_SERVER_AUTO_ACTIVATE": "true",
            "ZENML_DEFAULT_USER_PASSWORD": PASSWORD,
            # Without one of its own a server that restarts trusts no token of before.
            "ZENML_SERVER_JWT_SECRET_KEY": "4e9d0f7c0b6a4f7d9a51c0de5eed5eed",
            "ZENML_SERVER_SERVER_URL": self.url,
            "ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE": "ropewalk_zenml.WorkloadManager",
            "ZENML_SERVER_SNAPSHOT_RUN_DISPATCHER_IMPLEMENTATION_SOURCE": "ropewalk_zenml.SnapshotRunDispatcher",
            **nats.environment,
            "ZENML_ROPEWALK_TIMEOUT": "10",
            **environment,
        }
        self.token = ""
        self.start()
        form = {"grant_type": "password", "username": "default", "password": PASSWORD}
        self.token = self.call("POST", "login", form=form)["access_token"]

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "zenml.zen_server.zen_server_api:app",
            "--host",
            host,
            "--port",
            port,
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

        def healthy() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urlopen(f"{self.url}/health", timeout=LIMIT) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(healthy)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def call(self, method: str, path: str, body: Any = None, form: dict[str, str] | None = None) -> Any:
        """Call the REST API; what is refused is an :class:`AnswerError`."""
        data = urlencode(form).encode() if form else json.dumps(body).encode() if body is not None else None
        request = Request(f"{self.url}/api/v1/{path}", data=data, method=method)
        request.add_header("Content-Type", "application/x-www-form-urlencoded" if form else "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=LIMIT) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as refusal:
            raise AnswerError(refusal.code, refusal.read().decode()) from None

    def status(self, run: str) -> tuple[str, str | None]:
        """Return where a run stands, and why."""
        body = self.call("GET", f"runs/{run}?hydrate=true")
        return body["body"]["status"], body["body"].get("status_reason") or body["metadata"].get("status_reason")

    def runner_log(self, run: str) -> list[str]:
        """Return what the dashboard shows as the log of the runner."""
        answer = self.call("GET", f"runs/{run}/logs?source=runner")
        entries = answer["items"] if isinstance(answer, dict) else answer
        return [entry["message"] for entry in entries]


class AnswerError(Exception):
    """An answer other than one of success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def register_snapshot(server: ZenmlServer, image: str, name: str = "demo", **components: dict[str, Any]) -> str:
    """Register a stack of remote components, a build and a snapshot of a pipeline of one step."""
    from zenml import __version__
    from zenml.config.pipeline_configurations import PipelineConfiguration
    from zenml.config.source import Source
    from zenml.config.step_configurations import Step, StepConfiguration, StepSpec
    from zenml.models import BuildItem, PipelineBuildRequest, PipelineSnapshotRequest

    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "orchestrator": ("kubernetes", {"incluster": True, "kubernetes_namespace": "zenml"}),
        "artifact_store": ("s3", {"path": "s3://artifacts", "key": "key", "secret": "secret"}),
        "container_registry": ("default", {"uri": "registry.example.com/zenml"}),
    }
    ids: dict[str, list[str]] = {}
    for kind, (flavor, defaults) in wanted.items():
        body = {
            "name": f"{name}-{kind}",
            "type": kind,
            "flavor": flavor,
            "configuration": {**defaults, **components.get(kind, {})},
        }
        ids[kind] = [server.call("POST", "components", body)["id"]]
    stack = server.call("POST", "stacks", {"name": name, "components": ids})["id"]
    project = server.call("GET", "projects/default")["id"]
    pipeline = server.call("POST", "pipelines", {"name": name, "project": project})["id"]
    build = PipelineBuildRequest(
        project=project,
        stack=stack,
        pipeline=pipeline,
        images={"orchestrator": BuildItem(image=image)},
        is_local=False,
        contains_code=True,
        zenml_version=__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
    )
    built = server.call("POST", "pipeline_builds", build.model_dump(mode="json"))["id"]
    configured = StepConfiguration(name="hello")
    step = Step(
        spec=StepSpec(source=Source.from_import_path("demo.hello"), upstream_steps=[], invocation_id="hello"),
        config=configured,
        step_config_overrides=configured,
    )
    snapshot = PipelineSnapshotRequest(
        project=project,
        name=name,
        run_name_template=name + "-{date}-{time}",
        pipeline_configuration=PipelineConfiguration(name=name),
        step_configurations={"hello": step},
        stack=stack,
        pipeline=pipeline,
        build=built,
        client_version=__version__,
        server_version=__version__,
    )
    return str(server.call("POST", "pipeline_snapshots", snapshot.model_dump(mode="json"))["id"])
