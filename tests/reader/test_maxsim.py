"""MaxSim: the best match of each question token, weighted, over real tokens alone; reference in plain NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from glimmer.reader.maxsim import maxsim


def reference(
    question: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], passages: list[npt.NDArray[np.float32]]
) -> list[float]:
    scores = []
    for passage in passages:
        total = 0.0
        for vector, weight in zip(question, weights, strict=True):
            cosines = [v @ vector / np.sqrt((v @ v) * (vector @ vector)) for v in passage]
            total += weight * max(cosines)
        scores.append(total / weights.sum())
    return scores


def test_scores_are_the_weighted_means_of_the_best_cosines() -> None:
    rng = np.random.default_rng(0)
    question, weights = rng.normal(size=(5, 16)).astype(np.float32), np.array([0, 2, 1, 0.5, 3], np.float32)
    lengths = np.array([7, 1, 12, 4], np.int32)
    passages = 3 * rng.normal(size=(4, 12, 16)).astype(np.float32)
    expected = reference(question, weights, [p[:n] for p, n in zip(passages, lengths, strict=True)])
    padded = np.concatenate([question, 100 * rng.normal(size=(3, 16)).astype(np.float32)])
    wide = np.concatenate([weights, np.zeros(3, np.float32)])
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 0.02)):
        found = jax.jit(maxsim, static_argnames="dtype")(padded, wide, passages, lengths, dtype=dtype)
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_an_absent_passage_and_vectors_of_zeros_give_numbers() -> None:
    passages, lengths = np.zeros((2, 3, 4), np.float32), np.array([0, 3], np.int32)
    found = maxsim(jnp.ones((2, 4)), jnp.ones(2), jnp.asarray(passages), jnp.asarray(lengths), dtype=jnp.float32)
    assert found.tolist() == [-1.0, 0.0]
    nothing = maxsim(jnp.ones((2, 4)), jnp.zeros(2), jnp.ones((1, 3, 4)), jnp.array([3]), dtype=jnp.float32)
    assert nothing.tolist() == [0.0], "tokens that all passages have decide nothing"
