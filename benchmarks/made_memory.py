"""A memory of made-up passages, of any size, in minutes: every file is what format 1 says, and every digest is right.

Text shards are written one by one, with ids, article numbers and words of their own (frequent words as frequent as
Zipf's law has it). Lengths are the same in every shard, and so are the codes, which are random: one shard's file is
linked to the names of all others. So 22 million passages take a few gigabytes, and whoever opens, fetches, refreshes
or verifies them does what they would do with a real memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glimmer.encoders.models import load_model
from glimmer.pipelines.jobs import Job
from glimmer.storage.codecs import parse_codec
from glimmer.storage.identity import EncoderIdentity, Identity, PassageSettings
from glimmer.storage.ledger import JOBS
from glimmer.storage.passage import PASSAGE_SCHEMA, SHARD_ROWS
from glimmer.storage.segment_layout import ShardRecord, codes_name, lengths_name, text_name

ARTICLE = 4  # passages
_TITLE = "Article %09d"
_LETTERS = np.frombuffer(b"bdfgklmnprstvzaeiouy", np.uint8)
_VOCABULARY = 300_000
_WORD = 6  # bytes, the space before it included

Bytes = npt.NDArray[np.uint8]


def identity(model: str | None) -> Identity:
    """Of a memory that `model` can read; with None of one that nothing reads, made without loading a model."""
    encoder = EncoderIdentity(
        name="none", source="none", fingerprint="0" * 64, family="t5", d_model=8, memory_layers=1, precision="bfloat16"
    )
    template, window = "{title} {text}", 64
    if model is not None:
        loaded = load_model(model)
        config = loaded.config
        template, window = config.passage_template, config.window
        encoder = EncoderIdentity(
            name=model,
            source=model,
            fingerprint=loaded.fingerprint,
            family=config.encoder.family,
            d_model=config.encoder.d_model,
            memory_layers=config.memory_layers,
            precision="bfloat16",
        )
    return Identity(
        encoder=encoder,
        passages=PassageSettings(words=100, template=template, window=window),
        codec=parse_codec("int8", encoder.d_model).to_json(),
        shapes=((32, window),),
        created="2024-01-01T00:00:00Z",
    )


def passage_ids(seed: int, shard: int, rows: int) -> Bytes:
    """uint8 [rows, 16]: the passage ids of a shard."""
    return np.random.default_rng((seed, shard)).integers(0, 256, (rows, 16), np.uint8)


def hexadecimal(ids: Bytes) -> pa.Array:
    """uint8 [n, k] as n strings of 2k digits."""
    return _strings(np.frombuffer(ids.tobytes().hex().encode(), np.uint8).reshape(len(ids), -1))


def article_id(seed: int, row: int) -> str:
    """The article of a row."""
    return f"{(row + seed * 100_000_000) // ARTICLE:09d}"


def text_bytes(words: int) -> int:
    """Length of every passage's text, in bytes and in characters."""
    return words * _WORD - 1


