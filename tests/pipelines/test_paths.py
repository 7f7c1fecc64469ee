"""Every command takes every spelling of a path: relative, `..`, `~`, links, spaces, `#`, other scripts, file URLs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from glimmer.pipelines.cli.group import glimmer

# name -> how the memory is spelled from the directory `work` (HERE: its absolute path)
PLACES = {
    "parent": "../elsewhere/m",
    "parent of a link": "link/../beside",
    "home": "~/m",
    "space": "with space/m",
    "hash": "a#b/m",
    "other scripts": "mémoire/東京",
    "link": "link/m",
    "file url": "file://HERE/url%20m",
}


def command(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(glimmer, [str(argument) for argument in arguments])
    assert result.exit_code == status, (arguments, result.output, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    root = tmp_path_factory.mktemp("paths")
    tiny_model(root / "model", memory_layers=1, live_a=1, live_b=1)
    tiny_corpus(root / "corpus.jsonl", 12)
    lines = (root / "corpus.jsonl").read_text().splitlines()
    (root / "newer.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    tiny_questions(root / "questions.jsonl", 3)
    return root


@pytest.mark.parametrize("name", PLACES)
def test_every_command_works_from_another_directory(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = tmp_path / "work"
    for directory in (work, tmp_path / "elsewhere", tmp_path / "target"):
        directory.mkdir()
    (work / "link").symlink_to(tmp_path / "target")
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    memory = PLACES[name].replace("HERE", str(work))
    data = os.path.relpath(world, work)

    command("encode", f"{data}/corpus.jsonl", "--memory", memory, "--model", f"{data}/model")
    command("verify", memory)
    assert json.loads(command("inspect", memory, "--json"))["articles"] == 12
    command("index", memory)
    command("search", memory, "the")
    if name == "parent":  # answering compiles, which takes most of the time
        questions, answers = f"{data}/questions.jsonl", ("--output", "../out/p.jsonl", "--report", "../out/report.html")
        command("answer", questions, "--memory", memory, "--model", f"{data}/model", "--candidates", 4, *answers)
        assert len((tmp_path / "out/p.jsonl").read_text().splitlines()) == 3
        assert (tmp_path / "out/report.html").exists()
    command("refresh", f"{data}/newer.jsonl", "--memory", memory)
    assert json.loads(command("diff", memory, 1, 2, "--json"))
    command("history", memory)
    command("rollback", memory, "--version", 1)
    command("compact", memory)
    command("vacuum", memory)
    command("repair", memory)
    command("export", memory, "--output", "../out/made/passages.jsonl")
    assert (tmp_path / "out/made/passages.jsonl").read_text().count("\n") == json.loads(
        command("inspect", memory, "--json")
    )["passages"]
    command("tasks", memory, "--output", "../out/tasks")
    assert not [path.name for path in work.iterdir() if ":" in path.name or path.name == "~"]
    expected = {
        "parent": tmp_path / "elsewhere/m",
        "parent of a link": tmp_path / "beside",
        "home": tmp_path / "home/m",
        "link": tmp_path / "target/m",
        "file url": work / "url m",
    }.get(name, work / memory)
    assert (expected / "memory.json").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode", "corpus.jsonl", "--model", "m", "--memory", "PLACE"),
        ("answer", "q.jsonl", "--model", "sample", "--memory", "PLACE", "--output", "o"),
        ("refresh", "corpus.jsonl", "--memory", "PLACE"),
        *((name, "PLACE") for name in ("inspect", "verify", "history", "compact", "vacuum", "repair", "index")),
        ("export", "PLACE", "--output", "o"),
        ("tasks", "PLACE", "--output", "o"),
        ("search", "PLACE", "word"),
        ("rollback", "PLACE", "--version", "1"),
        ("diff", "PLACE", "1", "2"),
    ],
)
def test_a_url_that_no_store_has_is_refused_by_name_and_no_directory_is_made_of_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(world / "corpus.jsonl", "corpus.jsonl")
    shutil.copy(world / "questions.jsonl", "q.jsonl")
    (tmp_path / "m").symlink_to(world / "model")
    before = sorted(os.listdir())
    result = CliRunner().invoke(glimmer, ["ftp://host/m" if part == "PLACE" else part for part in arguments])
    assert result.exit_code != 0
    assert "ftp:// is not supported" in str(result.exception)
    assert sorted(os.listdir()) == before
