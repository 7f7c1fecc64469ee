"""Tab-separated passages cut by others: DPR's `psgs_w100.tsv` (id, text, title) and MS MARCO's collection (pid,
text).

Each row is one passage already and becomes an article of its own that is not cut again unless it overflows the
encoder's window. DPR's file was written by a CSV writer, so a field in double quotes is unquoted; MS MARCO's is
plain.
"""

from __future__ import annotations

from collections.abc import Iterator

from .article import Article, Lines, Record, clean_id, clean_title, decode, need_text, read_records
from .rejects import RecordError

DPR_COLUMNS = ("id", "text", "title")


def read_dpr(lines: Lines, name: str) -> Iterator[Record]:
    """Passages of a DPR file, in file order. A header line may give the columns in another order."""
    columns: dict[str, int] | None = None

    def parse(line: bytes, place: str) -> Article:
        fields = decode(line).split("\t")
        order = columns or dict(zip(DPR_COLUMNS, range(3), strict=True))
        if len(fields) != 3:
            raise RecordError(
                "wrong_columns", f"expected 3 tab-separated columns (id, text, title), found {len(fields)}"
            )
        article_id, text, title = (_unquote(fields[order[c]]) for c in DPR_COLUMNS)
        return Article(clean_id(article_id), clean_title(title), need_text([text]), place, whole=True)

    def body() -> Iterator[tuple[int, bytes]]:
        nonlocal columns
        for number, line in lines:
            if number == 1 and (header := dpr_header(line)):
                columns = header
            else:
                yield number, line

    def identify(line: bytes) -> str:
        fields = line.split(b"\t")
        at = (columns or {}).get("id", 0)
        return _known_id(fields[at]) if at < len(fields) else ""

    return read_records(body(), name, parse, identify)


def dpr_header(line: bytes) -> dict[str, int] | None:
    """Column positions when `line` is a header naming id, text and title; None when it is data."""
    names = [_unquote(f).strip().lower() for f in line.decode("utf-8", "replace").split("\t")]
    return {n: names.index(n) for n in DPR_COLUMNS} if sorted(names) == sorted(DPR_COLUMNS) else None


def read_msmarco(lines: Lines, name: str) -> Iterator[Record]:
    """Passages of an MS MARCO collection, in file order; they have no title."""
    return read_records(lines, name, _parse_msmarco, lambda line: _known_id(line.partition(b"\t")[0]))


def _parse_msmarco(line: bytes, place: str) -> Article:
    article_id, tab, text = decode(line).partition("\t")
    if not tab:
        raise RecordError("wrong_columns", "expected 2 tab-separated columns (pid, text), found 1")
    return Article(clean_id(article_id, "pid"), "", need_text([text]), place, whole=True)


def _known_id(field: bytes) -> str:
    """The id of a row that was refused, "" where it cannot be told."""
    try:
        return clean_id(_unquote(decode(field)))
    except RecordError:
        return ""


def _unquote(value: str) -> str:
    """Undo CSV quoting where a field is quoted properly; a text that merely begins with a quotation mark is kept."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        inner = value[1:-1]
        if '"' not in inner:
            return inner
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return value
