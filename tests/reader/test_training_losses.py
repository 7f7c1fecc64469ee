"""Training's losses: against NumPy, and their gradients against finite differences through the whole reader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer import UsageError
from glimmer.encoders.models import load_model
from glimmer.reader.config import ReaderConfig
from glimmer.reader.live_encoder import Lengths
from glimmer.reader.model import Candidates, Params, Reader
from glimmer.reader.training.losses import (
    LossSettings,
    Questions,
    Sums,
    answer_likelihood,
    answer_places,
    distillation,
    passage_log_likelihood,
    pointing,
    question_losses,
    ranking,
    totals,
)
from glimmer.reader.training.step import merged

SELECT = 2


def some_questions(seed: int, *, candidates: int = 3, rows: int = 2) -> Questions:
    """Two questions of different lengths, the second with an absent passage; passages as tokens."""
    draw = np.random.default_rng(seed)
    present = np.full((rows, candidates), 7, np.int32)
    present[1:, -1] = 0
    return Questions(
        tokens=jnp.asarray(draw.integers(10, 200, (rows, 6)), jnp.int32),
        lengths=jnp.asarray([6, *[4] * (rows - 1)], jnp.int32),
        passages=jnp.asarray(draw.integers(10, 200, (rows, candidates, 8)), jnp.int32),
        passage_lengths=jnp.asarray(present),
        answers=jnp.asarray(draw.integers(10, 200, (rows, 4)), jnp.int32),
        answer_lengths=jnp.asarray([4, *[2] * (rows - 1)], jnp.int32),
        weights=jnp.asarray([1.0, *[0.5] * (rows - 1)], jnp.float32),
        starts=jnp.asarray(np.arange(8) == 2) & jnp.asarray(present > 0)[..., None],
    )


def live_a(reader: Reader, params: Params, questions: Questions) -> tuple[Candidates, Lengths]:
    """The first half of the reader, put together by hand."""
    lengths = Lengths(questions.lengths, questions.passage_lengths)
    question = reader.question(params, questions.tokens, questions.lengths)
    memory = reader.memory(params, questions.passages, questions.passage_lengths)
    return reader.live_a(params, question, memory, lengths), lengths


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def test_ranking_is_the_share_that_gold_passages_have_of_the_scores() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(4, 4))
    present = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    gold = np.array([[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]], bool)
    settings = LossSettings(score_temperature=0.5)
    wanted = [
        -np.log(softmax(scores[row][present[row]] / 0.5)[gold[row][present[row]]].sum()) if row < 2 else 0.0
        for row in range(4)
    ]
    found = ranking(jnp.asarray(scores), jnp.asarray(gold), jnp.asarray(present), settings)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("target_temperature", "score_temperature"), [(0.1, 1.0), (0.01, 0.01), (1.0, 2.0)])
def test_distillation_is_the_divergence_of_two_softmaxes_over_present_passages(
    target_temperature: float, score_temperature: float
) -> None:
    draw = np.random.default_rng(0)
    scores, target = draw.normal(size=(4, 5)) * 0.1, draw.normal(size=(4, 5)) * 0.1
    present = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    settings = LossSettings(target_temperature=target_temperature, score_temperature=score_temperature)
    wanted = []
    for row in range(4):
        if not present[row].any():
            wanted.append(0.0)
            continue
        teacher = softmax(target[row][present[row]] / target_temperature)
        student = softmax(scores[row][present[row]] / score_temperature)
        wanted.append(float((teacher * (np.log(teacher) - np.log(student))).sum()))
    masked = jnp.where(jnp.asarray(present), jnp.asarray(scores, jnp.float32), -jnp.inf)
    found = distillation(masked, jnp.asarray(target, jnp.float32), jnp.asarray(present), settings)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5)


def test_the_places_of_an_answers_tokens_follow_its_first_in_the_fused_passages() -> None:
    starts = np.zeros((2, 3, 6), bool)
    starts[0, 2, 1] = starts[0, 0, 3] = True  # three tokens and the end, in two of the passages
    starts[1, 1, 4] = True  # one token and the end, in a passage that is not read
    places = answer_places(
        jnp.asarray(starts), jnp.array([[2, 0], [0, 2]]), jnp.array([4, 2]), question_width=5, steps=4
    )
    wanted = np.zeros((2, 4, 2 * 11), bool)
    for step in range(3):
        wanted[0, step, [5 + 1 + step, 11 + 5 + 3 + step]] = True
    np.testing.assert_array_equal(places, wanted)


def test_pointing_is_the_attention_given_to_where_the_answers_tokens_stand() -> None:
    """Two layers of two heads; the first is to find the token before, both the first token at the start."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(2, 2, 2, 3, 5))
    places = np.zeros((2, 3, 5), bool)
    places[0, 0, [1, 3]] = places[0, 1, [2, 4]] = True
    weights = np.apply_along_axis(softmax, -1, logits)
    wanted = 0.0
    for head in range(2):
        wanted -= np.log(weights[0, 0, head, 0, [1, 3]].sum()) + np.log(weights[0, 0, head, 1, [1, 3]].sum())
        wanted -= np.log(weights[1, 0, head, 0, [1, 3]].sum()) + np.log(weights[1, 0, head, 1, [2, 4]].sum())
    found = pointing([jnp.log(layer) for layer in weights], jnp.asarray(places))
    np.testing.assert_allclose(found, [wanted / 8, 0.0], rtol=1e-5)


