"""Candidates of a query: the passages its file brings, however it names them, else what BM25 finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import InputError
from glimmer.pipelines.encode import encode
from glimmer.reader.formats.queries import QueryFile, open_queries
from glimmer.reader.serving.candidates import CandidateFinder, ProvidedPassages
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.memory import Memory
from glimmer.storage.passage import Passage


@pytest.fixture(scope="module")
def memory(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Callable[..., Path], tiny_model: Callable[..., Path]
) -> Memory:
    """Made-up articles, and two of the same title and text."""
    home = tmp_path_factory.mktemp("candidates")
    corpus = tiny_corpus(home / "c.jsonl", 20)
    model = tiny_model(home / "m", with_decoder=False, window=48)
    with corpus.open("a") as file:
        for id_ in ("9001", "9002"):
            file.write(json.dumps({"id": id_, "title": "Twice", "text": "Kalo terlo mishami."}) + "\n")
    encode(sources=[str(corpus)], memory=home / "memory", model=str(model), passage_words=16)
    return Memory.open(home / "memory")


@pytest.fixture(scope="module")
def passages(memory: Memory) -> list[Passage]:
    return memory.texts(np.arange(memory.passages))


def queries(tmp_path: Path, *records: dict[str, object], provenance: bool = False) -> QueryFile:
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(n), **record}) for n, record in enumerate(records)))
    return open_queries(path, provenance_as_candidates=provenance)


def found(memory: Memory, asked: QueryFile, limit: int = 40) -> list[list[int]]:
    """Positions that each query brings, after the check that precedes work."""
    provided = ProvidedPassages(memory, asked.read)
    provided.check(asked.read(), asked.name)
    finder = CandidateFinder(limit=limit, index=None, provided=provided)
    hits = finder.find(list(asked))
    assert all(each.scores is None for each in hits)
    return [each.positions.tolist() for each in hits]


def test_passage_ids_are_looked_up_in_their_order(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    ids = [passages[place].passage_id for place in (5, 2, 7)]
    assert found(memory, queries(tmp_path, {"input": "kalo", "passage_ids": ids})) == [[5, 2, 7]]


def test_more_than_asked_for_are_the_first(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    ids = [passages[place].passage_id for place in (5, 2, 5, 7)]
    assert found(memory, queries(tmp_path, {"input": "kalo", "passage_ids": ids}), limit=2) == [[5, 2]]


def test_contexts_are_known_by_id_or_by_title_and_text(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    one, two = passages[3], passages[11]
    contexts = [
        {"id": one.passage_id, "title": "whatever", "text": "whatever"},
        {"id": "their own id", "title": two.title, "text": two.text},
        {"title": one.title + " ", "text": one.text.replace(" ", "  ") + "\n"},
    ]
    assert found(memory, queries(tmp_path, {"question": "kalo", "ctxs": contexts})) == [[3, 11]]


def test_equal_contents_stand_for_the_first_of_them(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    equal = [place for place, passage in enumerate(passages) if passage.title == "Twice"]
    assert len(equal) == 2
    contexts = [{"title": "Twice", "text": passages[equal[0]].text}]
    assert found(memory, queries(tmp_path, {"question": "kalo", "ctxs": contexts})) == [equal[:1]]


def test_a_record_that_was_split_stands_for_its_passages(
    memory: Memory, passages: list[Passage], tmp_path: Path
) -> None:
    """DPR and MS MARCO give whole records as contexts, with the id that is the article's id here."""
    article = passages[0].article_id
    places = [place for place, passage in enumerate(passages) if passage.article_id == article]
    places.sort(key=lambda place: (passages[place].start_paragraph_id, passages[place].start_character))
    whole = " ".join(passages[place].text for place in places)
    context = {"id": article, "title": passages[0].title, "text": whole}
    assert len(places) > 1
    assert found(memory, queries(tmp_path, {"question": "kalo", "ctxs": [context]})) == [places]
    assert found(memory, queries(tmp_path, {"question": "kalo", "passage_ids": [article]})) == [places]


