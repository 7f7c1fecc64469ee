"""A feed of changes: the last record of an article decides, an empty text removes it, nothing changes nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changing import payload, write
from click.testing import CliRunner

from glimmer import InputError, UsageError
from glimmer.pipelines.cli.group import glimmer, run
from glimmer.pipelines.corpus import Article, Corpus, Rejection
from glimmer.pipelines.corpus.fitting import Tokens
from glimmer.pipelines.encode import encode
from glimmer.pipelines.planning.plan_sources import feed_tasks, plan_sources
from glimmer.pipelines.planning.plan_step import HeldRanges, RangeTask, Report, StoredRanges, Tools
from glimmer.pipelines.planning.range_plan import PlanSettings
from glimmer.pipelines.refresh import RefreshResult, refresh, refresh_dry_run
from glimmer.storage.memory import Memory
from glimmer.storage.stores import open_store
from glimmer.storage.verify import verify


def record(name: str, *body: str) -> bytes:
    content = {"wikipedia_id": name, "wikipedia_title": f"Title of {name}", "text": [f"Title of {name}", *body]}
    return json.dumps(content).encode()


def broken(name: str) -> bytes:
    return record(name, "The file ends here")[:-4]


NAMELESS = b'{"wikipedia_title": "T", "text": ["T", "fine"]}'


def put(memory: Path, lines: Iterable[bytes], name: str = "feed.jsonl") -> str:
    path = memory.parent / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def fed(memory: Path, *lines: bytes, **options: Any) -> RefreshResult:
    return refresh(sources=[put(memory, lines)], memory=memory, partial=True, **options)


def rebuilt(memory: Path, model: Path, corpus: dict[str, list[str]]) -> dict[str, bytes]:
    source = write(memory.parent / "whole.jsonl", corpus)
    encode(sources=[str(source)], memory=memory.parent / "fresh", model=str(model))
    return payload(memory.parent / "fresh")


# The last record decides.


def test_the_last_record_of_an_article_wins(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    result = fed(
        memory,
        record("a1", "First text."),
        record("new", "First text of the new."),
        record("a2", *corpus["a2"]),
        record("a1", "Second text."),
        record("new", "Second text of the new."),
        record("a1", "Third text."),
    )
    assert result.plan.rejected == {}
    assert result.counts.records_superseded == 3
    assert (result.counts.articles_added, result.counts.articles_changed) == (1, 1)
    expected = corpus | {"a1": ["Third text."], "new": ["Second text of the new."]}
    assert payload(memory) == rebuilt(memory, model, expected)
    assert verify(memory).sound


def test_it_wins_across_files_in_the_order_they_are_named(memory: Path, corpus: dict[str, list[str]]) -> None:
    monday, tuesday = (put(memory, [record("a1", f"{day}.")], f"{day}.jsonl") for day in ("zMonday", "aTuesday"))
    result = refresh(sources=[monday, tuesday], memory=memory, partial=True)
    assert result.counts.records_superseded == 1
    opened = Memory.open(memory)
    assert "aTuesday." in {p.text for _, passages in opened.scan_texts() for p in passages if p.article_id == "a1"}


def test_an_empty_text_removes_its_article_and_says_so(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    lines = [record("a4"), record("a5", " "), record("a6", "Changed."), record("never-there", "")]
    result = fed(memory, *lines)
    counts = result.counts
    assert result.plan.rejected == {}
    assert (counts.articles_removed, counts.articles_removed_empty, counts.articles_changed) == (2, 2, 1)
    assert counts.deleted_unknown == 1
    expected = {name: body for name, body in (corpus | {"a6": ["Changed."]}).items() if name not in ("a4", "a5")}
    assert payload(memory) == rebuilt(memory, model, expected)


def test_the_command_says_what_went_and_why(memory: Path) -> None:
    feed = put(memory, [record("a4"), record("a6", "Once."), record("a6", "Twice."), broken("a7")])
    done = CliRunner().invoke(glimmer, ["refresh", feed, "--partial", "--memory", str(memory)])
    assert "1 article, by an empty text" in done.stdout
    assert "1, by a later record of the same article" in done.stdout
    assert "1 article, because its new record was rejected (see " in done.stdout


@pytest.mark.parametrize(("last", "left"), [("text", True), ("empty", False)])
def test_of_a_text_and_an_empty_one_the_last_decides(last: str, left: bool, memory: Path) -> None:
    both = {"text": record("a4", "It is back."), "empty": record("a4")}
    first = next(line for name, line in both.items() if name != last)
    result = fed(memory, first, both[last])
    assert result.counts.articles_removed == (not left)
    assert Memory.open(memory).articles == 39 + left


def test_an_article_removed_twice_is_removed_once(memory: Path) -> None:
    result = fed(memory, record("a4"), record("a4"))
    assert (result.counts.articles_removed, result.counts.records_superseded) == (1, 1)


def test_where_the_last_record_cannot_be_used_the_article_stays_as_it_is(
    memory: Path, corpus: dict[str, list[str]], model: Path
) -> None:
    """Nobody knows what it would have said; it is set aside, and the earlier one is void."""
    result = fed(memory, record("a4", "Earlier."), record("a5"), record("a1", "Fine."), broken("a4"), broken("a5"))
    assert result.plan.rejected == {"broken_json": 2}
    assert sorted(result.kept_rejected) == ["a4", "a5"]
    assert (result.counts.articles_removed, result.counts.records_superseded) == (0, 2)
    assert payload(memory) == rebuilt(memory, model, corpus | {"a1": ["Fine."]})


def test_a_bad_record_before_the_last_is_set_aside_and_changes_nothing(memory: Path) -> None:
    result = fed(memory, broken("a4"), record("a4", "Mended."), NAMELESS)
    assert result.plan.rejected == {"broken_json": 1, "missing_field": 1}
    assert (result.kept_rejected, result.counts.articles_changed, result.counts.records_unidentified) == ([], 1, 1)


def test_strict_stops_at_a_bad_record_and_not_at_an_empty_text(memory: Path) -> None:
    assert fed(memory, record("a4"), record("a5", "x"), record("a5", "y"), strict=True).counts.articles_removed == 1
    with pytest.raises(InputError, match=r"feed\.jsonl:2"):
        fed(memory, record("a4"), broken("a5"), strict=True)


# Nothing to do.


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\n  \n\r\n", gzip.compress(b"", mtime=0), gzip.compress(b"\n", mtime=0)]
)
def test_an_empty_feed_changes_nothing(content: bytes, memory: Path) -> None:
    feed = memory.parent / "feed.jsonl"
    feed.write_bytes(content)
    result = refresh(sources=[str(feed)], memory=memory, partial=True)
    assert result.nothing_changed
    assert run(["refresh", str(feed), "--partial", "--memory", str(memory)]) == 0


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\n"])
def test_an_empty_deletion_list_changes_nothing(content: bytes, memory: Path) -> None:
    gone, feed = memory.parent / "gone.txt", memory.parent / "feed.jsonl"
    gone.write_bytes(content)
    feed.write_bytes(b"\n")
    command = ["--partial", "--deleted", str(gone), "--memory", str(memory)]
    assert run(["refresh", *command]) == 0
    assert run(["refresh", str(feed), *command]) == 0
    assert run(["refresh", *command, "--dry-run"]) == 0
    assert Memory.open(memory).version == 1
    assert not list((memory / "jobs").iterdir())


def test_a_feed_with_a_full_list_and_an_empty_list_with_a_full_feed_do_their_part(memory: Path) -> None:
    gone, empty = memory.parent / "gone.txt", memory.parent / "empty"
    gone.write_text("a4\n")
    empty.write_bytes(b"")
    assert refresh(sources=[str(empty)], memory=memory, partial=True, deleted=gone).counts.articles_removed == 1
    assert fed(memory, record("a5", "Changed."), deleted=empty).counts.articles_changed == 1


def test_a_feed_of_which_nothing_can_be_used_is_an_error(memory: Path) -> None:
    """It is not empty: whoever made it meant something."""
    with pytest.raises(InputError, match=r"no article can be used \(2 wrong_type\); see .*rejected\.jsonl"):
        fed(memory, *(b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": ["T", 5]}' for _ in range(2)))
    assert Memory.open(memory).version == 1


# Deletions.


def test_a_deletion_list_is_asked_for_and_an_empty_text_is_not(memory: Path, corpus: dict[str, list[str]]) -> None:
    """A list names what is to go; an export that lost its texts must not empty the memory."""
    gone = memory.parent / "gone.txt"
    gone.write_text("".join(f"a{number}\n" for number in range(10)))
    emptied = [record(f"a{number}") for number in range(10, 19)]
    with pytest.raises(InputError, match=r"9 of 40 articles \(22.5 %\), whose text is empty in the feed"):
        fed(memory, *emptied, deleted=gone)
    assert refresh_dry_run(sources=[put(memory, emptied)], memory=memory, partial=True).refused is not None
    result = fed(memory, *emptied[:8], deleted=gone)
    counts = result.counts
    assert (counts.articles_removed, counts.articles_removed_listed, counts.articles_removed_empty) == (18, 10, 8)
    assert fed(memory, emptied[8], max_removed=1).counts.articles_removed == 1


def test_an_article_with_a_text_and_on_the_list_is_a_contradiction(memory: Path) -> None:
    gone = memory.parent / "gone.txt"
    gone.write_text("a4\n")
    with pytest.raises(InputError, match="'a4' is to be deleted and is in the sources too"):
        fed(memory, record("a4"), record("a4", "Text."), deleted=gone)
    assert fed(memory, record("a4", "Text."), record("a4"), deleted=gone).counts.articles_removed_listed == 1


def test_lists_may_be_compressed_or_come_through_a_pipe_once(memory: Path) -> None:
    packed = memory.parent / "gone.gz"
    packed.write_bytes(gzip.compress(b"a4\n"))
    assert refresh(sources=[], memory=memory, partial=True, deleted=packed).counts.articles_removed == 1
    command = ["refresh", "--partial", "--deleted", "-", "--memory", str(memory), "--json"]
    done = CliRunner().invoke(glimmer, command, input="a5\na6\n")
    assert json.loads(done.stdout)["counts"]["articles_removed"] == 2
    with pytest.raises(UsageError, match="named twice"):
        refresh(sources=["-"], memory=memory, partial=True, deleted="-")


def test_of_a_feed_nothing_is_absent(memory: Path) -> None:
    with pytest.raises(UsageError, match="--remove-absent"):
        fed(memory, record("a4", "x"), remove_absent=True)


# The feed itself.


def three_tokens(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
    return [np.ones(3, np.int32)] * len(pairs)


def decided(path: Path, range_bytes: int) -> tuple[list[Article | Rejection], set[str], int]:
    """The records of a feed that count, the ids that it empties, and how many records it supersedes."""
    corpus = Corpus([path])
    ranges = corpus.ranges(range_bytes)
    planner = HeldRanges(Tools(settings=PlanSettings(window=64), tokenise=three_tokens))
    found: list[Article | Rejection] = []
    emptied: set[str] = set()
    superseded = 0
    for task in feed_tasks(ranges, [str(path)], planner, lambda share, passages: None):
        selection = task.selection()
        found += selection.select(task.source.read(lambda share: None, lambda kind: None))
        emptied |= set(selection.arrays()["emptied"].to_pylist())
        superseded += selection.superseded
    return found, emptied, superseded


@pytest.mark.parametrize("range_bytes", [10, 100, 1 << 20])
def test_a_feed_is_read_in_its_order_with_superseded_records_left_out(tmp_path: Path, range_bytes: int) -> None:
    lines = [record("b", "1"), record("a", "1"), broken("a"), record("b", "2"), record("c"), record("a", "2"), NAMELESS]
    path = tmp_path / "feed.jsonl"
    path.write_bytes(b"\n".join(lines))
    found, emptied, superseded = decided(path, range_bytes)
    assert [(type(each), each.article_id) for each in found] == [
        (Rejection, "a"),
        (Article, "b"),
        (Article, "a"),
        (Rejection, ""),
    ]
    assert (emptied, superseded) == ({"c"}, 2)


def test_a_feed_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl.gz"
    path.write_bytes(gzip.compress(record("a", "1") + b"\n" + record("b", "1") + b"\n"))

    class GrowsBetweenPasses(StoredRanges):
        """Ids are listed first; before the records are read for the second time, one more is there."""

        def run(self, tasks: Sequence[RangeTask], report: Report) -> None:
            if not tasks[0].ids_only:
                with path.open("ab") as file:
                    file.write(gzip.compress(record("a", "2") + b"\n"))
            super().run(tasks, report)

    tools = Tools(settings=PlanSettings(window=64, words=100, strict=False), tokenise=three_tokens)
    corpus = Corpus([path], may_be_empty=True)
    planner = GrowsBetweenPasses(open_store(tmp_path / "job"), "plan", tools=tools)
    with pytest.raises(InputError, match="changes while it is read; run the command again"):
        plan_sources(corpus, corpus.ranges(1 << 40), planner, feed=True, may_be_empty=True)
