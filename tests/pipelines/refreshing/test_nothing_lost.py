"""What a whole corpus removes, and what it does not: articles whose records were rejected, and more than a few."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from changing import payload, write
from click.testing import CliRunner

from glimmer import InputError, UsageError
from glimmer.encoders.models import LoadedModel
from glimmer.pipelines.cli.group import glimmer, run
from glimmer.pipelines.encode import encode
from glimmer.pipelines.refresh import RefreshResult, refresh, refresh_dry_run
from glimmer.pipelines.refreshing import refresh_job as module
from glimmer.progress import Quiet
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

Lines = Mapping[str, bytes]
"""Article id -> the line that stands for it, whatever it holds."""


def good(name: str, body: list[str]) -> bytes:
    record = {"wikipedia_id": name, "wikipedia_title": f"Title of {name}", "text": [f"Title of {name}", *body]}
    return json.dumps(record).encode()


def lines_of(corpus: Mapping[str, list[str]]) -> dict[str, bytes]:
    return {name: good(name, body) for name, body in corpus.items()}


def put(path: Path, lines: Lines) -> str:
    path.write_bytes(b"".join(line + b"\n" for line in lines.values()))
    return str(path)


def with_lines(memory: Path, lines: Lines, **options: Any) -> RefreshResult:
    return refresh(sources=[put(memory.parent / "next.jsonl", lines)], memory=memory, **options)


def rebuilt(memory: Path, model: Path, corpus: Mapping[str, list[str]]) -> dict[str, bytes]:
    """What a memory made from nothing would hold."""
    source = write(memory.parent / "whole.jsonl", corpus)
    encode(sources=[str(source)], memory=memory.parent / "fresh", model=str(model))
    return payload(memory.parent / "fresh")


BAD = {
    "wrong_type": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": "a running text"}',
    "missing_field": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": null}',
    "empty_text": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": ["T", " "]}',
    "lone_surrogate": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": ["T", "broken \\ud83d"]}',
    "broken_json": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": ["T", "the file ends he',
    "not_utf8": b'{"wikipedia_id": "a4", "wikipedia_title": "T", "text": ["T", "caf\xe9"]}',
}
NAMELESS = b'{"wikipedia_title": "T", "text": ["T", "fine"]}'


# Records that cannot be used.


@pytest.mark.parametrize("reason", BAD)
def test_an_article_whose_record_cannot_be_used_is_kept_and_named(
    reason: str, memory: Path, corpus: dict[str, list[str]]
) -> None:
    before = payload(memory)
    result = with_lines(memory, lines_of(corpus) | {"a4": BAD[reason]})
    assert result.plan.rejected == {reason: 1}
    assert (result.counts.articles_removed, result.counts.articles_kept_rejected) == (0, 1)
    assert result.kept_rejected == ["a4"]
    assert result.nothing_changed
    assert payload(memory) == before


def test_a_corpus_of_which_nine_records_in_ten_are_rejected_removes_none(
    memory: Path, corpus: dict[str, list[str]], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The texts came as strings where they had been lists before."""
    lines = lines_of(corpus)
    for name in list(corpus)[4:]:
        lines[name] = json.dumps({"wikipedia_id": name, "wikipedia_title": "T", "text": "a string"}).encode()
    corpus["a1"] = ["Changed."]
    lines["a1"] = good("a1", corpus["a1"])
    source = put(memory.parent / "next.jsonl", lines)
    assert run(["refresh", source, "--memory", str(memory)]) == 0
    [kept] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  kept ")]
    assert "36 articles, because their new records were rejected (see " in kept
    assert "rejected.jsonl): a" in kept
    details = Memory.open(memory).manifest.details
    assert details["counts"]["articles_kept_rejected"] == 36
    assert len(details["kept_rejected"]) == 5
    assert payload(memory) == rebuilt(memory, model, corpus)
    assert verify(memory).sound


def test_one_record_that_does_not_tell_its_article_keeps_all_that_are_absent(
    memory: Path, corpus: dict[str, list[str]], model: Path
) -> None:
    lines = {name: line for name, line in lines_of(corpus).items() if name not in ("a5", "a6")}
    lines["new"] = good("new", ["An article that was not there."])
    result = with_lines(memory, lines | {"": NAMELESS})
    counts = result.counts
    assert (counts.articles_removed, counts.articles_kept_absent, counts.records_unidentified) == (0, 2, 1)
    assert sorted(result.kept_absent) == ["a5", "a6"]
    assert payload(memory) == rebuilt(memory, model, corpus | {"new": ["An article that was not there."]})
    # A clean corpus removes them, and so does the word of the user.
    asked = with_lines(memory, lines | {"": NAMELESS, "a1": good("a1", ["Changed."])}, remove_absent=True)
    assert (asked.counts.articles_removed, asked.counts.articles_kept_absent) == (2, 0)


def test_absent_articles_go_when_the_corpus_is_clean_again(memory: Path, corpus: dict[str, list[str]]) -> None:
    lines = {name: line for name, line in lines_of(corpus).items() if name not in ("a5", "a6")}
    assert with_lines(memory, lines | {"": NAMELESS}).counts.articles_removed == 0
    assert with_lines(memory, lines).counts.articles_removed == 2


