"""Fitting the tables of `pq`: means of tokens and positions, a rotation of what they leave, and k-means in each group.

On the CPU, in chunks of fixed size with sums in float64, so that the tables follow from the sample: not from an
accelerator, and not from how many threads the matrix products ran on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import UsageError
from .codec import FitSample
from .nearest_centroids import CENTROIDS, nearest_centroids

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Nearest = Callable[[Floats, Floats], npt.NDArray[np.uint8]]

CHUNK = 4096
CLUSTERED = 1 << 16
"""Residuals that k-means sees at most."""
ROUNDS = 10
_TOKEN_WEIGHT = 3
"""A token's mean is drawn towards the linear map of its embedding, as if that had been seen so often."""
_POSITION_WEIGHT = 20
_RIDGE = 0.01
_LARGEST = 32768.0


def fit_tables(sample: FitSample, *, positions: int, groups: int, size: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """The tables of `pq` by name, from a sample of at least one token.

    Args:
        sample: the tokens; nothing in it is changed.
        positions: how many positions have a mean of their own.
        groups, size: M and w: M groups of w dimensions.
        seed: decides which residuals k-means sees and starts from.
    """
    vectors, ids, embeddings = sample.vectors, sample.ids, sample.embeddings
    places = np.minimum(sample.positions, positions - 1)
    linear = _linear_map(vectors, ids, embeddings)
    means, scales = _in_float16(linear + _shrunk_means(vectors, ids, linear, len(embeddings), _TOKEN_WEIGHT))
    token_means = means.astype(np.float32) * scales[:, None]
    position_means = _shrunk_means(vectors, places, token_means, positions, _POSITION_WEIGHT, rows=ids)

    def residuals(rows: npt.NDArray[np.int64]) -> Floats:
        rest: Floats = vectors[rows] - token_means[ids[rows]] - position_means[places[rows]]
        return rest

    rotation = _balanced_rotation(residuals, len(vectors), groups, size)
    random = np.random.Generator(np.random.PCG64(seed))
    seen = np.sort(random.permutation(len(vectors))[:CLUSTERED])
    points = np.concatenate([residuals(seen[rows]) @ rotation for rows in _chunks(len(seen))])
    nearest = _compiled_nearest()
    centroids = np.stack(
        [_k_means(np.ascontiguousarray(points[:, g * size : (g + 1) * size]), random, nearest) for g in range(groups)]
    )
    return {
        "token_means": means,
        "token_scales": scales,
        "position_means": position_means,
        "rotation": rotation,
        "centroids": centroids,
    }


def _chunks(count: int) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, count, CHUNK):
        yield np.arange(first, min(count, first + CHUNK))


def _linear_map(vectors: Floats, ids: npt.NDArray[np.int32], embeddings: Floats) -> Floats:
    """float32 [V, D]: the ridge regression of representations on their embeddings, for every token there is."""
    width = vectors.shape[1]
    mean = vectors.mean(0, dtype=np.float64)
    centre = np.zeros(width)
    for rows in _chunks(len(vectors)):
        centre += embeddings[ids[rows]].sum(0, dtype=np.float64)
    centre /= len(vectors)
    gram, cross = np.zeros((width, width)), np.zeros((width, width))
    for rows in _chunks(len(vectors)):
        features = embeddings[ids[rows]] - centre
        gram += features.T @ features
        cross += features.T @ (vectors[rows] - mean)
    ridge = _RIDGE * np.trace(gram) / width
    weights = np.linalg.solve(gram + ridge * np.eye(width), cross) if ridge > 0 else cross
    mapped = np.empty(embeddings.shape, np.float32)
    for rows in _chunks(len(embeddings)):
        mapped[rows] = (embeddings[rows] - centre) @ weights + mean
    return mapped


def _shrunk_means(
    vectors: Floats,
    keys: npt.NDArray[np.int32],
    base: Floats,
    count: int,
    weight: float,
    *,
    rows: npt.NDArray[np.int32] | None = None,
) -> Floats:
    """float32 [count, D]: means by `keys` of vectors - base[rows], as if `weight` zeros had been seen with each."""
    sums = np.zeros((count, vectors.shape[1]))
    rows = keys if rows is None else rows
    order = np.argsort(keys, kind="stable")
    for part in _chunks(len(vectors)):
        chosen = order[part]
        rest = vectors[chosen].astype(np.float64) - base[rows[chosen]]
        present, first = np.unique(keys[chosen], return_index=True)
        sums[present] += np.add.reduceat(rest, first, axis=0)
    shrunk: Floats = (sums / (np.bincount(keys, minlength=count) + weight)[:, None]).astype(np.float32)
    return shrunk


