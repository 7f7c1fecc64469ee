"""The reader as a whole: stages, memory, padding, precision, gradients, weights. Tiny random models, real parts.

Equality with T5 for the member of the family that is FiD is test_model_fid_parity.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer import ModelError
from glimmer.encoders.families.bert import BertConfig
from glimmer.encoders.families.encoder_family import TokenizerSpec
from glimmer.encoders.families.t5 import T5Config
from glimmer.encoders.model_config import ModelConfig
from glimmer.reader.config import DecoderConfig, ReaderConfig, RerankerConfig
from glimmer.reader.fusion import Fused
from glimmer.reader.generation import GenerationConfig
from glimmer.reader.grounded import grounding
from glimmer.reader.live_encoder import Lengths, group_size
from glimmer.reader.model import Candidates, Params, Reader, Stages
from glimmer.storage.codecs import make_codec

VOCABULARY, WIDTH, SQ, L, M, K = 50, 16, 6, 9, 5, 3
T5 = T5Config(
    vocab_size=VOCABULARY,
    d_model=WIDTH,
    d_ff=24,
    num_heads=4,
    d_kv=4,
    num_layers=4,
    layer_norm_eps=1e-6,
    relative_buckets=32,
    relative_max_distance=128,
    gated=True,
)
BERT = BertConfig(
    vocab_size=VOCABULARY,
    d_model=WIDTH,
    d_ff=24,
    num_heads=4,
    d_kv=4,
    num_layers=4,
    layer_norm_eps=1e-12,
    max_positions=32,
    type_vocab_size=2,
)
DECODER = DecoderConfig(vocab_size=VOCABULARY, d_model=WIDTH, d_ff=24, num_heads=4, kv_heads=4, d_kv=4, num_layers=2)
OTHER_DECODER = DecoderConfig(
    vocab_size=31,
    d_model=20,
    d_ff=24,
    num_heads=4,
    kv_heads=1,
    d_kv=4,
    num_layers=2,
    cross_every=2,
    shared_embedding=False,
    start_id=3,
    eos_id=4,
)


def config(memory: int = 2, live_a: int = 1, live_b: int = 1, **changes: Any) -> ReaderConfig:
    fields: dict[str, Any] = {"encoder": T5, "decoder": DECODER} | changes
    return ReaderConfig(memory_layers=memory, live_a_layers=live_a, live_b_layers=live_b, **fields)


FAMILY = {
    "glimmer": config(),
    "glimmer, bert": config(encoder=BERT),
    "bert with a wider decoder": config(encoder=BERT, decoder=OTHER_DECODER),
    "separate re-ranker": config(2, 0, 2, reranker=RerankerConfig(layers=2)),
    "separate re-ranker, bert": config(2, 0, 2, encoder=BERT, reranker=RerankerConfig(layers=1)),
    "lumen": config(3, 0, 1),
    "fid": config(0, 0, 4),
    "fid with re-ranking": config(0, 2, 2),
    "straight onto memory": config(4, 0, 0),
}


class Given(NamedTuple):
    """Two questions and their candidates; the second's third is absent."""

    question: np.ndarray
    passages: np.ndarray
    lengths: Lengths


def given(seed: int = 0) -> Given:
    rng = np.random.default_rng(seed)
    lengths = Lengths(jnp.asarray([SQ, 4]), jnp.asarray([[9, 3, 7, 9, 5], [4, 9, 0, 2, 8]]))
    return Given(rng.integers(2, VOCABULARY, (2, SQ)), rng.integers(2, VOCABULARY, (2, M, L)), lengths)


@functools.cache
def reader_of(name: str, dtype: str = "float32") -> tuple[Reader, Params]:
    reader = Reader(FAMILY[name], dtype=jnp.dtype(dtype))
    return reader, jax.tree.map(lambda leaf: leaf * 1.5 if leaf.ndim == 2 else leaf, reader.init(7))


