"""What planning a range left in the store: passages, rejected records, counts. Complete or absent.

    <part>.text-<k>         text shards of 1,024 passages, fewer only in the last, one after another
    <part>.records-<k>      rejected records, JSON lines; `passages-<k>` those of passages that cannot be made to fit
    <part>.index            of each text shard: which file, where, how many bytes; int64
    <part>.done-<passages>  counts and arrays, with a checksum; written last: the part is complete when it is there

`<part>` is the range's number and a hash of the selection of its records, so that a range that is planned again with
another selection never mixes with what was there. Files are written as they fill, so that a worker's memory is flat,
and each as a whole, so that any store will do.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from ... import DamageError
from ...storage.passage import SHARD_ROWS, Passage
from ...storage.stores import Store
from ...storage.text_shards import TextShard, text_shard
from ..corpus.rejects import Rejection
from .plan_summary import PlanCounts
from .range_plan import RangePlan
from .reject_order import Numbered

_FILE_BYTES: Final = 16 << 20  # text in a file, about
_REJECTS_BYTES: Final = 4 << 20
_DONE: Final = re.compile(r"(.+)\.done-([0-9]+)")
_REMEDY: Final = "delete the job's directory and run the command again"


def part_name(number: int, selection: Sequence[Any]) -> str:
    """The name of the part of range `number`, planned with a selection of records that `selection` describes."""
    digest = hashlib.blake2b(json.dumps(selection).encode(), digest_size=4).hexdigest()
    return f"{number:06d}-{digest}"


class PartWriter:
    """Writes one part; it is the `RangeOutput` of a plan."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._text = bytearray()
        self._files = 0
        self._places: list[tuple[int, int, int]] = []
        self._rejects = {late: bytearray() for late in (False, True)}
        self._reject_files = {False: 0, True: 0}

    def write(self, passages: Sequence[Passage]) -> None:
        content = text_shard(passages)
        self._places.append((self._files, len(self._text), len(content)))
        self._text += content
        if len(self._text) >= _FILE_BYTES:
            self._flush_text()

    def reject(self, rejection: Rejection, *, articles: int, late: bool) -> None:
        self._rejects[late] += orjson.dumps([articles, rejection], option=orjson.OPT_APPEND_NEWLINE)
        if len(self._rejects[late]) >= _REJECTS_BYTES:
            self._flush_rejects(late)

    def finish(self, plan: RangePlan) -> None:
        """Writes what is left; the part is complete when this returns."""
        if self._text:
            self._flush_text()
        for late, held in self._rejects.items():
            if held:
                self._flush_rejects(late)
        places = np.array(self._places, np.int64).reshape(-1, 3)
        self._store.put(f"{self._key}.index", places.tobytes())
        record = {
            "counts": plan.counts.to_json(),
            "complete": plan.complete,
            "text_files": self._files,
            "reject_files": [self._reject_files[late] for late in (False, True)],
        }
        write_done(self._store, self._key, plan.counts.passages, record, plan.arrays)

    def _flush_text(self) -> None:
        self._store.put(f"{self._key}.text-{self._files}", bytes(self._text))
        self._files += 1
        self._text.clear()

    def _flush_rejects(self, late: bool) -> None:
        self._store.put(f"{self._key}.{_rejects_name(late)}-{self._reject_files[late]}", bytes(self._rejects[late]))
        self._reject_files[late] += 1
        self._rejects[late].clear()


class StoredPart:
    """A complete part. `rejections` and `passages` are read from the store when they are asked for."""

    def __init__(self, store: Store, key: str, record: Mapping[str, Any], arrays: Mapping[str, pa.Array]) -> None:
        self._store, self.key = store, key
        self.plan = RangePlan(
            counts=PlanCounts.from_json(record["counts"]), arrays=arrays, complete=bool(record["complete"])
        )
        self._text_files = int(record["text_files"])
        self._reject_files = [int(count) for count in record["reject_files"]]

    def rejections(self, *, late: bool) -> Iterator[Numbered]:
        """Rejected records, or passages with `late`, each with its number of articles; see `reject_order`."""
        for number in range(self._reject_files[late]):
            content = self._store.read(f"{self.key}.{_rejects_name(late)}-{number}")
            for line in content.splitlines():
                articles, fields = orjson.loads(line)
                yield articles, Rejection(**fields)

    def delete_text(self) -> None:
        """Deletes the passages of a part that another one replaces."""
        for number in range(self._text_files):
            self._store.delete(f"{self.key}.text-{number}")