def test_a_reader_that_points_is_the_reader_that_writes(readers: dict[str, Any]) -> None:
    """What is watched is softmax attention over what the decoder reads, and watching changes nothing."""
    reader, tensors = readers["t5"]
    params, questions = merged(reader, tensors, {}), some_questions(5)

    @jax.jit
    def both(params: Params) -> tuple[tuple[jax.Array, tuple[jax.Array, ...]], jax.Array, jax.Array]:
        candidates, lengths = live_a(reader, params, questions)
        fused = reader.live_b(params, candidates.hidden, lengths, question_width=6)
        arguments = (params, fused, questions.answers, questions.answer_lengths)
        return reader.watched_log_likelihood(*arguments, watched=1), reader.log_likelihood(*arguments), fused.mask

    (watched, seen), alone, mask = both(params)
    np.testing.assert_array_equal(watched, alone)
    assert len(seen) == reader.config.decoder.cross_layers
    for layer in seen:
        weights = np.exp(np.asarray(layer))
        assert weights.shape == (2, 1, 4, 3 * (6 + 8))
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(weights[:, 0] * ~np.asarray(mask)[:, None], 0.0)


def test_distillation_moves_scores_only_and_absent_passages_not_at_all() -> None:
    scores = jnp.array([[0.3, -0.2, -jnp.inf]])
    target = jnp.array([[-1.0, -2.0, 0.0]])
    present = jnp.array([[True, True, False]])

    def loss(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return distillation(pair[0], pair[1], present, LossSettings()).sum()

    by_score, by_target = jax.grad(loss)((scores, target))
    np.testing.assert_array_equal(by_target, 0.0)
    assert by_score[0, 2] == 0.0
    assert by_score[0, 0] < 0 < by_score[0, 1]  # the likelier passage must score higher


def test_answer_likelihood_is_a_mean_or_a_sum_over_real_tokens() -> None:
    log_probs = jnp.array([[-1.0, -3.0, 0.0], [-2.0, 0.0, 0.0]])
    lengths = jnp.array([2, 1])
    np.testing.assert_allclose(answer_likelihood(log_probs, lengths, "mean"), [-2.0, -2.0])
    np.testing.assert_allclose(answer_likelihood(log_probs, lengths, "sum"), [-4.0, -2.0])


@pytest.mark.parametrize(
    "wrong", [{"target_temperature": 0.0}, {"distillation_weight": -1.0}, {"likelihood": "median"}]
)
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LossSettings(**wrong)


@pytest.fixture(scope="module")
def readers(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]
) -> dict[str, tuple[Reader, dict[str, Any]]]:
    """A tiny float32 GLIMMER reader of each family, and its weights."""
    made = {}
    for family in ("bert", "t5"):
        model = load_model(tiny_model(tmp_path_factory.mktemp("model") / family, memory_layers=1, family=family))
        reader = Reader(ReaderConfig.from_model(model.config), dtype=jnp.float32)
        made[family] = (reader, {name: np.asarray(model.tensors[name]) for name in reader.shapes()})
    return made


def test_cross_entropy_is_the_mean_over_real_answer_tokens(readers: dict[str, Any]) -> None:
    reader, tensors = readers["bert"]
    params, questions = merged(reader, tensors, {}), some_questions(1)
    settings = LossSettings(distillation_weight=0.0)

    @jax.jit
    def both(params: Params) -> tuple[Sums, jax.Array]:
        sums = question_losses(reader, params, questions, select=3, settings=settings, decode=None)
        candidates, lengths = live_a(reader, params, questions)
        chosen = reader.select(candidates, lengths, 3)
        fused = reader.live_b(params, candidates.hidden, lengths, chosen, question_width=6)
        return sums, reader.logits(params, fused, questions.answers)

    sums, by_token = both(params)
    logits = np.asarray(by_token, np.float64)
    wanted = 0.0
    for row, weight in enumerate((1.0, 0.5)):
        for place in range(int(questions.answer_lengths[row])):
            wanted -= weight * np.log(softmax(logits[row, place])[int(questions.answers[row, place])])
    np.testing.assert_allclose(sums.cross_entropy, wanted, rtol=1e-5)
    np.testing.assert_allclose(totals(questions).tokens, 1.0 * 4 + 0.5 * 2)


