"""A codec with learned tables in one file, as another package or a new file of `storage/codecs` would have it.

Product quantisation: a representation is cut into equal parts, and each part is stored as the number of its nearest
centroid. Tests put this file where codecs are found and do not tell the rest of Glimmer about it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glimmer import UsageError
from glimmer.storage.codecs import CodecSpec, FitSample, Parameter, Tables, TableShape, register_codec

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ProductQuantiser:
    """`centroids` is float32 [parts, centroids, width / parts]; a code has a byte for each part."""

    description: CodecSpec
    centroids: Floats

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def width(self) -> int:
        return self.description.width

    @property
    def code_bytes(self) -> int:
        return len(self.centroids)

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        parts = x.astype(jnp.float32).reshape(*x.shape[:-1], len(self.centroids), -1)
        apart = jnp.square(parts[..., None, :] - self.centroids).sum(-1)
        return jnp.argmin(apart, axis=-1).astype(jnp.uint8)

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        import jax.numpy as jnp

        parts = jnp.asarray(self.centroids)[jnp.arange(len(self.centroids)), codes]
        return parts.reshape(*codes.shape[:-1], self.width).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return self.description.to_json()

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {"centroids": self.centroids}


def shape(spec: CodecSpec) -> tuple[int, int, int]:
    return spec["bytes"], spec["centroids"], spec.width // spec["bytes"]


def code_bytes(spec: CodecSpec) -> int:
    if spec.width % spec["bytes"]:
        raise UsageError(f"bytes is {spec['bytes']}, expected a divisor of the width {spec.width}")
    return int(spec["bytes"])


def fit(sample: FitSample, spec: CodecSpec, seed: int) -> ProductQuantiser:
    """Lloyd's algorithm in each part."""
    if "PAUSE_IN_FIT" in os.environ:  # for a test that kills the process here
        Path(os.environ["PAUSE_IN_FIT"]).touch()
        time.sleep(60)
    parts, count, size = shape(spec)
    samples = sample.vectors
    if len(samples) < count:
        raise UsageError(f"{spec} needs {count} tokens, the corpus has {len(samples)}; ask for fewer centroids")
    tables = np.empty((parts, count, size), np.float32)
    for part in range(parts):
        points = samples[:, part * size : (part + 1) * size]
        centroids = points[np.random.default_rng(seed).permutation(len(points))[:count]].astype(np.float64)
        for _ in range(4):
            apart = np.square(points[:, None] - centroids).sum(-1)
            nearest = apart.argmin(1)
            for centroid in range(count):
                if len(members := points[nearest == centroid]):
                    centroids[centroid] = members.mean(0, dtype=np.float64)
        tables[part] = centroids
    return ProductQuantiser(spec, tables)


def load(spec: CodecSpec, tables: Tables) -> ProductQuantiser:
    if "LOADED_BY" in os.environ:  # for a test that asks which processes did
        with open(os.environ["LOADED_BY"], "a") as log:
            log.write(f"{os.getpid()}\n")
    return ProductQuantiser(spec, np.asarray(tables["centroids"]))


register_codec(
    "test-pq",
    parameters=(
        Parameter(name="bytes", kind=int, default=8, low=1, high=1024),
        Parameter(name="centroids", kind=int, default=16, low=2, high=256),
    ),
    code_bytes=code_bytes,
    tables=lambda spec: {"centroids": TableShape(shape(spec), np.float32)},
    fit=fit,
    fit_samples=2000,
    load=load,
)
