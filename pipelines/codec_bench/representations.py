"""Uncompressed representations of some passages of a memory, as the encoder gives them, in a temporary file.

Every codec is given the same ones, so that its codes are what `glimmer encode` would store, and the encoder runs once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import StorageError
from ...encoders.memory_encoder import MemoryEncoder
from ...progress import Progress
from ...storage.memory import Memory
from ...storage.temporary import temporary_directory
from ..encoding.finite_codes import not_finite

_AT_ONCE = 1024
_ROUNDS = 3
_BLOCK_TOKENS, _LENGTHS = 2048, 64


@dataclass(frozen=True, eq=False)
class Representations:
    """Token representations of n passages, one passage after another.

    Attributes:
        positions: int64 [n], places in the memory, ascending.
        starts: int64 [n + 1], where each passage's tokens begin, and the number of all.
        ids: int32 [tokens], vocabulary ids.
        vectors: float32 [tokens, D], what a codec's `encode` gets.
        window: tokens of the longest passage there may be.
    """

    positions: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]
    window: int

    @property
    def tokens(self) -> int:
        return int(self.starts[-1])

    def rows(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """int64 [n]: which of the passages those at `positions` are; KeyError where one is not among them."""
        where = np.asarray(positions, np.int64)
        rows = np.searchsorted(self.positions, where)
        if len(where) and (rows.max() >= len(self.positions) or (self.positions[rows] != where).any()):
            raise KeyError("a passage whose representations were not computed")
        return rows

    def blocks(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
        """`rows` in blocks of few shapes: (some of them, vectors float32 [r, length, D], ids int32 [r, length]).

        About 2,048 tokens each. Zero beyond a passage's length, and in rows that a block lacks.
        """
        lengths = self.starts[rows + 1] - self.starts[rows]
        padded = np.minimum(self.window, -(-lengths // _LENGTHS) * _LENGTHS)
        for length in np.unique(padded).tolist():
            members, count = rows[padded == length], max(1, _BLOCK_TOKENS // length)
            for first in range(0, len(members), count):
                part = members[first : first + count]
                vectors = np.zeros((count, length, self.vectors.shape[1]), np.float32)
                ids = np.zeros((count, length), np.int32)
                for place, row in enumerate(part.tolist()):
                    start, stop = self.starts[row : row + 2]
                    vectors[place, : stop - start] = self.vectors[start:stop]
                    ids[place, : stop - start] = self.ids[start:stop]
                yield part, vectors, ids


@contextmanager
def encoded_passages(
    encoder: MemoryEncoder, memory: Memory, positions: npt.NDArray[np.int64], progress: Progress
) -> Iterator[Representations]:
    """The representations of the passages at `positions`, ascending and distinct, until the block ends.

    `encoder` gives float32 [rows, length, D]. Raises InputError naming a passage whose representation is not finite,
    and StorageError where the temporary file has no room.
    """
    counts = memory.token_counts(positions)
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    ids = np.empty(int(starts[-1]), np.int32)
    width = encoder.model.config.encoder.d_model
    progress.stage("encode", total=len(positions), unit="passages")
    with temporary_directory("glimmer-bench-") as directory:
        path = directory / "vectors.float32"
        try:
            with path.open("wb") as file:
                for first in range(0, len(positions), _AT_ONCE):
                    passages = memory.texts(positions[first : first + _AT_ONCE])
                    begin = starts[first]
                    vectors = np.empty((int(starts[first + len(passages)] - begin), width), np.float32)
                    for row, passage in enumerate(passages):
                        ids[starts[first + row] : starts[first + row + 1]] = passage.tokens
                    done = 0
                    for batch in encoder.encode([passage.tokens for passage in passages]):
                        for row, index in enumerate(batch.indices.tolist()):
                            start, stop = starts[first + index : first + index + 2] - begin
                            vectors[start:stop] = batch.outputs[row, : stop - start]
                            if not np.isfinite(vectors[start:stop]).all():
                                raise not_finite(passages[index].passage_id, "codecs cannot be compared by")
                        done += len(batch.indices)
                        progress.at(first + done)
                    file.write(vectors.data)
        except OSError as error:
            what = f"uncompressed representations cannot be kept: {error.strerror or error}"
            raise StorageError(what, where=path, remedy="set TMPDIR to a directory with room") from error
        progress.done()
        yield Representations(
            positions=positions,
            starts=starts,
            ids=ids,
            vectors=np.memmap(path, np.float32, "r", shape=(len(ids), width)),
            window=memory.window,
        )


def encoder_rate(encoder: MemoryEncoder, memory: Memory, positions: npt.NDArray[np.int64]) -> float:
    """Tokens a second of the memory layers over the passages at `positions`; the median of three runs, after one."""
    tokens = [passage.tokens for passage in memory.texts(positions)]
    seconds = []
    for _ in range(1 + _ROUNDS):
        begun = time.perf_counter()
        for _batch in encoder.encode(tokens):
            pass
        seconds.append(time.perf_counter() - begun)
    return sum(map(len, tokens)) / float(np.median(seconds[1:]))
