"""The same articles, written in every format, read back with the same ids, titles and words."""

from __future__ import annotations

import bz2
import csv
import gzip
import html
import io
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer.pipelines.corpus import Article, read_articles


@dataclass
class Page:
    """An article: paragraphs are lists of sentences."""

    id: int
    title: str
    paragraphs: list[list[str]]

    @property
    def lines(self) -> list[str]:
        return [" ".join(sentences) for sentences in self.paragraphs]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
_SENTENCES = st.lists(_WORDS, min_size=1, max_size=6).map(" ".join)
_TITLES = st.lists(_WORDS, min_size=1, max_size=3).map(lambda words: " ".join(["The", *words, "x"]))
_PAGES = st.lists(
    st.builds(
        Page,
        id=st.integers(0, 1 << 40),
        title=_TITLES,
        paragraphs=st.lists(st.lists(_SENTENCES, min_size=1, max_size=3), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda page: page.id,
)


def json_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


def arrow(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(records)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table(header: list[str], rows: list[list[Any]]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter="\t", lineterminator="\n")
    writer.writerows([header, *rows] if header else rows)
    return sink.getvalue().encode()


def kilt(pages: list[Page]) -> list[dict[str, Any]]:
    return [
        {"_id": str(p.id), "wikipedia_id": str(p.id), "wikipedia_title": p.title, "text": [p.title, *p.lines]}
        for p in pages
    ]


def cirrus(pages: list[Page]) -> list[dict[str, Any]]:
    return [
        record
        for p in pages
        for record in (
            {"index": {"_type": "_doc", "_id": str(p.id)}},
            {"page_id": p.id, "title": p.title, "namespace": 0, "text": p.text},
        )
    ]


def wikiextractor(pages: list[Page]) -> bytes:
    escaped = [html.escape(f"{p.title}\n\n{p.text}", quote=False) for p in pages]
    headings = [f'<doc id="{p.id}" url="u" title="{p.title}">' for p in pages]
    return "".join(f"{h}\n{text}\n</doc>\n" for h, text in zip(headings, escaped, strict=True)).encode()


def records(id: str, title: str, text: str) -> Callable[[list[Page]], list[dict[str, Any]]]:
    return lambda pages: [{"url": "u", id: p.id, title: p.title, text: p.text} for p in pages]


FORMATS: dict[str, Callable[[list[Page]], bytes]] = {
    "wikipedia": lambda pages: json_lines(records("id", "title", "text")(pages)),
    "beir": lambda pages: json_lines(records("_id", "title", "text")(pages)),
    "ms marco documents": lambda pages: json_lines(records("docid", "title", "body")(pages)),
    "ms marco segments": lambda pages: json_lines(records("docid", "title", "segment")(pages)),
    "kilt": lambda pages: json_lines(kilt(pages)),
    "kilt with a running text": lambda pages: json_lines([r | {"text": "\n".join(r["text"])} for r in kilt(pages)]),
    "kilt in parquet": lambda pages: parquet([r | {"text": {"paragraph": r["text"]}} for r in kilt(pages)]),
    "hotpotqa": lambda pages: json_lines([{"id": p.id, "title": p.title, "text": p.paragraphs} for p in pages]),
    "pyserini": lambda pages: json_lines([{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in pages]),
    "parquet": lambda pages: parquet(records("passage_id", "title", "text")(pages)),
    "arrow": lambda pages: arrow(records("id", "name", "content")(pages)),
    "cirrus": lambda pages: json_lines(cirrus(pages)),
    "wikiextractor": wikiextractor,
    "dpr": lambda pages: table(["id", "text", "title"], [[p.id, p.text, p.title] for p in pages]),
    "colbert": lambda pages: table(["pid", "title", "passage"], [[p.id, p.title, p.text] for p in pages]),
    "msmarco-docs": lambda pages: b"".join(
        f"{p.id}\thttps://u\t{p.title}\t{' '.join(p.lines)}\n".encode() for p in pages
    ),
}
COMPRESSIONS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pages=_PAGES, compress=st.sampled_from(COMPRESSIONS))
def test_every_format_gives_the_same_articles(
    name: str, pages: list[Page], compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "corpus"
    content = FORMATS[name](pages)
    path.write_bytes(content if content[:4] in (b"PAR1", b"\xff" * 4) else compress(content))
    found = list(read_articles([path]))
    assert all(isinstance(article, Article) for article in found)
    read = [(a.article_id, a.title, " ".join(a.paragraphs).split()) for a in found if isinstance(a, Article)]
    assert read == [(str(p.id), p.title, p.text.split()) for p in pages]
