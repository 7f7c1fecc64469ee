"""Export: a memory's live passages as JSON lines, for people and tools that want the text and not the codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from .. import StorageError
from ..storage.memory import Memory
from ..storage.passage import Passage
from .progress import Progress, Quiet


def export(*, memory: Memory, output: str | Path, progress: Progress | None = None) -> int:
    """Writes every live passage of a pinned memory to `output`, in the order of the payload; returns how many.

    The file appears when it is complete. Raises StorageError where it cannot be written, DamageError for a passage
    whose text is not what was stored.
    """
    progress = progress or Quiet()
    path = Path(output)
    temporary = path.with_name(path.name + ".tmp")
    progress.stage("export", total=memory.passages, unit="passages")
    written = 0
    try:
        with temporary.open("wb") as out:
            for line in export_lines(memory):
                out.write(line)
                written += 1
                if written % 1024 == 0:
                    progress.at(written)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; choose another --output") from error
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
