"""BM25 over one version: same content, same candidates, whatever is asked."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import Wikipedia

from glimmer import DamageError, MismatchError, StorageError, UsageError
from glimmer.reader.serving.retrieval import MANIFEST, Bm25Index, build_index, share_index
from glimmer.storage.stores.sealed import _known

OF = {"memory": "abc", "version": 3}
PASSAGES = [
    ("0a", "Cats", "The cat sat on the mat."),
    ("1b", "Dogs", "Dogs chase cats, and cats chase mice."),
    ("2c", "Mice", "A mouse runs."),
    ("3d", "Mice", "A mouse runs."),
    ("4e", "Query syntax", "title AND text OR nothing NOT everything: a quoted word"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    directory = tmp_path_factory.mktemp("memory") / "indexes" / "3" / "bm25"
    build_index(directory, PASSAGES, OF)
    return Bm25Index.open(directory, OF)


def found(index: Bm25Index, question: str, k: int = 5) -> list[int]:
    return index.search([question], k)[0].positions.tolist()


def test_passages_are_found_by_title_and_text_stemmed(index: Bm25Index) -> None:
    assert found(index, "Which CATS were sitting?") == [0, 1]
    assert found(index, "dog") == [1]
    assert index.count == len(PASSAGES)


def test_hits_come_with_falling_scores_in_fixed_types(index: Bm25Index) -> None:
    (hits,) = index.search(["mouse cats"], 10)
    assert hits.positions.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert (np.diff(hits.scores) <= 0).all()
    assert len(hits.positions) == 4


def test_equal_scores_stand_by_passage_id(index: Bm25Index) -> None:
    assert found(index, "mouse") == [2, 3]
    assert found(index, "mouse", k=1) == [2]


def test_ties_far_beyond_the_cut_are_ordered_too(tmp_path: Path) -> None:
    build_index(tmp_path / "i", [(f"{n:04d}", "Same", "same words") for n in range(500)], OF)
    assert found(Bm25Index.open(tmp_path / "i", OF), "words", k=3) == [0, 1, 2]


@pytest.mark.parametrize("question", ["", "?!", "—", "zzzz"])
def test_a_question_without_an_indexed_word_finds_nothing(index: Bm25Index, question: str) -> None:
    assert found(index, question) == []


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(
            ["title:", '"', "AND", "OR", "NOT", "+cat", "-cat", "(", ")", "[a TO z]", "^2", "~", "*", "\\", "\ud800"]
        )
    ).map(" ".join)
)
def test_no_sign_in_a_question_is_query_syntax(index: Bm25Index, text: str) -> None:
    index.search([text], 5)
    wordless = "".join(" " if not character.isalnum() else character for character in text)
    assert found(index, text) == found(index, wordless)


def test_operators_are_words_like_others(index: Bm25Index) -> None:
    assert 0 in found(index, "cat NOT cat")
    assert found(index, 'title:"nothing"')[0] == 4
    assert found(index, "cat") == found(index, "-cat")


def test_a_very_long_question_is_searched(index: Bm25Index) -> None:
    assert found(index, " ".join(f"word{n}" for n in range(1_024)) + " dog")[0] == 1


def test_how_the_index_is_laid_out_does_not_change_what_is_found(wikipedia: Wikipedia, tmp_path: Path) -> None:
    passages, questions = [], []
    with gzip.open(wikipedia.source, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            for number, text in enumerate(record["text"][1:]):
                passages.append((f"{int(record['wikipedia_id']):08d}-{number:04d}", record["wikipedia_title"], text))
    # An index in more than one piece takes some 15 MB of text: a smaller corpus is repeated, which makes ties besides.
    copies = -(-19_000 // len(passages))
    passages = sorted((f"{id}-{copy:03d}", title, text) for copy in range(copies) for id, title, text in passages)
    with wikipedia.questions.open() as lines:
        questions = [json.loads(line)["input"] for line in lines][:150]
    counts: list[int] = []
    build_index(tmp_path / "one", passages, OF, counts.append)
    build_index(tmp_path / "many", iter(passages), OF, heap_bytes=15_000_000)
    one, many = (Bm25Index.open(tmp_path / name, OF) for name in ("one", "many"))
    assert many._searcher.num_segments > one._searcher.num_segments == 1
    assert counts[-1] == len(passages)
    assert counts == sorted(counts)
    for left, right in zip(one.search(questions, 40), many.search(questions, 40), strict=True):
        np.testing.assert_array_equal(left.positions, right.positions)
        np.testing.assert_array_equal(left.scores, right.scores)
    assert one.digest == many.digest


def test_an_index_of_something_else_is_not_used(index: Bm25Index, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="another memory or version"):
        Bm25Index.open(index.directory, {**OF, "version": 4})
    with pytest.raises(MismatchError, match="there is no index"):
        Bm25Index.open(tmp_path / "none", OF)


def test_building_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", PASSAGES, OF)
    build_index(tmp_path / "bm25", PASSAGES[:2], {"version": 4})
    assert Bm25Index.open(tmp_path / "bm25", {"version": 4}).count == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bm25"]


def test_a_build_that_fails_leaves_the_old_index(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", PASSAGES, OF)
    with pytest.raises(UsageError, match="ascending order"):
        build_index(tmp_path / "bm25", reversed(PASSAGES), OF)
    assert Bm25Index.open(tmp_path / "bm25", OF).count == 5
    assert [path.name for path in tmp_path.iterdir()] == ["bm25"]


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        build_index(tmp_path / "file" / "bm25", PASSAGES, OF)


def test_damage_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "bm25"
    build_index(directory, PASSAGES, OF)
    opened = Bm25Index.open(directory, OF)
    assert opened.verify() == []
    victim = max(directory.glob("*.term"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    assert opened.verify() == [victim.name]
    with pytest.raises(DamageError, match=rf"{victim.name} its SHA-256 is not the recorded one; remove it"):
        Bm25Index.open(directory, OF)
    victim.write_bytes(content[:-1])
    with pytest.raises(DamageError, match=r"\.term has \d+ bytes, expected"):
        Bm25Index.open(directory, OF)
    victim.write_bytes(content)
    (directory / "meta.json").write_text("!" * (directory / "meta.json").stat().st_size)
    with pytest.raises(DamageError, match=r"^[^\n]{,400}remove it to have it rebuilt$"):
        Bm25Index.open(directory, OF)
    (directory / MANIFEST).write_text("{")
    with pytest.raises(DamageError, match=r"damaged: glimmer-index\.json: not JSON; remove it"):
        Bm25Index.open(directory, OF)


def test_what_was_opened_stays_what_it_was(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", PASSAGES, OF)
    opened = Bm25Index.open(tmp_path / "bm25", OF)
    build_index(tmp_path / "bm25", [("0a", "Cats", "Nothing about them.")], {"version": 4})
    assert found(opened, "mouse") == [2, 3]
    shutil.rmtree(tmp_path / "bm25")
    assert found(opened, "mouse") == [2, 3]


def test_opening_writes_nothing_beside_the_index(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", PASSAGES, OF)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bm25", *(tmp_path / "bm25").iterdir())}
    assert found(Bm25Index.open(tmp_path / "bm25", OF), "mouse") == [2, 3]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bm25", *(tmp_path / "bm25").iterdir())} == before


def test_a_file_is_hashed_once_a_process_and_again_when_it_is_another(tmp_path: Path) -> None:
    """A file of the same name, size and time, as a restored backup has."""
    directory = tmp_path / "bm25"
    build_index(directory, PASSAGES, OF)
    time.sleep(0.2)  # what has just been written is not believed to stay
    victim = max(directory.glob("*.idx"), key=lambda path: path.stat().st_size)
    begun = len(_known)
    Bm25Index.open(directory, OF)
    hashed = len(_known) - begun
    assert hashed == len(list(directory.iterdir())) - 1
    Bm25Index.open(directory, OF)
    assert len(_known) - begun == hashed
    times = victim.stat()
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DamageError, match=victim.name):
        Bm25Index.open(directory, OF)


def test_an_index_of_another_language_is_not_what_was_asked_for(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", PASSAGES, OF, language="german")
    assert Bm25Index.open(tmp_path / "bm25", OF).language == "german"
    with pytest.raises(MismatchError, match="is of language german"):
        Bm25Index.open(tmp_path / "bm25", OF, language="english")
    with pytest.raises(UsageError, match="no stemmer for 'klingon'; choose one of arabic, danish"):
        build_index(tmp_path / "bm25", PASSAGES, OF, language="klingon")


def test_a_shared_index_finds_the_same_and_survives_the_other(tmp_path: Path) -> None:
    build_index(tmp_path / "1" / "bm25", PASSAGES, OF, language="none")
    share_index(Bm25Index.open(tmp_path / "1" / "bm25", OF), tmp_path / "2" / "bm25", {"version": 4})
    shutil.rmtree(tmp_path / "1")
    shared = Bm25Index.open(tmp_path / "2" / "bm25", {"version": 4})
    assert (shared.language, shared.count, found(shared, "mouse")) == ("none", 5, [2, 3])


def test_an_empty_memory_has_an_empty_index(tmp_path: Path) -> None:
    build_index(tmp_path / "bm25", [], OF)
    assert found(Bm25Index.open(tmp_path / "bm25", OF), "anything") == []


def test_k_must_be_positive(index: Bm25Index) -> None:
    with pytest.raises(UsageError, match="positive"):
        index.search(["x"], 0)
