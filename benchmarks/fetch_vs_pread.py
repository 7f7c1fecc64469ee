"""Random fetch of passages from a cold memory, against the same bytes read by eight threads of `pread`.

`Memory.fetch` decompresses, compares checksums and lengths and puts each passage in its place; the peer is given every
offset beforehand and only reads, once without and once with decompression. Before each timing the page cache is dropped
for every file of the memory (posix_fadvise), and `Memory` is opened afresh, so that nothing of it is in memory either;
opening itself is not timed. Prints the median of the rounds and the ratios of one run.

    python benchmarks/fetch_vs_pread.py [--memory DIR]

Without `--memory` a made-up memory of 16 KB of incompressible codes a passage is written to a temporary directory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from glimmer.storage.catalog_files import passage_rows
from glimmer.storage.identity import EncoderIdentity, Identity, PassageSettings
from glimmer.storage.memory import Memory, commit
from glimmer.storage.passage import SHARD_ROWS, Passage, content_hash
from glimmer.storage.segment_layout import codes_name
from glimmer.storage.segment_writer import SegmentWriter

INDEX_ENTRY = np.dtype([("offset", "<u8"), ("bytes", "<u8")])
Reads = list[tuple[int, int, int]]  # (file descriptor, offset, bytes) of a passage's inner chunk


def made_up_memory(directory: Path, shards: int, window: int, width: int) -> Path:
    """A memory of `shards * 1024` full-length passages of random codes."""
    random = np.random.default_rng(0)
    encoder = EncoderIdentity(
        name="none",
        source="made up",
        fingerprint="0" * 64,
        family="t5",
        d_model=width,
        memory_layers=1,
        precision="float32",
    )
    identity = Identity(
        encoder=encoder,
        passages=PassageSettings(words=100, template="{text}", window=window),
        codec={"name": "int8", "width": width},
        shapes=((8, window),),
        created="2024-01-01T00:00:00Z",
    )
    memory = Memory.create(directory / "memory", identity)
    writer = SegmentWriter(memory.store, "bench")
    writer.create_arrays(shards * SHARD_ROWS, window, memory.codec.code_bytes)
    records, rows = [], []
    tokens = np.arange(window, dtype=np.int32)
    for shard in range(shards):
        passages = []
        for row in range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS):
            name = hashlib.blake2b(str(row).encode(), digest_size=16).hexdigest()
            passages.append(
                Passage(
                    passage_id=name,
                    article_id=str(row),
                    title="",
                    text=name,
                    start_paragraph_id=0,
                    start_character=0,
                    end_paragraph_id=0,
                    end_character=32,
                    content_hash=content_hash("", name),
                    tokens=tokens,
                )
            )
        writer.write_text(shard, passages)
        codes = random.integers(1, 256, (SHARD_ROWS, window, memory.codec.code_bytes), np.uint8)
        records.append(writer.write_shard(shard, codes, np.full(SHARD_ROWS, window, np.int32)))
        rows.append(passage_rows(passages, "bench", shard * SHARD_ROWS))
    commit(memory.store, base=0, job="bench", operation="encode", add=rows, segments=[writer.seal(records)])
    os.sync()
    return directory / "memory"


def drop_cache(memory: Path) -> None:
    """Asks the kernel to forget every file of the memory."""
    for path in memory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


class Peer:
    """Eight threads of pread that know where every inner chunk lies."""

    def __init__(self, memory: Memory, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads)
        self._count = threads
        self._codec = pa.Codec("zstd")
        self._size = memory.window * memory.codec.code_bytes
        self._memory = memory
        self._descriptors: dict[tuple[int, int], int] = {}
        self._index: dict[tuple[int, int], np.ndarray] = {}

    def plan(self, positions: np.ndarray) -> Reads:
        """Descriptor, offset and size of every passage's chunk; untimed."""
        reads = []
        for segment, row in zip(*(part.tolist() for part in self._memory.rows(positions)), strict=True):
            key = (segment, row // SHARD_ROWS)
            if key not in self._index:
                path = self._memory.store.local_path(f"{self._memory.readers[segment].key}/{codes_name(key[1])}")
                assert path is not None, "pread needs a memory on a local disk"
                self._descriptors[key] = os.open(path, os.O_RDONLY)
                tail = SHARD_ROWS * INDEX_ENTRY.itemsize + 4
                content = os.pread(self._descriptors[key], tail, path.stat().st_size - tail)
                self._index[key] = np.frombuffer(content[:-4], INDEX_ENTRY)
            entry = self._index[key][row % SHARD_ROWS]
            reads.append((self._descriptors[key], int(entry["offset"]), int(entry["bytes"])))
        return reads

    def read(self, reads: Reads) -> None:
        self._run(reads, lambda content: None)

    def read_and_decompress(self, reads: Reads) -> None:
        # The chunk ends in four bytes of crc32c.
        self._run(reads, lambda content: self._codec.decompress(memoryview(content)[:-4], self._size))

    def _run(self, reads: Reads, use: Callable[[bytes], object]) -> None:
        def some(part: Reads) -> None:
            for descriptor, offset, size in part:
                use(os.pread(descriptor, size, offset))

        step = -(-len(reads) // self._count)
        list(self._threads.map(some, [reads[start : start + step] for start in range(0, len(reads), step)]))


def measure(path: Path, count: int, rounds: int, threads: int) -> None:
    random = np.random.default_rng(1)
    memory = Memory.open(path)
    peer = Peer(memory, threads)
    count = min(count, memory.passages)
    out = np.zeros((count, memory.window, memory.codec.code_bytes), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in ("pread", "pread + zstd", "glimmer fetch")}

    stored = 0
    for number in range(-1, rounds):  # the first round warms up what a process does once, and is not counted
        positions = random.choice(memory.passages, count, replace=False)
        reads = peer.plan(positions)
        stored = sum(size for _, _, size in reads)
        fresh = Memory.open(path)
        fresh.ids([0])  # maps the id map, as a reader at work has
        acts: list[tuple[str, Callable[[], object]]] = [
            ("pread", partial(peer.read, reads)),
            ("pread + zstd", partial(peer.read_and_decompress, reads)),
            ("glimmer fetch", partial(fresh.fetch, positions, out)),
        ]
        for turn in range(len(acts)):
            name, act = acts[(turn + number) % len(acts)]  # no one is always first after the others
            drop_cache(path)
            start = time.perf_counter()
            act()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{count} random passages of {memory.passages:,}, {stored / count / 1024:.1f} KiB each as stored, cold")
    print(f"{threads} threads of pread; median of {rounds} rounds\n")
    for name, value in middle.items():
        print(f"  {name:14} {value * 1e3:8.1f} ms  {count / value:9,.0f} passages/s  {stored / value / 1e6:7,.0f} MB/s")
    for name in ("pread", "pread + zstd"):
        print(f"\n  glimmer fetch / {name:13} {middle[name] / middle['glimmer fetch']:.2f}", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=Path, help="an existing memory (default: a made-up one)")
    parser.add_argument("--count", type=int, default=1280, help="passages a fetch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--shards", type=int, default=40, help="size of the made-up memory, 16 MB a shard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glimmer-bench-", dir=os.environ.get("GLIMMER_BENCH_DIR")) as directory:
        path = arguments.memory or made_up_memory(Path(directory), arguments.shards, window=128, width=124)
        measure(path, arguments.count, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