def write_segment(job: Job, *, rows: int, words: int, window: int, code_bytes: int, seed: int) -> None:
    """Makes the segment of `job` as it is when every shard is encoded and in the ledger, which has a plan then."""
    shards, writer = -(-rows // SHARD_ROWS), job.segment
    writer.create_arrays(rows, window, code_bytes)
    home = Path(str(job.store.location)) / writer.key
    lengths = token_counts(words)
    ledger = Path(str(job.store.location)) / JOBS / job.name / "shards"
    for directory in (home / "text", ledger):
        directory.mkdir(parents=True, exist_ok=True)
    shared: ShardRecord | None = None
    for shard in range(shards):
        count = min(SHARD_ROWS, rows - shard * SHARD_ROWS)
        content = _text(seed, shard, count, words)
        (home / text_name(shard)).write_bytes(content)
        if shared is None or count < SHARD_ROWS:
            codes = np.random.default_rng(seed).integers(0, 256, (count, window, code_bytes), np.uint8)
            codes[:, :, -4:] = np.frombuffer(np.float32(0.01).tobytes(), np.uint8)  # the scale of int8
            shared = record = writer.write_shard(shard, codes, lengths[:count])
        else:
            for name in (codes_name, lengths_name):
                os.link(home / name(0), home / name(shard))
            sizes = {"text_bytes": len(content), "text_sha256": hashlib.sha256(content).hexdigest()}
            record = ShardRecord.from_json({**shared.to_json(), "shard": shard, **sizes})
        text = json.dumps(record.to_json(), sort_keys=True)
        entry = f"{zlib.crc32(text.encode()):08x} {text}\n"
        (ledger / f"{shard}-{count}.json").write_text(entry)
    job.ledger.write_plan({"rows": rows, "plan": {"shards": shards}})


def token_counts(words: int) -> npt.NDArray[np.int32]:
    """int32 [1024]: tokens of the passages of any shard, about 1.3 a word."""
    return (words + 3 + np.random.default_rng(words).integers(0, max(words * 2 // 3, 1), SHARD_ROWS)).astype(np.int32)


def _text(seed: int, shard: int, rows: int, words: int) -> bytes:
    """The content of a text shard. All of a column's values have one length, so arrays of bytes make them."""
    rng = np.random.default_rng((seed, shard, 1))
    first = shard * SHARD_ROWS
    numbers = [int(article_id(seed, row)) for row in range(first, first + rows)]
    ids = np.frombuffer(passage_ids(seed, shard, rows).tobytes().hex().encode(), np.uint8).reshape(rows, -1)
    article = _fixed([b"%09d" % number for number in numbers])
    title = _fixed([(_TITLE % number).encode() for number in numbers])
    ranks = np.exp(rng.random((rows, words), np.float32) * np.float32(np.log(_VOCABULARY))).astype(np.int64)
    text = _vocabulary()[ranks].reshape(rows, -1)[:, 1:]  # without the first space
    size = text.shape[1]
    parts = (_length(title.shape[1], rows), title, _length(size, rows), text)
    digests = [hashlib.blake2b(row, digest_size=8).hexdigest().encode() for row in _rows(parts)]
    hash_ = _fixed(digests)
    lengths = token_counts(words)[:rows]
    tokens = np.random.default_rng(words).integers(1000, 29_000, int(lengths.sum()), np.uint32)
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    integers = np.stack([np.arange(rows) % ARTICLE + 1, 0 * lengths, np.arange(rows) % ARTICLE + 1, 0 * lengths + size])
    places = np.ascontiguousarray(integers.T.astype("<i4"))
    sizes = np.stack([0 * lengths + article.shape[1], 0 * lengths + title.shape[1], 0 * lengths + size, lengths])
    head = np.concatenate([places, sizes.T.astype("<i4")], axis=1).view(np.uint8)
    summed, ends, flat = _rows((head, ids, hash_, article, title, text)), edges.tolist(), tokens.tobytes()
    sums = [
        zlib.crc32(flat[4 * start : 4 * stop], zlib.crc32(row))
        for row, start, stop in zip(summed, ends, ends[1:], strict=False)
    ]
    columns = [
        *(_strings(column) for column in (ids, article, title, text)),
        *(pa.array(places[:, column]) for column in range(4)),
        _strings(hash_),
        pa.ListArray.from_arrays(pa.array(edges), pa.array(tokens), type=PASSAGE_SCHEMA.field("tokens").type),
        pa.array(sums, pa.uint32()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=PASSAGE_SCHEMA))
    return memoryview(sink.getvalue()).tobytes()


def _strings(values: Bytes) -> pa.Array:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(values), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values).tobytes())
    )


def _rows(parts: Sequence[Bytes]) -> Iterator[bytes]:
    """The bytes of each row of `parts` side by side."""
    joined = np.concatenate(parts, axis=1)
    content, width = joined.tobytes(), joined.shape[1]
    return (content[start : start + width] for start in range(0, len(content), width))


def _fixed(values: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)


def _length(value: int, rows: int) -> Bytes:
    return np.tile(np.frombuffer(value.to_bytes(8, "little"), np.uint8), (rows, 1))


@functools.cache
def _vocabulary() -> Bytes:
    """uint8 [words, 6]: a space and five letters, the most frequent words first."""
    chosen = np.random.default_rng(0).integers(0, len(_LETTERS), (_VOCABULARY, _WORD - 1))
    return np.concatenate([np.full((_VOCABULARY, 1), ord(" "), np.uint8), _LETTERS[chosen]], axis=1)
