"""`pq`: token-conditional product quantisation, from 16 times smaller than bfloat16.

A token's vocabulary id and its place in the passage say most about its contextual representation: a mean for each id
and one for each position leave about a quarter of the variance. Only the rest is quantised: rotated so that the
principal components are spread over groups of equal product of variances (parametric OPQ: Ge et al., CVPR 2013, section
3.2), and each group stored as the number of its nearest of 256 centroids (Jégou et al., TPAMI 2011). The id stands in
the code, so that a code is decoded without its text. MEMORY-VQ (arXiv 2308.14903) quantises the whole representation;
SDR (arXiv 2110.02065) and CQ (arXiv 2203.15328) condition on the token as this does, with a learned decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import UsageError
from .codec import MAX_TABLE_BYTES, CodecSpec, FitSample, Parameter, Tables, TableShape, check_width
from .codec_registry import register_codec
from .nearest_centroids import CENTROIDS, nearest_centroids

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

POSITIONS = 256
"""Position means; later positions take the last one's."""
MOST_SAMPLES = 1 << 18
_SAMPLE_BYTES = 1 << 30


def id_bytes(vocabulary: int) -> int:
    """Bytes of a token id in a code, 2 to 4: all ones is never an id, it says that the token could not be encoded."""
    return next(count for count in (2, 3, 4) if vocabulary < 1 << 8 * count)


