"""ColBERTv2's residual coding, the peer of the benchmark of codecs: what a code holds and what comes back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer import UsageError
from glimmer.pipelines.codec_bench.colbertv2 import ResidualCoding, ResidualCodingFit, centroids_of, parse_peer
from glimmer.storage.codecs import FitSample, codec_names

WIDTH = 13


def sample(count: int, seed: int = 0) -> FitSample:
    """Vectors around 8 points, dimension 5 spread a hundred times as wide."""
    draw = np.random.default_rng(seed)
    vectors = np.random.default_rng(9).normal(size=(8, WIDTH))[draw.integers(0, 8, count)]
    vectors = vectors + 0.1 * draw.normal(size=(count, WIDTH))
    vectors[:, 5] *= 100
    zeros = np.zeros(count, np.int32)
    return FitSample(
        vectors=vectors.astype(np.float32), ids=zeros, positions=zeros, embeddings=np.zeros((1, WIDTH), "f")
    )


def fitted(bits: int, centroids: int = 8) -> ResidualCoding:
    return ResidualCodingFit(tokens=4000, seed=0).fit(sample(4000), bits=bits, centroids=centroids)


@pytest.mark.parametrize("bits", [1, 2])
def test_a_code_is_the_nearest_centroid_and_a_bucket_for_each_dimension(bits: int) -> None:
    codec, x = fitted(bits), sample(60, seed=1).vectors.reshape(3, 20, WIDTH)
    codes = np.asarray(jax.jit(codec.encode)(x, jnp.zeros((3, 20), jnp.int32)))
    assert codes.shape == (3, 20, codec.code_bytes)
    assert codec.code_bytes == 2 + -(-WIDTH * bits // 8)
    distances = np.square(x[..., None, :] - codec.centroids).sum(-1)
    number = codes[..., :2].copy().view("<u2")[..., 0]
    assert np.array_equal(number, distances.argmin(-1))
    rest = x - codec.centroids[number]
    buckets = np.stack([np.searchsorted(codec.cuts[:, d], rest[..., d]) for d in range(WIDTH)], -1)
    stored = np.unpackbits(codes[..., 2:], axis=-1, bitorder="little")[..., : WIDTH * bits].reshape(3, 20, WIDTH, bits)
    assert np.array_equal((stored << np.arange(bits)).sum(-1), buckets)
    decoded = np.asarray(codec.decode(jnp.asarray(codes), jnp.float32))
    expected = codec.centroids[number] + codec.values[buckets, np.arange(WIDTH)]
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)


def test_two_bits_come_nearer_than_one_and_one_nearer_than_the_centroid() -> None:
    x = sample(2000, seed=2).vectors[None]
    errors = []
    for bits in (1, 2):
        codec = fitted(bits)
        codes = codec.encode(jnp.asarray(x), jnp.zeros(x.shape[:2], jnp.int32))
        errors.append(np.square(x - np.asarray(codec.decode(codes, jnp.float32))).sum())
    number = np.asarray(codes)[..., :2].copy().view("<u2")[..., 0]
    assert errors[1] < errors[0] < np.square(x - codec.centroids[number]).sum()


def test_the_number_of_centroids_is_colberts() -> None:
    assert centroids_of(1_000_000, 1 << 18) == 8192  # below 16 · 1,000
    assert centroids_of(3_000_000_000, 1 << 30) == 1 << 16
    assert centroids_of(1_000_000, 100) == 16
    assert centroids_of(1, 1) == 1


def test_both_numbers_of_bits_share_their_centroids() -> None:
    fit, tokens = ResidualCodingFit(tokens=4000, seed=0), sample(4000)
    one, two = (fit.fit(tokens, bits=bits, centroids=16) for bits in (1, 2))
    assert one.centroids is two.centroids
    assert np.array_equal(one.cuts[0], two.cuts[1]), "the median cuts both"


def test_more_centroids_than_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match="400 centroids need as many tokens, the sample has 285"):
        ResidualCodingFit(tokens=300, seed=0).fit(sample(300), bits=1, centroids=400)


def test_it_is_no_codec_of_memories() -> None:
    assert "colbertv2" not in codec_names()
    assert parse_peer("colbertv2") == (2, 0)
    assert parse_peer("colbertv2:bits=1,centroids=512") == (1, 512)
    with pytest.raises(UsageError, match="'x=1' is not one of its parameters"):
        parse_peer("colbertv2:x=1")
