"""The page docs/publish.md: its blocks are run in their order, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROGRAMS, Nats

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
def test_every_block_does_what_the_page_says(language: str, nats: Nats, tmp_path: Path) -> None:
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
            folder = ROOT / "bin" / ".publish-page"
            folder.mkdir(parents=True, exist_ok=True)
            script = folder / "main.go"
            script.write_text(block)
        done = subprocess.run(
            [*command, str(script)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout.replace(" ", "") or says in done.stdout, done.stdout + done.stderr
