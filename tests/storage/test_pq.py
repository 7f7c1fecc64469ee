"""Token-conditional product quantisation: what a code holds, what comes back, and how its tables are fitted."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from glimmer import UsageError
from glimmer.storage.codecs import (
    Codec,
    FitSample,
    RefusesNonFinite,
    codec_from_spec,
    fit_codec,
    fit_samples,
    parse_codec,
    tables_to_bytes,
)

WIDTH, VOCABULARY, LENGTH = 32, 500, 12
TEXT = "pq:bytes=10"


def made_sample(count: int, *, seed: int = 0, outlier: float = 1.0) -> FitSample:
    """Vectors that follow from id and position but for noise of rank 16; dimension 3 is `outlier` times as large."""
    draw = np.random.default_rng(seed)
    embeddings = np.random.default_rng(99).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    ids = draw.integers(0, VOCABULARY, count).astype(np.int32)
    positions = (np.arange(count) % LENGTH).astype(np.int32)
    mixing = np.random.default_rng(98).normal(size=(16, WIDTH)) / 8
    vectors = embeddings[ids] @ np.random.default_rng(97).normal(size=(WIDTH, WIDTH)) / 6
    vectors = vectors + 0.1 * positions[:, None] + draw.normal(size=(count, 16)) @ mixing
    vectors[:, 3] *= outlier
    return FitSample(vectors=vectors.astype(np.float32), ids=ids, positions=positions, embeddings=embeddings)


@cache
def fitted(text: str = TEXT, count: int = 6000, outlier: float = 1.0) -> Codec:
    return fit_codec(parse_codec(text, WIDTH, VOCABULARY), made_sample(count, outlier=outlier), 0)


def unseen(outlier: float = 1.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """float32 [100, LENGTH, WIDTH] and ids of tokens that the fit did not see."""
    sample = made_sample(100 * LENGTH, seed=1, outlier=outlier)
    return sample.vectors.reshape(100, LENGTH, WIDTH), sample.ids.reshape(100, LENGTH)


def through(codec: Codec, x: Any, ids: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    codes = jax.jit(codec.encode)(x, ids)
    return np.asarray(codes), np.asarray(codec.decode(codes, jnp.float32))


def test_a_code_is_the_token_id_and_the_nearest_centroid_of_each_group() -> None:
    codec, (x, ids) = fitted(), unseen()
    codes, back = through(codec, x, ids)
    tables = codec.tables()
    assert codes.shape == (100, LENGTH, 10)
    assert np.array_equal(codes[..., :2].copy().view("<u2")[..., 0], ids)
    predicted = tables["token_means"][ids].astype(np.float32) * tables["token_scales"][ids][..., None]
    predicted = predicted + tables["position_means"][:LENGTH]
    parts = ((x - predicted) @ tables["rotation"]).reshape(100, LENGTH, 8, 1, 4)
    apart = np.square(parts - tables["centroids"]).sum(-1)
    chosen = np.take_along_axis(apart, codes[..., 2:, None].astype(int), -1)[..., 0]
    # The rest is rounded to bfloat16 before it is rotated: centroids that are nearly as near may be chosen.
    assert np.all(chosen <= apart.min(-1) + 0.02 * np.square(parts).sum(-1).max())
    assert chosen.mean() < 1.0005 * apart.min(-1).mean()
    assert np.mean(codes[..., 2:] == apart.argmin(-1)) > 0.98
    centroids = tables["centroids"][np.arange(8), codes[..., 2:]].reshape(100, LENGTH, -1)
    np.testing.assert_allclose(back, predicted + centroids @ tables["rotation"].T, rtol=1e-4, atol=1e-4)


def test_more_bytes_come_nearer_and_id_and_position_alone_come_far() -> None:
    x, ids = unseen()
    errors = [np.square(through(fitted(f"pq:bytes={size}"), x, ids)[1] - x).mean() / x.var() for size in (3, 6, 10, 18)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.25
    assert errors[-1] < 0.05


@pytest.mark.parametrize("outlier", [1e4, 1e5])
def test_dimensions_far_larger_than_the_median_do_not_drown_the_others(outlier: float) -> None:
    """T5's residual stream has such dimensions: token means keep their precision, and every group its components."""
    x, ids = unseen(outlier)
    _, back = through(fitted(outlier=outlier), x, ids)
    assert np.isfinite(back).all()
    plain = np.arange(WIDTH) != 3
    assert np.square(back - x)[..., plain].mean() / x[..., plain].var() < 0.15
    assert np.square(back - x)[..., 3].mean() / x[..., 3].var() < 0.15


