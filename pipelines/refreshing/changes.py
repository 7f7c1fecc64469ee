"""What changes between two versions of a memory: kept in a refresh's ledger and put into effect by its commit.

Rows are known by their row numbers. One bit a row says which die; a row whose passage only moved (same text, other
paragraph ids or characters) is listed with its new place. So a refresh of 22 million passages holds a few dozen
megabytes and what changed, whatever the size of the corpus, and a commit reads and rewrites the catalog file by file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ... import DamageError
from ...storage.catalog_files import CATALOG_SCHEMA, MAX_FILE_ROWS, read_catalog_file
from ...storage.files import damage, sha256_bytes, translated
from ...storage.manifest import CatalogFile
from ...storage.memory import Memory
from ...storage.stores import Store
from .row_numbers import Mask, RowNumbers

PROVENANCE: Final = ("start_paragraph_id", "start_character", "end_paragraph_id", "end_character")


@dataclass(frozen=True)
class Changes:
    """What a version loses and what moves in it.

    Attributes:
        dead: bool [rows of all segments]: live rows that are to go.
        moved: int64 [m], ascending: rows whose passage stands elsewhere in its article now.
        places: int32 [m, 4]: where it stands, in the order of PROVENANCE.
    """

    dead: Mask
    moved: npt.NDArray[np.int64]
    places: npt.NDArray[np.int32]

    @property
    def removed(self) -> int:
        """Number of passages that go."""
        return int(np.count_nonzero(self.dead))

    def save(self, store: Store, key: str) -> str:
        """Writes the changes to `key`, whole or not at all; returns the file's SHA-256."""
        content: bytes = save_tensors(
            {
                "dead": np.packbits(self.dead),
                "rows": np.array([len(self.dead)], np.int64),
                "moved": self.moved,
                "places": np.ascontiguousarray(self.places),
            }
        )
        store.put(key, content)
        return sha256_bytes(content)

    @classmethod
    def load(cls, store: Store, key: str, sha256: str) -> Changes:
        """The changes saved at `key`, whose SHA-256 must be `sha256`; raises DamageError."""
        path = store.name(key)
        remedy = f"delete {path.rpartition('/')[0]} and run the command again"
        with translated(path, damage(path, remedy)):
            content = store.read(key)
            if sha256_bytes(content) != sha256:
                raise DamageError(f"{path}: not what the plan wrote; {remedy}")
            held = load_tensors(content)
            dead = np.unpackbits(held["dead"], count=int(held["rows"][0])).astype(np.bool_)
        return cls(dead, held["moved"], held["places"])


def files_to_replace(memory: Memory, changes: Changes, added: int) -> list[CatalogFile]:
    """The catalog files that hold a dead or a moved row, and small ones that are merged with what is written anyway.

    A file joins while all that is written stays within one file and it adds no more than is written already. So a
    memory refreshed every day keeps a few files, and rows are rewritten a logarithmic number of times.
    """
    touched = changes.dead.copy()
    touched[changes.moved] = True
    numbers = RowNumbers(memory)
    replaced, others = [], []
    written = added - changes.removed
    for file in memory.manifest.files:
        batches = read_catalog_file(memory.store, file, ("segment", "row")) if touched.any() else ()
        if any(touched[numbers.of_batch(batch)].any() for batch in batches):
            replaced.append(file)
            written += file.rows
        else:
            others.append(file)
    for file in sorted(others, key=lambda file: file.rows):
        if file.rows > written or written + file.rows > MAX_FILE_ROWS:
            break
        replaced.append(file)
        written += file.rows
    return sorted(replaced, key=lambda file: file.name)


def surviving_rows(memory: Memory, changes: Changes, files: Sequence[CatalogFile]) -> Iterator[pa.Table]:
    """The live rows of `files` that stay, batch by batch, moved ones with their new place."""
    numbers = RowNumbers(memory)
    elsewhere = np.zeros(len(changes.dead), np.bool_)
    elsewhere[changes.moved] = True
    for file in files:
        for batch in read_catalog_file(memory.store, file):
            rows = numbers.of_batch(batch)
            if elsewhere[rows].any():
                batch = _moved(batch, rows, elsewhere[rows], changes)
            stays = ~changes.dead[rows]
            yield pa.Table.from_batches([batch if stays.all() else batch.filter(pa.array(stays))])


def _moved(batch: pa.RecordBatch, rows: npt.NDArray[np.int64], which: Mask, changes: Changes) -> pa.RecordBatch:
    places = changes.places[np.searchsorted(changes.moved, rows[which])]
    columns: list[Any] = list(batch.columns)
    for number, name in enumerate(PROVENANCE):
        values = batch.column(name).to_numpy(zero_copy_only=False).copy()
        values[which] = places[:, number]
        columns[CATALOG_SCHEMA.get_field_index(name)] = pa.array(values, pa.int32())
    return pa.RecordBatch.from_arrays(columns, schema=CATALOG_SCHEMA)
