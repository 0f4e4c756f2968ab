"""How a request is made of what the server says."""

import base64
import json
from uuid import uuid4

import pytest

from ropewalk_zenml import request
from ropewalk_zenml.settings import Settings

WORKLOAD, RUN = uuid4(), uuid4()


def token(**claims: str) -> dict[str, str]:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return {"ZENML_STORE_API_TOKEN": f"header.{body}.signature"}


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--snapshot_id", str(WORKLOAD), "--placeholder_run_id", str(RUN)], {}),
        (["--run_id", str(RUN)], token(pipeline_run_id=str(uuid4()))),
        ([f"--placeholder_run_id={RUN}"], {}),
        (["--deployment_id", str(WORKLOAD)], token(pipeline_run_id=str(RUN), sub="somebody")),
    ],
)
def test_the_run_is_known_from_the_arguments_or_the_token(arguments: list[str], environment: dict[str, str]) -> None:
    assert request.pipeline_run(WORKLOAD, arguments, environment) == str(RUN)


@pytest.mark.parametrize(
    "environment", [{}, token(sub="somebody"), {"ZENML_STORE_API_TOKEN": "a.b.c"}, token(pipeline_run_id="x")]
)
def test_without_either_the_workload_is_the_run(environment: dict[str, str]) -> None:
    assert request.pipeline_run(WORKLOAD, ["--deployment_id", str(WORKLOAD)], environment) == str(WORKLOAD)


def test_what_looks_like_a_secret_is_kept_as_one() -> None:
    environment = {
        "ZENML_STORE_URL": "https://zenml.example.com",
        "ZENML_STORE_API_TOKEN": "1",
        "AWS_SECRET_ACCESS_KEY": "2",
        "DB_PASSWORD": "3",
        "OPENAI_API_KEY": "4",
    }
    made = request.build(Settings(), WORKLOAD, str(RUN), {}, ["python"], [], environment, 0)
    assert made["env"] == {"ZENML_STORE_URL": "https://zenml.example.com"}
    assert sorted(made["secretEnv"].values()) == ["1", "2", "3", "4"]
    assert "timeout" not in made
    assert "image" not in made