@functools.cache
def fuse_with(name: str, dtype: str = "float32") -> Any:
    """A compiled function: tokens in, (scores, chosen, fused) out, memory made on the fly."""
    reader, _ = reader_of(name, dtype)

    def run(params: Params, question: jax.Array, passages: jax.Array, lengths: Lengths) -> Any:
        asked = reader.question(params, question, lengths.question)
        memory = reader.memory(params, passages, lengths.passages)
        found = reader.live_a(params, asked, memory, lengths)
        chosen = reader.select(found, lengths, K)
        fused = reader.live_b(params, found.hidden, lengths, chosen, question_width=question.shape[1])
        return found.scores, chosen, fused

    return jax.jit(run)


@functools.cache
def logits_with(name: str, dtype: str = "float32") -> Any:
    return jax.jit(reader_of(name, dtype)[0].logits)


ANSWERS = jnp.asarray([[5, 9, 1, 0], [7, 1, 0, 0]], jnp.int32)


@pytest.mark.parametrize("name", FAMILY)
def test_every_member_of_the_family_answers(name: str) -> None:
    reader, params = reader_of(name)
    data = given()
    scores, chosen, fused = fuse_with(name)(params, *data)
    assert (scores is None) == (not FAMILY[name].scores)
    assert chosen.shape == (2, K)
    assert fused.hidden.shape == (2, K * (SQ + L), WIDTH)
    logits = logits_with(name)(params, fused, ANSWERS % FAMILY[name].decoder.vocab_size)
    assert np.isfinite(np.asarray(logits)).all()
    answer = jax.jit(lambda p, f: reader.answer(p, f, GenerationConfig(max_new_tokens=4)))(params, fused)
    assert np.isfinite(np.asarray(answer.log_probs)).all()


@pytest.mark.parametrize("name", ["glimmer", "glimmer, bert", "lumen", "straight onto memory"])
@pytest.mark.parametrize("codec_name", ["float32", "bfloat16"])
def test_stored_memory_equals_encoding_on_the_fly(name: str, codec_name: str) -> None:
    reader, params = reader_of(name)
    data, codec = given(), make_codec(codec_name, WIDTH)
    stages = Stages(reader, GenerationConfig(max_new_tokens=4), select=M, decode=codec.decode)
    memory = stages.memory(params, data.passages, data.lengths.passages)
    codes = np.asarray(codec.encode(memory, jnp.zeros(memory.shape[:-1], jnp.int32)))
    assert codes.dtype == np.uint8
    asked = stages.question(params, data.question, data.lengths.question)
    found = stages.live_a(params, asked, codes, data.lengths)
    everything = jnp.broadcast_to(jnp.arange(M), (2, M))
    fused = stages.live_b(params, found.hidden, data.lengths, everything, question_width=SQ)

    live = Stages(reader, GenerationConfig(max_new_tokens=4), select=M)
    fresh = live.live_a(params, asked, memory, data.lengths)
    expected = live.live_b(params, fresh.hidden, data.lengths, everything, question_width=SQ)
    tolerance = 1e-5 if codec_name == "float32" else 0.1
    real = np.asarray(fused.mask)
    np.testing.assert_array_equal(real, expected.mask)
    np.testing.assert_allclose(np.asarray(fused.hidden)[real], np.asarray(expected.hidden)[real], atol=tolerance)
    logits = logits_with(name)(params, fused, ANSWERS)
    np.testing.assert_allclose(logits, logits_with(name)(params, expected, ANSWERS), atol=tolerance)


@pytest.mark.parametrize("name", ["glimmer", "separate re-ranker", "fid with re-ranking"])
def test_selection_is_scoring_everything_and_sorting(name: str) -> None:
    _, params = reader_of(name)
    data = given()
    scores, chosen, _ = fuse_with(name)(params, *data)
    for row in range(2):
        expected = sorted(range(M), key=lambda i, row=row: (-float(scores[row, i]), i))[:K]  # type: ignore[misc]
        assert np.asarray(chosen[row]).tolist() == expected
    assert float(scores[1, 2]) == -np.inf


