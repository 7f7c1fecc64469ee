"""A refresh of 22 million passages, without the encoder: finding what changed, and the commit. Time and peak memory.

Builds a memory whose catalog has 22 million made-up rows (four passages an article, segments that are only named), then
goes through the same calls as `glimmer refresh` does when 1 % of the passages, anywhere, are replaced: each id of the
new corpus is looked up and compared, what is missing becomes removals, the catalog files are rewritten and committed
with a new id map. Afterwards `glimmer diff` compares both versions. Each part runs in a process of its own, whose peak
resident memory (mapped files included) is printed. What is not in it is reading, cutting and hashing the corpus.

    python benchmarks/catalog_22m.py [--rows 22000000] [--directory DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glimmer.pipelines.corpus import Article
from glimmer.pipelines.corpus.passages import PassageDraft
from glimmer.pipelines.maintenance.diff import compare
from glimmer.pipelines.refreshing.articles import count_articles
from glimmer.pipelines.refreshing.changes import files_to_replace, surviving_rows
from glimmer.pipelines.refreshing.comparison import Comparison
from glimmer.pipelines.refreshing.range_comparison import ComparesRanges
from glimmer.storage.identity import EncoderIdentity, Identity, PassageSettings
from glimmer.storage.memory import Memory, commit
from glimmer.storage.segment_writer import SealedSegment

BLOCK = 1 << 19
BATCH = 1024
SEGMENTS = 4
IDENTITY = Identity(
    encoder=EncoderIdentity(
        name="none", source="none", fingerprint="0" * 64, family="t5", d_model=8, memory_layers=1, precision="bfloat16"
    ),
    passages=PassageSettings(words=100, template="{title} {text}", window=256),
    codec={"name": "int8", "width": 8},
    shapes=((32, 256),),
    created="2024-01-01T00:00:00Z",
)


def words(block: int, rows: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, 16]: the passage ids of a block of the first corpus."""
    return np.random.default_rng(block).integers(0, 256, (rows, 16), np.uint8)


def replaced(block: int, rows: int) -> npt.NDArray[np.bool_]:
    """bool [rows]: passages of a block that the second corpus has not any more; it has others in their place."""
    found: npt.NDArray[np.bool_] = np.random.default_rng(10_000 + block).random(rows) < 0.01
    return found


def texts(ids: npt.NDArray[np.uint8]) -> pa.Array:
    data = ids.tobytes().hex().encode()
    offsets = np.arange(0, len(data) + 1, 2 * ids.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(data))


