"""All texts of a memory in the order of passage ids, which is scattered over the payload.

A small memory's text shards are all open at once. With more shards than a reader keeps open, nearly every passage would
open another one, so the texts are read in the payload's order, dealt out to files by their place in the order of ids,
and each file is sorted in memory: a distribution sort in two passes, with about as much scratch space as the texts take
compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ... import DamageError, StorageError
from ...progress import Progress
from ...storage.files import translated
from ...storage.memory import Memory
from ...storage.segment_reader import OPEN_TEXT_SHARDS
from ...storage.stores.local_directories import new_beside
from ...storage.temporary import remove

Texts = Iterator[list[tuple[str, str, str]]]
"""Lists of (passage id, title, text)."""

_AT_ONCE: Final = 4096
_MOST_FILES: Final = 200  # open at once
_FILE_PASSAGES: Final = 1 << 16  # of a file at least; one file's texts are in memory
_HEAD: Final = struct.Struct("<QII")  # position, bytes of title, bytes of text


@contextmanager
def texts_by_id(memory: Memory, scratch_beside: Path, progress: Progress) -> Iterator[Texts]:
    """Gives (passage id, title, text) of all passages in ascending order of ids, in lists.

    Args:
        memory: the memory.
        scratch_beside: where the index is to be; scratch files are in a directory beside it, gone when the block ends.
        progress: progress callback for the first pass, where there are two.

    Raises DamageError as `Memory.texts` does, StorageError where scratch files cannot be written.
    """
    if sum(reader.shape.shards for reader in memory.readers) <= OPEN_TEXT_SHARDS:
        yield _directly(memory)
        return
    with ExitStack() as stack:
        with _refused(scratch_beside):
            scratch = stack.enter_context(new_beside(scratch_beside))
        progress.stage("sort texts", total=memory.passages, unit="passages")
        passages = _deal_out(memory, scratch, progress)
        progress.done()
        yield _sorted(memory, scratch, passages)


def _directly(memory: Memory) -> Texts:
    for start in range(0, memory.passages, _AT_ONCE):
        positions = np.arange(start, min(start + _AT_ONCE, memory.passages))
        yield [(passage.passage_id, passage.title, passage.text) for passage in memory.texts(positions)]


def _deal_out(memory: Memory, scratch: Path, progress: Progress) -> int:
    """Writes each text to the file of its positions; returns how many positions a file has."""
    size = max(_FILE_PASSAGES, -(-memory.passages // _MOST_FILES))
    done = 0
    with ExitStack() as stack:
        with _refused(scratch):
            files = [
                stack.enter_context(pa.output_stream(str(scratch / str(number)), compression="zstd"))
                for number in range(-(-memory.passages // size))
            ]
        for positions, passages in memory.scan_texts(_AT_ONCE):
            parts: dict[int, list[bytes]] = {}
            for position, passage in zip(positions.tolist(), passages, strict=True):
                title, text = passage.title.encode(), passage.text.encode()
                head = _HEAD.pack(position, len(title), len(text))
                parts.setdefault(position // size, []).extend((head, title, text))
            with _refused(scratch):
                for number, written in parts.items():
                    files[number].write(b"".join(written))
            done += len(passages)
            progress.at(done)
        with _refused(scratch):
            stack.close()
    return size


def _sorted(memory: Memory, scratch: Path, size: int) -> Texts:
    for number, start in enumerate(range(0, memory.passages, size)):
        path = scratch / str(number)
        with _refused(path), pa.input_stream(str(path), compression="zstd") as file:
            content = file.read()
        remove(path)
        texts: list[Any] = [None] * min(size, memory.passages - start)
        at = 0
        while at < len(content):
            position, title, text = _HEAD.unpack_from(content, at)
            at += _HEAD.size
            texts[position - start] = (
                content[at : at + title].decode(),
                content[at + title : at + title + text].decode(),
            )
            at += title + text
        if None in texts:
            raise DamageError("the id map gives some passage twice", where=memory.location)
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            ids = memory.ids(start + first + np.arange(len(some)))
            yield [(name, *text) for name, text in zip(ids, some, strict=True)]


def _refused(path: Path) -> Any:
    """Turns what the file system raises into StorageError."""
    return translated(path, lambda text: StorageError(text, where=path))
