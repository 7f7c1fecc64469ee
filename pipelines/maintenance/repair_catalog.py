"""Damaged catalog files, written again: the id map has all that they say, but for what stands in the text shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from ... import DamageError, GlimmerError
from ...progress import Progress
from ...storage.catalog_files import CATALOG_SCHEMA, catalog_files, passage_rows, read_catalog_file
from ...storage.healing import heal_file
from ...storage.manifest import CatalogFile
from ...storage.memory import Memory
from ...storage.passage import SHARD_ROWS
from ...storage.vacuumed import PASSAGES
from ...storage.verify import CATALOG_KIND, Damage
from ..jobs import Job
from .repair_report import RepairResult


def repair_catalog_files(memory: Memory, damages: Iterable[Damage], result: RepairResult, progress: Progress) -> None:
    """Restores the catalog files that `damages` lists, as far as it can, and notes in `result` how.

    A single file comes back with the bytes it had, if this build of Parquet makes them; otherwise the rows are written
    anew in a new version. Without an id map, or with texts that cannot be read, a single flipped bit is looked for.
    """
    damaged = {damage.path.split("/")[-1] for damage in damages if damage.kind == CATALOG_KIND}
    files = [file for file in memory.manifest.files if file.name in damaged]
    try:
        rows = _missing_rows(memory, files)
    except GlimmerError:
        for file in files:
            if heal_file(memory.store, f"{PASSAGES}/{file.name}", file.sha256):
                result.note(f"{PASSAGES}/{file.name}", "flipped bit turned back")
        return
    if len(files) == 1 and _put_back(memory, files[0], rows):
        result.note(f"{PASSAGES}/{files[0].name}", "written again from id map and texts")
    elif memory.version == memory.catalog.latest_version():
        names = [file.name for file in files]
        depends_on = {"base": memory.version, "content": memory.manifest.content_sha256, "files": names}
        job = Job(memory.store, "repair", depends_on, base=memory.version, progress=progress)
        manifest = job.run(
            lambda: job.commit(
                add=rows, remove=names, rows_added=0, rows_removed=0, details={"catalog": sorted(damaged)}
            )
        )
        result.new_version = manifest.version
        for name in names:
            result.note(f"{PASSAGES}/{name}", f"rows written again in version {manifest.version}")


def _missing_rows(memory: Memory, files: Sequence[CatalogFile]) -> list[pa.Table]:
    """The rows of `files`: those passages of the id map that no other catalog file lists."""
    names = {file.name for file in files}
    missing = np.ones(memory.passages, np.bool_)
    for file in memory.manifest.files:
        if file.name not in names:
            for batch in read_catalog_file(memory.store, file, ["passage_id"]):
                missing[memory.locate(batch.column("passage_id").to_pylist())] = False
    positions = np.flatnonzero(missing)
    segment, row = memory.rows(positions)
    order = np.lexsort((row, segment))
    positions, segment, row = positions[order], segment[order], row[order]
    tables = []
    for start in range(0, len(positions), SHARD_ROWS):
        part = slice(start, start + SHARD_ROWS)
        table = passage_rows(memory.texts(positions[part]), "", 0)
        names_ = [memory.readers[number].segment for number in segment[part].tolist()]
        tables.append(placed(table, names_, row[part].tolist()))
    if sum(table.num_rows for table in tables) != sum(file.rows for file in files):
        raise DamageError(f"{memory.catalog.name}: the id map does not have the rows of the damaged files")
    return tables


def _put_back(memory: Memory, file: CatalogFile, rows: Iterable[pa.Table]) -> bool:
    """Puts the file back if writing `rows` again gives the recorded SHA-256; whether it did."""
    [(made, content)] = list(catalog_files(rows, max_rows=file.rows))
    if made.sha256 != file.sha256:
        return False
    memory.store.put(f"{PASSAGES}/{file.name}", content)
    return True


def placed(table: pa.Table, segments: list[str], rows: list[int]) -> pa.Table:
    """Catalog rows with `segments` and `rows` as the places of their passages."""
    table = table.set_column(
        CATALOG_SCHEMA.get_field_index("segment"), CATALOG_SCHEMA.field("segment"), pa.array(segments, pa.string())
    )
    return table.set_column(
        CATALOG_SCHEMA.get_field_index("row"), CATALOG_SCHEMA.field("row"), pa.array(rows, pa.int32())
    )
