"""Multiply-adds of a reader's stages: counted exactly for given shapes, and by the short formulas of the papers.

`stage_costs` counts every matrix product of one query (projections, attention scores and mixes, feed-forward, heads)
from the configuration the model is built from, so that it can be held against what a compiler counts. `formula_cost`
is the comparison that the GLIMMER and LUMEN papers make: it leaves out question tokens and attention scores.
`estimate` puts both side by side. All numbers are multiply-adds; a multiply-add is two floating-point operations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ... import UsageError
from ...reader.config import DecoderConfig, ReaderConfig, RerankerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Multiply-adds of one query, stage by stage.

    Attributes:
        question: lower layers on the question alone.
        live_a: layers up to the re-ranker, on [question; memory] of every candidate.
        rerank: the linear score of every candidate, and a separate re-ranker's own layers where there is one.
        live_b: the remaining layers on the passages kept.
        cross_memory: the decoder's keys and values of the passages kept, computed once.
        decode: all decoding steps, the vocabulary's scores included.
    """

    question: int
    live_a: int
    rerank: int
    live_b: int
    cross_memory: int
    decode: int

    @property
    def total(self) -> int:
        """The sum of the stages."""
        return sum(getattr(self, item.name) for item in fields(self))

    def to_json(self) -> dict[str, int]:
        """The stages by name, and `total`."""
        return {**asdict(self), "total": self.total}


def cross_memory_cost(config: DecoderConfig, *, places: int, memory_width: int) -> int:
    """Keys and values of `places` encoder outputs of width `memory_width`, for every layer that attends to them."""
    bridge = 0 if memory_width == config.d_model else places * memory_width * config.d_model
    copying = places * config.d_model * config.copy_width
    return bridge + copying + config.cross_layers * 2 * places * config.d_model * config.kv_heads * config.d_kv


def decoder_step_cost(config: DecoderConfig, *, places: int, cache: int) -> int:
    """One decoding step of one answer.

    Args:
        places: encoder outputs attended to (kept passages × their padded length).
        cache: length of the self-attention cache; it is attended to whole at a fixed shape.
    """
    inner, shared = config.num_heads * config.d_kv, config.kv_heads * config.d_kv
    itself = config.d_model * (2 * inner + 2 * shared) + 2 * cache * inner
    across = config.d_model * 2 * inner + 2 * places * inner
    feed_forward = (3 if config.gated else 2) * config.d_model * config.d_ff
    numbers = (1 + config.copy_continuation_bias) * config.d_model if config.copy_width else 0
    copying = (config.d_model + places) * config.copy_width + numbers
    head = config.d_model * config.vocab_size + copying
    return config.num_layers * (itself + feed_forward) + config.cross_layers * across + head


def stage_costs(
    config: ReaderConfig,
    *,
    question_tokens: int,
    passage_tokens: int,
    candidates: int,
    selected: int,
    answer_tokens: int,
    beams: int = 1,
) -> StageCosts:
    """Every matrix product of one query at these (padded) shapes.

    Args:
        question_tokens, passage_tokens: tokens of the question's and of each passage's row, padding included.
        candidates: passages read by live A.
        selected: passages kept for live B and the decoder.
        answer_tokens: decoding steps.
        beams: answers decoded side by side.

    Raises:
        UsageError: more passages are kept than there are.
    """
    if not 1 <= selected <= candidates:
        raise UsageError(f"select must lie between 1 and the {candidates} candidates, not {selected}")
    row = question_tokens + passage_tokens
    layer = config.encoder.layer_cost(row)
    own = config.reranker or RerankerConfig()
    pairs = question_tokens * passage_tokens if own.late_interaction else 0
    scoring = candidates * (own.layers * layer + (1 + pairs) * config.encoder.d_model) if config.scores else 0
    places = selected * row
    step = decoder_step_cost(config.decoder, places=places, cache=answer_tokens)
    return StageCosts(
        question=config.memory_layers * config.encoder.layer_cost(question_tokens),
        live_a=candidates * config.live_a_layers * layer,
        rerank=scoring,
        live_b=selected * config.live_b_layers * layer,
        cross_memory=cross_memory_cost(config.decoder, places=places, memory_width=config.encoder.d_model),
        decode=beams * answer_tokens * step,
    )


def memory_passage_cost(config: ReaderConfig, passage_tokens: int) -> int:
    """Encoding one passage offline: the memory layers over its tokens."""
    return config.memory_layers * config.encoder.layer_cost(passage_tokens)


def formula_cost(
    *,
    width: int,
    layers: int,
    live_a: int,
    live_b: int,
    passage_tokens: float,
    answer_tokens: float,
    candidates: int,
    selected: int,
) -> float:
    """One query by the papers' formula; question tokens and attention scores left out.

    With d the width, a live layer costs 12d² a token, a decoder layer's keys and values 2d² a passage token, and a
    decoder layer 14d² an answer token:

        m·n_p·A·12d² + k·n_p·B·12d² + k·n_p·L·2d² + n_t·L·14d²

    with A and B the layers of the two live parts, m candidates and k selected. FiD is A = 0, B = L; LUMEN is A = 0.
    """
    square = width * width
    live = passage_tokens * 12 * square * (candidates * live_a + selected * live_b)
    return live + selected * passage_tokens * layers * 2 * square + answer_tokens * layers * 14 * square
