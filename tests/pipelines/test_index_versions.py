"""The index of a new version: it follows a rollback, a compaction and a repair, and keeps its language."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer import GlimmerError
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.progress import Quiet
from glimmer.reader.serving.retrieval import Bm25Index
from glimmer.reader.serving.retrieval_index import index_manifest, open_index
from glimmer.storage.catalog_files import read_catalog_file
from glimmer.storage.memory import Memory, commit

QUESTIONS = ["passage 7 façade", "Title 3", "東京", "text"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    """Version 1 of 40 passages, version 2 of 30 more."""
    return Path(kit.memory(tmp_path / "m", 40, 30))


def without(memory: Path, gone: set[str]) -> int:
    """Commits a version without the passages `gone`."""
    base = Memory.open(memory)
    add = []
    for file in base.manifest.files:
        for batch in read_catalog_file(base.store, file):
            add.append(batch.filter([name not in gone for name in batch.column("passage_id").to_pylist()]))
    names = [file.name for file in base.manifest.files]
    return commit(memory, base=base.version, job="thinned", operation="refresh", add=add, remove=names).version


def place(memory: Path, version: int) -> Path:
    return memory / "indexes" / str(version) / "bm25"


def index_of(memory: Path, version: int) -> Bm25Index:
    """The index that stands in the memory; an error if it has to be built."""
    return Bm25Index.open(place(memory, version), index_manifest(Memory.open(memory, version)))


def hits(index: Bm25Index) -> list[tuple[list[int], list[float]]]:
    return [(found.positions.tolist(), found.scores.tolist()) for found in index.search(QUESTIONS, 10)]


def inodes(memory: Path, version: int) -> set[int]:
    return {path.stat().st_ino for path in place(memory, version).iterdir()}


class Stages(Quiet):
    """Keeps the names of the stages."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self.begun.append(name)


def test_after_a_rollback_the_index_of_the_version_shown_again_is_back(memory: Path) -> None:
    expected = hits(open_index(Memory.open(memory, 1)))
    heard = Stages()
    assert rollback(memory=memory, to=1, progress=heard).version == 3
    assert heard.begun == [], "the files are shared, nothing is built"
    assert hits(index_of(memory, 3)) == expected
    assert len(inodes(memory, 3) & inodes(memory, 1)) == len(inodes(memory, 1)) - 1  # all but the manifest
    shutil.rmtree(place(memory, 1).parent)  # as a vacuum does
    assert hits(index_of(memory, 3)) == expected


def test_after_a_rollback_the_index_is_built_where_only_the_newest_version_had_one(memory: Path) -> None:
    open_index(Memory.open(memory, 2))
    rollback(memory=memory, to=1)
    expected = hits(index_of(memory, 3))
    assert hits(open_index(Memory.open(memory, 1))) == expected


def test_a_rollback_gives_no_index_where_there_was_none_or_where_none_is_wanted(memory: Path) -> None:
    rollback(memory=memory, to=1)
    assert not place(memory, 3).exists()
    open_index(Memory.open(memory))
    rollback(memory=memory, to=2, index=False)
    assert not place(memory, 4).exists()
    rollback(memory=memory, to=3, index=True)
    assert place(memory, 5).exists()


