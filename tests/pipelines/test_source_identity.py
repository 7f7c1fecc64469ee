"""A job is known by its sources' content: copies resume, edits are noticed, and nobody needs the clock for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from glimmer import InputError, UsageError
from glimmer.pipelines.corpus import source_identity
from glimmer.pipelines.encode import encode
from glimmer.progress import Quiet
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, commit


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False))


@pytest.fixture
def corpus(tiny_corpus: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_corpus(tmp_path / "corpus.jsonl", 20)


def edited_in_the_middle(path: Path) -> None:
    """Other text of equal length, under the old modification time."""
    status, content = path.stat(), path.read_bytes()
    at = content.index(b" ", len(content) // 2) + 1
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_copy_elsewhere_and_later_is_the_same_source_and_an_edit_of_equal_length_is_another(corpus: Path) -> None:
    first = source_identity(corpus)
    copy = shutil.copy(corpus, corpus.with_name("copied.jsonl"))
    os.utime(copy, ns=(1, 1))
    assert source_identity(copy) == first
    edited_in_the_middle(corpus)
    assert source_identity(corpus) != first


def test_of_a_directory_every_file_counts(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        shutil.copy(corpus, tmp_path / "d" / name)
    first = source_identity(tmp_path / "d")
    shutil.copytree(tmp_path / "d", tmp_path / "e")
    assert source_identity(tmp_path / "e") == first
    edited_in_the_middle(tmp_path / "d" / "b.jsonl")
    assert source_identity(tmp_path / "d") != first


@pytest.mark.parametrize("told", [{"ETag": '"1"'}, {"md5Hash": "abc="}, {"LastModified": "today"}, {}], ids=str)
def test_of_a_url_it_is_what_the_store_says_or_the_content_where_it_says_nothing(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ask = fsspec.filesystem("memory"), MemoryFileSystem.info
    says = dict(told)

    def info(self: MemoryFileSystem, path: str, **kwargs: Any) -> dict[str, Any]:
        known = ask(self, path, **kwargs)
        return {key: known[key] for key in ("name", "size", "type")} | says

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    store.pipe("/told/a.jsonl", b'{"id": "1", "text": "x"}\n')
    first = source_identity("memory://told/a.jsonl")
    assert source_identity("memory://told/a.jsonl") == first
    store.pipe("/told/a.jsonl", b'{"id": "1", "text": "y"}\n')
    says = {key: f"{value}2" for key, value in told.items()}
    assert source_identity("memory://told/a.jsonl") != first
    store.rm("/told", recursive=True)


def test_encode_has_nothing_to_do_for_a_copy_and_refuses_an_edit(model: str, corpus: Path, tmp_path: Path) -> None:
    encode(sources=[str(corpus)], memory=tmp_path / "m", model=model)
    copy = shutil.copy(corpus, tmp_path / "copied.jsonl")
    assert encode(sources=[str(copy)], memory=tmp_path / "m", model=model).nothing_to_do
    with pytest.raises(UsageError, match="made from these sources with other settings"):
        encode(sources=[str(copy)], memory=tmp_path / "m", model=model, strict=True)
    edited_in_the_middle(corpus)
    with pytest.raises(UsageError, match=r"made from other sources.*glimmer refresh"):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=model)


class _Interrupts(Quiet):
    """Stops the job as Ctrl-C does, once it encodes."""

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        if name == "encode":
            raise KeyboardInterrupt


def test_an_interrupted_job_resumes_from_a_corpus_that_was_copied_anew(
    model: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=model, progress=_Interrupts())
    [job] = [path.name for path in (tmp_path / "m/jobs").iterdir()]
    assert Ledger(tmp_path / "m", job).read_plan() is not None
    copy = shutil.copy(corpus, tmp_path / "copied.jsonl")
    result = encode(sources=[str(copy)], memory=tmp_path / "m", model=model)
    assert (result.job, "plan" in result.seconds) == (job, False)


class _Writes(Quiet):
    """Appends to a file once it is being planned."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        if name == "plan":
            with self._path.open("a") as file:
                file.write('{"id": "late", "title": "T", "text": "Too late."}\n')


def test_a_source_that_is_written_to_while_it_is_planned_stops_the_job(
    model: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl: changed while it was being read"):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=model, progress=_Writes(corpus))
    assert not (tmp_path / "m").exists()


def test_of_a_memory_that_does_not_tell_its_sources_content_nothing_wrong_is_said(
    model: str, corpus: Path, tmp_path: Path
) -> None:
    encode(sources=[str(corpus)], memory=tmp_path / "new", model=model)
    Memory.create(tmp_path / "old", Memory.open(tmp_path / "new").identity)
    commit(tmp_path / "old", base=0, job="encode-0123456789abcdef", operation="encode", details={"sources": ["x"]})
    with pytest.raises(UsageError, match=r"did not record its sources' content, perhaps from these.*glimmer refresh"):
        encode(sources=[str(corpus)], memory=tmp_path / "old", model=model)
