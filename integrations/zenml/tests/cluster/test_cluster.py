"""The whole way on a real cluster: a snapshot that REST triggers becomes a Job.

It needs a cluster whose pods reach this machine, and an image for runners and
steps that ``runner-image`` makes; see there. It is not part of ``make
test-zenml``. The variables:

- ``KUBECONFIG``: the cluster; a namespace of the test's own is made in it,
- ``ROPEWALK_TEST_HOST``: the address of this machine that pods reach,
- ``ROPEWALK_TEST_IMAGE``: the image, as the nodes pull it,
- ``ROPEWALK_TEST_S3``: the program versitygw.
"""

import contextlib
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

from ..conftest import PROGRAMS, Dispatcher, Nats, eventually, free_port
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


def pod_logs() -> str:
    """Return what every pod has written: what a failure is explained by."""
    pods = kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").split()
    return "\n".join(f"{pod}:\n{kubectl('logs', '-n', NAMESPACE, pod, '--tail=40')}" for pod in pods)


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
    with contextlib.ExitStack() as ending:
        kubectl("apply", "-f", "-", text=ACCOUNT)
        ending.callback(kubectl, "delete", "namespace", NAMESPACE, "--wait=false")
        s3, endpoint = start_s3(folder, host)
        ending.callback(s3.kill)
        nats = Nats(folder)
        ending.callback(nats.kill)
        server = ZenmlServer(folder, nats, host)
        ending.callback(server.kill)
        dispatcher = Dispatcher(
            folder,
            nats,
            KUBECONFIG=os.environ["KUBECONFIG"],
            ROPEWALK_LAUNCHER="kubernetes",
            ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE=NAMESPACE,
            ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT="runner",
        )
        ending.callback(dispatcher.stop)
        shipper = start_shipper(folder, nats)
        ending.callback(shipper.kill)
        link = Link(nats.settings())
        ending.callback(link.close)
        bucket = {"path": "s3://artifacts", "key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}}
        yield World(server, link, bucket)


def start_shipper(folder: Path, nats: Nats) -> subprocess.Popen[bytes]:
    """Start what keeps the logs of Jobs, and answers for them."""
    environment = {
        "PATH": os.environ["PATH"],
        "ROPEWALK_NATS_URL": nats.url,
        "ROPEWALK_LOG_ARCHIVE": f"file://{folder / 'logs'}",
        "ROPEWALK_HTTP_ADDR": f"127.0.0.1:{free_port()}",
    }
    with (folder / "shipper.log").open("w") as log:
        return subprocess.Popen([PROGRAMS / "logshipper", "serve"], env=environment, stdout=log, stderr=log)


def start_s3(folder: Path, host: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start an S3 server with a bucket."""
    port = free_port()
    for name in ("s3/artifacts", "state"):
        (folder / name).mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    command = [os.environ["ROPEWALK_TEST_S3"], "--port", f"{host}:{port}", "posix"]
    command += ["--sidecar", str(folder / "state"), str(folder / "s3")]
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

    made = eventually(job)
    assert "ZENML_STORE_API_TOKEN" not in {
        variable["name"]
        for variable in made["spec"]["template"]["spec"]["containers"][0].get("env", [])
        if "value" in variable
    }
    eventually(lambda: world.record(run).get("finishedAt"))
    ended, log = world.record(run), world.server.runner_log(run)
    assert ended["state"] == "succeeded", (ended, log)
    assert log[:1] == ["Starting pipeline run."]
    assert any("Orchestrator job" in line for line in log), log
    # The runner has handed the pipeline to its orchestrator; the run is in its hands.
    eventually(lambda: world.server.status(run)[0] in ("completed", "failed"))
    assert world.server.status(run)[0] == "completed", pod_logs()


def test_an_image_that_is_not_there_fails_the_run_with_our_reason(world: World) -> None:
    run = world.trigger(world.snapshot("gone", os.environ["ROPEWALK_TEST_IMAGE"] + "-gone"))

    def failed() -> str | None:
        status, reason = world.server.status(run)
        return reason if status == "failed" else None

    assert (eventually(failed) or "").startswith("ImagePullFailed: ")


def test_a_run_that_is_cancelled_while_its_job_runs_fails_with_our_reason(world: World) -> None:
    run = world.trigger(world.snapshot("cancelled", os.environ["ROPEWALK_TEST_IMAGE"]))
    eventually(lambda: world.record(run).get("state") in ("pending", "running"))
    world.link.call(lambda js: cancel(js, Ref("default", run)))

    def failed() -> str | None:
        status, reason = world.server.status(run)
        return reason if status == "failed" else None

    assert (eventually(failed) or "").startswith("Cancelled: ")
