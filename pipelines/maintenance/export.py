"""Export: a memory's live passages as JSON lines, for people and tools that want the text and not the codes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from ...progress import Progress, Quiet
from ...storage.memory import Memory
from ...storage.outputs import check_output, holds_already, writing
from ...storage.passage import Passage
from ...storage.stores import Place


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export wrote: `passages` of version `version` of a memory, to `output`.

    `nothing_to_do`: the file held them already, to the byte.
    """

    output: Path
    version: int
    passages: int
    nothing_to_do: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"output": str(self.output)}


def export(
    *,
    memory: Place,
    output: str | os.PathLike[str],
    version: int | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes every live passage of a version of a memory as a JSON line, in the order of the payload.

    Args:
        memory: the memory's directory.
        output: a file, which appears when it is complete and is left alone if it is complete already; "-" is standard
            output.
        version: which version; None is the newest.
        progress: called with the passages that were written.

    Raises:
        UsageError: there is no such memory or version, or `output` lies in the memory.
        StorageError: `output` cannot be written.
        DamageError: a passage's text is not what was stored.

    Examples:
        >>> glimmer.export(memory="wiki.memory", output="passages.jsonl").passages
        7
    """
    progress = progress or Quiet()
    opened = Memory.open(memory, version)
    check_output(output, "--output", {"the memory": opened.location})
    progress.stage("export", total=opened.passages, unit="passages")
    written = 0
    if holds_already(output, export_lines(opened)):
        progress.done()
        return ExportResult(output=Path(output), version=opened.version, passages=opened.passages, nothing_to_do=True)
    with writing(output) as out:
        for line in export_lines(opened):
            out.write(line)
            written += 1
            if written % 1024 == 0:
                progress.at(written)
    progress.done()
    return ExportResult(output=Path(output), version=opened.version, passages=written)


def export_lines(memory: Memory) -> Iterator[bytes]:
    """One JSON object and a newline for each live passage."""
    for _, passages in memory.scan_texts():
        for passage in passages:
            yield orjson.dumps(passage_record(passage), option=orjson.OPT_APPEND_NEWLINE)


def passage_record(passage: Passage) -> dict[str, str | int]:
    """A passage as JSON: ids, title, text and where in its article it stands."""
    return {
        "passage_id": passage.passage_id,
        "article_id": passage.article_id,
        "title": passage.title,
        "text": passage.text,
        "start_paragraph_id": passage.start_paragraph_id,
        "start_character": passage.start_character,
        "end_paragraph_id": passage.end_paragraph_id,
        "end_character": passage.end_character,
    }
