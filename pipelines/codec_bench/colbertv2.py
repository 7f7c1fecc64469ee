"""ColBERTv2's residual coding (arXiv 2112.01488, section 3.3), as the peer that codecs are held against.

Not a codec of memories: nothing registers it. A token is the number of its nearest centroid (2 bytes) and what is left
in each dimension as one of 2^bits buckets, cut at quantiles. The number of centroids, four rounds of k-means and the
buckets' values, the quantiles in their middle, are those of ColBERT's code. Representations here are not of unit
length: the nearest centroid is that of least distance, nothing is normalised, and each dimension has buckets of its
own, which only helps where dimensions vary differently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import UsageError
from ...storage.codecs import FitSample, Parameter

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

NAME = "colbertv2"
ID_BYTES = 2
FIT_SAMPLES = 1 << 18
_ROUNDS = 4
_HELD_OUT = 20
"""Every so manyeth token of the sample makes the buckets, the others the centroids."""
_CHUNK = 1024
_BITS = Parameter(name="bits", kind=int, default=2, low=1, high=2)
_CENTROIDS = Parameter(name="centroids", kind=int, default=0, low=0, high=1 << 16)


@dataclass(frozen=True, eq=False)
class ResidualCoding:
    """Codes of 2 + ⌈D·bits/8⌉ bytes: the centroid's number, little-endian, then the buckets, dimension 0 lowest.

    Attributes:
        bits: 1 or 2 a dimension.
        centroids: float32 [K, D].
        cuts: float32 [2^bits - 1, D], ascending: where a dimension's buckets meet.
        values: float32 [2^bits, D], what a bucket stands for.
    """

    bits: int
    centroids: npt.NDArray[np.float32]
    cuts: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        return NAME

    @property
    def width(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def code_bytes(self) -> int:
        return code_bytes(self.width, self.bits)

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        values = x.astype(jnp.float32)
        centroids, halves = jnp.asarray(self.centroids), jnp.asarray(_halves(self.centroids))
        nearest = _nearest(values.reshape(-1, self.width), centroids, halves).reshape(x.shape[:-1])
        rest = values - centroids[nearest]
        buckets = (rest[..., None, :] > self.cuts).sum(-2, dtype=jnp.int32)
        each = 8 // self.bits
        padded = jnp.pad(buckets, [(0, 0)] * (x.ndim - 1) + [(0, -self.width % each)])
        packed = (padded.reshape(*x.shape[:-1], -1, each) << (self.bits * jnp.arange(each))).sum(-1)
        number = (nearest[..., None] >> (8 * jnp.arange(ID_BYTES))) & 255
        return jnp.concatenate([number, packed], axis=-1).astype(jnp.uint8)

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        import jax.numpy as jnp

        number = (codes[..., :ID_BYTES].astype(jnp.int32) << (8 * jnp.arange(ID_BYTES))).sum(-1)
        each = 8 // self.bits
        buckets = (codes[..., ID_BYTES:, None].astype(jnp.int32) >> (self.bits * jnp.arange(each))) & (
            (1 << self.bits) - 1
        )
        buckets = buckets.reshape(*codes.shape[:-1], -1)[..., : self.width]
        rest = jnp.asarray(self.values)[buckets, jnp.arange(self.width)]
        nearest = jnp.asarray(self.centroids)[jnp.minimum(number, len(self.centroids) - 1)]
        return (nearest + rest).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": NAME, "width": self.width, "bits": self.bits, "centroids": len(self.centroids)}

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {"centroids": self.centroids, "cuts": self.cuts, "values": self.values}


def code_bytes(width: int, bits: int) -> int:
    """Bytes a token."""
    return ID_BYTES + -(-width * bits // 8)


def parse_peer(text: str) -> tuple[int, int]:
    """(bits, centroids or 0 for ColBERT's rule) of `colbertv2:bits=1,centroids=4096`; raises UsageError."""
    name, colon, rest = text.partition(":")
    if name != NAME:
        raise UsageError(f"unknown peer {name!r}", remedy=f"the peer is {NAME}, as in {NAME}:bits=2")
    known = {each.name: each for each in (_BITS, _CENTROIDS)}
    given = {"bits": 2, "centroids": 0}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if key not in known or not equals:
            raise UsageError(f"{item!r} is not one of its parameters", where=f"peer {NAME}", remedy="bits=, centroids=")
        try:
            given[key] = int(known[key].parse(value))
        except ValueError as error:
            raise UsageError(str(error), where=f"peer {NAME}") from error
    return given["bits"], given["centroids"]


def centroids_of(tokens: int, sample: int) -> int:
    """ColBERT's number of centroids for a corpus of `tokens`: the power of two below 16·√tokens.

    At most 65,536, which 2 bytes can tell apart, and one for each four tokens of the sample.
    """
    most = max(1, min(16 * math.sqrt(tokens), 1 << 16, sample / 4))
    return 1 << int(math.log2(most))


class ResidualCodingFit:
    """The peer fitted to one sample of a corpus of `tokens`: centroids are found once for both numbers of bits."""

    def __init__(self, *, tokens: int, seed: int) -> None:
        self._tokens, self._seed = tokens, seed
        self._centroids: dict[int, npt.NDArray[np.float32]] = {}
        self._nearest = _compiled_nearest()

    def fit(self, sample: FitSample, *, bits: int, centroids: int) -> ResidualCoding:
        """`centroids` 0 is ColBERT's rule. Every call must bring the same sample. UsageError where it is too small."""
        held_out = np.arange(len(sample)) % _HELD_OUT == 0
        if len(sample) < 2:
            held_out[:] = False
        points, others = sample.vectors[~held_out], sample.vectors[held_out if held_out.any() else ~held_out]
        count = centroids or centroids_of(self._tokens, len(points))
        if count > len(points):
            what = f"{count} centroids need as many tokens, the sample has {len(points)}"
            raise UsageError(what, where=f"peer {NAME}")
        if count not in self._centroids:
            self._centroids[count] = self._k_means(points, count)
        found = self._centroids[count]
        rest = others - found[self._nearest(others, found)]
        levels = 1 << bits
        return ResidualCoding(
            bits=bits,
            centroids=found,
            cuts=np.quantile(rest, np.arange(1, levels) / levels, axis=0).astype(np.float32),
            values=np.quantile(rest, (np.arange(levels) + 0.5) / levels, axis=0).astype(np.float32),
        )

    def _k_means(self, points: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        random = np.random.Generator(np.random.PCG64(self._seed))
        found = points[np.sort(random.permutation(len(points))[:count])]
        for _ in range(_ROUNDS):
            owners = self._nearest(points, found)
            order = np.argsort(owners, kind="stable")
            present, first = np.unique(owners[order], return_index=True)
            found = found.copy()
            sizes = np.bincount(owners, minlength=count)[present]
            found[present] = np.add.reduceat(points[order], first, axis=0) / sizes[:, None]
        return found


def _halves(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [K] of |c|²/2."""
    halves: npt.NDArray[np.float32] = 0.5 * np.square(centroids).sum(-1)
    return halves


def _nearest(points: jax.Array, centroids: jax.Array, halves: jax.Array) -> jax.Array:
    """points float32 [n, D], centroids float32 [K, D], halves float32 [K] -> int32 [n]."""
    import jax.numpy as jnp

    scores = jnp.matmul(points, centroids.T, precision="highest") - halves
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _compiled_nearest() -> Any:
    """points float32 [n, D], centroids float32 [K, D] -> int32 [n], in chunks of fixed size."""
    import jax

    program = jax.jit(_nearest)

    def nearest(points: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        placed = jax.device_put((centroids, _halves(centroids)))
        found = np.empty(len(points), np.int32)
        for first in range(0, len(points), _CHUNK):
            part = points[first : first + _CHUNK]
            padded = np.zeros((_CHUNK, points.shape[1]), np.float32)
            padded[: len(part)] = part
            found[first : first + len(part)] = np.asarray(program(padded, *placed))[: len(part)]
        return found

    return nearest
