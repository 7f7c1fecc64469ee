"""Segments: Zarr that others can open, whole shards or none, equal bytes for equal work, errors that name the row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from glimmer import ConflictError, DamageError, UsageError
from glimmer.storage.segment_layout import SegmentShape, codes_name, lengths_name
from glimmer.storage.segment_reader import RowDamageError, SegmentReader
from glimmer.storage.segment_writer import SealedSegment, SegmentWriter
from glimmer.storage.stores import Store

ROWS = 1100


@pytest.fixture
def rows(kit: Any) -> list[Any]:
    return [kit.passage(number) for number in range(ROWS)]


def reader_of(memory: Store, sealed: SealedSegment, kit: Any) -> SegmentReader:
    shape = SegmentShape(rows=sealed.rows, window=kit.window, code_bytes=kit.code_bytes)
    return SegmentReader(memory, sealed.segment, shape, sealed.digests_sha256)


def test_zarr_python_opens_a_segment_and_reads_the_same_bytes(tmp_path: Path, kit: Any, rows: list[Any]) -> None:
    kit.segment(tmp_path, "one", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # text/ and digests.arrow stand beside the arrays
        group = zarr.open_group(tmp_path / "segments" / "one", mode="r")
    codes, lengths = group["codes"], group["lengths"]
    assert isinstance(codes, zarr.Array)
    assert isinstance(lengths, zarr.Array)
    assert codes.dtype == np.uint8
    assert codes.shape == (ROWS, kit.window, kit.code_bytes)
    assert codes.shards == (1024, kit.window, kit.code_bytes)
    assert codes.chunks == (1, kit.window, kit.code_bytes)
    assert np.array_equal(codes[:], kit.codes(rows))
    assert np.array_equal(lengths[:], [len(row.tokens) for row in rows])


def test_random_rows_come_back_in_the_order_asked_for(store: Store, kit: Any, rows: list[Any]) -> None:
    reader = reader_of(store, kit.segment(store, "one", rows), kit)
    pick = np.random.default_rng(0).integers(0, ROWS, 300)
    assert np.array_equal(reader.codes(pick), kit.codes([rows[row] for row in pick]))
    assert reader.lengths(pick).tolist() == [len(rows[row].tokens) for row in pick]
    assert [reader.passage(int(row)) for row in pick] == [rows[row] for row in pick]


def test_codes_beyond_the_length_become_zero(store: Store, kit: Any, rows: list[Any]) -> None:
    rows = rows[:20]
    writer = SegmentWriter(store, "one")
    writer.write_text(0, rows)
    writer.create_arrays(20, kit.window, kit.code_bytes)
    codes = kit.codes(rows)
    dirty = np.where(codes == 0, 7, codes).astype(np.uint8)
    dirty.flags.writeable = False
    lengths = np.array([len(row.tokens) for row in rows], np.int32)
    reader = reader_of(store, writer.seal([writer.write_shard(0, dirty, lengths)]), kit)
    assert np.array_equal(reader.codes(np.arange(20)), codes)


def test_the_same_work_twice_gives_the_same_bytes(
    new_store: Callable[[], Store], tmp_path: Path, kit: Any, rows: list[Any]
) -> None:
    """In a store of one kind or another: a segment's id, its digests and so every byte of its shards agree."""
    store, again = new_store(), new_store()
    one = kit.segment(store, "one", rows)
    assert one == kit.segment(again, "one", rows) == kit.segment(tmp_path / "local", "one", rows)
    writer = SegmentWriter(store, "one")
    writer.create_arrays(ROWS, kit.window, kit.code_bytes)
    assert writer.seal(reader_of(store, one, kit).records) == one


def test_a_sealed_segment_is_never_written_again(store: Store, kit: Any, rows: list[Any]) -> None:
    kit.segment(store, "one", rows)
    writer = SegmentWriter(store, "one")
    writer.create_arrays(ROWS, kit.window, kit.code_bytes)
    lengths = np.array([len(row.tokens) for row in rows[:1024]], np.int32)
    with pytest.raises(ConflictError, match="sealed"):
        writer.write_shard(0, kit.codes(rows[:1024]), lengths)
    with pytest.raises(ConflictError, match="sealed"):
        writer.write_text(0, rows[:1024])


def test_what_does_not_fit_is_refused(store: Store, kit: Any, rows: list[Any]) -> None:
    rows = rows[:20]
    lengths, codes = np.array([len(row.tokens) for row in rows], np.int32), kit.codes(rows)
    writer = SegmentWriter(store, "one")
    writer.write_text(0, rows)
    with pytest.raises(UsageError, match="create_arrays"):
        writer.write_shard(0, codes, lengths)
    writer.create_arrays(20, kit.window, kit.code_bytes)
    for bad_codes, bad_lengths, message in (
        (codes[:, :4], lengths, "takes uint8"),
        (codes.astype(np.int32), lengths, "takes uint8"),
        (codes, lengths[:3], "integer lengths"),
        (codes, lengths[::-1], "not those of its text"),
    ):
        with pytest.raises(UsageError, match=message):
            writer.write_shard(0, bad_codes, bad_lengths)
    with pytest.raises(UsageError, match="shard 1"):
        writer.write_shard(1, codes, lengths)
    with pytest.raises(ConflictError, match="another shape"):
        SegmentWriter(store, "one").create_arrays(21, kit.window, kit.code_bytes)
    with pytest.raises(UsageError, match="segment id"):
        SegmentWriter(store, "../escape")


