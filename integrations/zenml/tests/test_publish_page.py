"""The page docs/publish.md: its blocks are run in their order, as a reader would."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError

from ropewalk_zenml.errors import RopewalkError
from ropewalk_zenml.link import Link
from ropewalk_zenml.settings import Settings

from .conftest import LIMIT, PASSWORD, PROGRAMS, Nats, eventually

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "publish.md").read_text()
SAYS = {  # what each block must say, in the order of the page
    "sh": ['"stream":"RUNS"', "hello from the command line"],
    "python": ["hello from Python, test", "cancelled"],
    "go": ["hello from Go\nsucceeded"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("language", list(SAYS))
def test_every_block_does_what_the_page_says(
    language: str, nats: Nats, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = blocks(language)
    assert len(found) == len(SAYS[language])
    environment = {**os.environ, "NATS_URL": nats.url, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    for block, says in zip(found, SAYS[language], strict=True):
        script = tmp_path / f"block.{language}"
        script.write_text(block)
        command = {"sh": ["sh", "-eu"], "python": [sys.executable], "go": ["go", "run"]}[language]
        if language == "go":
            # A package of this repository's module sees what the page imports;
            # the dot hides it from what goes over all packages.
            programs = ROOT / "bin"
            programs.mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".publish-page-", dir=programs))
            request.addfinalizer(partial(shutil.rmtree, folder))
            script = folder / "main.go"
            script.write_text(block)
        done = subprocess.run(
            [*command, str(script)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout.replace(" ", "") or says in done.stdout, done.stdout + done.stderr


@pytest.mark.usefixtures("dispatcher")
def test_a_publisher_with_the_permissions_of_a_server_does_what_the_page_says_of_them(nats: Nats) -> None:
    login = {"servers": (nats.address,), "user": "server", "password": PASSWORD, "inbox": "_INBOX.server"}
    link = Link(Settings(**login, timeout=8))  # type: ignore[arg-type]

    async def submit(js: JetStreamContext) -> None:
        request = json.dumps({"version": 1, "command": ["sleep", "3600"]}).encode()
        await js.publish("ropewalk.runs.default.s-1", request, stream="RUNS", headers={"Nats-Msg-Id": "s-1"})

    async def state(js: JetStreamContext) -> str:
        try:
            entry = await (await js.key_value("ropewalk-runs")).get("default.s-1")
        except KeyNotFoundError:
            return ""
        return str(json.loads(entry.value or b"{}")["state"])

    async def cancel(js: JetStreamContext) -> None:
        wish = {"queue": "default", "id": "s-1", "attempt": 1, "requestedAt": "2026-01-31T12:00:00Z"}
        await (await js.key_value("ropewalk-cancels")).put("default.s-1", json.dumps(wish).encode())

    async def watch(js: JetStreamContext) -> None:
        await (await js.key_value("ropewalk-runs")).watch("default.s-1")

    try:
        link.call(submit)
        eventually(lambda: link.call(state) == "running")
        link.call(cancel)
        eventually(lambda: link.call(state) == "cancelled")
        with pytest.raises(RopewalkError, match="permissions violation"):
            link.call(watch)
    finally:
        link.close()
