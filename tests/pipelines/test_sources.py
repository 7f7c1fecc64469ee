"""Sources: every format gives the same articles, whatever carries it."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_data import Wikipedia

from glimmer import InputError, UsageError
from glimmer.pipelines.corpus import Article, Rejection, read_articles, source_identity
from glimmer.pipelines.corpus.idset import IdSet, id_digest

FIXTURES = Path(__file__).parent.parent / "fixtures"
PAGES = [("12", "Anarchism", "First paragraph.\n\nSecond one."), ("39", "Albedo", "Whiteness."), ("7", "", "Untitled.")]


def articles(*sources: str | os.PathLike[str], **options: Any) -> list[Article]:
    records = list(read_articles(sources, **options))
    assert not [r for r in records if isinstance(r, Rejection)]
    return [r for r in records if isinstance(r, Article)]


def plain(found: list[Article]) -> list[tuple[str, str, list[str]]]:
    return [(a.article_id, a.title, a.paragraphs) for a in found]


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def pages(path: Path, rows: list[tuple[str, str, str]] = PAGES) -> Path:
    return jsonl(path, [{"id": i, "title": t, "text": x} for i, t, x in rows])


EXPECTED = [
    ("12", "Anarchism", ["First paragraph.", "Second one."]),
    ("39", "Albedo", ["Whiteness."]),
    ("7", "", ["Untitled."]),
]


def test_kilt_counts_paragraphs_from_the_title() -> None:
    harbour, _, ferry = articles(FIXTURES / "kilt_markup.jsonl")
    assert (harbour.article_id, harbour.title, harbour.first_paragraph) == ("101", "Harbour of Lindow", 1)
    assert len(harbour.paragraphs) == 12
    assert harbour.paragraphs[1] == "Section::::History.\n"
    assert harbour.place.endswith("kilt_markup.jsonl:1")
    # A first entry that is not the title would be lost with it; it stays, as paragraph 0.
    assert ferry.first_paragraph == 0
    assert ferry.paragraphs[0] == "Night ferry (1912–1938)\n"


def test_wikipedia_json_lines_and_parquet_are_the_same(tmp_path: Path) -> None:
    assert plain(articles(pages(tmp_path / "a.jsonl"))) == EXPECTED
    for ids in (pa.array([r[0] for r in PAGES]), pa.array([int(r[0]) for r in PAGES])):
        table = pa.table({"id": ids, "url": ["u"] * 3, "title": [r[1] for r in PAGES], "text": [r[2] for r in PAGES]})
        pq.write_table(table, tmp_path / "a.parquet")
        assert plain(articles(tmp_path / "a.parquet")) == EXPECTED


def test_dpr_rows_are_whole_passages_with_csv_quoting(tmp_path: Path) -> None:
    file = tmp_path / "psgs.tsv"
    file.write_text('id\ttext\ttitle\n1\t"Aaron (""light"") is a prophet."\tAaron\n2\t"Quoted" begins it\tB\n')
    found = articles(file)
    assert plain(found) == [("1", "Aaron", ['Aaron ("light") is a prophet.']), ("2", "B", ['"Quoted" begins it'])]
    assert all(a.whole for a in found)
    file.write_text("title\tid\ttext\nAaron\t1\tA prophet.\n")
    assert plain(articles(file)) == [("1", "Aaron", ["A prophet."])]
    file.write_text("1\tA prophet.\tAaron\n")
    assert plain(articles(file)) == [("1", "Aaron", ["A prophet."])]


def test_msmarco_has_no_titles(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text('0\tThe presence of communication.\n1\t"Quoted" text\n')
    found = articles(tmp_path / "collection.tsv")
    assert plain(found) == [("0", "", ["The presence of communication."]), ("1", "", ['"Quoted" text'])]
    assert all(a.whole for a in found)


def test_gzip_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    raw = pages(tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n\n").rstrip()
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf" + raw)
    (tmp_path / "c").write_bytes(gzip.compress(raw[:20]) + gzip.compress(raw[20:]))
    assert plain(articles(tmp_path / "b")) == EXPECTED
    found = articles(tmp_path / "c")
    assert plain(found) == EXPECTED
    assert found[1].place == f"{tmp_path / 'c'}:3"  # blank lines count as lines


def test_directories_globs_and_several_sources_keep_an_order(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name, row in zip(("d/b.jsonl", "d/a.jsonl", "d/sub/c.jsonl"), PAGES, strict=True):
        pages(tmp_path / name, [row])
    (tmp_path / "d" / "_SUCCESS").write_text("")
    (tmp_path / "d" / ".hidden").write_text("x")
    assert [a.article_id for a in articles(tmp_path / "d")] == ["39", "12", "7"]
    assert [a.article_id for a in articles(str(tmp_path / "d" / "*.jsonl"))] == ["39", "12"]
    assert [a.article_id for a in articles(str(tmp_path / "d" / "**" / "*.jsonl"))] == ["39", "12", "7"]
    assert [a.article_id for a in articles(tmp_path / "d/sub/c.jsonl", tmp_path / "d/b.jsonl")] == ["7", "12"]


def test_fsspec_urls(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.jsonl")
    assert plain(articles(f"file://{path}")) == EXPECTED
    memory = fsspec.filesystem("memory")
    memory.pipe("/glimmer_sources/b.jsonl.gz", gzip.compress(path.read_bytes()))
    memory.pipe("/glimmer_sources/a.jsonl", path.read_bytes().replace(b'"id": "', b'"id": "a'))
    try:
        assert plain(articles("memory://glimmer_sources/b.jsonl.gz")) == EXPECTED
        assert [a.article_id for a in articles("memory://glimmer_sources")] == ["a12", "a39", "a7", "12", "39", "7"]
        assert len(articles("memory://glimmer_sources/*.gz")) == 3
        before = source_identity("memory://glimmer_sources/a.jsonl")
        memory.pipe("/glimmer_sources/a.jsonl", b"{}")
        assert source_identity("memory://glimmer_sources/a.jsonl") != before
    finally:
        memory.rm("/glimmer_sources", recursive=True)


def test_format_overrides_detection(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a\tb\tc\n")
    assert plain(articles(file)) == [("a", "c", ["b"])]
    assert plain(articles(file, format="msmarco")) == [("a", "", ["b\tc"])]
    with pytest.raises(UsageError, match="unknown format 'csv'; known: car, kilt"):
        articles(file, format="csv")


def test_progress_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []
    articles(pages(tmp_path / "a.jsonl"), pages(tmp_path / "b.jsonl", [("x", "", "y")]), advance=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.jsonl")
    first = source_identity(path)
    assert json.loads(json.dumps(first)) == first
    assert source_identity(path) == first
    os.utime(path, ns=(1, 1))
    assert source_identity(path) == first
    path.write_bytes(path.read_bytes()[:-2] + b" \n")
    assert source_identity(path) != first


def test_ids_are_told_apart_across_runs_and_merges() -> None:
    ids = IdSet(recent=16)
    assert all(ids.add(id_digest(f"id{i}")) for i in range(5000))
    assert not any(ids.add(id_digest(f"id{i}")) for i in range(5000))
    assert len(ids) == 5000
    assert ids.nbytes <= 16 * 5000


@pytest.mark.parametrize("recent", [2, 1000])
def test_ids_that_share_half_a_hash_are_two_ids(recent: int) -> None:
    ids = IdSet(recent=recent)
    digests = [(7, 1), (7, 2), (8, 1), (7, 3), (9, 9)]
    assert all(ids.add(digest) for digest in digests)
    assert not any(ids.add(digest) for digest in digests)
    assert len(ids) == len(digests)


@pytest.fixture(scope="module", params=["array_record", "parquet"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class GlimmerTiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                text = tfds.features.Text
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict({"id": text(), "title": text(), "text": text()})
                )

            def _split_generators(self, manager: Any) -> Any:
                return {"train": self._generate_examples(0), "test": self._generate_examples(1)}

            def _generate_examples(self, *args: Any, **kwargs: Any) -> Any:
                start = args[0] if args else 0
                for i in range(start, 200, 2):
                    yield i, {"id": f"a{i}", "title": f"Title {i}", "text": f"Text é {i}.\n\nMore."}

    root = tmp_path_factory.mktemp("tfds")
    builder = GlimmerTiny(data_dir=root, file_format=request.param)
    builder.download_and_prepare()
    return Path(str(builder.data_path))


def test_tfds_reads_prepared_datasets_without_tensorflow(dataset: Path) -> None:
    found = articles(f"tfds:{dataset}")
    assert len(found) == 200
    assert {a.article_id for a in found} == {f"a{i}" for i in range(200)}
    assert plain(found) == plain(articles(dataset))  # a prepared directory is recognised without the prefix
    one = next(a for a in found if a.article_id == "a7")
    assert (one.title, one.paragraphs) == ("Title 7", ["Text é 7.", "More."])
    assert {a.article_id for a in articles(f"tfds:{dataset}?split=test")} == {f"a{i}" for i in range(1, 200, 2)}
    identity = source_identity(f"tfds:{dataset}")
    assert identity["examples"] == {"test": 100, "train": 100}
    assert "tensorflow" not in sys.modules


def test_tfds_says_what_is_missing(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split dev \(found: test, train\)"):
        articles(f"tfds:{dataset}?split=dev")
    with pytest.raises(InputError, match="give a dataset's name or its directory"):
        articles(f"tfds:{tmp_path}/nothing")
    with pytest.raises(InputError, match="no_such_dataset_here"):
        articles("tfds:no_such_dataset_here")
    with pytest.raises(InputError, match=r"expected tfds:NAME"):
        articles("tfds:")


def test_tfds_knows_wikipedia_and_says_when_it_is_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="not on this machine"):
        articles("tfds:wikipedia/20230601.en")


@pytest.mark.slow
def test_wikipedia_is_read_whole(wikipedia: Wikipedia) -> None:
    found = articles(wikipedia.source)
    assert len(found) == wikipedia.articles
    assert sum(len(a.paragraphs) for a in found) == wikipedia.paragraphs
