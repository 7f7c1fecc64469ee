"""The command line as people meet it: `python -m glimmer`, suggestions, completion, and how much it says."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer import __version__
from glimmer.pipelines.cli.group import COMMANDS, LazyGroup, glimmer, run


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    made: Path = kit.memory(tmp_path_factory.mktemp("line") / "m", 20, 5)
    return made


def python_m(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glimmer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_python_m_glimmer_is_the_command() -> None:
    ended = python_m("--version")
    assert (ended.returncode, ended.stdout) == (0, f"glimmer, version {__version__}\n")
    assert python_m("histroy").stderr.startswith("glimmer: error: No such command 'histroy'.")


SUBCOMMANDS = {"bench": ["bench", "codecs"]}
"""Commands that do nothing by themselves, with the one that does."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_its_line_of_the_overview(command: str) -> None:
    words = SUBCOMMANDS.get(command, [command])
    text = CliRunner().invoke(glimmer, [*words, "--help"]).output
    assert f"    glimmer {' '.join(words)} " in text
    assert "Example" in text
    assert COMMANDS[command][1].split()[0] in text
    for option in (
        *(("--json",) if command != "demo" else ()),
        "-q, --quiet",
        "-v, --verbose",
        "--debug",
    ):
        assert option in text


@pytest.mark.parametrize(
    ("wrong", "suggestion"),
    [
        (["histroy", "m"], "Did you mean 'history'?"),
        (["encoed"], "Did you mean 'encode'?"),
        (["history", "m", "--jsno"], "Did you mean '--json'?"),
        (["encode", "c", "--memroy", "m"], "Did you mean '--memory'?"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(
    wrong: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(wrong) == 2
    shown = capsys.readouterr().err
    assert suggestion in shown
    assert len(shown.splitlines()) == 1


def test_a_wrong_choice_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["encode", "c", "--memory", "m", "--model", "x", "--precision", "float16"]) == 2
    assert "'float16' is not one of 'auto', 'bfloat16', 'float32'" in capsys.readouterr().err


# Completion: the shell asks with the words so far, a line for each proposal is the answer.


@pytest.mark.parametrize(
    ("words", "proposals"),
    [
        ("glimmer re", ["refresh", "repair"]),
        ("glimmer --ver", ["--verbose", "--version"]),
        ("glimmer encode --prec", ["--precision"]),
        ("glimmer encode --precision bf", ["bfloat16"]),
        ("glimmer -q his", ["history"]),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_options_and_values(shell: str, words: str, proposals: list[str]) -> None:
    before, _, last = words.rpartition(" ")
    place = last if shell == "fish" else str(len(before.split()))
    answer = python_m(_GLIMMER_COMPLETE=f"{shell}_complete", COMP_WORDS=words, COMP_CWORD=place).stdout.splitlines()
    # zsh: kind, value and help on lines of their own; bash: kind,value; fish: kind,value and a tab and help.
    found = answer[1::3] if shell == "zsh" else [line.split(",", 1)[1].split("\t")[0] for line in answer]
    assert sorted(found) == proposals


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_a_shell_sources_names_the_command(shell: str) -> None:
    script = python_m(_GLIMMER_COMPLETE=f"{shell}_source").stdout
    assert f"_GLIMMER_COMPLETE={shell}_complete" in script
    assert "glimmer" in script


def test_completing_a_commands_name_imports_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a command was imported")

    monkeypatch.setattr(LazyGroup, "get_command", refuse)
    with glimmer.make_context("glimmer", [], resilient_parsing=True) as context:
        assert [item.value for item in glimmer.shell_complete(context, "ver")] == ["verify"]


# How much it says.


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_leaves_the_result_alone(
    place: str, memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(memory), "--output", str(tmp_path / "passages.jsonl")]
    assert run(command) == 0
    assert "export: 25 passages in" in capsys.readouterr().err
    (tmp_path / "passages.jsonl").unlink()
    assert run(["-q", *command] if place == "before" else [*command, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "25 passages of version 2" in shown.out


def test_quiet_does_not_hide_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["-q", "inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("glimmer: error: ")


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_logs_the_stages_with_the_time(place: str, memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rebuild", "--json"]
    assert (
        run(["-v", "index", str(memory), *options] if place == "before" else ["index", str(memory), *options, "-v"])
        == 0
    )
    shown = capsys.readouterr()
    [line] = [line for line in shown.err.splitlines() if "index built: " in line]
    stamp, level, logger = line.split()[:3]
    assert stamp[2] + stamp[5] + stamp[8] == "::."
    assert (level, logger) == ("INFO", "glimmer.reader.serving.retrieval_index:")
    assert json.loads(shown.out)["passages"] == 25
    assert logging.getLogger("glimmer").handlers == [], "the next command in this process would log as well"


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "history", "m", "-v"]) == 2
    assert "--quiet and --verbose exclude each other" in capsys.readouterr().err
