"""TREC CAR's outlines as questions: a KILT file of queries, the qrels as their provenance.

A query is a page's name, or the name and the headings that lead to a section (`Page / History / Origins`); its id is
the one that qrels have: `enwiki:Page/History/Origins`. Paragraphs judged relevant become provenance, as articles of a
memory encoded from TREC CAR's paragraphs have the paragraphs' ids.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import InputError
from ..progress import Progress, Quiet
from ..storage.inputs import input_file, open_bytes, plain_file
from ..storage.outputs import check_output, writing
from .corpus.car_file import PARAGRAPHS, car_items
from .corpus.formats.car import page_sections
from .corpus.rejects import RecordError
from .corpus.source_file import SourceFile


@dataclass(frozen=True, kw_only=True)
class OutlinesResult:
    """What was written.

    Attributes:
        output: the KILT file.
        pages: outlines read.
        questions: queries written, of which `judged` have provenance.
        unmatched: topics of the qrels that no outline has.
    """

    output: str
    pages: int
    questions: int
    judged: int
    unmatched: int

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)


def outline_questions(
    *, outlines: str | Path, output: str | Path, qrels: str | Path | None = None, progress: Progress | None = None
) -> OutlinesResult:
    """Writes the queries of a TREC CAR file of outlines, or of pages, in KILT's format.

    Args:
        outlines: the CBOR file, plain or compressed.
        output: the file to write; `-` is standard output.
        qrels: TREC's `topic 0 paragraph relevance` a line; of the outlines only topics in it are written then: pages
            for `article.qrels`, sections for `toplevel.qrels` and `hierarchical.qrels`. Without it, every section, and
            every page that has none.
        progress: progress callback.

    Raises:
        InputError: a file that is no TREC CAR outline or no qrels, or is damaged; no query at all.
        StorageError: a file cannot be read or written.

    Examples:
        >>> made = glimmer.outline_questions(outlines="outlines.cbor", qrels="hierarchical.qrels", output="car.jsonl")
        >>> made.questions, made.judged
        (2, 2)
    """
    progress = progress or Quiet()
    check_output(output, "--output", {"the outlines": outlines, "the qrels": qrels})
    judged = None if qrels is None else _read_qrels(qrels)
    result = OutlinesResult(output=str(output), pages=0, questions=0, judged=0, unmatched=0)
    matched: set[str] = set()
    source = input_file(outlines)
    file = SourceFile(source.name, source.size, source.stamp, path=source.path, stream=source)
    progress.stage("read outlines", total=file.size, unit="bytes")
    with writing(output) as stream:
        for declared, number, item in car_items(file, lambda share: progress.at(int(share * file.size))):
            place = f"{file.name}:{number}"
            if declared == PARAGRAPHS:
                raise InputError("holds paragraphs, expected outlines or pages", where=file.name)
            try:
                queries = list(_queries(item, every=judged is None))
            except RecordError as error:
                raise InputError(f"no outline of a page: {error.detail}", where=place) from error
            result = replace(result, pages=result.pages + 1)
            for topic, text in queries:
                if judged is not None and (topic not in judged or topic in matched):
                    continue
                matched.add(topic)
                relevant = [] if judged is None else judged[topic]
                stream.write(_record(topic, text, relevant))
                result = replace(result, questions=result.questions + 1, judged=result.judged + bool(relevant))
        if not result.questions:
            what = "no outline" if not result.pages else "none of its pages and sections is a topic of the qrels"
            raise InputError(what, where=file.name, remedy="name the outlines and the qrels of the same benchmark")
    progress.done()
    return replace(result, unmatched=0 if judged is None else len(judged.keys() - matched))


def _queries(page: Any, *, every: bool) -> Iterator[tuple[str, str]]:
    """(topic, text) of a page and of each of its sections; `every`: of the page only if it has no sections."""
    name, topic, sections = page_sections(page)
    if not (every and sections):
        yield topic, name
    for headings, ids in sections:
        yield "/".join((topic, *ids)), " / ".join((name, *headings))


def _record(topic: str, text: str, relevant: Sequence[str]) -> bytes:
    record: dict[str, Any] = {"id": topic, "input": text}
    if relevant:
        record["output"] = [{"provenance": [{"wikipedia_id": paragraph} for paragraph in relevant]}]
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _read_qrels(path: str | Path) -> Mapping[str, list[str]]:
    """Topic -> ids of relevant paragraphs, in the file's order; topics without any are there."""
    relevant: dict[str, list[str]] = defaultdict(list)
    file = plain_file(path)
    with open_bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            if not (cells := line.split()):
                continue
            try:
                topic, _, paragraph, grade = (cell.decode() for cell in cells)
                found = relevant[topic]
                if int(grade) > 0:
                    found.append(paragraph)
            except ValueError as error:
                raise InputError(
                    "not qrels: expected a topic, 0, a paragraph's id and a whole number",
                    where=f"{file.name}:{number}",
                    remedy="name a file of TREC's qrels",
                ) from error
    return relevant
