"""The documentation says what is so: public names are on the API page, and what a reader may copy runs."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import glimmer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
PUBLIC = [name for name in glimmer.__all__ if name != "__version__"]


def test_the_api_page_has_every_public_name_once_and_no_other() -> None:
    shown = re.findall(r"^::: glimmer\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(PUBLIC)


def code_blocks(page: Path) -> list[str]:
    """The indented blocks of a Markdown page, in order."""
    found = re.findall(r"(?:^(?: {4}.*|[ \t]*)\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the README names, and a `glimmer` command that runs this source."""
    place = tmp_path_factory.mktemp("readme")
    articles = (DATA / "articles.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "knowledgesource.json.gz").write_bytes(gzip.compress("".join(articles).encode()))
    changed = json.loads(articles[0])
    changed["text"] = f"A sentence that is new. {changed['text']}"
    newer = [json.dumps(changed) + "\n", *articles[1:]]
    (place / "knowledgesource-new.json.gz").write_bytes(gzip.compress("".join(newer).encode()))
    shutil.copy(DATA / "questions.jsonl", place)
    command = place / "bin" / "glimmer"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m glimmer "$@"\n')
    command.chmod(0o755)
    return place


def run(command: list[str], place: Path) -> None:
    environment = {**os.environ, "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.usefixtures("sample_weights")
def test_the_readmes_commands_run_in_their_order(place: Path) -> None:
    """All but those that install: blocks of `glimmer` commands, and blocks of Python that import it."""
    blocks = code_blocks(ROOT / "README.md")
    shell = [block for block in blocks if block.startswith("glimmer ")]
    python = [block for block in blocks if block.startswith("import glimmer")]
    assert sum(block.count("glimmer ") for block in shell) >= 7
    for block in shell:
        run(["bash", "-euc", block], place)
    for block in python:
        run([sys.executable, "-c", block], place)
