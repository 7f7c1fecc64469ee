"""Putting damaged files back exactly: only bytes with the recorded SHA-256 ever replace what is there.

Small files (memory.json, log entries, digests) have no second copy to restore them from, but a known SHA-256 is enough
to undo the damage that disks and memory do most: one flipped bit. There are only so many bits to try.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import DamageError
from .catalog import Catalog
from .files import sha256_bytes, storage_error
from .identity import IDENTITY, Identity
from .memory import TABLES
from .segment_layout import (
    CODES,
    DIGESTS,
    LENGTHS,
    ShardRecord,
    codes_metadata,
    codes_name,
    lengths_metadata,
    lengths_name,
    text_name,
)
from .segment_reader import SegmentReader
from .segment_writer import UNCACHED, digest_file, open_array
from .stores import InMemoryStore, Store

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


def heal_file(store: Store, key: str, sha256: str) -> bool:
    """Turns a flipped bit in the file at `key` back; whether it now has the SHA-256 `sha256`. Raises StorageError."""
    path = store.name(key)
    try:
        content = store.read(key, most=_LARGEST)
    except (FileNotFoundError, DamageError):
        return False
    except OSError as error:
        raise storage_error(path, error) or DamageError("cannot be read", where=path) from error
    if sha256_bytes(content) == sha256:
        return True
    healed = unflipped(content, sha256)
    if healed is None:
        return False
    store.put(key, healed)
    return True


def _digest(store: Store, key: str) -> str | None:
    """SHA-256 of a plain file; None when it is absent or no plain file."""
    try:
        return store.sha256(key)[0]
    except (FileNotFoundError, DamageError):
        return None


def heal_log(catalog: Catalog, latest: int) -> list[str]:
    """Heals what it can of the log's entries before the newest, each by the digest in the next; returns their keys.

    The newest entry's digest is recorded nowhere yet, so it cannot be healed.
    """
    healed = []
    for version in range(latest - 1, -1, -1):
        key = catalog.log.key(version)
        try:
            wanted = catalog.read_manifest(version + 1).previous_sha256
        except DamageError:
            continue
        if _digest(catalog.store, key) != wanted and heal_file(catalog.store, key, wanted):
            healed.append(key)
    return healed


def heal_identity(store: Store, sha256: str) -> list[str]:
    """Heals memory.json, whose SHA-256 every manifest records, and then the codec's tables; returns their keys."""
    if not store.exists(IDENTITY) or (_digest(store, IDENTITY) != sha256 and not heal_file(store, IDENTITY, sha256)):
        return []
    identity = Identity.parse(store.read(IDENTITY, most=_LARGEST), store.name(IDENTITY))
    healed = [IDENTITY]
    if identity.tables_sha256 and store.exists(TABLES) and heal_file(store, TABLES, identity.tables_sha256):
        healed.append(TABLES)
    return healed


def heal_digests(reader: SegmentReader, digests_sha256: str) -> bool:
    """Restores a segment's `digests.arrow`, from its own bytes or from shards that are all whole."""
    key = f"{reader.key}/{DIGESTS}"
    if heal_file(reader.store, key, digests_sha256):
        return True
    try:
        content = digest_file([_record_of(reader, shard) for shard in range(reader.shape.shards)])
    except (DamageError, OSError):
        return False
    if sha256_bytes(content) != digests_sha256:
        return False
    reader.store.put(key, content)
    return True


def _record_of(reader: SegmentReader, shard: int) -> ShardRecord:
    codes, lengths, text = (
        reader.store.sha256(f"{reader.key}/{name}")
        for name in (codes_name(shard), lengths_name(shard), text_name(shard))
    )
    rows = reader.shape.shard_rows(shard)
    return ShardRecord(
        shard=shard,
        rows=rows,
        tokens=int(reader.open_text(shard).lengths().sum(dtype=np.int64)),
        codes_sha256=codes[0],
        codes_bytes=codes[1],
        lengths_sha256=lengths[0],
        lengths_bytes=lengths[1],
        text_sha256=text[0],
        text_bytes=text[1],
    )


class RemadeShard:
    """The files of one shard of `reader`, made anew beside the memory and put back where they are what was recorded."""

    def __init__(self, reader: SegmentReader, shard: int) -> None:
        self._reader, self._shard = reader, shard

    def put_back_codes(self, codes: npt.NDArray[np.uint8], sha256: str) -> bool:
        """codes: uint8 [rows of the shard, window, code_bytes], zero beyond each length; whether they were put back."""
        content = self._encoded(CODES, codes_name(self._shard), codes_metadata(self._reader.shape), codes)
        return self.put_back(codes_name(self._shard), content, sha256)

    def put_back_lengths(self, lengths: npt.NDArray[np.int32], sha256: str) -> bool:
        """lengths: int32 [rows of the shard]; whether they were put back."""
        content = self._encoded(LENGTHS, lengths_name(self._shard), lengths_metadata(self._reader.shape), lengths)
        return self.put_back(lengths_name(self._shard), content, sha256)

    def put_back(self, name: str, content: bytes, sha256: str) -> bool:
        """Makes `content` the segment's file `name` if it has the SHA-256 `sha256`; whether it had."""
        if sha256_bytes(content) != sha256:
            return False
        self._reader.store.put(f"{self._reader.key}/{name}", content)
        return True

    def _encoded(self, folder: str, name: str, metadata: dict[str, Any], values: npt.NDArray[Any]) -> bytes:
        """The bytes of a Zarr shard with `values`, as a job would write them."""
        import tensorstore as ts

        apart = InMemoryStore(f"memory://shard-{secrets.token_hex(8)}")
        try:
            start = self._shard * metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
            array = open_array(apart, folder, metadata, UNCACHED)
            with ts.Transaction() as transaction:
                array.with_transaction(transaction)[start : start + len(values)].write(values).result()
            return apart.read(name)
        finally:
            apart.forget()