def test_a_record_that_is_rejected_keeps_its_own_article_only(memory: Path, corpus: dict[str, list[str]]) -> None:
    lines = lines_of(corpus) | {"a4": BAD["wrong_type"]}
    del lines["a5"]
    result = with_lines(memory, lines)
    assert (result.counts.articles_removed, result.kept_rejected, result.kept_absent) == (1, ["a4"], [])


def test_the_first_good_record_of_an_article_counts(memory: Path, corpus: dict[str, list[str]], model: Path) -> None:
    lines = lines_of(corpus)
    lines["a3"] = good("a3", ["First."]) + b"\n" + good("a3", ["Second."])
    lines["a4"] = BAD["broken_json"] + b"\n" + good("a4", ["Mended."])
    result = with_lines(memory, lines)
    assert result.plan.rejected == {"broken_json": 1, "duplicate_id": 1}
    assert (result.counts.articles_changed, result.counts.articles_kept_rejected) == (2, 0)
    assert payload(memory) == rebuilt(memory, model, corpus | {"a3": ["First."], "a4": ["Mended."]})


def test_a_new_article_whose_record_is_rejected_is_no_kept_one(memory: Path, corpus: dict[str, list[str]]) -> None:
    stranger = BAD["wrong_type"].replace(b"a4", b"stranger")
    result = with_lines(memory, lines_of(corpus) | {"stranger": stranger})
    assert (result.counts.articles_kept_rejected, result.kept_rejected) == (0, [])
    assert result.plan.rejected == {"wrong_type": 1}