def test_equal_scores_keep_the_candidates_order_and_absent_ones_come_last() -> None:
    reader, _ = reader_of("lumen")
    lengths = Lengths(jnp.asarray([3]), jnp.asarray([[4, 0, 4, 4, 0]]))
    found = Candidates(jnp.zeros((1, 5, 7, WIDTH)), None)
    assert reader.select(found, lengths, 5).tolist() == [[0, 2, 3, 1, 4]]
    given_scores = jnp.asarray([[1.0, 9.0, 2.0, 2.0, 9.0]])
    assert reader.select(found, lengths, 3, given_scores).tolist() == [[2, 3, 0]]
    with pytest.raises(ValueError, match="cannot select 6 of 5"):
        reader.select(found, lengths, 6)


@pytest.mark.parametrize("name", ["glimmer", "glimmer, bert", "separate re-ranker"])
def test_padding_never_matters(name: str) -> None:
    _, params = reader_of(name)
    data = given()
    scores, chosen, fused = fuse_with(name)(params, *data)
    question, passages = data.question.copy(), data.passages.copy()
    question[np.arange(SQ) >= np.asarray(data.lengths.question)[:, None]] = 11
    passages[np.arange(L) >= np.asarray(data.lengths.passages)[..., None]] = 13
    again_scores, again_chosen, again = fuse_with(name)(params, question, passages, data.lengths)
    np.testing.assert_array_equal(again_scores, scores)
    np.testing.assert_array_equal(again_chosen, chosen)
    np.testing.assert_array_equal(logits_with(name)(params, again, ANSWERS), logits_with(name)(params, fused, ANSWERS))


@pytest.mark.parametrize("name", ["glimmer", "glimmer, bert", "fid"])
def test_neighbours_and_order_change_nothing_at_a_fixed_shape(name: str) -> None:
    _, params = reader_of(name)
    data, other = given(), given(1)
    _, chosen, fused = fuse_with(name)(params, *data)
    logits = logits_with(name)(params, fused, ANSWERS)
    # The second question first, a stranger second.
    question = np.stack([data.question[1], other.question[0]])
    passages = np.stack([data.passages[1], other.passages[0]])
    lengths = Lengths(data.lengths.question[::-1], data.lengths.passages[::-1])
    _, moved_chosen, moved = fuse_with(name)(params, question, passages, lengths)
    np.testing.assert_array_equal(moved_chosen[0], chosen[1])
    np.testing.assert_array_equal(logits_with(name)(params, moved, ANSWERS[::-1])[0], logits[1])


@pytest.mark.parametrize("name", ["glimmer", "fid"])
def test_wider_padding_and_another_batch_size_change_rounding_only(name: str) -> None:
    _, params = reader_of(name)
    data = given()
    _, chosen, fused = fuse_with(name)(params, *data)
    logits = logits_with(name)(params, fused, ANSWERS)
    question = np.pad(data.question[1:], ((0, 0), (0, 5)))
    passages = np.pad(data.passages[1:], ((0, 0), (0, 0), (0, 4)))
    lengths = Lengths(data.lengths.question[1:], data.lengths.passages[1:])
    _, wide_chosen, wide = fuse_with(name)(params, question, passages, lengths)
    np.testing.assert_array_equal(wide_chosen[0], chosen[1])
    np.testing.assert_allclose(logits_with(name)(params, wide, ANSWERS[1:])[0], logits[1], atol=1e-4)


def test_a_question_without_any_passage_stays_finite() -> None:
    _, params = reader_of("glimmer")
    data = given()
    nothing = Lengths(data.lengths.question, jnp.zeros((2, M), jnp.int32))
    _, _, fused = fuse_with("glimmer")(params, data.question, data.passages, nothing)
    assert not np.asarray(fused.mask).any()
    assert np.isfinite(np.asarray(logits_with("glimmer")(params, fused, ANSWERS))).all()