def catalog(ids: npt.NDArray[np.uint8], first: int, segment: list[str], row: npt.NDArray[np.int64]) -> pa.Table:
    """Catalog rows for passages numbered from `first`: four to an article, a paragraph each."""
    number = np.arange(first, first + len(ids))
    paragraph = pa.array(number % 4 + 1, pa.int32())
    return pa.table(
        {
            "passage_id": texts(ids),
            "segment": pa.array(segment),
            "row": pa.array(row, pa.int32()),
            "n_tokens": pa.array(100 + number % 100, pa.int32()),
            "article_id": pa.array(number // 4).cast(pa.string()),
            "start_paragraph_id": paragraph,
            "start_character": pa.array(np.zeros(len(ids)), pa.int32()),
            "end_paragraph_id": paragraph,
            "end_character": pa.array(500 + number % 100, pa.int32()),
            "content_hash": texts(ids[:, :8]),
        }
    )


def sealed(name: str, rows: int) -> SealedSegment:
    return SealedSegment(
        segment=name, rows=rows, tokens=150 * rows, bytes=rows, digests_sha256=hashlib.sha256(name.encode()).hexdigest()
    )


def blocks(rows: int) -> Iterator[tuple[int, int, int]]:
    """(block, first row, rows of it)"""
    for first in range(0, rows, BLOCK):
        yield first // BLOCK, first, min(BLOCK, rows - first)


def build(memory: Path, rows: int) -> None:
    each = -(-rows // SEGMENTS)

    def tables() -> Iterator[pa.Table]:
        for block, first, count in blocks(rows):
            number = np.arange(first, first + count)
            names = [f"segment-{n}" for n in (number // each).tolist()]
            yield catalog(words(block, count), first, names, number % each)

    Memory.create(memory, IDENTITY)
    segments = [sealed(f"segment-{n}", min(each, rows - n * each)) for n in range(SEGMENTS)]
    commit(memory, base=0, job="build", operation="encode", add=tables(), segments=segments)


def refresh(memory: Path, rows: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()

    def lap(what: str) -> None:
        nonlocal wall, cpu
        then, used = time.perf_counter(), time.process_time()
        print(f"  {what:<52}{then - wall:>8.1f} s{used - cpu:>8.1f} s of processor", flush=True)
        wall, cpu = then, used

    base = Memory.open(memory, check=False)
    found = ComparesRanges.of(base, partial=False)()
    comparison = Comparison(base)
    fresh: list[npt.NDArray[np.uint8]] = []
    numbers: list[npt.NDArray[np.int64]] = []
    for block, first, count in blocks(rows):
        ids, gone = words(block, count), replaced(block, count)
        ids[gone] = np.random.default_rng(20_000 + block).integers(0, 256, (int(gone.sum()), 16), np.uint8)
        fresh.append(ids[gone])
        numbers.append(first + np.flatnonzero(gone))
        number = np.arange(first, first + count)
        place = np.stack([number % 4 + 1, 0 * number, number % 4 + 1, 500 + number % 100], axis=1).astype(np.int32)
        names = texts(ids).to_pylist()
        for start in range(0, count, BATCH):
            positions = found.find(names[start : start + BATCH])
            kept = positions >= 0
            found.keep(positions[kept], place[start : start + BATCH][kept])
            for at in np.flatnonzero(~kept).tolist():
                article = Article(str((first + start + at) // 4), "", [""], "")
                found.add(PassageDraft(article, "", 1, 0, 1, 1))
    lap(f"look up {rows:,} ids in batches of {BATCH:,}")
    comparison.take(found.arrays(), sum(map(len, fresh)))
    changes = comparison.changes()
    lap(f"{changes.removed:,} rows that go, {comparison.added:,} that come")
    counts = count_articles(base, changes.dead, comparison.renewed)
    lap(f"articles: {counts.changed:,} changed, {counts.kept:,} kept")
    files = files_to_replace(base, changes, comparison.added)
    lap(f"{len(files)} of {len(base.manifest.files)} catalog files to rewrite")

    def new_rows() -> Iterator[pa.Table]:
        row = 0
        for ids, number in zip(fresh, numbers, strict=True):
            table = catalog(ids, 0, ["segment-new"] * len(ids), row + np.arange(len(ids)))
            yield table.set_column(4, "article_id", pa.array(number // 4).cast(pa.string()))
            row += len(ids)

    manifest = commit(
        memory,
        base=1,
        job="refresh",
        operation="refresh",
        add=itertools.chain(surviving_rows(base, changes, files), new_rows()),
        remove=[file.name for file in files],
        segments=[sealed("segment-new", comparison.added)],
        rows_added=comparison.added,
        rows_removed=changes.removed,
    )
    written = sum(file.bytes for file in manifest.files)
    lap(f"commit: {written / 1e6:,.0f} MB of catalog, and the id map")
    assert manifest.passages == rows


def difference(memory: Path, rows: int) -> None:
    found = compare(Memory.open(memory, 1, check=False), Memory.open(memory, 2, check=False), examples=0)
    print(f"  +{found.added:,} -{found.removed:,} passages, {found.articles.changed:,} articles changed")
    assert found.added == found.removed > 0
    assert found.moved == 0


PARTS = {"build": build, "refresh": refresh, "diff": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=22_000_000)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        begun = time.perf_counter()
        PARTS[arguments.part](arguments.directory, arguments.rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        wall, cpu = time.perf_counter() - begun, time.process_time()
        print(f"  {arguments.part:<52}{wall:>8.1f} s{cpu:>8.1f} s of processor, peak {peak:.2f} GiB", flush=True)
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as home:
        for part in PARTS:
            print(f"{part}, {arguments.rows:,} rows", flush=True)
            options = ["--rows", str(arguments.rows), "--directory", f"{home}/m", "--part", part]
            subprocess.run([sys.executable, __file__, *options], check=True)


if __name__ == "__main__":
    main()
