"""A plan in ranges is the plan of one stream: passages, their order, rejected records, counts; whatever the cuts."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import dry_plan, plan

from glimmer import InputError
from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.corpus.fitting import Tokens
from glimmer.pipelines.planning.article_ids import earlier_ones, later_ones
from glimmer.pipelines.planning.plan_parts import complete_parts
from glimmer.pipelines.planning.plan_sources import plan_sources
from glimmer.pipelines.planning.plan_step import StoredRanges, Tools
from glimmer.pipelines.planning.planned_text import PlannedText
from glimmer.pipelines.planning.range_plan import PlanSettings
from glimmer.storage.stores import open_store
from glimmer.storage.text_shards import text_shard

WHOLE = 1 << 40
WINDOW = 24


def by_words(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
    """A tokenizer for tests: a token for each 4 characters of a word, and two more."""
    words = [f"{title} {text}".split() for title, text in pairs]
    return [
        np.array([1, *(len(w[i : i + 4]) for w in each for i in range(0, len(w), 4)), 2], np.int32) for each in words
    ]


def planned(sources: Sequence[Path], rejects: Path, range_bytes: int, **options: Any) -> tuple[Any, ...]:
    """All that a plan makes: text shards, the file of rejected records, counts."""
    rejects.unlink(missing_ok=True)
    summary, rows = plan(
        sources, by_words, window=WINDOW, rejects_path=rejects, range_bytes=range_bytes, mixed=True, **options
    )
    shards = [text_shard(rows[at : at + 1024]) for at in range(0, len(rows), 1024)]
    assert len(shards) == summary.shards
    rejected = rejects.read_bytes() if rejects.exists() else b""
    return shards, rejected, {**summary.to_json(), "seconds": 0.0}


def record(name: object, text: str = "Some words that make a passage.", title: str = "A title") -> str:
    return json.dumps({"id": str(name), "title": title, "text": text})


def lines(count: int, first: int = 0) -> list[str]:
    """Articles, of which some share an id with one far before, and records that cannot be used, of every kind."""
    found = []
    for i in range(first, first + count):
        if i % 41 == 40:
            found.append(["{broken", record(i, " "), json.dumps({"id": f"x{i}"}), ""][i % 4])
        elif i % 67 == 66:
            found.append(record(i, "Words.", "t" * 100))
        else:
            name = i - 150 if i % 29 == 28 and i >= 150 else i
            found.append(record(name, f"Sentence {i % 7} of words. " * (i % 11 + 1)))
    return found


def write(path: Path, content: Sequence[str], end: str = "\n") -> Path:
    raw = end.join(content).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("range_bytes", [3_001, 20_000])
def test_ranges_give_what_one_stream_gives(tmp_path: Path, range_bytes: int) -> None:
    long = record("long", "A sentence of some words. " * 500)
    table = pa.table({"id": [f"p{i}" for i in range(90)], "text": [f"Row {i}." if i % 9 else None for i in range(90)]})
    sources = [
        write(tmp_path / "a.jsonl", [*lines(400), long, *lines(200, 400)]),
        write(tmp_path / "b.jsonl.gz", lines(300, 500)),
        write(tmp_path / "c.jsonl", ["\ufeff" + record("bom"), *lines(300, 700)], "\r\n"),
        tmp_path / "d.parquet",
        write(
            tmp_path / "e.tsv",
            ["id\ttext\ttitle", *(f'{i}\t"Some ""text"" {i}\nin lines."\tT' for i in range(995, 1100))],
        ),
        write(tmp_path / "f.jsonl", [record(3), record("last, without an end of line")]),
    ]
    pq.write_table(table, sources[3], row_group_size=13)
    one = planned(sources, tmp_path / "one.jsonl", WHOLE)
    many = planned(sources, tmp_path / "many.jsonl", range_bytes)
    assert many == one
    counts = one[2]["rejected"]
    assert min(counts[reason] for reason in ("duplicate_id", "broken_json", "empty_text", "title_too_long")) > 5
    assert len(Corpus(sources, mixed=True).ranges(range_bytes)) > 8


def test_passages_repeated_in_an_article_keep_their_numbers(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [record(i, "The same words again. " * 60) for i in range(40)])
    assert planned([source], tmp_path / "r", 3000) == planned([source], tmp_path / "r", WHOLE)


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(300))
    twice = planned([source, source], tmp_path / "r", 1500)
    assert twice == planned([source, source], tmp_path / "r", WHOLE)
    assert twice[0] == planned([source], tmp_path / "r", 1500)[0]


def test_rejected_records_are_in_the_order_of_one_stream_when_batches_straddle_ranges(tmp_path: Path) -> None:
    content = lines(9000)
    source = write(tmp_path / "a.jsonl", content)
    one = planned([source], tmp_path / "r", WHOLE)
    assert one[2]["passages"] > 8 * 1024, "batches of a thousand are passed on before the sources end"
    for range_bytes in (40_000, 333_333):
        assert planned([source], tmp_path / "r", range_bytes) == one


@pytest.mark.parametrize("first", ["{broken", record("t", "Words.", "t" * 100), record(7)])
def test_a_strict_plan_stops_at_the_same_record(tmp_path: Path, first: str) -> None:
    good = [record(i) for i in range(500)]
    source = write(tmp_path / "a.jsonl", [*good[:400], first, *good[400:], "{also broken", record(9)])
    told = set()
    for range_bytes in (WHOLE, 900, 12_000):
        for run in (plan, dry_plan):
            with pytest.raises(InputError) as caught:
                run([source], by_words, window=WINDOW, strict=True, range_bytes=range_bytes)
            told.add(str(caught.value))
    [message] = told
    # A title is found to be too long when its batch is tokenised, after what is read meanwhile.
    assert f"a.jsonl:{502 if 'ttt' in first else 401}: " in message


def test_a_dry_run_counts_the_same_in_ranges(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(600))
    one, many = (dry_plan([source], by_words, window=WINDOW, range_bytes=size) for size in (WHOLE, 2000))
    assert {**one.to_json(), "seconds": 0} == {**many.to_json(), "seconds": 0}


def test_only_ranges_whose_part_is_not_complete_are_planned_again(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(600))
    store = open_store(tmp_path / "m")
    asked: list[int] = []

    def counting(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        asked.append(len(pairs))
        return by_words(pairs)

    def run() -> list[bytes]:
        corpus = Corpus([source])
        planner = StoredRanges(store, "plan", tools=Tools(settings=PlanSettings(window=WINDOW), tokenise=counting))
        found = plan_sources(corpus, corpus.ranges(2000), planner)
        text = PlannedText(store, found.text)
        return [text_shard(text.read_shard(shard)) for shard in range(found.summary.shards)]

    before = run()
    everything = sum(asked)
    asked.clear()
    assert run() == before
    assert not asked
    first = min(complete_parts(store, "plan"))
    for file in (tmp_path / "m" / "plan").glob(f"{first}.*"):
        if ".done-" in file.name:
            file.unlink()
        else:
            file.write_bytes(b"of a worker that was killed")
    assert run() == before
    assert 0 < sum(asked) < everything / 5


def test_a_damaged_part_is_named_and_made_again_by_the_next_run(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(200))
    place = tmp_path / "m"
    before = plan([source], by_words, window=WINDOW, range_bytes=2000, place=place)[1]
    done = sorted((place / "plan").glob("*.done-*"))[1]
    done.write_bytes(done.read_bytes()[:-5])
    with pytest.raises(Exception, match=r"fails its checksum; run the same command again"):
        plan([source], by_words, window=WINDOW, range_bytes=2000, place=place)
    assert plan([source], by_words, window=WINDOW, range_bytes=2000, place=place)[1] == before
    shutil.rmtree(place)


def test_ids_that_share_half_a_hash_are_two_articles() -> None:
    ids = np.array([[5, 1], [5, 2], [6, 1], [5, 1], [7, 7], [5, 2], [5, 1]], np.uint64)
    assert later_ones(ids).tolist() == [3, 5, 6]
    assert earlier_ones(ids).tolist() == [0, 1, 3]
    nothing = np.zeros((0, 2), np.uint64)
    assert (later_ones(nothing).tolist(), earlier_ones(nothing).tolist()) == ([], [])


LINE = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda each: record(each[0], "Some words. " * each[1] ** 2)),
    st.tuples(st.integers(0, 9)).map(lambda each: record(each[0], "Text.", "t" * 100)),
    st.sampled_from(["", "{broken", record(1, ""), record("", "x"), "[]"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=25), st.integers(1, 400), st.booleans(), st.booleans())
def test_any_records_in_any_ranges(
    tmp_path_factory: pytest.TempPathFactory, content: list[str], range_bytes: int, crlf: bool, feed: bool
) -> None:
    directory = tmp_path_factory.mktemp("ranges")
    source = write(directory / "a.jsonl", [record("first"), *content], "\r\n" if crlf else "\n")
    one, many = (planned([source], directory / "r", size, feed=feed) for size in (WHOLE, range_bytes))
    assert many == one