def test_a_rollback_stands_even_if_its_index_cannot_be_built(memory: Path) -> None:
    open_index(Memory.open(memory, 2))
    for text in memory.glob("segments/seg-job-0/text/*.arrow"):
        content = bytearray(text.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        text.write_bytes(content)
    result = CliRunner().invoke(glimmer, ["rollback", str(memory), "--version", "1"])
    assert result.exit_code == 0, result.output
    assert "version 3 is committed, but its first-stage index cannot be built yet" in " ".join(result.stderr.split())


def test_after_a_compaction_the_index_is_there_and_shared(memory: Path, kit: Any) -> None:
    without(memory, {kit.passage(number).passage_id for number in range(0, 40, 2)})
    expected = hits(open_index(Memory.open(memory)))
    heard = Stages()
    result = compact(memory=memory, progress=heard)
    assert (result.base, result.version) == (3, 4)
    assert "index" not in heard.begun
    assert hits(index_of(memory, 4)) == expected
    assert len(inodes(memory, 4) & inodes(memory, 3)) == len(inodes(memory, 3)) - 1


def test_other_passages_are_never_served_by_a_shared_index(memory: Path, kit: Any) -> None:
    """Equal in number, and all but one the same."""
    open_index(Memory.open(memory))
    version = without(memory, {kit.passage(0).passage_id})
    base = Memory.open(memory)
    kit.add(memory, [kit.passage(1000)], job="more", base=version)
    assert Memory.open(memory).passages == Memory.open(memory, 2).passages == base.passages + 1
    heard = Stages()
    found = open_index(Memory.open(memory), progress=heard)
    assert heard.begun == ["index"]
    assert found.digest != index_of(memory, 2).digest


def test_a_damaged_index_is_not_shared(memory: Path) -> None:
    expected = hits(open_index(Memory.open(memory, 1)))
    meta = place(memory, 1) / "meta.json"
    meta.write_bytes(meta.read_bytes().replace(b"1", b"2"))
    heard = Stages()
    rollback(memory=memory, to=1, progress=heard)
    assert heard.begun == ["index"]
    assert hits(index_of(memory, 3)) == expected


def test_an_index_follows_a_repair_that_makes_a_new_version(memory: Path) -> None:
    open_index(Memory.open(memory))
    (text,) = memory.glob("segments/seg-job-1/text/*.arrow")
    text.unlink()
    result = repair(memory=memory, drop=True)
    assert result.new_version is not None, result
    assert index_of(memory, result.new_version).count == Memory.open(memory).passages


# Language.


def test_the_language_of_an_index_is_kept_until_another_is_asked_for(memory: Path) -> None:
    opened = Memory.open(memory)
    assert open_index(opened).language == "english"
    assert open_index(opened, language="german").language == "german"
    made = (place(memory, 2) / "meta.json").stat().st_ino
    assert open_index(opened).language == "german"
    assert open_index(opened, language="german").language == "german"
    assert (place(memory, 2) / "meta.json").stat().st_ino == made
    assert open_index(opened, rebuild=True).language == "german"
    assert open_index(opened, language="english").language == "english"


def test_a_new_versions_index_takes_the_language_over(memory: Path, kit: Any) -> None:
    open_index(Memory.open(memory, 1), language="french")
    assert open_index(Memory.open(memory)).language == "french"
    kit.add(memory, [kit.passage(500)], job="more", base=2)
    shutil.rmtree(place(memory, 2).parent)  # as a vacuum does
    assert open_index(Memory.open(memory)).language == "french"


def test_after_a_rollback_it_is_the_language_that_was_asked_for_last(memory: Path) -> None:
    open_index(Memory.open(memory, 1))
    open_index(Memory.open(memory, 2), language="none")
    rollback(memory=memory, to=1)
    assert index_of(memory, 3).language == "none"
    assert index_of(memory, 1).language == "english"


def test_a_damaged_index_is_built_again_in_its_language(memory: Path) -> None:
    opened = Memory.open(memory)
    path = open_index(opened, language="russian").directory / "glimmer-index.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert open_index(opened).language == "russian"


def test_commands_choose_and_show_the_language(memory: Path) -> None:
    def shown(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(glimmer, ["index", str(memory), *arguments, "--json"])
        assert result.exit_code == 0, result.output
        record: dict[str, Any] = json.loads(result.stdout)
        return record

    assert shown()["language"] == "english"
    assert shown("--language", "german")["language"] == "german"
    assert shown()["language"] == "german"
    printed = CliRunner().invoke(glimmer, ["index", str(memory)]).stdout
    assert printed.endswith("whole: 70 passages of version 2, german stemmer\n")
    refused = CliRunner().invoke(glimmer, ["index", str(memory), "--language", "klingon"])
    assert refused.exit_code == 2
    assert "'klingon' is not one of" in refused.output


@pytest.mark.parametrize("question", ["東京", "京", "façade", "fac\u0327ade"])
def test_search_finds_scripts_without_spaces_and_either_form_of_an_accent(memory: Path, question: str) -> None:
    result = CliRunner().invoke(glimmer, ["search", str(memory), question, "--json"])
    assert len(json.loads(result.stdout)["passages"]) == 5


def test_a_run_is_not_resumed_with_an_index_of_another_language(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> None:
    model = tiny_model(tmp_path / "model", window=48)
    sources = [str(tiny_corpus(tmp_path / "c.jsonl", 12))]
    encode(sources=sources, memory=tmp_path / "memory", model=str(model), passage_words=16)
    questions = tiny_questions(tmp_path / "q.jsonl", 2)
    settings: dict[str, Any] = {
        "queries": str(questions),
        "memory": str(tmp_path / "memory"),
        "model": str(model),
        "output": tmp_path / "out.jsonl",
    }
    open_index(Memory.open(tmp_path / "memory"), language="german")
    assert answer_file(**settings).answered == 2
    assert answer_file(**settings).resumed == 2
    open_index(Memory.open(tmp_path / "memory"), language="french")
    with pytest.raises(GlimmerError, match="index_language"):
        answer_file(**settings)