def test_bfloat16_stays_near_float32() -> None:
    _, params = reader_of("glimmer")
    small, _ = reader_of("glimmer", "bfloat16")
    cast = small.params(small.tensors(params))
    data = given()
    _, _, exact = fuse_with("glimmer")(params, *data)
    _, _, rough = fuse_with("glimmer", "bfloat16")(cast, *data)
    assert rough.hidden.dtype == jnp.float32
    logits = logits_with("glimmer", "bfloat16")(cast, exact, ANSWERS)
    np.testing.assert_allclose(logits, logits_with("glimmer")(params, exact, ANSWERS), atol=0.25)


def test_teacher_forcing_scores_what_greedy_decoding_wrote() -> None:
    reader, params = reader_of("glimmer")
    _, _, fused = fuse_with("glimmer")(params, *given())
    out = jax.jit(lambda p, f: reader.answer(p, f, GenerationConfig(max_new_tokens=6)))(params, fused)
    ended = np.asarray(out.tokens[:, 0] == reader.config.decoder.eos_id).any(axis=1)
    lengths = out.lengths[:, 0] + ended
    likelihood = jax.jit(reader.log_likelihood)(params, fused, out.tokens[:, 0], lengths)
    np.testing.assert_allclose(likelihood.sum(axis=1), out.log_probs[:, 0], atol=1e-4)


def test_grounded_answers_stand_in_the_selected_passages() -> None:
    reader, params = reader_of("glimmer")
    data = given()
    _, chosen, fused = fuse_with("glimmer")(params, *data)
    ground = grounding(jnp.asarray(data.passages), data.lengths.passages, specials=(0, 1), chosen=chosen)
    stages = Stages(reader, GenerationConfig(max_new_tokens=4, beams=2, grounded=True), select=K)
    out = stages.answer(params, fused, ground)
    for row in range(2):
        words = "".join(f" {token} " for token in np.asarray(out.tokens[row, 0, : out.lengths[row, 0]]))
        kept = [data.passages[row, i, : data.lengths.passages[row, i]] for i in np.asarray(chosen[row])]
        assert words
        assert any(words in "".join(f" {token} " for token in passage) for passage in kept)


@pytest.mark.parametrize("name", ["glimmer", "separate re-ranker", "glimmer, bert"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """A loss through live A, its scores, live B and the decoder; what is frozen in training is not differentiated."""
    reader, params = reader_of(name)
    data = given()
    lengths = jnp.asarray([3, 2])
    asked = jax.jit(reader.question)(params, data.question, data.lengths.question)
    memory = jax.jit(reader.memory)(params, data.passages, data.lengths.passages)

    @jax.jit
    def loss(params: Params) -> jax.Array:
        found = reader.live_a(params, asked, memory, data.lengths)
        assert found.scores is not None
        fused = reader.live_b(params, found.hidden, data.lengths, question_width=SQ)
        likelihood = reader.log_likelihood(params, fused, ANSWERS, lengths).sum()
        return -likelihood - jax.nn.log_softmax(found.scores)[:, 0].sum()

    gradient = reader.tensors(jax.jit(jax.grad(loss))(params))
    tensors = reader.tensors(params)
    rng = np.random.default_rng(0)
    own = "reranker.encoder.layers.0.attention.q.kernel" if name == "separate re-ranker" else "reranker.score.kernel"
    for tensor in (
        "encoder.layers.2.attention.q.kernel",
        "encoder.layers.3.mlp.wo.kernel",
        "decoder.layers.1.cross_attention.k.kernel",
        "decoder.lm_head.kernel",
        own,
    ):
        direction = rng.normal(size=tensors[tensor].shape).astype(np.float32)
        step = 2e-3
        ends = [
            float(loss(reader.params(tensors | {tensor: tensors[tensor] + sign * step * direction}, dtype=jnp.float32)))
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((gradient[tensor] * direction).sum()) == pytest.approx(expected, rel=0.02, abs=0.02), tensor
    assert not gradient["encoder.layers.0.mlp.wo.kernel"].any()  # the memory encoder, precomputed here


def test_dropout_is_off_without_a_key_and_repeatable_with_one() -> None:
    reader, params = reader_of("glimmer")
    data = given()
    asked = jax.jit(reader.question)(params, data.question, data.lengths.question)
    memory = jax.jit(reader.memory)(params, data.passages, data.lengths.passages)

    @jax.jit
    def run(key: jax.Array | None) -> jax.Array:
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        found = reader.live_a(params, asked, memory, data.lengths, dropout_rate=0.3, key=keys[0])
        fused: Fused = reader.live_b(
            params, found.hidden, data.lengths, question_width=SQ, dropout_rate=0.3, key=keys[1]
        )
        return reader.logits(params, fused, ANSWERS, dropout_rate=0.3, key=keys[2])

    once, twice, other, off = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2)), run(None)
    np.testing.assert_array_equal(once, twice)
    assert np.abs(np.asarray(once - other)).max() > 1e-2
    assert np.abs(np.asarray(once - off)).max() > 1e-2


@pytest.mark.parametrize("name", FAMILY)
def test_weights_survive_their_dotted_names(name: str) -> None:
    reader, params = reader_of(name)
    tensors = reader.tensors(params)
    assert {key: value.shape for key, value in tensors.items()} == reader.shapes()
    assert not any("None" in key or "embedding" in key for key in tensors if key.startswith("reranker"))
    again = reader.params(tensors)
    assert jax.tree.structure(again) == jax.tree.structure(params)  # type: ignore[operator]
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_seed_gives_the_same_weights() -> None:
    reader, _ = reader_of("glimmer")
    first, second, other = (reader.tensors(reader.init(seed)) for seed in (5, 5, 6))
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["encoder.embedding"] != other["encoder.embedding"]).any()