@pytest.mark.slow
def test_the_target_is_the_answers_likelihood_from_each_passage_alone(readers: dict[str, Any]) -> None:
    reader, tensors = readers["t5"]
    params, questions = merged(reader, tensors, {}), some_questions(2)

    @jax.jit
    def both(params: Params, passage: jax.Array) -> tuple[jax.Array, jax.Array]:
        candidates, lengths = live_a(reader, params, questions)
        settings = LossSettings(likelihood="sum")
        target = passage_log_likelihood(reader, params, candidates.hidden, questions, settings)
        only = jnp.full((2, 1), passage)
        fused = reader.live_b(params, candidates.hidden, lengths, only, question_width=6)
        return target, reader.log_likelihood(params, fused, questions.answers, questions.answer_lengths).sum(axis=1)

    for passage in range(3):
        found, alone = both(params, jnp.int32(passage))
        rows = np.asarray(questions.passage_lengths[:, passage] > 0)
        np.testing.assert_allclose(found[rows, passage], alone[rows], rtol=1e-5)


PARTS = {
    "live A": "encoder.layers.1.",
    "live B": "encoder.layers.2.",
    "re-ranker": "reranker.",
    "decoder": "decoder.",
}


@pytest.mark.parametrize("family", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_gradients_of_the_whole_loss_are_those_of_finite_differences(
    readers: dict[str, Any], family: Literal["bert", "t5"]
) -> None:
    reader, tensors = readers[family]
    questions = some_questions(3)
    settings = LossSettings(distillation_weight=50.0, pointing_weight=1.0)  # so that the re-ranker counts as well
    live = {name: jnp.asarray(tensors[name]) for name in tensors if name.startswith(tuple(PARTS.values()))}
    frozen = {name: value for name, value in tensors.items() if name not in live}

    def loss(weights: dict[str, Any], target: jax.Array | None) -> jax.Array:
        sums = question_losses(
            reader,
            merged(reader, weights, frozen),
            questions,
            select=SELECT,
            settings=settings,
            decode=None,
            target=target,
        )
        return sums.cross_entropy + settings.distillation_weight * sums.distillation + sums.pointing

    @jax.jit
    def prepared(weights: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        params = merged(reader, weights, frozen)
        hidden = live_a(reader, params, questions)[0].hidden
        target = passage_log_likelihood(reader, params, hidden, questions, settings)
        return target, jax.grad(loss)(weights, None)

    # The gradient is as in training, the differences hold the target still: so no gradient flows through it either.
    target, gradient = prepared(live)
    value = jax.jit(loss)
    noise_of_a_loss = 4e-7 * float(value(live, target))
    draw = np.random.default_rng(4)
    for part, prefix in PARTS.items():
        names = [name for name in live if name.startswith(prefix)]
        noise = {name: draw.normal(size=live[name].shape) for name in names}
        for direction in ({name: np.asarray(gradient[name], np.float64) for name in names}, noise):
            norm = np.sqrt(sum(float((each**2).sum()) for each in direction.values()))
            assert norm > 0, part
            slope = sum(float((direction[name] * gradient[name]).sum()) for name in names) / norm
            largest = np.sqrt(sum(float((np.asarray(gradient[name]) ** 2).sum()) for name in names))
            step = min(0.02, 0.05 / largest)  # far above float32's noise, near enough to be straight

            def at(
                distance: float, direction: dict[str, Any] = direction, norm: float = norm, names: list[str] = names
            ) -> float:
                moved = {name: live[name] + np.float32(distance / norm) * direction[name] for name in names}
                moved = {name: jnp.asarray(each, jnp.float32) for name, each in moved.items()}
                return float(value({**live, **moved}, target))

            measured = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
            assert measured == pytest.approx(slope, rel=1e-2, abs=3e-3 * largest + noise_of_a_loss / step), (
                part,
                slope,
            )


@pytest.mark.slow
def test_without_distillation_the_re_ranker_learns_nothing(readers: dict[str, Any]) -> None:
    reader, tensors = readers["bert"]
    score = {"reranker.score.kernel": jnp.asarray(tensors["reranker.score.kernel"])}
    rest = {name: value for name, value in tensors.items() if name not in score}

    @partial(jax.jit, static_argnums=1)
    @partial(jax.grad, argnums=0)
    def slope(weights: dict[str, Any], weight: float) -> jax.Array:
        sums = question_losses(
            reader,
            merged(reader, weights, rest),
            some_questions(5),
            select=SELECT,
            settings=LossSettings(distillation_weight=weight),
            decode=None,
        )
        return sums.cross_entropy + weight * sums.distillation

    assert not np.any(slope(score, 0.0)["reranker.score.kernel"])
    assert np.any(slope(score, 1.0)["reranker.score.kernel"])