@pytest.mark.parametrize("outlier", [1, 1e5])
def test_a_reader_in_bfloat16_gets_what_bfloat16_can_hold_of_it(outlier: float) -> None:
    codec = fitted(outlier=outlier)
    codes, back = through(codec, *unseen(outlier))
    rounded = np.asarray(codec.decode(jnp.asarray(codes), jnp.bfloat16).astype(jnp.float32))
    apart = np.square(rounded - back).mean((0, 1)) / back.var((0, 1))
    assert apart.max() < 4 * 2.0**-16


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_is_refused_and_its_neighbours_are_not(bad: float) -> None:
    codec, (x, ids) = fitted(), unseen()
    assert isinstance(codec, RefusesNonFinite)
    good, _ = through(codec, x, ids)
    assert not codec.refused(good).any()
    broken = x.copy()
    broken[4, 5, 6] = bad
    codes, back = through(codec, broken, ids)
    assert np.argwhere(codec.refused(codes)).tolist() == [[4, 5]]
    assert codes[4, 5].tolist() == [255, 255, *[0] * 8]
    assert np.isfinite(back).all()
    others = np.ones((100, LENGTH), bool)
    others[4, 5] = False
    assert np.array_equal(codes[others], good[others])


def test_any_bytes_decode_to_finite_numbers() -> None:
    codec = fitted()
    for codes in (
        np.random.default_rng(0).integers(0, 256, (50, LENGTH, 10)),
        np.zeros((1, 1, 10)),
        np.full((1, 300, 10), 255),
    ):
        back = codec.decode(jnp.asarray(codes, jnp.uint8), jnp.bfloat16)
        assert back.shape == (*codes.shape[:2], WIDTH)
        assert bool(jnp.isfinite(back).all())


@pytest.mark.parametrize("count", [1, 2, 255, 257])
def test_a_small_corpus_is_enough_and_its_tokens_come_back(count: int) -> None:
    sample = made_sample(count)
    codec = fit_codec(parse_codec("pq:bytes=4", WIDTH, VOCABULARY), sample, 0)
    assert codec_from_spec(codec.spec(), codec.tables()).spec() == codec.spec()
    codes = codec.encode(jnp.asarray(sample.vectors[:1]), jnp.asarray(sample.ids[:1]))
    assert np.isfinite(np.asarray(codec.decode(codes, jnp.float32))).all()


def test_tables_follow_from_the_sample_whatever_the_threads() -> None:
    """Another process, with as many threads as it likes, against one that has a single thread."""
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); import test_pq as t\n"
        "print(hashlib.sha256(t.tables_to_bytes(t.fitted().tables())).hexdigest())"
    )
    place = Path(__file__)
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(place.parent)],
            env={**os.environ, "PYTHONPATH": str(place.parents[3]), **threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ({}, {"OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"})
    }
    assert len(digests) == 1


def test_sizes_follow_from_width_and_vocabulary() -> None:
    assert parse_codec("pq", 384, 30522).to_json() == {"name": "pq", "width": 384, "bytes": 48, "vocabulary": 30522}
    assert parse_codec("pq", 2048, 32128)["bytes"] == 256
    assert parse_codec("pq:bytes=24,vocabulary=30522", 384, 30522)["bytes"] == 24
    assert parse_codec("pq:bytes=4", 8, 70_000)["bytes"] == 4
    assert fit_samples(parse_codec("pq", 384, 30522)) == 262144
    assert fit_samples(parse_codec("pq", 4096, 32128)) == 65536
    for text, width, vocabulary, message in (
        ("pq:bytes=3", 8, 70_000, "expected 4 to 11: 3 for the token id"),
        ("pq:bytes=48,vocabulary=5", 384, 30522, "vocabulary is 5, the encoder's is 30522"),
        ("pq:bytes=11", 8, 30522, "expected 3 to 10"),
        ("pq", 4096, 256_000, "use int8"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_codec(text, width, vocabulary)


def test_ids_of_large_vocabularies_take_three_bytes() -> None:
    spec = parse_codec("pq:bytes=5", 4, 70_000)
    draw = np.random.default_rng(0)
    embeddings = draw.normal(size=(70_000, 4)).astype(np.float32)
    ids = draw.integers(0, 70_000, 400).astype(np.int32)
    positions = np.zeros(400, np.int32)
    codec = fit_codec(spec, FitSample(vectors=embeddings[ids], ids=ids, positions=positions, embeddings=embeddings), 0)
    codes, back = through(codec, embeddings[None, ids[:9]], ids[None, :9])
    assert np.array_equal(codes[0, :, :3] @ np.array([1, 256, 65536]), ids[:9])
    assert np.square(back[0] - embeddings[ids[:9]]).mean() < 0.1
    assert len(tables_to_bytes(codec.tables())) > 2 * 70_000 * 4
