"""What changed between two versions of a memory, in passages and in articles, either way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glimmer import UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.diff import ArticleDiff, diff
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory

FIRST = {f"a{number}": [f"Article {number} says this.", "And that."] for number in range(20)}
SECOND = {
    **{name: body for name, body in FIRST.items() if name != "a4"},
    "a2": ["Article 2 says something else.", "And that."],
    "a3": ["", "Article 3 says this.", "And that."],
    "b": ["Article b is new."],
}


def write(path: Path, corpus: Mapping[str, Sequence[str]]) -> str:
    lines = [
        json.dumps({"wikipedia_id": name, "wikipedia_title": f"Title {name}", "text": [f"Title {name}", *body]})
        for name, body in corpus.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def memory(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 holds FIRST, 2 SECOND, 3 FIRST again."""
    home = tmp_path_factory.mktemp("diff")
    model = tiny_model(home / "model", with_decoder=False)
    encode(sources=[write(home / "first.jsonl", FIRST)], memory=home / "m", model=str(model))
    refresh(sources=[write(home / "second.jsonl", SECOND)], memory=home / "m")
    rollback(memory=home / "m", to=1)
    return home / "m"


def test_passages_and_articles_are_counted(memory: Path) -> None:
    found = diff(memory=memory, old=1, new=2)
    assert (found.added, found.removed, found.moved, found.kept) == (2, 2, 1, 18)
    counts = found.articles
    assert (counts.added, counts.changed, counts.removed, counts.kept) == (1, 1, 1, 18)


def test_articles_are_named_with_an_example(memory: Path) -> None:
    changed, moved, removed, added = sorted(diff(memory=memory, old=1, new=2).examples, key=lambda e: e.article_id)
    text = "Article {} says this.\nAnd that."
    assert changed == ArticleDiff(
        article_id="a2",
        title="Title a2",
        change="changed",
        added=1,
        removed=1,
        moved=0,
        example="Article 2 says something else.\nAnd that.",
    )
    assert (moved.article_id, moved.change, moved.moved, moved.example) == ("a3", "moved", 1, text.format(3))
    assert (removed.article_id, removed.change, removed.removed, removed.example) == (
        "a4",
        "removed",
        1,
        text.format(4),
    )
    assert (added.article_id, added.change, added.added, added.example) == ("b", "added", 1, "Article b is new.")
    assert [e.article_id for e in diff(memory=memory, old=1, new=2, examples=2).examples] == ["a2", "a3"]
    assert diff(memory=memory, old=1, new=2, examples=0).examples == []


def test_the_other_way_round_additions_are_removals(memory: Path) -> None:
    there, back = diff(memory=memory, old=1, new=2), diff(memory=memory, old=2, new=1)
    assert (back.added, back.removed, back.moved) == (there.removed, there.added, there.moved)
    assert (back.articles.added, back.articles.removed) == (there.articles.removed, there.articles.added)


def test_equal_content_does_not_differ(memory: Path) -> None:
    for new in (1, 3):
        found = diff(memory=memory, old=1, new=new)
        assert (found.added, found.removed, found.moved, found.kept, found.examples) == (0, 0, 0, 20, [])
        assert found.articles.kept == 20


def test_against_the_empty_version_all_is_new(memory: Path) -> None:
    found = diff(memory=memory, old=0, new=2)
    assert (found.added, found.removed, found.kept, found.articles.added) == (20, 0, 0, 20)
    assert diff(memory=memory, old=2, new=0).articles.removed == 20


def test_it_agrees_with_sets_of_ids(memory: Path) -> None:
    ids = []
    for version in (1, 2):
        opened = Memory.open(memory, version)
        ids.append(set(opened.ids(np.arange(opened.passages))))
    found = diff(memory=memory, old=1, new=2)
    assert (found.added, found.removed, found.kept) == tuple(
        map(len, (ids[1] - ids[0], ids[0] - ids[1], ids[0] & ids[1]))
    )


def test_a_version_that_is_not_there_is_refused(memory: Path) -> None:
    with pytest.raises(UsageError, match="version 9 does not exist"):
        diff(memory=memory, old=1, new=9)


def test_the_command_prints_a_table_or_json(memory: Path) -> None:
    def run(*options: str) -> str:
        done = CliRunner().invoke(glimmer, ["diff", str(memory), "1", "2", *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    shown = run()
    assert "2 added, 2 removed, 18 kept (1 of them moved)" in shown
    assert "Article b is new." in shown
    assert json.loads(run("--json", "--articles", "1"))["articles"] == {
        "added": 1,
        "changed": 1,
        "removed": 1,
        "kept": 18,
    }
