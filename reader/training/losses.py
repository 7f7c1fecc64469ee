"""What training minimises: the answer's cross-entropy, and what the re-ranker's scores are taught by.

Choosing the best k passages has no gradient, so the re-ranker learns from the decoder instead (Atlas, arXiv
2208.03299; GLIMMER, 2306.10231): a passage should score high where the answer is likely given
that passage alone. The target distribution is computed without dropout and takes no gradient. Where the gold passage
is known, scores can be taught from it directly as well: that costs nothing, and helps while the decoder knows little.

`question_losses` gives sums over one batch, not means: whoever accumulates several batches divides by what all of them
weigh, and the result is that of one large batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ... import UsageError
from ..fusion import Fused
from ..live_encoder import Lengths, take_rows
from ..model import Decode, Params, Reader

_POINTING = 3  # one of this many heads points
_ABSENT = -1e9  # logit of an absent passage; finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How the two losses are made and weighed.

    Attributes:
        distillation_weight: λ, the weight of distillation beside cross-entropy; 0 leaves it out and saves its cost.
        target_temperature: divides log p(answer | question, passage); lower tells passages apart more sharply.
        score_temperature: divides the re-ranker's scores.
        likelihood: "mean" over the answer's tokens, end included (Atlas), or their "sum".
        ranking_weight: the weight of -log of the share of softmax(score / τ) that gold passages have; 0 leaves it out.
            Not in the paper.
        pointing_weight: the weight of -log of the attention that pointing heads give to where the answer's next token
            stands in a gold passage; 0 leaves it out. Not in the paper.
    """

    distillation_weight: float = 1.0
    target_temperature: float = 0.1
    score_temperature: float = 1.0
    likelihood: Literal["mean", "sum"] = "mean"
    ranking_weight: float = 0.0
    pointing_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("distillation_weight", "ranking_weight", "pointing_weight"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, is {getattr(self, name)}")
        if self.target_temperature <= 0 or self.score_temperature <= 0:
            raise UsageError("distillation temperatures must be above 0")
        if self.likelihood not in ("mean", "sum"):
            raise UsageError(f'distillation likelihood must be "mean" or "sum", not {self.likelihood!r}')


class Questions(NamedTuple):
    """A batch of B questions as the losses take it.

    Attributes:
        tokens: int32 [B, Sq], padded after `lengths` int32 [B].
        lengths: see `tokens`.
        passages: stored codes uint8 [B, m, L, code_bytes], or passages' tokens int32 [B, m, L] where the memory is made
            on the fly (training the lower layers too).
        passage_lengths: int32 [B, m], 0 for an absent passage.
        answers: int32 [B, T], end of answer included, padded after `answer_lengths` int32 [B].
        answer_lengths: see `answers`.
        weights: float32 [B]: how much a question counts; 0 for padding.
        gold: bool [B, m]: which passages are gold; None where that is not known.
        starts: bool [B, m, L]: where in gold passages the answer stands, its first token; None where that is not known.
        retrieval: float32 [B, m]: the first stage's scores, 0 where not known; None where none are.
        words: int32 [B, m, L]: passages' tokens, for a decoder that copies; None elsewhere.
    """

    tokens: jax.Array
    lengths: jax.Array
    passages: jax.Array
    passage_lengths: jax.Array
    answers: jax.Array
    answer_lengths: jax.Array
    weights: jax.Array
    gold: jax.Array | None = None
    starts: jax.Array | None = None
    retrieval: jax.Array | None = None
    words: jax.Array | None = None


class Sums(NamedTuple):
    """Weighted sums over a batch, float32 scalars, nats: negative log-likelihood by token, the others by question."""

    cross_entropy: jax.Array
    distillation: jax.Array
    ranking: jax.Array
    pointing: jax.Array


class Totals(NamedTuple):
    """What `Sums` are divided by, float32 scalars: weighted answer tokens, and weighted questions with a passage."""

    tokens: jax.Array
    questions: jax.Array


def totals(questions: Questions) -> Totals:
    """The divisors of a batch; leading axes (accumulation) are summed over too. At least 1e-9, so 0 / 0 is 0."""
    tokens = (questions.weights * questions.answer_lengths).sum()
    present = (questions.passage_lengths > 0).any(axis=-1)
    return Totals(jnp.maximum(tokens, 1e-9), jnp.maximum((questions.weights * present).sum(), 1e-9))


def answer_cross_entropy(log_probs: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted negative log-likelihood: log_probs [B,T] by token (0 at padding), weights [B] -> scalar sum."""
    return -(weights[:, None] * log_probs).sum()


def answer_likelihood(log_probs: jax.Array, lengths: jax.Array, likelihood: Literal["mean", "sum"]) -> jax.Array:
    """log_probs [..., T] by token (0 at padding), lengths int32 [...] -> log p of the answer, or its mean by token."""
    whole = log_probs.sum(axis=-1)
    return whole if likelihood == "sum" else whole / jnp.maximum(lengths, 1)


def distillation(scores: jax.Array, target: jax.Array, present: jax.Array, settings: LossSettings) -> jax.Array:
    """KL(softmax(target / τ_target) ‖ softmax(scores / τ_score)) over present passages, nats, float32 [B].

    `scores` float32 [B,m] of the re-ranker; `target` float32 [B,m], log-likelihoods, taken without gradient; `present`
    bool [B,m]. A question without a passage has 0.
    """
    student = _log_shares(scores, settings.score_temperature, present)
    teacher = _log_shares(jax.lax.stop_gradient(target), settings.target_temperature, present)
    terms = jnp.exp(teacher) * (teacher - student)
    return jnp.where(present, terms, 0.0).sum(axis=-1)


def ranking(scores: jax.Array, gold: jax.Array, present: jax.Array, settings: LossSettings) -> jax.Array:
    """-log of what share of softmax(scores / τ_score) lies on gold passages, nats, float32 [B].

    `scores` float32 [B,m]; `gold` and `present` bool [B,m]. A question without a gold passage has 0.
    """
    log_shares = _log_shares(scores, settings.score_temperature, present)
    known = gold & present
    share = jax.nn.logsumexp(jnp.where(known, log_shares, _ABSENT), axis=-1)
    return jnp.where(known.any(axis=-1), -share, 0.0)


def pointing_heads(heads: int) -> int:
    """How many of a layer's cross-attention heads, the first of them, are taught to point: a third, at least one."""
    return max(1, heads // _POINTING)


def pointing(seen: Sequence[jax.Array], places: jax.Array) -> jax.Array:
    """-log of the attention given to where each next token of the answer stands, nats, float32 [B].

    `seen` holds log attention weights float32 [B,heads,T,M], a layer each; `places` bool [B,T,M] says where the token
    at T stands. The first of several layers is to find the token before (the one the decoder was given last), from
    which the next layers can step to the next; at T = 0 there is none, and it is to find the answer's first. The mean
    over layers, heads and those T that stand somewhere; 0 where none does.
    """
    known = places.any(axis=-1)
    before = jnp.concatenate([places[:, :1], places[:, :-1]], axis=1)
    total = jnp.zeros(known.shape, jnp.float32)
    for number, layer in enumerate(seen):
        wanted = before if number == 0 and len(seen) > 1 else places
        total -= jax.nn.logsumexp(jnp.where(wanted[:, None], layer, _ABSENT), axis=-1).mean(axis=1)
    by_token = jnp.where(known, total / len(seen), 0.0)
    return by_token.sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)


def answer_places(
    starts: jax.Array, chosen: jax.Array, answer_lengths: jax.Array, *, question_width: int, steps: int
) -> jax.Array:
    """Where each token of the answer stands among the fused passages: bool [B, T, k*(Sq+L)], T = `steps`.

    `starts` bool [B,m,L] as in `Questions`, `chosen` int32 [B,k] the passages that are fused. The end of the answer
    stands nowhere.
    """
    kept = take_rows(starts, chosen)
    wide = jnp.pad(kept, ((0, 0), (0, 0), (question_width, 0)))
    flat = wide.reshape(wide.shape[0], -1)
    places = jnp.stack([jnp.roll(flat, step, axis=-1) for step in range(steps)], axis=1)
    return places & (jnp.arange(steps) < answer_lengths[:, None] - 1)[..., None]


def _log_shares(values: jax.Array, temperature: float, present: jax.Array) -> jax.Array:
    """log softmax(values / temperature) over present passages [B,m]; what absent ones hold, -inf too, is ignored."""
    scaled = jnp.where(present, values, 0.0) / temperature
    return jax.nn.log_softmax(jnp.where(present, scaled, _ABSENT), axis=-1)


def passage_log_likelihood(
    reader: Reader, params: Params, hidden: jax.Array, questions: Questions, settings: LossSettings
) -> jax.Array:
    """log p(answer | question, passage) of every candidate alone, float32 [B,m]; the mean by token where so set.

    `hidden` float32 [B,m,Sq+L,D] is live A's output. No dropout and no gradient. Candidates are decoded one after the
    other: all at once would hold m times the logits.
    """
    hidden, params = jax.lax.stop_gradient((hidden, params))
    batch, candidates, width, _ = hidden.shape
    fused = reader.live_b(
        params,
        hidden,
        Lengths(questions.lengths, questions.passage_lengths),
        question_width=questions.tokens.shape[1],
    )

    def one(passage: Fused) -> jax.Array:
        by_token = reader.log_likelihood(params, passage, questions.answers, questions.answer_lengths)
        return answer_likelihood(by_token, questions.answer_lengths, settings.likelihood)

    # Alone, a passage has all of the scores' share: they are left out.
    fused = reader.attach_copy_inputs(
        fused, questions.words, questions.passage_lengths, None, question_width=questions.tokens.shape[1]
    )

    def apart(field: jax.Array) -> jax.Array:
        return jnp.swapaxes(field.reshape(batch, candidates, width, *field.shape[2:]), 0, 1)

    alone: Fused = jax.tree.map(apart, fused)
    target: jax.Array = jax.lax.map(one, alone).T
    return target


def question_losses(
    reader: Reader,
    params: Params,
    questions: Questions,
    *,
    select: int,
    settings: LossSettings,
    decode: Decode | None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    target: jax.Array | None = None,
) -> Sums:
    """The whole forward pass of a batch: question encoder, live A, re-ranker, choice, live B, decoder.

    `select` is k. `decode` is the codec's decode where `questions.passages` holds codes, None where it holds tokens.
    `target` float32 [B,m] replaces the target log-likelihoods, which are computed here otherwise. A reader that does
    not score candidates reads the first k and has no distillation.
    """
    keys: list[jax.Array | None] = [None] * 3 if key is None else list(jax.random.split(key, 3))
    lengths = Lengths(questions.lengths, questions.passage_lengths)
    question = reader.question(params, questions.tokens, questions.lengths)
    passages = questions.passages
    if decode is None:
        passages = reader.memory(params, passages, questions.passage_lengths)
    candidates = reader.live_a(
        params, question, passages, lengths, decode=decode, dropout_rate=dropout_rate, key=keys[0]
    )
    candidates = reader.ranked(candidates, questions.retrieval)
    chosen = reader.select(candidates, lengths, select)
    fused = reader.live_b(
        params,
        candidates.hidden,
        lengths,
        chosen,
        question_width=questions.tokens.shape[1],
        dropout_rate=dropout_rate,
        key=keys[1],
    )
    fused = reader.attach_copy_inputs(
        fused,
        None if questions.words is None else take_rows(questions.words, chosen),
        take_rows(questions.passage_lengths, chosen),
        None if candidates.scores is None else take_rows(candidates.scores, chosen),
        question_width=questions.tokens.shape[1],
    )
    points = settings.pointing_weight > 0 and questions.starts is not None
    by_token, seen = reader.watched_log_likelihood(
        params,
        fused,
        questions.answers,
        questions.answer_lengths,
        watched=pointing_heads(reader.config.decoder.num_heads) if points else 0,
        dropout_rate=dropout_rate,
        key=keys[2],
    )
    cross_entropy = answer_cross_entropy(by_token, questions.weights)
    pointed = divergence = ranked = jnp.zeros_like(questions.weights)
    present = questions.passage_lengths > 0
    if candidates.scores is not None and settings.distillation_weight > 0:
        if target is None:
            target = passage_log_likelihood(reader, params, candidates.hidden, questions, settings)
        divergence = distillation(candidates.scores, target, present, settings)
    if candidates.scores is not None and settings.ranking_weight > 0 and questions.gold is not None:
        ranked = ranking(candidates.scores, questions.gold, present, settings)
    if points and questions.starts is not None:
        places = answer_places(
            questions.starts,
            chosen,
            questions.answer_lengths,
            question_width=questions.tokens.shape[1],
            steps=questions.answers.shape[1],
        )
        pointed = pointing(seen, places)
    by_question = (divergence, ranked, pointed)
    return Sums(cross_entropy, *((questions.weights * part).sum() for part in by_question))


def weighted(means: Sums, settings: LossSettings) -> jax.Array:
    """The loss itself, from the means of its parts."""
    return (
        means.cross_entropy
        + settings.distillation_weight * means.distillation
        + settings.ranking_weight * means.ranking
        + settings.pointing_weight * means.pointing
    )