def test_a_missing_or_misshapen_tensor_is_named() -> None:
    reader, params = reader_of("glimmer")
    tensors = reader.tensors(params)
    name = "decoder.layers.1.mlp.wo.kernel"
    with pytest.raises(ModelError, match=rf"model\.safetensors: no tensor {name}"):
        reader.params({key: value for key, value in tensors.items() if key != name}, where="model.safetensors")
    with pytest.raises(ModelError, match=rf"{name} has shape \(16, 24\)"):
        reader.params(tensors | {name: tensors[name].T})


def test_groups_of_rows_divide_the_candidates() -> None:
    assert group_size(40, 240, "cpu") == 4
    assert group_size(10, 240, "cpu") == 2
    assert group_size(7, 600, "cpu") == 1
    assert group_size(40, 5000, "cpu") == 1
    assert group_size(40, 240, "gpu") == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 1}, "add up"),
        ({"decoder": dataclasses.replace(DECODER, d_model=20)}, "shared_embedding"),
        ({"decoder": dataclasses.replace(OTHER_DECODER, tied_head=True)}, "tied_head"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config(**changes)


def test_the_first_stages_scores_are_added_as_configured_and_only_where_known() -> None:
    scores = jnp.asarray([[0.5, -1.0, 2.0, -jnp.inf]])
    retrieval = jnp.asarray([[12.0, 30.0, 0.0, 5.0]])
    found = Candidates(jnp.zeros((1, 4, 2, 3)), scores)
    weighed = Reader(config(reranker=RerankerConfig(retrieval_weight=2.0))).ranked(found, retrieval)
    assert weighed.scores is not None
    expected = [0.5 + 2 * np.log(12), -1 + 2 * np.log(30), 2.0, -np.inf]
    np.testing.assert_allclose(weighed.scores, [expected], rtol=1e-6)
    assert Reader(config()).ranked(found, retrieval) is found
    assert Reader(config(reranker=RerankerConfig(retrieval_weight=2.0))).ranked(found, None) is found


def test_scores_of_late_interaction_stand_in_for_the_first_stages_where_they_have_a_weight() -> None:
    found = Candidates(jnp.zeros((1, 2, 2, 3)), jnp.asarray([[0.5, -jnp.inf]]))
    retrieval, late = jnp.asarray([[12.0, 3.0]]), jnp.asarray([[0.25, 0.5]])
    both = Reader(config(reranker=RerankerConfig(retrieval_weight=2.0, memory_interaction=100.0)))
    weighed, unweighed = both.ranked(found, retrieval, late).scores, both.ranked(found, retrieval).scores
    assert weighed is not None
    assert unweighed is not None
    np.testing.assert_allclose(weighed, np.array([[25.5, -np.inf]]))
    np.testing.assert_allclose(unweighed, np.array([[0.5 + 2 * np.log(12), -np.inf]]), rtol=1e-6)
    first = Reader(config(reranker=RerankerConfig(retrieval_weight=2.0)))
    np.testing.assert_array_equal(first.ranked(found, retrieval, late).scores, first.ranked(found, retrieval).scores)
    assert "memory_interaction" not in RerankerConfig(retrieval_weight=2.0).to_json(), "earlier releases read it"
    kept = RerankerConfig(memory_interaction=3.0)
    assert RerankerConfig.from_json(kept.to_json()) == kept


@pytest.mark.parametrize("name", ["glimmer", "glimmer, bert"])
def test_late_interaction_is_the_mean_best_cosine_of_the_questions_tokens(name: str) -> None:
    """Against NumPy, question by question and passage by passage; padding of either does not count."""
    plain, params = reader_of(name)
    late = Reader(dataclasses.replace(FAMILY[name], reranker=RerankerConfig(late_interaction=3.0)), dtype=jnp.float32)
    assert late.shapes() == plain.shapes(), "it has no weights of its own"
    data = given()
    asked = jax.jit(plain.question)(params, data.question, data.lengths.question)
    memory = jax.jit(plain.memory)(params, data.passages, data.lengths.passages)
    found = jax.jit(late.live_a)(params, asked, memory, data.lengths)
    before = jax.jit(plain.live_a)(params, asked, memory, data.lengths)
    np.testing.assert_array_equal(found.hidden, before.hidden)
    assert found.scores is not None
    assert before.scores is not None
    hidden = np.asarray(found.hidden, np.float64)
    if name == "glimmer":
        norm = np.asarray(plain.tensors(params)["reranker.norm.scale"], np.float64)
        hidden = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-6) * norm
    for row, (words, counts) in enumerate(zip(data.lengths.question, data.lengths.passages, strict=True)):
        for candidate, count in enumerate(np.asarray(counts)):
            if count == 0:
                assert np.isneginf(found.scores[row, candidate])
                continue
            question, passage = hidden[row, candidate, :words], hidden[row, candidate, SQ : SQ + count]
            unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (question, passage)]
            expected = float(before.scores[row, candidate]) + 3.0 * (unit[0] @ unit[1].T).max(axis=1).mean()
            assert float(found.scores[row, candidate]) == pytest.approx(expected, abs=2e-5)


