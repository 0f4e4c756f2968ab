"""Makes what the server wants to run a request for Ropewalk."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ropewalk_zenml import wire
from ropewalk_zenml.settings import Settings

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


@dataclass(frozen=True)
class Planned:
    """What is known of the image of a workload before it is run."""

    reference: str
    """What the server was told."""
    dockerfile: str
    name: str
    pipeline_image: str | None


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value that an entry point is given as --name VALUE or --name=VALUE."""
    for at, argument in enumerate(arguments):
        if argument == f"--{name}" and at + 1 < len(arguments):
            return arguments[at + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


def pipeline_run(workload: UUID, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the id of the pipeline's run, under which the server knows it.

    Older servers do not name it among the arguments, but the token that they
    make for the runner does.
    """
    for name in ("placeholder_run_id", "run_id"):
        value = option(arguments, name)
        if value:
            return str(UUID(value))
    return _run_of_token(environment.get("ZENML_STORE_API_TOKEN", "")) or str(workload)


def _run_of_token(token: str) -> str | None:
    """Return the run that a token is limited to. Who made it is not checked: the server did."""
    try:
        claims = token.split(".")[1]
        run = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["pipeline_run_id"]
        return str(UUID(run))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return None


def resumes(arguments: Sequence[str]) -> bool:
    """Whether a run that has begun before goes on."""
    return (option(arguments, "resume") or "").lower() in ("true", "1", "yes", "y", "t", "on")


def reference(settings: Settings, image_name: str, pipeline_image: str | None) -> str:
    """Return the reference that the run will use, as far as it is known here."""
    if settings.image_mode == "prebuilt" and settings.runner_image:
        return settings.runner_image
    if settings.image_mode == "build" and settings.registry:
        return f"{settings.registry.rstrip('/')}/{image_name}"
    if settings.image_mode != "build" and pipeline_image:
        return pipeline_image
    return image_name


def image(settings: Settings, given: str, planned: Planned | None) -> dict[str, Any]:
    """Return the request's image.

    A request that could do with more than one way names all of them, and the
    settings of the dispatcher choose, unless the plugin's say which.
    """
    wanted: dict[str, Any] = {}
    if settings.image_mode == "prebuilt":
        return {"mode": "prebuilt"}
    if planned is None or planned.reference != given:
        return {"reference": given} if given else {}
    if planned.pipeline_image and settings.image_mode != "build":
        wanted["reference"] = planned.pipeline_image
    if planned.dockerfile and settings.image_mode != "reuse":
        wanted["build"] = {"dockerfile": planned.dockerfile, "name": planned.name}
    if settings.image_mode and wanted:
        wanted["mode"] = settings.image_mode
    return wanted


def build(
    settings: Settings,
    workload: UUID,
    run_id: str,
    image: Mapping[str, Any],
    command: Sequence[str],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    timeout_in_seconds: int,
) -> dict[str, Any]:
    """Return the request as it is published, all but queue and id."""
    secrets = {name: value for name, value in environment.items() if _SECRET.search(name)}
    labels = {
        **settings.labels,
        wire.LABEL_RUN: run_id,
        wire.LABEL_WORKLOAD: str(workload),
    }
    for label, name in (
        (wire.LABEL_PROJECT, "ZENML_ACTIVE_PROJECT_ID"),
        (wire.LABEL_STACK, "ZENML_ACTIVE_STACK_ID"),
    ):
        if name in environment:
            labels[label] = environment[name]
    request: dict[str, Any] = {
        "version": 1,
        "command": list(command),
        "args": list(arguments),
        "env": {name: value for name, value in environment.items() if name not in secrets},
        "secretEnv": secrets,
        "labels": labels,
        "submittedAt": wire.now_text(),
    }
    for name, value in (("image", image), ("pod", settings.pod), ("retry", settings.retry)):
        if value:
            request[name] = dict(value)
    if timeout_in_seconds > 0:
        request["timeout"] = timeout_in_seconds
    return request
