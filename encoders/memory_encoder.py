"""Runs the frozen lower layers over passages: the one loop that a memory's cost is made of.

Passages are sorted into length buckets, each a fixed shape of rows x length that is compiled once. A passage's output
depends on that passage alone, bit for bit: its bucket follows from its own length, the shape of a bucket never changes
(missing rows are padding), and no operation mixes rows. That is what makes a refreshed memory equal to a rebuilt one.

Shapes are chosen for the processor: on CPU about 512 tokens a batch, whose intermediate results stay in its cache
(MiniLM ran 42 k tokens/s so, and 16 k in batches of 4,096), in many lengths; accelerators get 32 rows in seven lengths.
While the device works on one batch the host prepares the next, and results are fetched late. Several local devices take
one batch each (`shard_map`), with the rows per device unchanged, so the number of devices does not change a bit either.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxlib.xla_client import Device

from .. import InputError, UsageError
from ..progress import busy
from .captured_arrays import CapturedArrays
from .models import LoadedModel
from .tokenizers import Ids

MOST_ROWS = 32
CPU_TOKENS = 512
_IN_FLIGHT = 2
_log = logging.getLogger(__name__)

Transform = Callable[[jax.Array, jax.Array], jax.Array]


def _partition(*axes: str) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


def default_shapes(window: int, platform: str | None = None) -> tuple[tuple[int, int], ...]:
    """The (rows, length) buckets up to `window` tokens, for `platform` (default: the process's JAX backend).

    CPU: 13 lengths, every sixteenth of the window from 2 to 12, then 14 and 16, since programs compile in half a
    second and padding costs what tokens cost: 10 % of all with these, 16 % with seven. Accelerators: seven lengths, 1
    to 6 and 8 eighths. Lengths are rounded up to 16, so a small window has fewer.
    """
    cpu = (platform or jax.default_backend()) == "cpu"
    sixteenths = (*range(2, 13), 14, 16) if cpu else (2, 4, 6, 8, 10, 12, 16)
    lengths = sorted({min(window, -(-window * part // 256) * 16) for part in sixteenths})
    return tuple((max(1, min(MOST_ROWS, CPU_TOKENS // length)) if cpu else MOST_ROWS, length) for length in lengths)


@dataclass(frozen=True)
class EncodedBatch:
    """Results of one batch: `indices` int64 [n] into the input, `outputs` [n, length, ...], `lengths` int32 [n].

    `length` is the bucket's; positions at or beyond a passage's own length are zero.
    """

    indices: np.ndarray[Any, np.dtype[np.int64]]
    outputs: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class _Program:
    """A compiled batch: `run(state, arrays, ids, real)`; `arrays` are those that the transform closes over."""

    run: Callable[..., jax.Array]
    arrays: tuple[jax.Array, ...]


class MemoryEncoder:
    """The memory encoder of `model`: embedding and layers [0, memory_layers), then `transform` in the same program.

    Args:
        model: an open model directory.
        precision: "bfloat16" (products in bfloat16, accumulated in float32) or "float32".
        shapes: (rows, length) buckets per device; default `default_shapes(window)`. A memory records and reuses them.
        transform: traced into the compiled program: hidden [rows, length, D] and ids int32 [rows, length] ->
            [rows, length, ...]; a codec's encode. Without one, outputs are in `precision`.
        devices: the devices to use, default all local ones of the default backend.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        precision: str = "bfloat16",
        shapes: Sequence[tuple[int, int]] | None = None,
        transform: Transform | None = None,
        devices: Sequence[Device] | None = None,
    ) -> None:
        if precision not in ("bfloat16", "float32"):
            raise UsageError(f"precision must be bfloat16 or float32, not {precision!r}")
        config = model.config
        self.model, self.precision, self.window = model, precision, config.window
        chosen = default_shapes(config.window) if shapes is None else shapes
        self.shapes = tuple(sorted(((int(rows), int(length)) for rows, length in chosen), key=lambda shape: shape[1]))
        lengths = [length for _, length in self.shapes]
        if not lengths or min(lengths) < 1 or min(rows for rows, _ in self.shapes) < 1:
            raise UsageError("the encoder needs at least one shape, of positive rows and length")
        if len(set(lengths)) != len(lengths):
            raise UsageError(f"two shapes have the same length: {self.shapes}; which one a passage gets must be fixed")
        longest = config.encoder.max_positions
        if longest is not None and lengths[-1] > longest:
            raise UsageError(f"shape {self.shapes[-1]} is longer than the encoder's {longest} positions")
        self._lengths = np.asarray(lengths)
        self._transform = transform
        self._devices = list(jax.local_devices() if devices is None else devices)
        self._mesh = Mesh(np.array(self._devices), ("rows",))
        with busy(f"loading model {model.path.name}"):
            encoder = model.encoder(jnp.dtype(precision), slice(0, config.memory_layers))
        self._graph, state = nnx.split(encoder)
        self._state = jax.device_put(state, NamedSharding(self._mesh, _partition()))
        self._captured = CapturedArrays(
            functools.partial(jax.device_put, device=NamedSharding(self._mesh, _partition()))
        )
        self._programs: dict[tuple[int, int], _Program] = {}
        self._needed: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far: one for each shape that was needed."""
        return len(self._programs)

    def encode(self, tokens: Sequence[Ids]) -> Iterator[EncodedBatch]:
        """Encodes passages given as int32 ids with special tokens, each at most `window` long and the longest shape.

        Yields batches in no particular order; every index occurs exactly once. Two calls may run at once, in two
        threads. InputError (raised before any work) names the first passage that is empty, too long, or has an id
        outside the vocabulary.
        """
        lengths = self._checked_lengths(tokens)
        return self._encode(tokens, lengths)

    def _checked_lengths(self, tokens: Sequence[Ids]) -> np.ndarray[Any, np.dtype[np.int32]]:
        lengths = np.fromiter((len(ids) for ids in tokens), np.int32, len(tokens))
        most = min(self.window, int(self._lengths[-1]))
        for index in np.flatnonzero((lengths < 1) | (lengths > most))[:1]:
            raise InputError(f"passage {index} has {lengths[index]} tokens; the encoder takes 1 to {most}")
        if len(tokens):
            flat = np.concatenate(tokens)
            wrong = np.flatnonzero((flat < 0) | (flat >= self.model.config.encoder.vocab_size))
            for place in wrong[:1]:
                index = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
                raise InputError(f"passage {index} has token id {flat[place]}, outside the vocabulary")
        return lengths

    def _encode(self, tokens: Sequence[Ids], lengths: np.ndarray[Any, np.dtype[np.int32]]) -> Iterator[EncodedBatch]:
        bucket = np.searchsorted(self._lengths, lengths)
        with self._lock:
            self._needed |= {self.shapes[number] for number in np.unique(bucket)}
        running: deque[tuple[np.ndarray[Any, Any], jax.Array]] = deque()
        for number, (rows, length) in enumerate(self.shapes):
            members = np.flatnonzero(bucket == number)
            rows *= len(self._devices)
            for start in range(0, len(members), rows):
                indices = members[start : start + rows]
                running.append((indices, self._dispatch(number, tokens, indices, rows, length)))
                if len(running) > _IN_FLIGHT:
                    yield self._collect(*running.popleft(), lengths)
        while running:
            yield self._collect(*running.popleft(), lengths)

    def _dispatch(
        self, number: int, tokens: Sequence[Ids], indices: np.ndarray[Any, Any], rows: int, length: int
    ) -> jax.Array:
        ids = np.full((rows, length), self.model.tokenizer.pad_id, np.int32)
        real = np.ones((rows,), np.int32)  # a row of padding sees its first token, so its softmax is a plain one
        for row, index in enumerate(indices):
            each = tokens[index]
            ids[row, : len(each)] = each
            real[row] = len(each)
        sharding = NamedSharding(self._mesh, _partition("rows"))
        program = self._program(self.shapes[number])
        return program.run(self._state, program.arrays, jax.device_put(ids, sharding), jax.device_put(real, sharding))

    def _collect(
        self, indices: np.ndarray[Any, Any], result: jax.Array, lengths: np.ndarray[Any, np.dtype[np.int32]]
    ) -> EncodedBatch:
        return EncodedBatch(indices=indices, outputs=np.asarray(result)[: len(indices)], lengths=lengths[indices])

    def _program(self, shape: tuple[int, int]) -> _Program:
        with self._lock:
            if shape not in self._programs:
                begun = time.monotonic()
                with busy(f"compiling ({len(self._programs) + 1} of {len(self._needed)})"):
                    self._programs[shape] = self._compile(shape)
                _log.debug("compiled %d x %d tokens in %.1f s", *shape, time.monotonic() - begun)
            return self._programs[shape]

    def _compile(self, shape: tuple[int, int]) -> _Program:
        split, whole = _partition("rows"), _partition()
        arrays, transform = self._transform_of(shape)

        def forward(
            state: nnx.State[Any, Any], arrays: tuple[jax.Array, ...], ids: jax.Array, real: jax.Array
        ) -> jax.Array:
            return self._forward(state, functools.partial(transform, arrays), ids, real)

        mapped = jax.shard_map(
            forward, mesh=self._mesh, in_specs=(whole, whole, split, split), out_specs=split, check_vma=False
        )
        rows = shape[0] * len(self._devices)
        sharding = NamedSharding(self._mesh, split)
        ids = jax.device_put(np.zeros((rows, shape[1]), np.int32), sharding)
        real = jax.device_put(np.ones((rows,), np.int32), sharding)
        return _Program(jax.jit(mapped).lower(self._state, arrays, ids, real).compile(), arrays)

    def _transform_of(self, shape: tuple[int, int]) -> tuple[tuple[jax.Array, ...], Callable[..., jax.Array]]:
        """(arrays, f): f(arrays, hidden, ids) is the transform for one device's share of a batch of `shape`."""
        transform = self._transform
        if transform is None:
            return (), lambda _, hidden, ids: hidden.astype(self.precision)
        ids, real = np.zeros(shape, np.int32), np.ones(shape[:1], np.int32)
        hidden, _ = jax.eval_shape(self._hidden, self._state, ids, real)
        return self._captured.of(transform, hidden, ids)

    def _forward(self, state: nnx.State[Any, Any], transform: Transform, ids: jax.Array, real: jax.Array) -> jax.Array:
        """One device's share: ids int32 [rows, length], real int32 [rows] -> [rows, length, ...], zero beyond real."""
        hidden, mask = self._hidden(state, ids, real)
        outputs = transform(hidden, ids)
        seen = mask.reshape(mask.shape + (1,) * (outputs.ndim - 2))
        return jnp.where(seen, outputs, jnp.zeros((), outputs.dtype))

    def _hidden(self, state: nnx.State[Any, Any], ids: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        """hidden [rows, length, D], zero beyond real, and bool [rows, length], True up to there."""
        config = self.model.config
        encoder = nnx.merge(self._graph, state)
        mask = jnp.arange(ids.shape[1])[None, :] < real[:, None]
        hidden = encoder.embed(ids)
        hidden = encoder.run(hidden, encoder.context(mask), 0, config.memory_layers)
        if config.memory_layers == config.encoder.num_layers:
            hidden = encoder.finish(hidden)
        return jnp.where(mask[..., None], hidden, 0), mask
