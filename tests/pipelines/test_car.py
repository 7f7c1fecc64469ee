"""TREC CAR: paragraphs and pages in CBOR become articles; bad items are counted, broken framing stops the job."""

from __future__ import annotations

import bz2
import lzma
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cbor2
import pytest

import glimmer
from glimmer import InputError
from glimmer.pipelines.corpus import Article, Rejection, read_articles
from glimmer.pipelines.corpus.car_file import OUTLINES, PAGES, PARAGRAPHS

LINK = [1, [0, "Moss", ["Habitat"], b"enwiki:Moss", "mosses"]]
PARAGRAPH = [0, b"p1", [[0, "Ferns and "], LINK, [0, " like shade.\n"]]]
PLAIN = [0, "p2", [[0, "Ids may be texts."]]]
PAGE = [
    0,
    "Shade  plants",
    b"enwiki:Shade%20plants",
    [
        [1, PARAGRAPH],
        [0, "History", b"History", [[0, "Origins", b"Origins", [[1, PLAIN]]]]],
        [2, b"File:Fern.jpg", [[1, [0, b"p3", [[0, "A fern."]]]]]],
        [3, 1, [0, b"p4", [[0, "A list's item."]]]],
        [4, "Infobox plant", [["kingdom", [[1, PLAIN]]]]],
    ],
    [0],
    [],
]


def car(kind: int | None, items: Sequence[Any], *, array: bool = True) -> bytes:
    header = b"" if kind is None else cbor2.dumps(["CAR", [kind], {"release": "made up"}])
    body = b"".join(map(cbor2.dumps, items))
    return header + (b"\x9f" + body + b"\xff" if array else body)


def read(path: Path, content: bytes, **options: Any) -> list[Article | Rejection]:
    path.write_bytes(content)
    return list(read_articles([path], **options))


@pytest.mark.parametrize("array", [True, False], ids=["array", "items"])
@pytest.mark.parametrize("declared", [PARAGRAPHS, None], ids=["header", "headerless"])
def test_a_paragraph_is_an_article_kept_whole(tmp_path: Path, declared: int | None, array: bool) -> None:
    first, second = read(tmp_path / "p.cbor", car(declared, [PARAGRAPH, PLAIN], array=array))
    assert isinstance(first, Article)
    assert isinstance(second, Article)
    assert (first.article_id, first.title, first.whole) == ("p1", "", True)
    assert first.paragraphs == ["Ferns and mosses like shade. "]
    assert (second.article_id, second.paragraphs) == ("p2", ["Ids may be texts."])


@pytest.mark.parametrize("declared", [PAGES, None], ids=["header", "headerless"])
def test_a_page_is_an_article_with_its_headings(tmp_path: Path, declared: int | None) -> None:
    (page,) = read(tmp_path / "pages.cbor", car(declared, [PAGE]))
    assert isinstance(page, Article)
    assert (page.article_id, page.title, page.whole) == ("enwiki:Shade%20plants", "Shade plants", False)
    assert page.paragraphs == [
        "Ferns and mosses like shade. ",
        "Section::::History.",
        "Section::::History.:Origins.",
        "Ids may be texts.",
        "A fern.",
        "BULLET::::A list's item.",
    ]


