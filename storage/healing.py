"""Putting damaged files back exactly: only bytes with the recorded SHA-256 ever replace what is there.

Small files (memory.json, log entries, digests) have no second copy to restore them from, but a known SHA-256 is enough
to undo the damage that disks and memory do most: one flipped bit. There are only so many bits to try.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import DamageError, StorageError
from .catalog import Catalog
from .files import (
    TEMPORARY_PREFIX,
    make_directories,
    read_regular,
    sha256_bytes,
    sha256_file,
    storage_error,
    sync_directory,
    translated,
    write_atomic,
)
from .identity import IDENTITY, Identity
from .memory import TABLES
from .removal import remove_tree
from .segment_layout import (
    CODES,
    DIGESTS,
    LENGTHS,
    SEGMENTS,
    SegmentShape,
    ShardRecord,
    codes_metadata,
    codes_name,
    lengths_metadata,
    lengths_name,
    text_name,
)
from .segment_reader import SegmentReader
from .segment_writer import digest_file, open_array
from .text_shards import TextShard

_LARGEST = 1 << 30
MOST_BYTES = 1 << 16
"""Larger files are not searched: the time grows with the square of the size, 15 s at 64 KiB."""


def unflipped(content: bytes, sha256: str) -> bytes | None:
    """`content` with the one bit turned that gives it the SHA-256 `sha256`; None if there is no such bit."""
    if len(content) > MOST_BYTES:
        return None
    prefix = hashlib.sha256()
    tail = memoryview(content)
    for at, byte in enumerate(content):
        rest = tail[at + 1 :]
        for bit in range(8):
            attempt = prefix.copy()
            changed = bytes([byte ^ (1 << bit)])
            attempt.update(changed)
            attempt.update(rest)
            if attempt.hexdigest() == sha256:
                return content[:at] + changed + content[at + 1 :]
        prefix.update(tail[at : at + 1])
    return None


def heal_file(path: Path, sha256: str) -> bool:
    """Turns a flipped bit in the file at `path` back; whether it now has the SHA-256 `sha256`. Raises StorageError."""
    try:
        content = read_regular(path, most=_LARGEST)
    except (FileNotFoundError, DamageError):
        return False
    except OSError as error:
        raise storage_error(path, error) or DamageError(f"{path}: cannot be read") from error
    if sha256_bytes(content) == sha256:
        return True
    healed = unflipped(content, sha256)
    if healed is None:
        return False
    write_atomic(path, healed)
    return True


def _digest(path: Path) -> str | None:
    """SHA-256 of a plain file; None when it is absent or no plain file."""
    try:
        return sha256_file(path)[0]
    except (FileNotFoundError, DamageError):
        return None


def heal_log(catalog: Catalog, latest: int) -> list[Path]:
    """Heals what it can of the log's entries before the newest, each by the digest in the next; returns those healed.

    The newest entry's digest is recorded nowhere yet, so it cannot be healed.
    """
    healed = []
    for version in range(latest - 1, -1, -1):
        path = catalog.log_path(version)
        try:
            wanted = catalog.read_manifest(version + 1).previous_sha256
        except DamageError:
            continue
        if _digest(path) != wanted and heal_file(path, wanted):
            healed.append(path)
    return healed


def heal_identity(memory: Path, sha256: str) -> list[Path]:
    """Heals memory.json, whose SHA-256 every manifest records, and then the codec's tables; returns those healed."""
    healed = []
    path = memory / IDENTITY
    if not path.exists() or (_digest(path) != sha256 and not heal_file(path, sha256)):
        return []
    identity = Identity.parse(read_regular(path, most=_LARGEST), path)
    healed.append(path)
    tables = memory / TABLES
    if identity.tables_sha256 and tables.exists() and heal_file(tables, identity.tables_sha256):
        healed.append(tables)
    return healed


def heal_digests(reader: SegmentReader, digests_sha256: str) -> bool:
    """Restores a segment's `digests.arrow`, from its own bytes or from shards that are all whole."""
    path = reader.directory / DIGESTS
    if heal_file(path, digests_sha256):
        return True
    try:
        content = digest_file([_record_of(reader, shard) for shard in range(reader.shape.shards)])
    except (DamageError, OSError):
        return False
    if sha256_bytes(content) != digests_sha256:
        return False
    write_atomic(path, content)
    return True


def _record_of(reader: SegmentReader, shard: int) -> ShardRecord:
    codes, lengths, text = (
        sha256_file(reader.directory / name) for name in (codes_name(shard), lengths_name(shard), text_name(shard))
    )
    rows = reader.shape.shard_rows(shard)
    return ShardRecord(
        shard=shard,
        rows=rows,
        tokens=int(TextShard(reader.directory / text_name(shard)).lengths().sum(dtype=np.int64)),
        codes_sha256=codes[0],
        codes_bytes=codes[1],
        lengths_sha256=lengths[0],
        lengths_bytes=lengths[1],
        text_sha256=text[0],
        text_bytes=text[1],
    )


class Scratch:
    """A directory inside `segments/` to make shards in before they are put back; gone when the block ends."""

    def __init__(self, directory: Path, shape: SegmentShape) -> None:
        self.directory, self._shape = directory, shape

    def path(self, name: str) -> Path:
        """Where a file of the segment stands here, its folder made."""
        path = self.directory / name
        make_directories(path.parent)
        return path

    def write_codes(self, shard: int, codes: npt.NDArray[np.uint8]) -> None:
        """codes: uint8 [rows of the shard, window, code_bytes], zero beyond each length."""
        self.path(codes_name(shard))
        self._write(CODES, codes_metadata(self._shape), shard, codes)

    def write_lengths(self, shard: int, lengths: npt.NDArray[np.int32]) -> None:
        """lengths: int32 [rows of the shard]."""
        self.path(lengths_name(shard))
        self._write(LENGTHS, lengths_metadata(self._shape), shard, lengths)

    def _write(self, folder: str, metadata: dict[str, Any], shard: int, values: npt.NDArray[Any]) -> None:
        import tensorstore as ts

        start = shard * metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        array = open_array(self.directory / folder, metadata, context)
        with (
            translated(self.directory, lambda text: StorageError(f"{self.directory}: {text}")),
            ts.Transaction() as transaction,
        ):
            array.with_transaction(transaction)[start : start + len(values)].write(values).result()

    def put_back(self, name: str, target: Path, sha256: str) -> bool:
        """Moves the file `name` to `target` if it has the SHA-256 `sha256`; whether it had."""
        made = self.directory / name
        if sha256_file(made)[0] != sha256:
            return False
        with translated(target, lambda text: StorageError(f"{target}: {text}")):
            make_directories(target.parent)
            os.replace(made, target)
            sync_directory(target.parent)
        return True


@contextmanager
def scratch(memory: Path, shape: SegmentShape) -> Iterator[Scratch]:
    """A scratch directory for shards of a segment of `shape`; a crash leaves a temporary name for vacuum."""
    directory = memory / SEGMENTS / f"{TEMPORARY_PREFIX}repair-{secrets.token_hex(4)}"
    make_directories(directory)
    try:
        yield Scratch(directory, shape)
    finally:
        with suppress(StorageError):  # a vacuum finds what stays behind
            remove_tree(directory, within=memory)
