"""What format a file has, told from its content, never from its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ... import InputError
from .fields import FieldNames
from .formats import SourceFormat, source_formats
from .formats.tsv import is_header
from .record_layout import Layout
from .sample import Sample, take_sample
from .source_file import SourceFile

_MOST_SHOWN: Final = 12


def recognise(file: SourceFile, names: FieldNames, format: str | None = None) -> tuple[SourceFormat, Layout]:
    """The format of a file and how it is read; `format` is the user's word for it.

    Raises EmptyFileError for a file with nothing in it, InputError where no format fits, naming what was found.
    """
    sample = take_sample(file, _wanted(names))
    if format is not None:
        known = source_formats()[format]
        layout = known.sniff(sample, names, forced=True)
        if layout is None:
            raise InputError(f"{file.name}: cannot be read as {format}: {_found(sample, names)}")
        return known, layout
    for known in source_formats().values():
        layout = known.sniff(sample, names)
        if layout is not None:
            return known, layout
    if sample.lines and sample.lines[0].lstrip().startswith(b"["):
        raise InputError(f"{file.name}: a JSON list; write one object a line (jq -c '.[]' does)")
    raise InputError(f"{file.name}: not recognised as a corpus: {_found(sample, names)}")


def _wanted(names: FieldNames) -> Callable[[str], bool]:
    known = {name.lower() for name in (*names.ids, *names.titles, *names.texts)}
    chosen = {name for _, name in names.chosen}
    return lambda column: column in chosen or column.lower() in known


def _found(sample: Sample, names: FieldNames) -> str:
    """What a file holds instead, and what to do about it."""
    if sample.container == "car":
        return "it is a CBOR file of TREC CAR, whose fields have no names; leave --format and --field out"
    first = sample.lines[0].decode("utf-8", "replace") if sample.lines else ""
    if sample.container != "text":
        present, what = list(sample.columns), "its columns are"
    elif sample.records:
        present, what = list(sample.records[0]), "its records have the fields"
    elif "\t" in first:
        present = first.split("\t")
        what = f"its first line has {len(present)} tab-separated columns:"
    elif "," in first and is_header([cell.strip().lower() for cell in first.split(",")]):
        return "a comma-separated table; write it with tabs between the columns"
    else:
        return f"its first {len(sample.lines)} line(s) are neither records nor a table; name its format with --format"
    shown = ", ".join(_short(name) for name in present[:_MOST_SHOWN]) + (" …" if len(present) > _MOST_SHOWN else "")
    for role, name in names.chosen:
        if name not in present:
            return f"{what} {shown}, and none of them is {name} (--field {role}={name})"
    used = names.fitted(present).found(present)
    missing = " and ".join(f"an article's {role}" for role in ("id", "text") if role not in used)
    if not missing:
        return f"{what} {shown}; leave --format out"
    return f"{what} {shown}; none is known to hold {missing}: name them with --field id=… --field text=…"


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:40] + "…"
