"""Outputs go where their name says, whatever it is: standard output, FIFOs, devices, links, directories to be made."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer import StorageError, UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.storage.outputs import check_output, writing

ENTRY = [sys.executable, "-c", "from glimmer.pipelines.cli.program import main; main()"]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    made: Path = kit.memory(tmp_path_factory.mktemp("streams") / "m", 5)
    return made


def export(memory: Path, output: str) -> str:
    result = CliRunner().invoke(glimmer, ["export", str(memory), "--output", output])
    assert result.exit_code == 0, result.output
    return result.stdout


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script, "bash", *map(str, arguments)]
    environment = os.environ | {"GLIMMER": " ".join(f"'{part}'" for part in ENTRY)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_a_dash_is_standard_output_and_the_words_go_elsewhere(memory: Path) -> None:
    lines = export(memory, "-").splitlines()
    assert len(lines) == 5
    assert all("passage_id" in json.loads(line) for line in lines)


def test_a_fifo_is_written_to_and_stays_a_fifo(memory: Path, tmp_path: Path) -> None:
    fifo, got = tmp_path / "fifo", list[bytes]()
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    export(memory, str(fifo))
    reader.join(timeout=30)
    assert got[0].count(b"\n") == 5
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_dev_stdout_redirected_to_a_file_is_written_where_it_stands(memory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = shell(
        '{ echo first; eval "$GLIMMER export \\"$1\\" --output /dev/stdout"; echo last; } > "$2"', memory, out
    )
    assert ended.returncode == 0, ended.stderr
    lines = out.read_text().splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("first", 7, "last")


def test_process_substitution_is_written_to(memory: Path, tmp_path: Path) -> None:
    ended = shell('eval "$GLIMMER export \\"$1\\" --output >(wc -l > \\"$2\\")"; sleep 1', memory, tmp_path / "count")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "count").read_text().strip() == "5"


def test_a_link_is_followed_and_its_file_replaced(memory: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    export(memory, str(tmp_path / "link"))
    export(memory, str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/file").read_text().count("\n") == 5
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


def test_a_replaced_file_keeps_its_permissions(memory: Path, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    file.chmod(0o640)
    export(memory, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_parents_are_made(memory: Path, tmp_path: Path) -> None:
    export(memory, str(tmp_path / "a/b/c.jsonl"))
    assert (tmp_path / "a/b/c.jsonl").exists()


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")

    def fail() -> None:
        with writing(file) as out:
            out.write(b"new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_an_output_may_not_be_what_the_command_reads(tmp_path: Path) -> None:
    queries, memory = tmp_path / "q", tmp_path / "m"
    queries.write_text("precious")
    memory.mkdir()
    (tmp_path / "link").symlink_to(queries)
    others = {"the query file": queries, "the memory": memory, "--output": tmp_path / "new"}
    for output in (queries, tmp_path / "link", memory / "memory.json", tmp_path / "x/../new", memory):
        with pytest.raises(UsageError, match="would overwrite"):
            check_output(output, "--report", others)
    check_output(tmp_path / "other", "--report", others)
    assert queries.read_text() == "precious"


def test_two_outputs_cannot_share_standard_output() -> None:
    with pytest.raises(UsageError, match="--report - would overwrite --output"):
        check_output("-", "--report", {"--output": "-"})
    check_output("-", "--output", {"the query file": "-"})  # in from one pipe, out to another


def test_a_directory_as_output_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="directory"):
        check_output(tmp_path, "--output")


def test_an_export_may_not_overwrite_its_memory(memory: Path) -> None:
    result = CliRunner().invoke(glimmer, ["export", str(memory), "--output", str(memory / "memory.json")])
    assert isinstance(result.exception, UsageError)
    assert (memory / "memory.json").read_text().startswith("{")


def test_made_questions_go_to_a_pipe(tmp_path: Path, kit: Any) -> None:
    made: Path = kit.memory(tmp_path / "m", 9)
    result = CliRunner().invoke(glimmer, ["tasks", str(made), "--output", "-"])
    assert result.exit_code == 0, result.output
    assert all({"id", "input", "output"} <= json.loads(line).keys() for line in result.stdout.splitlines())
    assert not Path("-").exists()


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    root = tmp_path_factory.mktemp("predictions")
    tiny_model(root / "model", memory_layers=1, live_a=1, live_b=1)
    tiny_corpus(root / "corpus.jsonl", 10)
    tiny_questions(root / "q.jsonl", 5)
    result = CliRunner().invoke(
        glimmer, ["encode", f"{root}/corpus.jsonl", "--model", f"{root}/model", "--memory", f"{root}/m"]
    )
    assert result.exit_code == 0, result.output
    return root


def answer(world: Path, *more: object) -> Any:
    arguments = ["answer", f"{world}/q.jsonl", "--model", f"{world}/model", "--memory", f"{world}/m"]
    return CliRunner().invoke(glimmer, [*arguments, "--candidates", "4", *map(str, more)])


def test_predictions_to_a_pipe_are_those_of_the_file(world: Path, tmp_path: Path) -> None:
    assert answer(world, "--output", tmp_path / "p.jsonl").exit_code == 0
    piped = answer(world, "--output", "-")
    assert piped.exit_code == 0
    assert piped.stdout == (tmp_path / "p.jsonl").read_text()
    assert "answered" in piped.stderr


@pytest.mark.parametrize("name", ["q.jsonl", "p.jsonl", "p.jsonl.settings.json", "m/memory.json", "model/config.json"])
def test_a_report_destroys_no_input_and_no_prediction(world: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    refused = answer(world, "--output", world / "p.jsonl", "--report", world / name)
    assert isinstance(refused.exception, UsageError)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before
