"""Corpora as people have them: each gives its articles with their ids, titles and texts, whatever its format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from glimmer import InputError, UsageError
from glimmer.pipelines.corpus import Article, Corpus, Rejection

HARBOUR = "The Harbour of Velm is a port in northern Ostland. It was opened in 1871."
CALDER = "Ruth Calder was an engineer from Ostland. She designed the Harbour of Velm."
PAGES = [("12", "Harbour of Velm", HARBOUR), ("25", "Ruth Calder", CALDER)]
EXPECTED = [("12", "Harbour of Velm", [HARBOUR]), ("25", "Ruth Calder", [CALDER])]
UNTITLED = [("12", "", [HARBOUR]), ("25", "", [CALDER])]


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in records)


WIKI = lines(*({"id": i, "title": t, "text": x} for i, t, x in PAGES))


def opened(*sources: Path | str, **options: Any) -> tuple[Corpus, list[Article]]:
    corpus = Corpus(sources, **options)
    records = list(corpus.read())
    assert not [r for r in records if isinstance(r, Rejection)]
    return corpus, [r for r in records if isinstance(r, Article)]


def read(*sources: Path | str, **options: Any) -> list[tuple[str, str, list[str]]]:
    return [(a.article_id, a.title, a.paragraphs) for a in opened(*sources, **options)[1]]


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# F7: compressed files, archives, pipes.


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_files_are_read_by_content(tmp_path: Path, compress: Any) -> None:
    assert read(written(tmp_path / "wiki", compress(WIKI[:50]) + compress(WIKI[50:]))) == EXPECTED


@pytest.mark.parametrize(
    ("compress", "kind"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"), (zstandard.compress, "zstandard")],
)
def test_a_truncated_file_is_refused_with_its_line(tmp_path: Path, compress: Any, kind: str) -> None:
    path = written(tmp_path / "wiki", compress(WIKI)[:-9])
    with pytest.raises(InputError, match=rf"wiki:\d+: truncated {kind}: the file ends at byte"):
        read(path, format="json")


def test_archives_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        archive.writestr("corpus.jsonl", WIKI)
    with pytest.raises(InputError, match=r"a zip archive; unpack it \(unzip FILE\)"):
        read(tmp_path / "corpus.zip")
    header = b"corpus.jsonl".ljust(257, b"\0") + b"ustar\x0000"
    with pytest.raises(InputError, match="a tar archive; unpack it"):
        read(written(tmp_path / "corpus.tar.gz", gzip.compress(header.ljust(512, b"\0") + WIKI)))


def test_standard_input_and_pipes_are_read_once_and_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(content: bytes) -> Corpus:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return Corpus(["-"])

    corpus = piped(bz2.compress(WIKI))
    assert [r.article_id for r in corpus.read()] == ["12", "25"]
    assert [r.place for r in corpus.read() if isinstance(r, Article)] == ["<stdin>:1", "<stdin>:2"]
    assert corpus.identity() == piped(bz2.compress(WIKI)).identity() != piped(WIKI).identity()
    json.dumps(corpus.identity())

    def fifo(name: str) -> Corpus:
        os.mkfifo(tmp_path / name)
        writer = threading.Thread(target=(tmp_path / name).write_bytes, args=(WIKI,))
        writer.start()
        corpus = Corpus([tmp_path / name])
        writer.join()
        return corpus

    first = fifo("p")
    assert [r.article_id for r in first.read()] == ["12", "25"]
    assert first.identity() == fifo("q").identity() == piped(WIKI).identity()
    with pytest.raises(UsageError, match="standard input"):
        Corpus(["-", "-"])


def test_a_copied_stream_is_gone_with_its_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(WIKI)))
    corpus = Corpus(["-"])
    copy = corpus.look()[0].file
    path = getattr(copy, "path", None)
    assert isinstance(path, Path)
    assert path.exists()
    del corpus, copy
    assert not path.exists()


# F8: MS MARCO.


def test_ms_marco_passages_take_the_passages_own_id_and_stay_whole(tmp_path: Path) -> None:
    records = [{"pid": f"p{i}", "passage": x, "spans": "(0,1)", "docid": "d0"} for i, _, x in PAGES]
    written(tmp_path / "v2" / "msmarco_passage_00.gz", gzip.compress(lines(*records)))
    corpus, articles = opened(tmp_path / "v2")
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == [("p12", "", [HARBOUR]), ("p25", "", [CALDER])]
    assert all(a.whole for a in articles)
    assert corpus.describe()[0].endswith("id from pid, text from passage; passages are kept whole")


def test_ms_marco_documents_are_cut_and_segments_are_not(tmp_path: Path) -> None:
    documents = [{"url": "u", "title": t, "headings": "h", "body": x, "docid": i} for i, t, x in PAGES]
    _, articles = opened(written(tmp_path / "docs.jsonl", lines(*documents)))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
    assert not any(a.whole for a in articles)
    segments = [{"docid": i, "url": "u", "title": t, "headings": "h", "segment": x, "end_char": 9} for i, t, x in PAGES]
    _, articles = opened(written(tmp_path / "segments.jsonl", lines(*segments)))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
    assert all(a.whole for a in articles)


def test_msmarco_docs_has_four_columns_and_no_header(tmp_path: Path) -> None:
    rows = "".join(f'D{i}\thttps://x/{i}\t{t}\t"{x}" he said.\n' for i, t, x in PAGES)
    corpus, articles = opened(written(tmp_path / "msmarco-docs.tsv", rows.encode()))
    assert [(a.article_id, a.title, a.paragraphs, a.whole) for a in articles] == [
        ("D12", "Harbour of Velm", [f'"{HARBOUR}" he said.'], False),
        ("D25", "Ruth Calder", [f'"{CALDER}" he said.'], False),
    ]
    assert corpus.look()[0].format_name == "msmarco-docs"
    with pytest.raises(InputError, match="4 tab-separated columns: 1, 0, D12, 1"):  # judgements, not documents
        read(written(tmp_path / "qrels.tsv", b"1\t0\tD12\t1\n"))


# F9: Pyserini and FlashRAG.


def test_contents_begin_with_the_title_where_all_of_them_do(tmp_path: Path) -> None:
    pyserini = lines(*({"id": i, "contents": f"{t}\n{x}"} for i, t, x in PAGES))
    assert read(written(tmp_path / "pyserini.jsonl", pyserini)) == EXPECTED
    flashrag = lines(*({"id": i, "contents": f'"{t}"\n{x}'} for i, t, x in PAGES))
    assert read(written(tmp_path / "flashrag.jsonl", flashrag)) == EXPECTED
    table = pa.table({"id": [i for i, _, _ in PAGES], "contents": [f"{t}\n{x}" for _, t, x in PAGES]})
    pq.write_table(table, tmp_path / "pyserini.parquet")
    assert read(tmp_path / "pyserini.parquet") == EXPECTED


def test_contents_without_title_lines_keep_every_line(tmp_path: Path) -> None:
    one = lines(*({"id": i, "contents": x} for i, _, x in PAGES))
    assert read(written(tmp_path / "passages.jsonl", one)) == UNTITLED
    prose = lines(*({"id": i, "contents": f"{x}\nMore."} for i, _, x in PAGES))
    assert read(written(tmp_path / "prose.jsonl", prose)) == [(i, t, [*p, "More."]) for i, t, p in UNTITLED]
    titled = lines({"id": "1", "title": "Own", "contents": "A line\nand another"})
    assert read(written(tmp_path / "titled.jsonl", titled)) == [("1", "Own", ["A line", "and another"])]


# F10: Parquet of BEIR, Tevatron and Hugging Face.


@pytest.mark.parametrize("name", ["_id", "docid", "ID"])
def test_parquet_with_any_usual_id(tmp_path: Path, name: str) -> None:
    title = name.upper().replace("_ID", "Title").replace("DOCID", "title").replace("ID", "TITLE")
    columns = {name: [p[0] for p in PAGES], title: [p[1] for p in PAGES], "text": [p[2] for p in PAGES]}
    pq.write_table(pa.table({"n": [1, 2]} | columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == EXPECTED


def test_kilt_from_hugging_face_counts_paragraphs_from_the_title(tmp_path: Path) -> None:
    rows = [
        {"kilt_id": f"k{i}", "wikipedia_id": i, "wikipedia_title": t, "text": {"paragraph": [f"{t}\n", f"{x}\n"]}}
        for i, t, x in PAGES
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "kilt.parquet")
    corpus, articles = opened(tmp_path / "kilt.parquet")
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == [(i, t, [p + "\n"]) for i, t, [p] in EXPECTED]
    assert [a.first_paragraph for a in articles] == [1, 1]
    assert corpus.look()[0].format_name == "kilt"


# F11: shards with nothing in them, and what engines leave beside their shards.


def test_empty_shards_of_a_directory_are_skipped_and_named(tmp_path: Path) -> None:
    beam = tmp_path / "beam"
    written(beam / "out-00000-of-00004", WIKI[: WIKI.index(b"\n") + 1])
    written(beam / "out-00001-of-00004", b"")
    written(beam / "out-00002-of-00004", gzip.compress(b""))
    written(beam / "out-00003-of-00004", WIKI[WIKI.index(b"\n") + 1 :])
    for source in (beam, f"{beam}/out-*"):
        corpus = Corpus([source])
        assert [r.article_id for r in corpus.read()] == ["12", "25"]
        assert corpus.describe() == [
            f"json: 2 files ({beam}/out-00000-of-00004 …): id from id, title from title, text from text",
            f"skipped: 2 files ({beam}/out-00001-of-00004 …): empty",
        ]
        assert corpus.to_json()["skipped"][0] == {"name": f"{beam}/out-00001-of-00004", "reason": "empty"}
    with pytest.raises(InputError, match="out-00001-of-00004: the file is empty"):
        read(beam / "out-00001-of-00004")
    assert read(beam / "out-00001-of-00004", may_be_empty=True) == []


def test_spark_leaves_empty_parts_and_markers(tmp_path: Path) -> None:
    spark = tmp_path / "spark"
    written(spark / "_SUCCESS", b"")
    written(spark / ".part-00000.crc", b"crc")
    with pytest.raises(InputError, match=r"no files to read there \(skipped: hidden\)"):
        read(spark)
    table = pa.table({"id": [p[0] for p in PAGES], "title": [p[1] for p in PAGES], "text": [p[2] for p in PAGES]})
    pq.write_table(table, spark / "part-00000.snappy.parquet")
    pq.write_table(table.slice(0, 0), spark / "part-00001.snappy.parquet")
    corpus = Corpus([spark])
    assert [r.article_id for r in corpus.read()] == ["12", "25"]
    assert [s.reason for s in corpus.skipped] == ["hidden", "hidden", "empty"]
    with pytest.raises(InputError, match="the parquet file has no rows"):
        read(spark / "part-00001.snappy.parquet")
    (spark / "part-00000.snappy.parquet").unlink()
    with pytest.raises(InputError, match="every file is empty"):
        read(spark)


def test_pipes_in_a_directory_are_skipped_and_broken_links_refused(tmp_path: Path) -> None:
    written(tmp_path / "d" / "a.jsonl", WIKI)
    os.mkfifo(tmp_path / "d" / "pipe")
    (tmp_path / "d" / "zero").symlink_to("/dev/zero")
    corpus, articles = opened(tmp_path / "d")
    assert len(articles) == 2
    assert [(Path(s.name).name, s.reason) for s in corpus.skipped] == [
        ("pipe", "not a regular file"),
        ("zero", "not a regular file"),
    ]
    (tmp_path / "d" / "b.jsonl").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match=r"b\.jsonl: a link to a file that is not there"):
        read(tmp_path / "d")
    with pytest.raises(InputError, match="is a device"):
        read("/dev/zero")


# F12: BEIR.


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_beir_directory_is_its_corpus_without_queries_and_judgements(tmp_path: Path, compress: Any) -> None:
    beir = tmp_path / "scifact"
    suffix = ".gz" if compress is gzip.compress else ""
    written(beir / f"corpus.jsonl{suffix}", compress(lines(*({"_id": i, "title": t, "text": x} for i, t, x in PAGES))))
    written(beir / f"queries.jsonl{suffix}", compress(lines({"_id": "q1", "text": "who?"})))
    written(beir / "qrels" / "test.tsv", b"query-id\tcorpus-id\tscore\nq1\t12\t1\n")
    for source in (beir, f"{beir}/**"):
        corpus, articles = opened(source)
        assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
        assert [s.reason for s in corpus.skipped] == ["questions or judgements"] * 2


def test_beir_from_hugging_face_has_directories(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "queries").mkdir()
    columns = {"_id": [p[0] for p in PAGES], "title": [p[1] for p in PAGES], "text": [p[2] for p in PAGES]}
    pq.write_table(pa.table(columns), tmp_path / "corpus" / "corpus-00000-of-00001.parquet")
    pq.write_table(pa.table({"_id": ["q"], "title": [""], "text": ["who?"]}), tmp_path / "queries" / "q.parquet")
    written(tmp_path / "README.md", b"# A dataset\n")
    assert read(tmp_path) == EXPECTED


def test_judgements_alone_are_no_corpus(tmp_path: Path) -> None:
    path = written(tmp_path / "test.tsv", b"query-id\tcorpus-id\tscore\nq1\t12\t1\n")
    with pytest.raises(InputError, match=r"3 tab-separated columns: query-id, corpus-id, score; none is known to hold"):
        read(path)
    path = written(tmp_path / "queries.tsv", b"qid\tquery\n1\twho?\n")
    with pytest.raises(InputError, match=r"2 tab-separated columns: qid, query"):
        read(path)


# F13: KILT's fields around a text that is one string.


def test_kilt_with_a_running_text_keeps_its_title_and_does_not_double_it(tmp_path: Path) -> None:
    records = [{"_id": i, "wikipedia_id": i, "wikipedia_title": t, "text": f"{t}\n{x}\nEnd."} for i, t, x in PAGES]
    corpus, articles = opened(written(tmp_path / "kilt.jsonl", lines(*records)))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == [(i, t, [*p, "End."]) for i, t, p in EXPECTED]
    assert corpus.look()[0].layout.used["title"] == "wikipedia_title"
    plain = [{"id": i, "wikipedia_title": t, "text": x} for i, t, x in PAGES]  # a text without its title
    assert read(written(tmp_path / "plain.jsonl", lines(*plain))) == EXPECTED


# F14: tables with a header.


@pytest.mark.parametrize(
    "header", ["pid\tpassage\ttitle", "ID\tText\tTitle", "docid\tcontents\tname", '"id"\t"text"\t"title"']
)
def test_a_header_of_usual_names_is_no_article(tmp_path: Path, header: str) -> None:
    rows = "".join(f"{i}\t{x}\t{t}\n" for i, t, x in PAGES)
    assert read(written(tmp_path / "a.tsv", f"{header}\n{rows}".encode())) == EXPECTED


def test_a_header_gives_the_columns_in_any_order_and_number(tmp_path: Path) -> None:
    rows = "docid\turl\ttitle\tbody\n" + "".join(f"{i}\tu\t{t}\t{x}\n" for i, t, x in PAGES)
    _, articles = opened(written(tmp_path / "docs.tsv", rows.encode()))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
    assert not any(a.whole for a in articles)
    rows = "passage\tpid\n" + "".join(f"{x}\t{i}\n" for i, _, x in PAGES)
    corpus, articles = opened(written(tmp_path / "two.tsv", rows.encode()))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == UNTITLED
    assert all(a.whole for a in articles)
    assert corpus.look()[0].format_name == "tsv"


def test_shards_of_a_split_dpr_file_are_of_one_format(tmp_path: Path) -> None:
    (i, t, x), (j, u, y) = PAGES
    written(tmp_path / "xaa", f"id\ttext\ttitle\n{i}\t{x}\t{t}\n".encode())
    written(tmp_path / "xab", f"{j}\t{y}\t{u}\n".encode())
    assert read(tmp_path) == EXPECTED


# F21: Hugging Face's save_to_disk.


def saved(directory: Path, rows: list[tuple[str, str, str]], shards: int = 1) -> None:
    directory.mkdir(parents=True)
    names = [f"data-{n:05}-of-{shards:05}.arrow" for n in range(shards)]
    for n, name in enumerate(names):
        part = rows[n::shards]
        columns = {"id": [r[0] for r in part], "title": [r[1] for r in part], "text": [r[2] for r in part]}
        table = pa.table(columns)
        opener = pa.ipc.new_stream if n % 2 == 0 else pa.ipc.new_file
        with pa.OSFile(str(directory / name), "wb") as sink, opener(sink, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None}
    (directory / "state.json").write_text(json.dumps(state))
    (directory / "dataset_info.json").write_text(json.dumps({"features": {}, "builder_name": "wikipedia"}))


def test_a_saved_dataset_is_its_shards(tmp_path: Path) -> None:
    saved(tmp_path / "disk", PAGES, shards=2)
    written(tmp_path / "disk" / "cache-1234.arrow", b"not of the dataset")
    corpus, articles = opened(tmp_path / "disk")
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
    assert {part.format_name for part in corpus.look()} == {"arrow"}
    assert sorted(s.reason for s in corpus.skipped) == ["metadata", "metadata", "not named by state.json"]
    (tmp_path / "disk" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow, which \./state\.json names, is missing"):
        read(tmp_path / "disk")


def test_a_saved_dictionary_of_datasets_is_all_its_splits(tmp_path: Path) -> None:
    saved(tmp_path / "dict" / "train", PAGES[:1])
    saved(tmp_path / "dict" / "validation", PAGES[1:])
    written(tmp_path / "dict" / "dataset_dict.json", b'{"splits": ["train", "validation"]}')
    assert read(tmp_path / "dict") == EXPECTED
    assert read(tmp_path / "dict" / "validation") == EXPECTED[1:]


def test_a_state_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "disk", PAGES)
    written(tmp_path / "disk" / "state.json", b'{"_data_files": [{"filename": "../../secret"}]}')
    with pytest.raises(InputError, match="not in its own directory"):
        read(tmp_path / "disk")
    state = b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": [{"filename": "i"}]}'
    written(tmp_path / "disk" / "state.json", state)
    with pytest.raises(InputError, match="flatten_indices"):
        read(tmp_path / "disk")


# F22: HotpotQA, Cirrus, WikiExtractor.


def test_sentences_of_hotpotqa_are_one_paragraph(tmp_path: Path) -> None:
    records = [{"id": i, "url": "u", "title": t, "text": x.split(". "), "charoffset": []} for i, t, x in PAGES]
    joined = [(i, t, [x.replace(". ", " ")]) for i, t, x in PAGES]
    assert read(written(tmp_path / "abstracts.jsonl", lines(*records))) == joined
    spaced = [
        {"id": 12, "title": "T", "text": ["One.", " Two."]},
        {"id": 25, "title": "U", "text": [["a.", "b."], ["c"]]},
    ]
    assert read(written(tmp_path / "b.jsonl", lines(*spaced))) == [
        ("12", "T", ["One. Two."]),
        ("25", "U", ["a. b.", "c"]),
    ]


def test_a_cirrus_dump_gives_its_articles_only(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    for i, t, x in PAGES:
        records += [
            {"index": {"_type": "_doc", "_id": i}},
            {"page_id": int(i), "title": t, "namespace": 0, "text": x, "opening_text": "o"},
            {"index": {"_type": "_doc", "_id": f"9{i}"}},
            {"page_id": int(f"9{i}"), "title": "Talk", "namespace": 1, "text": "talk"},
        ]
    corpus, articles = opened(written(tmp_path / "cirrus.json.gz", gzip.compress(lines(*records))))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == EXPECTED
    assert corpus.notes() == ["left out: 2 pages outside the article namespace"]
    old = [{k: v for k, v in r.items() if k != "page_id"} for r in records]  # the id stands in the line before only
    assert read(written(tmp_path / "old.json", lines(*old))) == EXPECTED
    written(tmp_path / "broken.json", lines(records[0]) + b'{"title": "cut\n' + lines(*records[4:6]))
    found = list(Corpus([tmp_path / "broken.json"]).read())
    assert [(type(r), r.article_id) for r in found] == [(Rejection, "12"), (Article, "25")]


def test_wikiextractor_files_give_ids_titles_and_paragraphs(tmp_path: Path) -> None:
    docs = "".join(f'<doc id="{i}" url="u" title="{t}">\n{t}\n\n{x}\nMore &lt;b&gt;.\n\n</doc>\n' for i, t, x in PAGES)
    path = written(tmp_path / "we" / "AA" / "wiki_00", docs.encode())
    assert read(tmp_path / "we") == [(i, t, [*p, "More <b>."]) for i, t, p in EXPECTED]
    odd = '<doc id="1" url="u" title="The "X" &amp; Y">\nThe "X" & Y\n\nText.\n</doc>\n'
    odd += '<doc id="2" url="u" title="No heading">\nText.\n</doc>\n'
    assert read(written(path, odd.encode())) == [("1", 'The "X" & Y', ["Text."]), ("2", "No heading", ["Text."])]
    cut = '<doc id="1" url="u" title="A">\nA\n\ntext\n<doc id="2" url="u" title="B">\nB\n\nMore.\n</doc>\nstray\n'
    records = list(Corpus([written(path, cut.encode())]).read())
    assert [(type(r), r.article_id) for r in records] == [(Rejection, "1"), (Article, "2"), (Rejection, "")]
    as_json = lines(*({"id": i, "revid": "1", "url": "u", "title": t, "text": x} for i, t, x in PAGES))
    assert read(written(path, as_json)) == EXPECTED


# F23: titles that are numbers, quoted fields with tabs and line breaks.


def test_titles_that_are_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "title": [1984, 1985], "text": ["A novel.", "A year."]}), tmp_path / "a")
    assert read(tmp_path / "a") == [("1", "1984", ["A novel."]), ("2", "1985", ["A year."])]
    floats = pa.table({"id": [1, 2], "title": [1984.0, float("nan")], "text": ["A novel.", "A year."]})
    pq.write_table(floats, tmp_path / "b")
    assert read(tmp_path / "b") == [("1", "1984", ["A novel."]), ("2", "", ["A year."])]
    assert read(written(tmp_path / "c", lines({"id": 1, "title": 1984, "text": "x"}))) == [("1", "1984", ["x"])]


def test_quoted_fields_hold_tabs_line_breaks_and_doubled_quotes(tmp_path: Path) -> None:
    content = (
        "id\ttext\ttitle\n"
        '1\t"He called it ""the quiet port"". It is."\tHarbour\n'
        '2\t"A tab\there"\tBridge\n'
        '3\t"A first line.\n\nA third ""line"".\n"\t"River\nIlse"\n'
        '4\t"Quoted" begins it\tMount\n'
        '5\t"never closed\tSea\n'
        "6\tplain\tBrink\n"
    )
    _, articles = opened(written(tmp_path / "psgs.tsv", content.encode()))
    assert [(a.article_id, a.title, a.paragraphs) for a in articles] == [
        ("1", "Harbour", ['He called it "the quiet port". It is.']),
        ("2", "Bridge", ["A tab\there"]),
        ("3", "River Ilse", ['A first line.\n\nA third "line".\n']),
        ("4", "Mount", ['"Quoted" begins it']),
        ("5", "Sea", ['"never closed']),
        ("6", "Brink", ["plain"]),
    ]
    assert [a.place.rpartition(":")[2] for a in articles] == ["2", "3", "4", "9", "10", "11"]


def test_a_stray_quotation_mark_spoils_its_own_row_only(tmp_path: Path) -> None:
    content = 'id\ttext\ttitle\n1\t"broken\n2\tfine\tTwo\n3\tsize 5"\tThree\n4\t"cut'
    records = list(Corpus([written(tmp_path / "a.tsv", content.encode())]).read())
    assert [(type(r), r.article_id) for r in records] == [
        (Rejection, "1"),
        (Article, "2"),
        (Article, "3"),
        (Rejection, "4"),
    ]
    last = '4\tRiver\t"The Ilse is.\nA new line."\n5\tSea\tThe Sea.\n'
    assert read(written(tmp_path / "b.tsv", ("pid\ttitle\tpassage\n" + last).encode())) == [
        ("4", "River", ["The Ilse is.\nA new line."]),
        ("5", "Sea", ["The Sea."]),
    ]