def test_the_seal_wants_every_shard(store: Store, kit: Any, rows: list[Any]) -> None:
    sealed = kit.segment(store, "one", rows)
    records = reader_of(store, sealed, kit).records
    store.delete("segments/one/digests.arrow")
    writer = SegmentWriter(store, "one")
    writer.create_arrays(ROWS, kit.window, kit.code_bytes)
    with pytest.raises(DamageError, match="1 of 2 shards have no record, first 0"):
        writer.seal(records[1:])
    key = f"segments/one/{codes_name(1)}"
    store.put(key, store.read(key)[:-1])
    with pytest.raises(DamageError, match=r"c\.1\.0\.0 has"):
        writer.seal(records)
    assert not writer.sealed


@pytest.mark.parametrize("damage", ["missing", "truncated", "index", "payload"])
def test_a_damaged_codes_shard_is_an_error_that_names_row_and_shard(
    store: Store, kit: Any, rows: list[Any], damage: str
) -> None:
    reader = reader_of(store, kit.segment(store, "one", rows), kit)
    key = f"segments/one/{codes_name(1)}"
    content = bytearray(store.read(key))
    if damage == "missing":
        store.delete(key)
    elif damage == "truncated":
        store.put(key, bytes(content[: len(content) // 2]))
    else:
        content[-100 if damage == "index" else 3] ^= 4
        store.put(key, bytes(content))
    assert np.array_equal(reader.codes(np.arange(1024)), kit.codes(rows[:1024]))
    with pytest.raises(RowDamageError, match=r"segment one, shard 1, row 1024: codes/c\.1\.0\.0"):
        reader.codes(np.arange(1000, ROWS))


def test_a_missing_or_flipped_lengths_chunk_is_an_error(store: Store, kit: Any, rows: list[Any]) -> None:
    sealed = kit.segment(store, "one", rows)
    key = f"segments/one/{lengths_name(1)}"
    content = bytearray(store.read(key))
    content[5] ^= 1
    store.put(key, bytes(content))
    with pytest.raises(RowDamageError, match=r"lengths/c\.1"):
        reader_of(store, sealed, kit).lengths(np.array([1030]))
    store.delete(key)
    with pytest.raises(RowDamageError, match=r"lengths/c\.1"):
        reader_of(store, sealed, kit).lengths(np.array([1030]))


_WRITER = """
import sys
sys.path.insert(0, {support!r})
import numpy as np
from pathlib import Path
from kit import Kit
from glimmer.storage.segment_writer import SegmentWriter
kit, memory = Kit(window=64), Path(sys.argv[1])
rows = [kit.passage(number) for number in range(1100)]
writer = SegmentWriter(memory, "one")
for shard in (0, 1):
    writer.write_text(shard, rows[shard * 1024 : shard * 1024 + 1024])
writer.create_arrays(1100, kit.window, kit.code_bytes)
codes = kit.codes(rows)
lengths = np.array([len(row.tokens) for row in rows], np.int32)
print("ready", flush=True)
for shard in (0, 1) * int(sys.argv[2]):
    span = slice(shard * 1024, shard * 1024 + 1024)
    writer.write_shard(shard, codes[span].copy(), lengths[span])
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_while_writing_then_run_again_gives_equal_bytes(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(_WRITER.format(support=str(Path(__file__).parents[1] / "support")))

    def start(memory: Path, times: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(memory), str(times)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def shards(memory: Path) -> dict[str, bytes]:
        names = [codes_name(0), codes_name(1), lengths_name(0), lengths_name(1)]
        paths = [memory / "segments/one" / name for name in names]
        return {path.name + path.parent.name: path.read_bytes() for path in paths if path.exists()}

    assert start(tmp_path / "calm", 1).wait() == 0
    calm = shards(tmp_path / "calm")
    assert len(calm) == 4
    random = np.random.default_rng(11)
    killed = 0
    for attempt in range(10):
        memory = tmp_path / f"killed-{attempt}"
        process = start(memory, 1000)
        time.sleep(float(random.uniform(0.0, 0.1)))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        # Whatever is visible is whole, already before the job runs again.
        assert all(content == calm[name] for name, content in shards(memory).items())
        assert start(memory, 1).wait() == 0
        assert shards(memory) == calm
    assert killed == 10