@pytest.mark.parametrize("compress", [lzma.compress, bz2.compress], ids=["xz", "bz2"])
def test_compressed_files_are_read_as_they_are(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    assert len(read(tmp_path / "p.cbor.xz", compress(car(PARAGRAPHS, [PARAGRAPH, PLAIN])))) == 2


def test_items_larger_than_a_block_are_read(tmp_path: Path) -> None:
    long = [0, b"long", [[0, "word " * 700_000]]]
    records = read(tmp_path / "p.cbor", car(PARAGRAPHS, [PLAIN, long, PARAGRAPH]))
    assert [record.article_id for record in records] == ["p2", "long", "p1"]


@pytest.mark.parametrize(
    ("item", "reason", "article_id"),
    [
        ([0, b"p9", "bodies"], "wrong_type", "p9"),
        ([0, b"p9", [[0, 7]]], "wrong_type", "p9"),
        ([0, b"p9", [[1, [0, "Moss"]]]], "missing_field", "p9"),
        ([0, b"p9", [[5, "x"]]], "wrong_type", "p9"),
        ([0, b"p9", [[0, b"\xff\xfe"]]], "not_utf8", "p9"),
        ([0, b"p9", []], "empty_text", "p9"),
        ([0, b"", [[0, "Text."]]], "missing_field", ""),
        ([1, b"p9", [[0, "Text."]]], "wrong_type", "p9"),
        ({"id": "p9"}, "wrong_type", ""),
        (7, "wrong_type", ""),
        ([], "missing_field", ""),
    ],
)
def test_a_bad_item_is_a_counted_rejection(tmp_path: Path, item: Any, reason: str, article_id: str) -> None:
    before, rejected, after = read(tmp_path / "p.cbor", car(PARAGRAPHS, [PARAGRAPH, item, PLAIN]))
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert isinstance(rejected, Rejection)
    assert (rejected.reason, rejected.article_id) == (reason, article_id)
    assert rejected.place == f"{tmp_path / 'p.cbor'}:2"


def test_a_page_of_sections_without_end_is_a_rejection(tmp_path: Path) -> None:
    part: Any = [1, PLAIN]
    for _ in range(60):
        part = [0, "Deeper", b"deeper", [part]]
    deep, fine = read(tmp_path / "pages.cbor", car(PAGES, [[0, "Deep", b"deep", [part]], PAGE]))
    assert isinstance(deep, Rejection)
    assert deep.article_id == "deep"
    assert isinstance(fine, Article)


@pytest.mark.parametrize("declared", [PARAGRAPHS, None], ids=["header", "headerless"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, declared: int | None) -> None:
    content, path = car(declared, [PARAGRAPH, PLAIN]), tmp_path / "p.cbor"
    for size in range(16, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"ends too early, (after item [12]|before its first item has ended)"):
            list(read_articles([path]))


def test_broken_framing_stops_the_job_and_says_where(tmp_path: Path) -> None:
    content = car(PARAGRAPHS, [PARAGRAPH]).removesuffix(b"\xff") + b"\x1c" + cbor2.dumps(PLAIN) + b"\xff"
    with pytest.raises(InputError, match=r"p\.cbor: broken CBOR at byte \d+, after item 1: ") as error:
        read(tmp_path / "p.cbor", content)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="bytes behind the end"):
        read(tmp_path / "p.cbor", car(PARAGRAPHS, [PARAGRAPH]) + b"x")
    with pytest.raises(InputError, match="broken CBOR"):
        read(tmp_path / "p.cbor", car(PARAGRAPHS, [PARAGRAPH], array=False) + b"\x81" * 5000)


def test_claims_of_great_length_take_no_memory(tmp_path: Path) -> None:
    head = car(PARAGRAPHS, [PARAGRAPH]).removesuffix(b"\xff")
    for claim in (b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff", b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff"):
        with pytest.raises(InputError):
            read(tmp_path / "p.cbor", head + claim + b"abc")


def test_outlines_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outlines, which are questions"):
        read(tmp_path / "outlines.cbor", car(OUTLINES, [PAGE]))


def test_another_format_or_fields_are_refused_by_name(tmp_path: Path) -> None:
    content = car(PARAGRAPHS, [PARAGRAPH])
    for options in ({"format": "json"}, {"fields": {"id": "pid"}}):
        with pytest.raises(InputError, match="CBOR file of TREC CAR"):
            read(tmp_path / "p.cbor", content, **options)
    with pytest.raises(InputError, match="cannot be read as car"):
        read(tmp_path / "p.jsonl", b'{"id": "1", "text": "Text."}\n', format="car")


def test_a_memory_is_encoded_from_paragraphs(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    source = tmp_path / "paragraphs.cbor.xz"
    source.write_bytes(lzma.compress(car(PARAGRAPHS, [PARAGRAPH, [0, b"bad", 1], PLAIN])))
    model = str(tiny_model(tmp_path / "model", memory_layers=1, live_a=1, live_b=1, window=64))
    made = glimmer.encode(sources=source, memory=tmp_path / "m", model=model)
    assert (made.plan.articles, made.plan.passages) == (2, 2)
    assert made.plan.rejected == {"wrong_type": 1}


_PEAK = """
import resource, sys
from glimmer.pipelines.corpus import read_articles
assert sum(1 for _ in read_articles([sys.argv[1]])) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat_over_a_million_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "p.cbor"
    peaks = []
    for count in (1_000, 1_000_000):
        with path.open("wb") as out:
            out.write(cbor2.dumps(["CAR", [PARAGRAPHS], {}]) + b"\x9f")
            for number in range(count):
                out.write(cbor2.dumps([0, b"%032x" % number, [[0, "A paragraph of some words. " * 12], LINK]]))
            out.write(b"\xff")
        command = [sys.executable, "-c", _PEAK, str(path), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 20 * resource.getpagesize()  # KiB: 80 MiB