def default_bytes(width: int, vocabulary: int) -> int:
    """Bytes of a whole code that are a sixteenth of bfloat16's, or as near as the width allows."""
    first = id_bytes(vocabulary)
    return min(max(width // 8, first + 1), first + width)


@dataclass(frozen=True, eq=False)
class TokenConditionalPQ:
    """Codes of `bytes` bytes: the token id, little-endian, then the number of a centroid for each of the M groups.

    x ≈ token_means[id]·token_scales[id] + position_means[p] + rotation · centroids, and `encode` takes the nearest
    centroids. Ids at or past the vocabulary decode as the last one. A token with a NaN or an infinity is refused: its
    id is all ones and the rest zero (`refused`).

    Attributes:
        description: name, width D, `bytes` and `vocabulary` V.
        token_means: float16 [V, D], and `token_scales`: float32 [V], which keeps dimensions 10^5 times the median.
        position_means: float32 [256, D].
        rotation: float32 [D, M·w] with orthonormal columns; w = D // M, and what D - M·w components vary least in is
            not kept.
        centroids: float32 [M, 256, w].
    """

    description: CodecSpec
    token_means: npt.NDArray[np.float16]
    token_scales: npt.NDArray[np.float32]
    position_means: npt.NDArray[np.float32]
    rotation: npt.NDArray[np.float32]
    centroids: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def width(self) -> int:
        return self.description.width

    @property
    def code_bytes(self) -> int:
        return int(self.description["bytes"])

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        check_width(x.shape[-1], self.width, "representation")
        values = x.astype(jnp.float32)
        rest = (values - self._predicted(ids)).reshape(-1, self.width)
        groups, _, size = self.centroids.shape
        # Columns go by dimension first, as the search wants them. What rounding the rest to bfloat16 changes is far
        # below the distances between centroids.
        rotation = self.rotation.reshape(self.width, groups, size).swapaxes(1, 2).reshape(self.width, -1)
        rotated = jnp.matmul(
            rest.astype(jnp.bfloat16), jnp.asarray(rotation, jnp.bfloat16), preferred_element_type=jnp.float32
        )
        points = rotated.reshape(-1, size, groups).transpose(1, 2, 0)
        nearest = nearest_centroids(points, jnp.asarray(np.ascontiguousarray(self.centroids.transpose(1, 2, 0))))
        codes = nearest.T.reshape(*x.shape[:-1], groups)
        finite = jnp.isfinite(values).all(-1, keepdims=True)
        shifts = 8 * jnp.arange(self.code_bytes - groups)
        stored_id = ((ids[..., None] >> shifts) & 255).astype(jnp.uint8)
        return jnp.concatenate([jnp.where(finite, stored_id, 255), jnp.where(finite, codes, 0)], axis=-1)

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        import jax.numpy as jnp

        check_width(codes.shape[-1], self.code_bytes, "code")
        groups, _, size = self.centroids.shape
        first = self.code_bytes - groups
        shifts = 8 * jnp.arange(first, dtype=jnp.uint32)
        ids = (codes[..., :first].astype(jnp.uint32) << shifts).sum(-1, dtype=jnp.uint32)
        ids = jnp.minimum(ids, jnp.uint32(len(self.token_means) - 1)).astype(jnp.int32)
        rows = codes[..., first:].astype(jnp.int32) + CENTROIDS * jnp.arange(groups)
        # A reader that computes in bfloat16 has the product in it, too: as its own are, with float32 sums.
        operands = jnp.bfloat16 if jnp.dtype(dtype) == jnp.bfloat16 else jnp.float32
        centroids = jnp.asarray(self.centroids.reshape(-1, size), operands)
        rotated = jnp.take(centroids, rows, axis=0, mode="clip").reshape(-1, groups * size)
        rest = jnp.matmul(rotated, jnp.asarray(self.rotation.T, operands), preferred_element_type=jnp.float32)
        return (self._predicted(ids) + rest.reshape(*codes.shape[:-1], self.width)).astype(dtype)

    def _predicted(self, ids: jax.Array) -> jax.Array:
        """ids int32 [..., length] -> float32 [..., length, D]: what id and position say of the representation."""
        import jax.numpy as jnp

        places = jnp.minimum(jnp.arange(ids.shape[-1]), POSITIONS - 1)
        means = jnp.take(self.token_means, ids, axis=0, mode="clip").astype(jnp.float32)
        scales = jnp.take(self.token_scales, ids, mode="clip")
        return means * scales[..., None] + jnp.asarray(self.position_means)[places]

    def refused(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """codes: uint8 [..., code_bytes] -> bool [...]: True where the representation was not finite."""
        marked: npt.NDArray[np.bool_] = (codes[..., : self.code_bytes - len(self.centroids)] == 255).all(-1)
        return marked

    def spec(self) -> dict[str, Any]:
        return self.description.to_json()

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in _shapes(self.description)}


def _code_bytes(spec: CodecSpec) -> int:
    size, first = int(spec["bytes"]), id_bytes(spec["vocabulary"])
    if not first < size <= first + spec.width:
        raise UsageError(
            f"bytes is {size}, expected {first + 1} to {first + spec.width}: {first} for the token id, then one for "
            f"each group of the {spec.width} dimensions"
        )
    if (table := 2 * spec["vocabulary"] * spec.width) > MAX_TABLE_BYTES - (1 << 26):
        raise UsageError(
            f"the means of {spec['vocabulary']} tokens of width {spec.width} would take {table} bytes, more than a "
            "memory can keep; use int8"
        )
    return size


def _shapes(spec: CodecSpec) -> dict[str, TableShape]:
    width, vocabulary = spec.width, int(spec["vocabulary"])
    groups = _code_bytes(spec) - id_bytes(vocabulary)
    size = width // groups
    return {
        "token_means": TableShape((vocabulary, width), np.float16),
        "token_scales": TableShape((vocabulary,), np.float32),
        "position_means": TableShape((POSITIONS, width), np.float32),
        "rotation": TableShape((width, groups * size), np.float32),
        "centroids": TableShape((groups, CENTROIDS, size), np.float32),
    }


def _fit(sample: FitSample, spec: CodecSpec, seed: int) -> TokenConditionalPQ:
    from .pq_fit import fit_tables

    shapes = _shapes(spec)
    groups, _, size = shapes["centroids"].shape
    return _load(spec, fit_tables(sample, positions=POSITIONS, groups=groups, size=size, seed=seed))


def _load(spec: CodecSpec, tables: Tables) -> TokenConditionalPQ:
    return TokenConditionalPQ(spec, **{name: np.asarray(table) for name, table in tables.items()})


register_codec(
    "pq",
    parameters=(
        Parameter(name="bytes", kind=int, low=3, high=65540, derive=default_bytes),
        Parameter(
            name="vocabulary", kind=int, low=1, high=2**31 - 1, derive=lambda _, vocabulary: vocabulary, fixed=True
        ),
    ),
    code_bytes=_code_bytes,
    tables=_shapes,
    fit=_fit,
    fit_samples=lambda spec: min(MOST_SAMPLES, _SAMPLE_BYTES // (4 * spec.width)),
    load=_load,
)
