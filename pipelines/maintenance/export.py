"""Export: a memory's live passages as JSON lines, for people and tools that want the text and not the codes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import orjson

from ...progress import Progress, Quiet
from ...storage.memory import Memory
from ...storage.outputs import check_output, writing
from ...storage.passage import Passage


def export(*, memory: Memory, output: str | os.PathLike[str], progress: Progress | None = None) -> int:
    """Writes every live passage of a pinned memory to `output`, in the order of the payload; returns how many.

    A file appears when it is complete; `-` is standard output. Raises UsageError where `output` lies in the memory,
    StorageError where it cannot be written, DamageError for a passage whose text is not what was stored.
    """
    progress = progress or Quiet()
    check_output(output, "--output", {"the memory": memory.location})
    progress.stage("export", total=memory.passages, unit="passages")
    written = 0
    with writing(output) as out:
        for line in export_lines(memory):
            out.write(line)
            written += 1
            if written % 1024 == 0:
                progress.at(written)
    progress.done()
    return written


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
