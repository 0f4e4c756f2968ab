"""The whole way on a real cluster: a snapshot that REST triggers becomes a Job.

It needs a cluster whose pods reach this machine, and an image for runners and
steps that ``runner-image`` makes; see there. It is not part of ``make
test-zenml``. The variables:

- ``KUBECONFIG``: the cluster; a namespace of the test's own is made in it,
- ``ROPEWALK_TEST_HOST``: the address of this machine that pods reach,
- ``ROPEWALK_TEST_IMAGE``: the image, as the nodes pull it,
- ``ROPEWALK_TEST_S3``: the program versitygw.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ropewalk_zenml.link import Link
from ropewalk_zenml.runs import Ref, cancel, record
from ropewalk_zenml.settings import Settings

from ..conftest import Dispatcher, Nats, eventually, free_port
from ..server.zenml_server import ZenmlServer, register_snapshot

NAMESPACE = "ropewalk-zenml-test"
KEY, SECRET = "only-for-tests", "only-for-tests"
ACCOUNT = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: runner, namespace: {NAMESPACE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: runner, namespace: {NAMESPACE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}
subjects: [{{kind: ServiceAccount, name: runner, namespace: {NAMESPACE}}}]
"""


def kubectl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class World:
    """All that runs."""

    server: ZenmlServer
    link: Link
    s3: dict[str, Any]

    def trigger(self, snapshot: str) -> str:
        """Run a snapshot, as the dashboard does."""
        return str(self.server.call("POST", f"pipeline_snapshots/{snapshot}/runs", {})["id"])

    def snapshot(self, name: str, image: str) -> str:
        """Register a stack of this cluster and of the S3 server, and a snapshot of the demo."""
        return register_snapshot(
            self.server,
            image,
            name,
            orchestrator={
                "kubernetes_namespace": NAMESPACE,
                "service_account_name": "runner",
                "pass_zenml_token_as_secret": True,
            },
            artifact_store=self.s3,
        )

    def record(self, run: str) -> dict[str, Any]:
        """Return what Ropewalk knows of a run."""
        return self.link.call(lambda js: record(js, Ref("default", run))) or {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, host = tmp_path_factory.mktemp("cluster"), os.environ["ROPEWALK_TEST_HOST"]
    kubectl("apply", "-f", "-", text=ACCOUNT)
    s3, endpoint = start_s3(folder, host)
    nats = Nats(folder)
    server = ZenmlServer(folder, nats.url, host)
    dispatcher = Dispatcher(
        folder,
        nats,
        KUBECONFIG=os.environ["KUBECONFIG"],
        ROPEWALK_LAUNCHER="kubernetes",
        ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE="zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager",
        ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE=NAMESPACE,
        ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT="runner",
    )
    link = Link(Settings(servers=(nats.url,)))
    try:
        yield World(
            server,
            link,
            {"path": "s3://artifacts", "key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}},
        )
    finally:
        link.close()
        dispatcher.stop()
        server.kill()
        nats.kill()
        s3.kill()
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def start_s3(folder: Path, host: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start an S3 server with a bucket."""
    port = free_port()
    for name in ("s3/artifacts", "s3-state"):
        (folder / name).mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    command = [os.environ["ROPEWALK_TEST_S3"], "--port", f"{host}:{port}", "posix"]
    command += ["--sidecar", str(folder / "s3-state"), str(folder / "s3")]
    with (folder / "s3.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0

    eventually(answers)
    return process, f"http://{host}:{port}"


def test_a_snapshot_becomes_a_job_that_launches_the_pipeline(world: World) -> None:
    run = world.trigger(world.snapshot("demo", os.environ["ROPEWALK_TEST_IMAGE"]))

    def job() -> dict[str, Any]:
        jobs = json.loads(kubectl("get", "jobs", "-n", NAMESPACE, "-l", f"zenml.io/run-id={run}", "-o", "json"))
        return jobs["items"][0] if jobs["items"] else {}

    made = eventually(job, within=60)
    assert "ZENML_STORE_API_TOKEN" not in {
        variable["name"] for variable in made["spec"]["template"]["spec"]["containers"][0].get("env", []) if "value" in variable
    }
    ended = eventually(lambda: (seen := world.record(run)).get("finishedAt") and seen, within=240)
    log = world.server.runner_log(run)
    print("\n".join(log))  # shown when something is not as expected
    print(ended["state"], ended.get("reason"), ended.get("message"), world.server.status(run))
    assert "Starting pipeline run." in log
    assert ended["state"] == "succeeded"
    # The runner has handed the pipeline to its orchestrator; the run is in its hands.
    status = eventually(lambda: (s := world.server.status(run)[0]) in ("completed", "failed") and s, within=400)
    assert status == "completed", world.server.status(run)


def test_an_image_that_is_not_there_fails_the_run_with_our_reason(world: World) -> None:
    run = world.trigger(world.snapshot("gone", os.environ["ROPEWALK_TEST_IMAGE"] + "-gone"))

    def failed() -> str | None:
        status, reason = world.server.status(run)
        return reason if status == "failed" else None

    assert (eventually(failed, within=240) or "").startswith("ImagePullFailed: ")


def test_a_run_that_is_cancelled_while_its_job_runs_fails_with_our_reason(world: World) -> None:
    run = world.trigger(world.snapshot("cancelled", os.environ["ROPEWALK_TEST_IMAGE"]))
    eventually(lambda: world.record(run).get("state") in ("pending", "running"), within=60)
    world.link.call(lambda js: cancel(js, Ref("default", run)))

    def failed() -> str | None:
        status, reason = world.server.status(run)
        return reason if status == "failed" else None

    assert (eventually(failed, within=60) or "").startswith("Cancelled: ")
