"""The refresh job as a data engineer meets it: the cost of the change, whatever happens on the way, and undo."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changing import Texts, payload, texts, write
from click.testing import CliRunner
from planned import dry_plan

from glimmer import ConflictError, InputError, MismatchError, UsageError
from glimmer.encoders.models import load_model
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.refresh import RefreshResult, refresh, refresh_dry_run
from glimmer.pipelines.refreshing.comparison import Comparison
from glimmer.pipelines.refreshing.range_comparison import ComparesRanges
from glimmer.pipelines.refreshing.refresh_inputs import RefreshInputs
from glimmer.pipelines.refreshing.refresh_job import RefreshJob
from glimmer.progress import Quiet
from glimmer.reader.serving.retrieval_index import DIRECTORY, open_index
from glimmer.storage.memory import Memory
from glimmer.storage.passage import Passage
from glimmer.storage.verify import verify


def refreshed(memory: Path, corpus: Texts, name: str = "next.jsonl", **options: Any) -> RefreshResult:
    return refresh(sources=[str(write(memory.parent / name, corpus))], memory=memory, **options)


def passages(path: Path) -> list[Passage]:
    opened = Memory.open(path)
    return opened.texts(np.arange(opened.passages))


def files(path: Path) -> dict[str, tuple[int, int]]:
    """Every file below `path`: size and modification time."""
    return {str(f.relative_to(path)): (f.stat().st_size, f.stat().st_mtime_ns) for f in path.rglob("*") if f.is_file()}


class Interrupting(Quiet):
    """A listener that does something when a stage begins, once."""

    def __init__(self, stage: str, act: Callable[[], object]) -> None:
        self._stage, self._act = stage, act

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        if name == self._stage:
            self._stage = ""
            self._act()


# What it does.


def test_only_what_changed_is_encoded(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    before = payload(memory)
    corpus["a3"][1] = "Another second paragraph."
    corpus["new"] = ["An article that was not there."]
    del corpus["a5"]
    result = refreshed(memory, corpus)
    counts = result.counts
    assert (result.base, result.version, result.nothing_changed) == (1, 2, False)
    assert (counts.articles_added, counts.articles_changed, counts.articles_removed) == (1, 1, 1)
    assert counts.articles_kept == 38
    opened = Memory.open(memory)
    [segment] = set(opened.segments) - set(Memory.open(memory, 1).segments)
    assert opened.segments[segment].rows == counts.passages_added
    after = payload(memory)
    assert len(after.keys() - before.keys()) == counts.passages_added
    assert len(before.keys() - after.keys()) == counts.passages_removed
    assert len(before.keys() & after.keys()) == counts.passages_kept
    encode(sources=[str(memory.parent / "next.jsonl")], memory=memory.parent / "fresh", model=str(model))
    assert after == payload(memory.parent / "fresh")
    assert verify(memory).sound
    manifest = opened.manifest
    assert (manifest.operation, manifest.rows_added, manifest.rows_removed) == (
        "refresh",
        counts.passages_added,
        counts.passages_removed,
    )
    assert not list((memory / "jobs").iterdir())


def test_passages_that_stay_are_not_tokenised(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    """Not even those that were split by the window, nor repetitions; new ones are tokenised, in their place."""
    loaded = load_model(model)
    seen: list[tuple[str, str]] = []

    def tokenise(pairs: Sequence[tuple[str, str]]) -> list[Any]:
        seen.extend(pairs)
        return loaded.passage_tokens(pairs)

    corpus["b"] = ["Same.", *("word " * 20 for _ in range(4)), "Same."]
    refreshed(memory, corpus)
    base = Memory.open(memory)
    corpus["a0"][0] = "A new beginning."
    source = write(memory.parent / "c.jsonl", corpus)
    comparison = Comparison(base)
    summary = dry_plan(
        [source],
        tokenise,
        window=base.window,
        base=ComparesRanges.of(base, partial=False),
        take=lambda found: comparison.take(found.arrays, found.counts.rows),
    )
    assert 0 < comparison.added <= 6
    # Drafts that overflow have to be measured to be split again; their pieces, and all that fit, are known.
    drafts = {text for _, text in seen if text}
    live = {passage.text for passage in passages(memory)}
    assert not drafts & live
    fresh = dry_plan([source], loaded.passage_tokens, window=base.window)
    without = ("shards", "seconds")
    assert {k: v for k, v in summary.to_json().items() if k not in without} == {
        k: v for k, v in fresh.to_json().items() if k not in without
    }


def test_nothing_changed_makes_no_version(memory: Path, corpus: Texts) -> None:
    before = files(memory)
    stages: list[str] = []

    class Stages(Quiet):
        def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
            stages.append(name)

    result = refreshed(memory, corpus, progress=Stages())
    assert result.nothing_changed
    assert (result.version, result.bytes_written, stages) == (1, 0, ["identify sources", "plan"])
    assert files(memory) == before


def test_paragraphs_that_moved_cost_a_catalog_row_and_no_encoding(memory: Path, corpus: dict[str, list[str]]) -> None:
    before = {p.passage_id: p for p in passages(memory)}
    corpus["a7"].insert(0, "")  # shown nowhere, yet every paragraph id behind it is another
    result = refreshed(memory, corpus)
    counts = result.counts
    assert (result.version, counts.passages_added, counts.passages_removed) == (2, 0, 0)
    assert counts.passages_moved == sum(p.article_id == "a7" for p in before.values())
    assert Memory.open(memory).segments == Memory.open(memory, 1).segments
    for passage in passages(memory):
        shift = passage.article_id == "a7"
        assert passage.start_paragraph_id == before[passage.passage_id].start_paragraph_id + shift
        assert passage.end_paragraph_id == before[passage.passage_id].end_paragraph_id + shift
    assert payload(memory) == payload(memory, 1)
    assert verify(memory).sound


def test_a_partial_feed_replaces_its_articles_and_drops_deleted_ones(
    memory: Path, corpus: dict[str, list[str]], model: Path
) -> None:
    feed = {"a1": ["All of it is new."], "a2": corpus["a2"], "z": ["One more."]}
    deleted = memory.parent / "gone.txt"
    deleted.write_text("a9\n\n  a10  \nnever-there\n")
    result = refreshed(memory, feed, partial=True, deleted=deleted)
    counts = result.counts
    assert (counts.articles_added, counts.articles_changed, counts.articles_removed) == (1, 1, 2)
    assert (counts.articles_kept, counts.deleted_unknown) == (37, 1)
    now = {name: body for name, body in (corpus | feed).items() if name not in ("a9", "a10")}
    encode(sources=[str(write(memory.parent / "now.jsonl", now))], memory=memory.parent / "fresh", model=str(model))
    assert payload(memory) == payload(memory.parent / "fresh")
    # The list alone will do, and the same list again changes nothing.
    assert refresh(sources=[], memory=memory, partial=True, deleted=deleted).nothing_changed


def test_a_dry_run_shows_what_would_happen_and_writes_nothing(memory: Path, corpus: dict[str, list[str]]) -> None:
    corpus["a3"][1] = "Another second paragraph."
    source = write(memory.parent / "next.jsonl", corpus)
    before = files(memory.parent)
    expected = refresh_dry_run(sources=[str(source)], memory=memory)
    assert files(memory.parent) == before
    assert any("Another second paragraph." in example.text for example in expected.added)
    assert {example.article_id for example in expected.removed} == {"a3"}
    assert expected.counts == refresh(sources=[str(source)], memory=memory).counts


def test_the_first_stage_index_follows(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    open_index(Memory.open(memory))
    corpus["a3"][1] = "Xylophones are new here."
    result = refreshed(memory, corpus)
    assert "index" in result.seconds
    now = Memory.open(memory)
    assert now.store.exists(f"{now.index_key}/{DIRECTORY}")
    encode(sources=[str(memory.parent / "next.jsonl")], memory=memory.parent / "fresh", model=str(model))
    fresh = Memory.open(memory.parent / "fresh")
    for question in ("xylophones", "kaka lomi terter", "Title of a7"):
        [mine], [theirs] = (open_index(each).search([question], 10) for each in (now, fresh))
        assert mine.positions.tolist() == theirs.positions.tolist()
        assert np.allclose(mine.scores, theirs.scores)
    assert "index" not in refreshed(memory, texts(3), "fewer.jsonl", index=False, max_removed=1.0).seconds


def test_small_catalog_files_are_merged_as_they_come(memory: Path, corpus: dict[str, list[str]]) -> None:
    """An article a day: the number of files grows with the logarithm of the days."""
    for day in range(12):
        feed = {f"day{day}": [f"What happened on day {day}."]}
        assert refreshed(memory, feed, f"day{day}.jsonl", partial=True).version == day + 2
    opened = Memory.open(memory)
    assert len(opened.manifest.files) <= 5
    assert opened.passages == Memory.open(memory, 1).passages + 12
    assert verify(memory).sound


# Versions.


def test_a_pinned_reader_keeps_its_version(memory: Path, corpus: dict[str, list[str]]) -> None:
    pinned = Memory.open(memory)
    positions = np.arange(pinned.passages)
    codes, _ = pinned.fetch(positions)
    before = pinned.texts(positions)
    refreshed(memory, {"a1": ["Everything else is gone."]}, max_removed=1.0)
    assert Memory.open(memory).passages == 1
    again, _ = pinned.fetch(positions)
    assert np.array_equal(again, codes)
    assert pinned.texts(positions) == before


def test_after_a_rollback_the_same_refresh_runs_again(memory: Path, corpus: dict[str, list[str]]) -> None:
    corpus["a3"][1] = "Another second paragraph."
    first = refreshed(memory, corpus)
    rollback(memory=memory, to=1)
    again = refresh(sources=[str(memory.parent / "next.jsonl")], memory=memory)
    assert (first.version, again.version) == (2, 4)
    assert again.counts == first.counts
    assert payload(memory) == payload(memory, 2) != payload(memory, 1)


def test_of_two_refreshes_at_once_one_wins_and_the_other_can_be_retried(
    memory: Path, corpus: dict[str, list[str]]
) -> None:
    slow = {name: list(body) for name, body in corpus.items()}
    slow["a1"][0] = "The slow one."
    fast = {"b1": ["The fast one."]}

    def overtake() -> None:
        assert refreshed(memory, fast, "fast.jsonl", partial=True).version == 2

    with pytest.raises(ConflictError, match="version 2"):
        refreshed(memory, slow, "slow.jsonl", progress=Interrupting("encode", overtake))
    opened = Memory.open(memory)
    assert (opened.version, opened.articles) == (2, 41)
    # What the loser made is of no use to anyone.
    assert {path.name for path in (memory / "segments").iterdir()} == set(opened.segments)
    assert not list((memory / "jobs").iterdir())
    retried = refreshed(memory, slow, "slow.jsonl")
    assert (retried.version, retried.counts.articles_removed) == (3, 1)
    assert verify(memory).sound


def test_one_refresh_cannot_run_twice_at_once(memory: Path, corpus: dict[str, list[str]]) -> None:
    corpus["a1"][0] = "Changed."
    source = write(memory.parent / "next.jsonl", corpus)

    def meddle() -> None:
        with pytest.raises(ConflictError, match="is being run"):
            refresh(sources=[str(source)], memory=memory)

    assert refresh(sources=[str(source)], memory=memory, progress=Interrupting("encode", meddle)).version == 2


def test_who_waits_for_another_to_finish_the_job_does_not_touch_its_segment(
    memory: Path, corpus: dict[str, list[str]]
) -> None:
    """Two processes start on one base version; the second gets the lock when the first has committed."""
    corpus["a1"][0] = "Changed."
    source = write(memory.parent / "next.jsonl", corpus)
    late = RefreshJob(RefreshInputs.open(sources=[str(source)], memory=memory))
    refresh(sources=[str(source)], memory=memory)
    assert late.run(Engine()).version == 2
    assert late.job.nothing_to_do
    assert verify(memory).sound
    other = RefreshJob(RefreshInputs.open(sources=[str(write(memory.parent / "other.jsonl", texts(3)))], memory=memory))
    refreshed(memory, texts(2), "two.jsonl", max_removed=1.0)
    with pytest.raises(ConflictError, match="version 3"):
        other.run(Engine())
    assert not Path(other.job.ledger.name).exists()


# What it refuses.


def test_a_refusal_leaves_the_memory_as_it_was(memory: Path, corpus: Texts, tmp_path: Path) -> None:
    """But for the dead-letter file, where the message says to look."""
    before = files(memory)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"wikipedia_id": "a", "text": ["T", "fine"]}\n{"wikipedia_id": "b", "text": \n')
    empty = tmp_path / "blank.jsonl"
    empty.write_text('{"wikipedia_id": "a", "wikipedia_title": "T", "text": ["T", " "]}\n')
    gone = tmp_path / "gone.txt"
    gone.write_text("a1\n")
    feed = str(write(tmp_path / "feed.jsonl", {"a1": corpus["a1"]}))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"a1\ncaf\xe9\n")
    for says, error, options in (
        (r"bad\.jsonl:2", InputError, {"sources": [str(bad)], "strict": True}),
        ("no article can be used", InputError, {"sources": [str(empty)]}),
        ("no such", InputError, {"sources": [str(tmp_path / "absent.jsonl")]}),
        ("no source", UsageError, {"sources": []}),
        ("--partial", UsageError, {"sources": [feed], "deleted": gone}),
        ("'a1' is to be deleted", InputError, {"sources": [feed], "partial": True, "deleted": gone}),
        (r"latin\.txt:2", InputError, {"sources": [], "partial": True, "deleted": latin}),
    ):
        with pytest.raises(error, match=says):
            refresh(memory=memory, **options)
        assert {n: s for n, s in files(memory).items() if not n.endswith(".rejected.jsonl")} == before, says


def test_only_the_encoder_that_made_the_memory_will_do(
    memory: Path, corpus: dict[str, list[str]], model: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    corpus["a1"][0] = "Changed."
    stranger = tiny_model(tmp_path / "stranger", with_decoder=False, seed=1)
    with pytest.raises(MismatchError, match="another encoder"):
        refreshed(memory, corpus, model=str(stranger))
    twin = tiny_model(tmp_path / "twin", window=32)  # has a decoder and another window, and the same lower layers
    assert refreshed(memory, corpus, model=str(twin)).version == 2
    encode(sources=[str(memory.parent / "next.jsonl")], memory=tmp_path / "fresh", model=str(model))
    assert payload(memory) == payload(tmp_path / "fresh")


def test_an_encoder_that_is_gone_is_asked_for(
    corpus: dict[str, list[str]], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    made_by = tiny_model(tmp_path / "model", with_decoder=False)
    encode(sources=[str(write(tmp_path / "c.jsonl", corpus))], memory=tmp_path / "m", model=str(made_by))
    made_by.rename(tmp_path / "moved")
    corpus["a1"][0] = "Changed."
    with pytest.raises(UsageError, match="give it with --model"):
        refreshed(tmp_path / "m", corpus)
    assert refreshed(tmp_path / "m", corpus, model=str(tmp_path / "moved")).version == 2


def test_where_there_is_no_memory_encode_is_named(corpus: Texts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="glimmer encode"):
        refreshed(tmp_path / "absent", corpus)
    assert not (tmp_path / "absent").exists()


def test_the_command_says_what_it_did(memory: Path, corpus: dict[str, list[str]]) -> None:
    corpus["a1"][0] = "Changed."
    source = write(memory.parent / "next.jsonl", corpus)

    def run(*options: str) -> str:
        done = CliRunner().invoke(glimmer, ["refresh", str(source), "--memory", str(memory), *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "+ a1  Title of a1: Changed." in run("--dry-run")
    record = json.loads(run("--json"))
    assert (record["version"], record["counts"]["articles_changed"], record["nothing_changed"]) == (2, 1, False)
    assert "nothing to do, version 2 is up to date" in run()
