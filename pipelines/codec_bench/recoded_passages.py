"""Passages of a memory in the codes of another codec: what they are read from while that codec is judged.

And what can be said of a codec without a reader: how far decoded representations are from the encoder's, and how fast
both directions run.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ...encoders.captured_arrays import CapturedArrays
from ...encoders.memory_encoder import CPU_TOKENS, MOST_ROWS
from ...progress import Progress
from ...storage.codecs import Codec
from ...storage.memory import Memory
from ...storage.passage import Passage
from .representations import Representations

_TIMED_LENGTH = 128
_ROUNDS = 7
_ROUND_SECONDS = 0.1


class RecodedPassages:
    """A `PassageSource`: texts and lengths from `memory`, codes by `codec`, for the passages of `representations`."""

    def __init__(self, memory: Memory, representations: Representations, codec: Codec, *, progress: Progress) -> None:
        self._memory, self._known, self.codec, self.window = memory, representations, codec, memory.window
        self._codes = np.empty((representations.tokens, codec.code_bytes), np.uint8)
        encode = _Compiled(codec.encode)
        done = 0
        for rows, vectors, ids in representations.blocks(np.arange(len(representations.positions))):
            codes = np.asarray(encode(vectors, ids))
            for place, row in enumerate(rows.tolist()):
                start, stop = representations.starts[row : row + 2]
                self._codes[start:stop] = codes[place, : stop - start]
            done += len(rows)
            progress.at(done)

    def token_counts(self, positions: npt.ArrayLike) -> npt.NDArray[np.int32]:
        return self._memory.token_counts(positions)

    def texts(self, positions: npt.ArrayLike) -> list[Passage]:
        return self._memory.texts(positions)

    def fetch(
        self, positions: npt.ArrayLike, out: npt.NDArray[np.uint8] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        rows = self._known.rows(positions)
        if out is None:
            out = np.empty((len(rows), self.window, self.codec.code_bytes), np.uint8)
        starts = self._known.starts
        for place, row in enumerate(rows.tolist()):
            count = int(starts[row + 1] - starts[row])
            out[place, :count] = self._codes[starts[row] : starts[row + 1]]
            out[place, count:] = 0
        return out, (starts[rows + 1] - starts[rows]).astype(np.int32)

    def relative_error(self, positions: npt.NDArray[np.int64]) -> float:
        """Σ|x - decoded x|² / Σ|x - mean x|² over all tokens of the passages at `positions`."""
        known = self._known
        decode = _Compiled(lambda codes: self.codec.decode(codes, jnp.float32))
        error, count = 0.0, 0
        width = known.vectors.shape[1]
        sums, squares = np.zeros(width), np.zeros(width)
        for part, vectors, _ in known.blocks(known.rows(positions)):
            codes = np.zeros((*vectors.shape[:2], self.codec.code_bytes), np.uint8)
            fetched, lengths = self.fetch(known.positions[part])
            codes[: len(part)] = fetched[:, : codes.shape[1]]
            decoded = np.asarray(decode(codes))
            for place, length in enumerate(lengths.tolist()):
                x = vectors[place, :length].astype(np.float64)
                error += float(np.square(x - decoded[place, :length]).sum())
                sums += x.sum(0)
                squares += np.square(x).sum(0)
                count += length
        variance = float((squares - np.square(sums) / count).sum())
        return error / variance if variance > 0 else 0.0


class _Compiled:
    """A function compiled for each shape, with the codec's tables as arguments, as encoder and reader have them."""

    def __init__(self, function: Callable[..., jax.Array]) -> None:
        self._function, self._captured = function, CapturedArrays()
        self._programs: dict[tuple[tuple[int, ...], ...], Callable[..., jax.Array]] = {}

    def __call__(self, *inputs: Any) -> jax.Array:
        shapes = tuple(each.shape for each in inputs)
        if shapes not in self._programs:
            arrays, call = self._captured.of(self._function, *inputs)
            compiled = jax.jit(call).lower(arrays, *inputs).compile()
            self._programs[shapes] = functools.partial(compiled, arrays)
        return self._programs[shapes](*inputs)


def codec_rates(codec: Codec, representations: Representations, dtype: Any) -> tuple[float, float]:
    """(encode, decode to `dtype`) in tokens a second of batches such as the encoder's; medians of seven rounds."""
    length = min(_TIMED_LENGTH, representations.window)
    rows = max(1, CPU_TOKENS // length) if jax.default_backend() == "cpu" else MOST_ROWS
    shown = np.resize(np.arange(representations.tokens), rows * length)
    vectors = jnp.asarray(representations.vectors[shown].reshape(rows, length, -1))
    ids = jnp.asarray(representations.ids[shown].reshape(rows, length))
    encode, decode = _Compiled(codec.encode), _Compiled(lambda codes: codec.decode(codes, dtype))
    codes = encode(vectors, ids)
    return rows * length / _seconds(encode, vectors, ids), rows * length / _seconds(decode, codes)


def _seconds(program: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Of one call: the median of rounds of as many calls as take a tenth of a second."""
    program(*arguments).block_until_ready()
    begun = time.perf_counter()
    program(*arguments).block_until_ready()
    calls = max(1, int(_ROUND_SECONDS / max(time.perf_counter() - begun, 1e-6)))
    rounds = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        for _ in range(calls):
            last = program(*arguments)
        last.block_until_ready()
        rounds.append((time.perf_counter() - begun) / calls)
    return float(np.median(rounds))
