"""Titles, texts, ids and file names of other people cannot write to a terminal anything but visible text."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from glimmer.pipelines.answering.report import _escape
from glimmer.pipelines.cli.group import glimmer, run
from glimmer.storage.printable import printable, printable_json, printable_line

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202eevil\u2066 \u2028next \x7f \U000e0041"
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\U000e0000-\U000e007f]"
)


@given(text=st.text(alphabet=st.characters()))
def test_what_is_shown_has_no_control_characters_and_can_be_encoded(text: str) -> None:
    for shown in (printable(text), printable_line(text), _escape(text)):
        assert not UNSAFE.search(shown)
        shown.encode()


@given(text=st.text())
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    if not UNSAFE.search(text) and not re.search("[\ufff9-\ufffb]", text):
        assert printable(text) == text


@given(value=st.text(alphabet=st.characters()))
def test_json_keeps_its_meaning(value: str) -> None:
    shown = printable_json(json.dumps({"title": value}, ensure_ascii=False))
    assert not UNSAFE.search(shown)
    assert json.loads(shown) == {"title": value}


def test_escapes_are_written_out() -> None:
    assert printable("a\x1b[31mb\u202ec\td\ne") == "a\\x1b[31mb\\u202ec\td\ne"


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    """A memory whose one article has a hostile title and text."""
    from glimmer.storage.memory import Memory
    from glimmer.storage.passage import content_hash

    path = tmp_path_factory.mktemp("hostile") / "m"
    title, text = f"Title {HOSTILE}", f"needle {HOSTILE} text"
    passage = replace(
        kit.passage(0),
        article_id="a",
        title=title,
        text=text,
        content_hash=content_hash(title, text),
    )
    Memory.create(path, kit.identity())
    kit.add(path, [passage], job="hostile", base=0)
    return path


@pytest.mark.parametrize("arguments", [("search", "MEMORY", "needle"), ("search", "MEMORY", "needle", "--json")])
def test_search_prints_no_escape_of_a_title_or_text(memory: Path, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(glimmer, [str(memory) if a == "MEMORY" else a for a in arguments])
    assert result.exit_code == 0, result.output
    assert "needle" in result.stdout
    assert not UNSAFE.search(result.stdout)


def test_what_is_exported_to_a_terminal_is_shown_safely_and_to_a_pipe_as_it_is(memory: Path) -> None:
    code = "from glimmer.pipelines.cli.program import main; main()"
    command = [sys.executable, "-c", code, "export", str(memory), "--output", "-"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the terminal's other side is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    on_terminal = shown.decode().replace("\r\n", "\n")
    assert not UNSAFE.search(on_terminal)
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert json.loads(on_terminal) == json.loads(piped)
    assert "\u202e" in piped.decode()


def test_an_error_that_quotes_a_hostile_name_is_one_visible_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["inspect", str(tmp_path / "no\x1b[2Jsuch")]) == 1
    shown = capsys.readouterr().err
    assert "no\\x1b[2Jsuch" in shown
    assert len(shown.splitlines()) == 1


def test_a_strict_job_quotes_a_bad_record_visibly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(
        json.dumps({"id": "1", "title": HOSTILE, "text": "fine words here"}, ensure_ascii=False)
        + "\n"
        + json.dumps({"id": "2", "title": HOSTILE, "text": 7}, ensure_ascii=False)
        + "\n"
    )
    assert run(["encode", str(corpus), "--memory", str(tmp_path / "m"), "--model", "minilm", "--strict"]) == 1
    assert not UNSAFE.search(capsys.readouterr().err.replace("\n", ""))


def test_commands_print_through_one_filter() -> None:
    """No command writes to the terminal but through `printing`, which filters."""
    allowed = {"printing.py", "progress_bars.py", "signals.py", "group.py"}
    direct = re.compile(r"\bclick\.s?echo\(|(?<![.\w])print\(|sys\.std(out|err)\.write|click\.secho")
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "pipelines").rglob("*.py")
        if path.name not in allowed and direct.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