def open_part(store: Store, key: str, passages: int) -> StoredPart:
    """The complete part at `key`. Raises DamageError where it is not what was written."""
    return StoredPart(store, key, *read_done(store, key, passages))


def complete_parts(store: Store, prefix: str) -> dict[str, int]:
    """Name -> passages of the parts under `prefix` that are complete; one listing."""
    found = (_DONE.fullmatch(name) for name in store.names(prefix))
    return {match.group(1): int(match.group(2)) for match in found if match is not None}


def write_done(
    store: Store, key: str, passages: int, record: Mapping[str, Any], arrays: Mapping[str, pa.Array]
) -> None:
    """Writes the file that makes a part complete."""
    store.put(f"{key}.done-{passages}", packed(record, arrays))


def read_done(store: Store, key: str, passages: int) -> tuple[dict[str, Any], dict[str, pa.Array]]:
    """What `write_done` was given. A file that is damaged is deleted, so that its range is planned again."""
    done = f"{key}.done-{passages}"
    try:
        return unpacked(store.read(done))
    except (ValueError, FileNotFoundError, DamageError) as error:
        store.delete(done)
        raise DamageError(str(error), where=store.name(done), remedy="run the same command again") from error


@dataclass(frozen=True)
class PartText:
    """The passages of a complete part at `key`; `places` is its index, int64 [text shards, 3]."""

    store: Store
    key: str
    places: npt.NDArray[np.int64]

    @classmethod
    def open(cls, store: Store, key: str) -> PartText:
        """Reads the index of the part. Raises DamageError where it is not there."""
        return cls(store, key, np.frombuffer(_there(store, f"{key}.index"), np.int64).reshape(-1, 3))

    def shard(self, number: int) -> TextShard:
        """Rows 1,024 × `number` … of the part. Raises DamageError where they are not what was written."""
        file, start, length = self.places[number].tolist()
        key = f"{self.key}.text-{file}"
        return TextShard.of_bytes(_there(self.store, key, start, length), self.store.name(key), _REMEDY)

    def passages(self, rows: Sequence[int]) -> Iterator[Passage]:
        """The passages in `rows`, ascending, each checked."""
        opened, shard = -1, None
        for row in rows:
            if shard is None or row // SHARD_ROWS != opened:
                opened = row // SHARD_ROWS
                shard = self.shard(opened)
            yield shard.passage(row % SHARD_ROWS)


def packed(record: Mapping[str, Any], arrays: Mapping[str, pa.Array]) -> bytes:
    """A JSON-able record and arrays as bytes that `unpacked` reads back."""
    columns = []
    for array in arrays.values():
        offsets = pa.array([0, len(array)], pa.int64())
        columns.append(pa.LargeListArray.from_arrays(offsets, array))
    batch = pa.RecordBatch.from_arrays(columns, names=list(arrays)) if columns else None
    schema = pa.schema([] if batch is None else batch.schema, metadata={"record": json.dumps(record)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        if batch is not None:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    content = sink.getvalue()
    return b"%08x" % zlib.crc32(content) + content


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, pa.Array]]:
    """The record and the arrays that `packed` was given. Raises ValueError where they are not what was written."""
    body = memoryview(content)[8:]
    if content[:8] != b"%08x" % zlib.crc32(body):
        raise ValueError("the file fails its checksum")
    reader = pa.ipc.open_stream(pa.py_buffer(body))
    record: dict[str, Any] = json.loads(reader.schema.metadata[b"record"])
    arrays = {name: batch.column(name)[0].values for batch in reader for name in batch.schema.names}
    return record, arrays


def _there(store: Store, key: str, start: int = 0, length: int | None = None) -> bytes:
    """Bytes of a file of a complete part."""
    try:
        return store.read(key) if length is None else store.read_range(key, start, length)
    except FileNotFoundError:
        raise DamageError("a part of the plan is missing", where=store.name(key), remedy=_REMEDY) from None


def _rejects_name(late: bool) -> str:
    return "passages" if late else "records"