def _in_float16(means: Floats) -> tuple[npt.NDArray[np.float16], Floats]:
    """float16 [V, D] and a float32 scale a row: a dimension of 10^5 times the others leaves those their 11 bits."""
    scales = np.abs(means).max(1) / np.float32(_LARGEST)
    return (means / np.where(scales > 0, scales, 1)[:, None]).astype(np.float16), scales.astype(np.float32)


def _balanced_rotation(residuals: Any, count: int, groups: int, size: int) -> Floats:
    """float32 [D, groups·size]: principal components of the residuals, dealt to groups of about equal volume.

    The largest first, each to the group whose product of variances is smallest so far (eigenvalue allocation).
    """
    covariance: Doubles | float = 0.0
    for rows in _chunks(count):
        rest = residuals(rows).astype(np.float64)
        covariance = covariance + rest.T @ rest
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = max(float(values[0]) * 1e-12, float(np.finfo(np.float32).tiny))
    logs = np.log(np.maximum(values, floor))
    logs = logs - logs[groups * size - 1 :].min() + 1e-9
    members: list[list[int]] = [[] for _ in range(groups)]
    volumes = np.zeros(groups)
    for component in range(groups * size):
        chosen = int(volumes.argmin())
        members[chosen].append(component)
        volumes[chosen] = np.inf if len(members[chosen]) == size else volumes[chosen] + logs[component]
    order = np.concatenate(members)
    # An eigenvector's sign is the library's choice: the largest entry is made positive.
    chosen_vectors = vectors[:, order]
    largest = np.abs(chosen_vectors).argmax(0)
    signs = np.where(chosen_vectors[largest, np.arange(len(order))] < 0, -1.0, 1.0)
    rotation: Floats = np.ascontiguousarray((chosen_vectors * signs).astype(np.float32))
    return rotation


def _k_means(points: Floats, random: np.random.Generator, nearest: Nearest) -> Floats:
    """float32 [256, w]: Lloyd's algorithm from points drawn at random, which may repeat where there are few.

    A centroid that no point is nearest to takes the place of one of the most frequent, moved a little (as faiss does).
    """
    count, size = points.shape
    drawn = random.permutation(count)[:CENTROIDS]
    centroids = points[np.resize(drawn, CENTROIDS)].astype(np.float32)
    for _ in range(ROUNDS):
        owners = nearest(points, centroids)
        counts = np.bincount(owners, minlength=CENTROIDS)
        sums = np.stack([np.bincount(owners, points[:, d], CENTROIDS) for d in range(size)], 1)
        centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        if count > CENTROIDS:
            empty, frequent = np.flatnonzero(counts == 0), np.argsort(-counts, kind="stable")
            for lost, source in zip(empty, frequent, strict=False):
                centroids[lost] = centroids[source] * np.float32(1 + 1 / 1024)
                centroids[source] *= np.float32(1 - 1 / 1024)
    return centroids


def _compiled_nearest() -> Nearest:
    """The number of each point's nearest centroid, compiled for the CPU: points are handled in chunks of fixed size."""
    import jax

    try:
        (cpu, *_) = jax.local_devices(backend="cpu")
    except RuntimeError as error:
        what = "fitting codec pq needs JAX's CPU backend beside the accelerator's"
        raise UsageError(what, remedy="add `,cpu` to JAX_PLATFORMS") from error

    program = jax.jit(nearest_centroids)

    def nearest(points: Floats, centroids: Floats) -> npt.NDArray[np.uint8]:
        chunks = -(-len(points) // CHUNK)
        padded = np.zeros((points.shape[1], chunks * CHUNK), np.float32)
        padded[:, : len(points)] = points.T
        arrays = jax.device_put((padded.reshape(-1, chunks, CHUNK), centroids[..., None]), cpu)
        return np.asarray(program(*arrays)).reshape(-1)[: len(points)]

    return nearest