def test_a_model_directory_describes_its_reader() -> None:
    model = ModelConfig(
        encoder=T5,
        memory_layers=2,
        live_a_layers=1,
        live_b_layers=1,
        tokenizer=TokenizerSpec(kind="sentencepiece", file="spiece.model"),
        passage_template="{text}",
        question_template="{question}",
        source="test",
        decoder=DECODER.to_json(),
        reranker=RerankerConfig(layers=2).to_json(),
    )
    assert ReaderConfig.from_model(model) == config(reranker=RerankerConfig(layers=2))
    earlier = dataclasses.replace(model, reranker={"layers": 2})  # a file written before there was a weight
    assert ReaderConfig.from_model(earlier) == config(reranker=RerankerConfig(layers=2))
    with pytest.raises(ModelError, match=r"here/config\.json: reranker\.retrieval_weight must not be negative"):
        ReaderConfig.from_model(
            dataclasses.replace(model, reranker={"layers": 0, "retrieval_weight": -0.5}), "here/config.json"
        )
    with pytest.raises(ModelError, match="no decoder"):
        ReaderConfig.from_model(dataclasses.replace(model, decoder=None))
    with pytest.raises(ModelError, match=r"here/config\.json: reranker\.layers is missing"):
        ReaderConfig.from_model(dataclasses.replace(model, reranker={}), "here/config.json")