def test_provenance_is_the_passages_that_overlap_its_paragraphs(
    memory: Memory, passages: list[Passage], tmp_path: Path
) -> None:
    article = passages[0].article_id

    def overlapping(first: int, last: int) -> set[int]:
        return {
            place
            for place, passage in enumerate(passages)
            if passage.article_id == article
            and passage.start_paragraph_id <= last
            and passage.end_paragraph_id >= first
        }

    for first, last in ((1, 1), (1, 2), (2, 2)):
        page = {"wikipedia_id": article, "start_paragraph_id": first, "end_paragraph_id": last}
        asked = queries(tmp_path, {"input": "kalo", "output": [{"provenance": [page]}]}, provenance=True)
        (positions,) = found(memory, asked)
        assert set(positions) == overlapping(first, last)
        starts = [(passages[at].start_paragraph_id, passages[at].start_character) for at in positions]
        assert starts == sorted(starts)
    page = {"wikipedia_id": article}
    asked = queries(tmp_path, {"input": "kalo", "output": [{"provenance": [page]}]}, provenance=True)
    assert set(found(memory, asked)[0]) == overlapping(0, 1000)


def test_what_the_memory_lacks_is_named_with_its_line(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    known = passages[0].passage_id
    asked = queries(
        tmp_path,
        {"input": "kalo", "passage_ids": [known]},
        {"input": "kalo", "passage_ids": ["ab" * 16, "no such thing", known]},
        {"input": "kalo", "passage_ids": ["cd" * 16]},
    )
    with pytest.raises(InputError) as raised:
        found(memory, asked)
    message = str(raised.value)
    assert "2 bad records" in message
    assert f"{asked.name}:2: passage '{'ab' * 16}' is not in version 1" in message
    assert "nor are 1 others of this query" in message
    assert f"{asked.name}:3: passage '{'cd' * 16}'" in message


def test_a_page_that_the_memory_lacks(memory: Memory, tmp_path: Path) -> None:
    page = {"wikipedia_id": "77", "start_paragraph_id": 2, "end_paragraph_id": 3}
    asked = queries(tmp_path, {"input": "kalo", "output": [{"provenance": [page]}]}, provenance=True)
    with pytest.raises(InputError, match=r"q.jsonl:1: page '77', paragraphs 2 to 3 is not in version 1"):
        found(memory, asked)


def test_the_catalog_is_read_once_for_a_whole_file(
    memory: Memory, passages: list[Passage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[object] = []
    real = Memory.passage_table

    def counted(self: Memory, columns: Any) -> Any:
        scans.append(columns)
        return real(self, columns)

    monkeypatch.setattr(Memory, "passage_table", counted)
    records: list[dict[str, object]] = [
        {"question": "kalo", "ctxs": [{"title": passage.title, "text": passage.text}]} for passage in passages[:30]
    ]
    found(memory, queries(tmp_path, *records))
    assert len(scans) == 1


def test_queries_that_bring_nothing_are_retrieved_for(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    index = open_index(memory)
    asked = queries(
        tmp_path,
        {"input": passages[4].title},
        {"input": "kalo", "passage_ids": [passages[9].passage_id]},
        {"input": "qqqq"},
    )
    finder = CandidateFinder(limit=5, index=index, provided=ProvidedPassages(memory, asked.read))
    retrieved, brought, nothing = finder.find(list(asked))
    expected = index.search([passages[4].title], 5)[0]
    np.testing.assert_array_equal(retrieved.positions, expected.positions)
    np.testing.assert_array_equal(retrieved.scores, expected.scores)
    assert brought.positions.tolist() == [9]
    assert nothing.positions.tolist() == []


def test_retrieval_may_be_asked_for_whatever_a_query_brings(
    memory: Memory, passages: list[Passage], tmp_path: Path
) -> None:
    asked = queries(tmp_path, {"input": passages[4].title, "passage_ids": [passages[9].passage_id]})
    (hits,) = CandidateFinder(limit=5, index=open_index(memory), provided=None).find(list(asked))
    assert hits.scores is not None


def test_the_separator_of_slot_filling_is_no_word(memory: Memory, passages: list[Passage], tmp_path: Path) -> None:
    title = passages[4].title
    asked = queries(tmp_path, {"input": f"{title} [SEP] kalo"}, {"input": f"{title} kalo"})
    one, other = CandidateFinder(limit=5, index=open_index(memory), provided=None).find(list(asked))
    np.testing.assert_array_equal(one.positions, other.positions)
