"""A memory that cannot be written answers with the index that stands in it, and says what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glimmer import StorageError
from glimmer.pipelines.cli.group import run
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.repair import repair
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.memory import Memory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """`read_only(directory) -> Path`: the same directory at a place where nobody can write, not even root."""
    mounted: list[Path] = []

    def mount(directory: Path) -> Path:
        place = tmp_path / f"read-only-{len(mounted)}"
        place.mkdir()
        for arguments in (["--bind", str(directory), str(place)], ["-o", "remount,ro,bind", str(place)]):
            done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
            if done.returncode:
                subprocess.run(["umount", str(place)], capture_output=True)
                pytest.skip(f"a read-only bind mount needs root's rights: {done.stderr.strip()}")
        mounted.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # what is mapped into memory may be open still


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    return Path(kit.memory(tmp_path / "m", 30))


def everything(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(directory.rglob("*"))
    }


def test_its_own_index_is_used(memory: Path, read_only: Callable[[Path], Path], cache: Path) -> None:
    built = open_index(Memory.open(memory))
    index = open_index(Memory.open(read_only(memory)))
    assert index.directory.name == "bm25"
    assert index.directory.parent.parent.parent.name == "read-only-0"
    assert index.search(["passage 7"], 3)[0].positions.tolist() == built.search(["passage 7"], 3)[0].positions.tolist()
    assert not cache.exists()


def test_without_one_it_is_built_in_the_cache_once(
    memory: Path, read_only: Callable[[Path], Path], cache: Path
) -> None:
    there = read_only(memory)
    index = open_index(Memory.open(there))
    assert index.directory.is_relative_to(cache)
    made = index.directory.stat().st_mtime_ns
    assert open_index(Memory.open(there)).directory.stat().st_mtime_ns == made


def test_another_language_is_built_in_the_cache_and_used_from_then_on(
    memory: Path, read_only: Callable[[Path], Path], cache: Path
) -> None:
    open_index(Memory.open(memory))
    there = Memory.open(read_only(memory))
    assert open_index(there, language="german").directory.is_relative_to(cache)
    assert open_index(there).language == "german"
    assert open_index(Memory.open(memory), language="english").directory.is_relative_to(memory)


def test_a_damaged_one_is_built_again_in_the_cache(
    memory: Path, read_only: Callable[[Path], Path], cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    meta = open_index(Memory.open(memory)).directory / "meta.json"
    meta.write_bytes(meta.read_bytes().replace(b"1", b"2"))
    there = read_only(memory)
    assert run(["search", str(there), "passage"]) == 0
    first = capfd.readouterr()
    assert "meta.json its SHA-256 is not the recorded one; it is built again" in first.err
    assert f"the index cannot be put into {there}, it is kept in {cache}" in first.err
    assert run(["search", str(there), "passage"]) == 0
    assert (capfd.readouterr().out, first.err.count("built again")) == (first.out, 1)


def test_repair_says_in_one_line_that_it_is_read_only(
    memory: Path, read_only: Callable[[Path], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    (text,) = memory.glob("segments/*/text/*.arrow")
    text.write_bytes(text.read_bytes()[:-1])
    there = read_only(memory)
    before = everything(there)
    with pytest.raises(
        StorageError, match=r"the memory is read-only, so .*arrow cannot be repaired in it; repair a copy"
    ):
        repair(memory=there)
    assert run(["repair", str(there)]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if " verify: " not in line]
    assert len(lines) == 1
    assert "the memory is read-only" in lines[0]
    assert everything(there) == before


def test_repair_of_a_whole_one_finds_nothing_to_do(
    memory: Path, read_only: Callable[[Path], Path], cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    open_index(Memory.open(memory))
    there = read_only(memory)
    assert run(["repair", str(there)]) == 0
    assert capfd.readouterr().out == f"{there}: nothing to do, version 1 is whole\n"
    assert not cache.exists()


def test_a_memory_without_write_permission_is_read_only_for_repair_too(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write whatever the mode says")
    (text,) = memory.glob("segments/*/text/*.arrow")
    text.write_bytes(text.read_bytes()[:-1])
    memory.chmod(0o500)
    with pytest.raises(StorageError, match="the memory is read-only"):
        repair(memory=memory)
    memory.chmod(0o700)


def test_answer_search_and_verify_write_nothing_into_it(
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
    tmp_path: Path,
    read_only: Callable[[Path], Path],
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = tiny_model(tmp_path / "model", window=48)
    sources = [str(tiny_corpus(tmp_path / "c.jsonl", 12))]
    encode(sources=sources, memory=tmp_path / "memory", model=str(model), passage_words=16)
    open_index(Memory.open(tmp_path / "memory"))
    questions, output = tiny_questions(tmp_path / "q.jsonl", 3), tmp_path / "out.jsonl"
    there = read_only(tmp_path / "memory")
    before = everything(there)
    command = ["answer", str(questions), "--memory", str(there), "--model", str(model), "--output", str(output)]
    assert run([*command, "--candidates", "4", "--select", "2", "--max-answer-tokens", "4"]) == 0, (
        capfd.readouterr().err
    )
    predictions = [json.loads(line) for line in output.read_text().splitlines()]
    assert [len(prediction["output"][0]["provenance"]) > 0 for prediction in predictions] == [True] * 3
    assert run(["search", str(there), "kalo"]) == 0
    assert run(["verify", str(there)]) == 0
    assert run(["index", str(there)]) == 0
    assert everything(there) == before
    assert not (cache / "indexes").exists()