def test_an_article_of_which_a_part_cannot_be_used_stays_whole_as_it_was(
    memory: Path, corpus: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    """One character that overflows the window: the rest of the new text is left out too. A new article has no old
    version to lose, and is stored without that passage, as `encode` would."""
    long = "\N{BEAMED EIGHTH NOTES}"
    heavy_tokeniser(monkeypatch, long)
    changed = dict(corpus)
    changed["a4"] = ["A new beginning. " + "word " * 120, f"{long} " * 3, "And an end."]
    changed["fresh"] = ["Some text. " + "word " * 120, f"{long} " * 3]
    changed["a7"] = ["Changed."]
    result = with_lines(memory, lines_of(changed))
    assert set(result.plan.rejected) == {"character_too_long"}
    assert (result.kept_rejected, result.counts.articles_kept_rejected) == (["a4"], 1)
    assert (result.counts.articles_added, result.counts.articles_changed) == (1, 1)
    now = payload(memory)
    assert now == rebuilt(memory, model, changed | {"a4": corpus["a4"]})
    assert verify(memory).sound


def heavy_tokeniser(monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    """Makes one character cost more tokens than any window has: real tokenizers do so for a few."""
    real = LoadedModel.passage_tokens

    def tokenise(self: LoadedModel, pairs: Any) -> Any:
        return real(self, [(title, text.replace(character, "x y " * 300)) for title, text in pairs])

    monkeypatch.setattr(LoadedModel, "passage_tokens", tokenise)


# Too many at once.


def test_a_refresh_that_would_remove_more_than_a_fifth_is_refused_before_anything_is_encoded(
    memory: Path, corpus: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    stages: list[str] = []

    class Stages(Quiet):
        def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
            stages.append(name)

    few = {name: corpus[name] for name in list(corpus)[:31]} | {"new": ["Something new."]}
    source = str(write(memory.parent / "few.jsonl", few))
    before = sorted(memory.rglob("*"))
    with pytest.raises(InputError, match=r"9 of 40 articles \(22.5 %\).*more than 20 %.*--max-removed 9"):
        refresh(sources=[source], memory=memory, progress=Stages())
    assert stages == ["identify sources", "plan"]
    assert sorted(memory.rglob("*")) == before
    assert run(["refresh", source, "--memory", str(memory)]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "so nothing was changed; if they are to go" in line
    assert run(["refresh", source, "--memory", str(memory), "--max-removed", "9"]) == 0
    assert Memory.open(memory).articles == 32


def test_a_fifth_may_go_unasked(memory: Path, corpus: dict[str, list[str]]) -> None:
    few = {name: corpus[name] for name in list(corpus)[:32]}
    source = str(write(memory.parent / "few.jsonl", few))
    assert refresh(sources=[source], memory=memory).counts.articles_removed == 8


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("10%", True),
        ("9%", False),
        ("0.1", True),
        ("0.09", False),
        ("4", True),
        ("3", False),
        ("100%", True),
        ("0", False),
    ],
)
def test_the_limit_is_a_share_or_a_number_of_articles(
    limit: str, allowed: bool, memory: Path, corpus: dict[str, list[str]]
) -> None:
    few = {name: corpus[name] for name in list(corpus)[:36]}
    source = str(write(memory.parent / "few.jsonl", few))
    status = run(["refresh", source, "--memory", str(memory), "--max-removed", limit])
    assert (status == 0, Memory.open(memory).articles) == (allowed, 36 if allowed else 40)


@pytest.mark.parametrize("limit", ["many", "-1", "120%", "1.5", "", "%"])
def test_a_limit_that_is_neither_is_a_wrong_command(limit: str, memory: Path) -> None:
    assert run(["refresh", "x.jsonl", "--memory", str(memory), f"--max-removed={limit}"]) == 2


@pytest.mark.parametrize("limit", [-1, 1.5, True, "20%"])
def test_the_library_takes_an_int_or_a_share(limit: Any, memory: Path, corpus: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match="max_removed is a number of articles"):
        refresh(sources=[str(write(memory.parent / "n.jsonl", corpus))], memory=memory, max_removed=limit)


def test_a_dry_run_says_that_it_would_be_refused_and_what_would_be_kept(
    memory: Path, corpus: dict[str, list[str]]
) -> None:
    lines = {name: line for name, line in lines_of(corpus).items() if int(name[1:]) < 20}
    lines["a4"] = BAD["wrong_type"]
    source = put(memory.parent / "next.jsonl", lines)
    expected = refresh_dry_run(sources=[source], memory=memory)
    assert (expected.counts.articles_removed, expected.kept_rejected) == (20, ["a4"])
    assert expected.refused is not None
    assert "20 of 40 articles (50 %)" in expected.refused
    assert refresh_dry_run(sources=[source], memory=memory, max_removed=20).refused is None
    shown = CliRunner().invoke(glimmer, ["refresh", source, "--memory", str(memory), "--dry-run"])
    assert shown.exit_code == 0
    assert "would be refused" in shown.stdout
    assert "1 article, because its new record was rejected: a4" in shown.stdout
    record = CliRunner().invoke(glimmer, ["refresh", source, "--memory", str(memory), "--dry-run", "--json"])
    assert json.loads(record.stdout)["refused"] == expected.refused
    lines[""] = NAMELESS
    unsure = refresh_dry_run(sources=[put(memory.parent / "next.jsonl", lines)], memory=memory)
    assert (unsure.counts.articles_removed, unsure.counts.articles_kept_absent, unsure.refused) == (0, 20, None)


def test_a_corpus_without_articles_never_empties_a_memory(memory: Path, corpus: dict[str, list[str]]) -> None:
    before = payload(memory)
    for content in (b"", b"\n\n", BAD["empty_text"] + b"\n"):
        source = memory.parent / "nothing.jsonl"
        source.write_bytes(content)
        with pytest.raises(InputError):
            refresh(sources=[str(source)], memory=memory, max_removed=1.0, remove_absent=True)
    assert payload(memory) == before


def test_a_resumed_refresh_keeps_the_same_articles(
    memory: Path, corpus: dict[str, list[str]], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is needed is in the ledger: the corpus is not read again, and what was encoded survives a refusal."""
    lines = lines_of(corpus) | {"a4": BAD["lone_surrogate"], "a3": good("a3", ["Changed."]), "": NAMELESS}
    del lines["a9"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_segment", _die)
        with pytest.raises(_Killed):
            with_lines(memory, lines)
    said: list[str] = []

    class Listener(Quiet):
        def say(self, line: str) -> None:
            if line.startswith("resuming job"):
                said.append(line)

    result = refresh(sources=[str(memory.parent / "next.jsonl")], memory=memory, progress=Listener())
    assert said
    assert "plan" not in result.seconds
    assert (result.kept_rejected, result.kept_absent) == (["a4"], ["a9"])
    assert result.counts.articles_kept_absent == 1
    assert payload(memory) == rebuilt(memory, model, corpus | {"a3": ["Changed."]})


def test_a_smaller_limit_refuses_a_planned_refresh_without_losing_its_work(
    memory: Path, corpus: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: corpus[name] for name in list(corpus)[:35]} | {"new": ["Something new."]}
    source = str(write(memory.parent / "few.jsonl", few))
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_segment", _die)
        with pytest.raises(_Killed):
            refresh(sources=[source], memory=memory)
    with pytest.raises(InputError, match="5 of 40"):
        refresh(sources=[source], memory=memory, max_removed=4)
    resumed = refresh(sources=[source], memory=memory)
    assert "plan" not in resumed.seconds
    assert resumed.counts.articles_removed == 5


class _Killed(BaseException):
    """Stands for the end of the process: nothing tidies up after it."""


def _die(*_: object, **__: object) -> None:
    raise _Killed


def test_the_json_record_has_it_all(memory: Path, corpus: dict[str, list[str]]) -> None:
    lines = lines_of(corpus) | {"a4": BAD["wrong_type"], "": NAMELESS}
    del lines["a9"]
    source = put(memory.parent / "next.jsonl", lines)
    done = CliRunner().invoke(glimmer, ["refresh", source, "--memory", str(memory), "--json"])
    record = json.loads(done.stdout)
    assert (record["kept_rejected"], record["kept_absent"]) == (["a4"], ["a9"])
    assert record["counts"]["articles_kept_rejected"] == record["counts"]["articles_kept_absent"] == 1
    text = CliRunner().invoke(glimmer, ["refresh", source, "--memory", str(memory)]).stdout
    assert "1 article that the sources do not hold, because 1 rejected record does not tell whose they are: a9" in text
