"""What makes a reader: how the encoder's layers are shared out, the decoder's shape, the re-ranker's kind.

One `ReaderConfig` covers the family. FiD is no memory layers (everything is live); LUMEN is no live A layers (nothing
is re-ranked); GLIMMER is the general case; a re-ranker that shares no layers is `reranker` set. A model directory's
`config.json` carries decoder, re-ranker and late interaction as plain JSON objects (`encoders.model_config`); this
module owns their meaning and reads them as strictly as the rest of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import ModelError
from ..encoders.families.encoder_family import EncoderConfig
from ..encoders.model_config import ModelConfig
from ..encoders.strict_json import Section

_CONTINUATION_KEY = "copy_continuation_bias"
_OLD_CONTINUATION_KEY = "copy_onward"  # in models of version 0.1


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A T5-style decoder with fusion-in-decoder cross-attention.

    `kv_heads` is `num_heads` (T5) or 1 (multi-query attention, as in FiDO, arXiv 2212.08153, in self- and
    cross-attention). `cross_every` = n gives only layers n, 2n, ... (counted from one) cross-attention: FiDO's
    layer-sparse cross-attention; 1 is T5. `shared_embedding` reads tokens through the encoder's word embeddings,
    `tied_head` also writes them through the same table (then there is no `lm_head`); `head_scale` multiplies the last
    hidden state before the head (T5 1.0, tied, used d_model**-0.5; 1.0 elsewhere), `embedding_scale` what enters: T5's
    word embeddings are about 1 a dimension; BERT's are far smaller, and layers would drown them. `copy_width` > 0 lets
    the decoder copy tokens from the passages (`copying`), by keys of that many dimensions; with `copy_by_score` a
    position also counts by its passage's share of the re-ranker's scores, with `copy_continuation_bias` by whether it
    follows the token just written.
    `start_id`, `eos_id` and `pad_id` are token ids: what decoding begins from, what ends an answer, what follows it.
    """

    vocab_size: int
    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_layers: int
    layer_norm_eps: float = 1e-6
    relative_buckets: int = 32
    relative_max_distance: int = 128
    gated: bool = True
    kv_heads: int
    cross_every: int = 1
    shared_embedding: bool = True
    tied_head: bool = False
    head_scale: float = 1.0
    embedding_scale: float = 1.0
    copy_width: int = 0
    copy_by_score: bool = False
    copy_continuation_bias: bool = False
    start_id: int = 0
    eos_id: int = 1
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.kv_heads not in (1, self.num_heads):
            raise ModelError(f"decoder.kv_heads must be 1 or num_heads ({self.num_heads}), not {self.kv_heads}")
        for name in ("copy_by_score", "copy_continuation_bias"):
            if getattr(self, name) and not self.copy_width:
                raise ModelError(f"decoder.{name} needs copy_width: there is nothing to copy by")
        if not 1 <= self.cross_every <= self.num_layers:
            raise ModelError(
                f"decoder.cross_every must be between 1 and num_layers ({self.num_layers}), or no layer would see the "
                f"passages; it is {self.cross_every}"
            )
        for name in ("start_id", "eos_id", "pad_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ModelError(f"decoder.{name} must be a token id below vocab_size ({self.vocab_size})")

    def has_cross_attention(self, layer: int) -> bool:
        """Whether `layer` (from 0) attends to the passages."""
        return (layer + 1) % self.cross_every == 0

    @property
    def cross_layers(self) -> int:
        """How many layers attend to the passages."""
        return self.num_layers // self.cross_every

    def to_json(self) -> dict[str, Any]:
        """All fields, ready for `json.dumps`; what `ModelConfig.decoder` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, where: str = "config.json") -> DecoderConfig:
        """Parses what `to_json` wrote; ModelError names the key and the file (`where`)."""
        if isinstance(value, Mapping) and _OLD_CONTINUATION_KEY in value and _CONTINUATION_KEY not in value:
            value = {_CONTINUATION_KEY if key == _OLD_CONTINUATION_KEY else key: value[key] for key in value}
        section = Section(value, "decoder", where)
        sizes = {
            key: section.integer(key, most=most)
            for key, most in (
                ("vocab_size", 1 << 24),
                ("d_model", 1 << 16),
                ("d_ff", 1 << 20),
                ("num_heads", 1 << 12),
                ("d_kv", 1 << 12),
                ("num_layers", 1 << 10),
                ("kv_heads", 1 << 12),
                ("cross_every", 1 << 10),
            )
        }
        buckets = section.integer("relative_buckets", least=4, most=1 << 16)
        distance = section.integer("relative_max_distance", least=2, most=1 << 20)
        if buckets % 2 != 0 or distance <= buckets // 2:
            section.fail(f"must be even and below twice relative_max_distance, not {buckets}", "relative_buckets")
        flags = {key: section.boolean(key) for key in ("gated", "shared_embedding", "tied_head")}
        copying = {key: section.boolean(key, default=False) for key in ("copy_by_score", "copy_continuation_bias")}
        ids = {key: section.integer(key, least=0, most=1 << 24) for key in ("start_id", "eos_id", "pad_id")}
        eps = section.number("layer_norm_eps", above=0.0, most=1.0)
        scale = section.number("head_scale", above=0.0, most=1e6)
        embedding_scale = section.number("embedding_scale", above=0.0, most=1e6, default=1.0)
        copy_width = section.integer("copy_width", least=0, most=1 << 16, default=0)
        section.end()
        try:
            return cls(
                **sizes,
                **ids,
                relative_buckets=buckets,
                relative_max_distance=distance,
                gated=flags["gated"],
                shared_embedding=flags["shared_embedding"],
                tied_head=flags["tied_head"],
                layer_norm_eps=eps,
                head_scale=scale,
                embedding_scale=embedding_scale,
                copy_width=copy_width,
                copy_by_score=copying["copy_by_score"],
                copy_continuation_bias=copying["copy_continuation_bias"],
            )
        except ModelError as error:
            raise error.at(where) from None


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """What a re-ranker has beyond a linear map of live A's output, which is GLIMMER's and needs no such section.

    `layers` > 0 gives it that many layers of the encoder's kind, shared with nothing and used for scores only. The
    others are weights of what is added to a candidate's score, not in the paper; 0 leaves them out.
    `retrieval_weight` is that of the natural logarithm of the first stage's score: what BM25 knows need not be learned
    again. `late_interaction` is that of ColBERT's (arXiv 2004.12832) similarity of question and passage, between -1 and
    1, over live A's output: encoders trained for sentence similarity rank well by it before they are fine-tuned.
    `memory_interaction` is that of the score by which late interaction over the stored memory chose it, which
    holds the first stage's: where it is known and has a weight, it stands in for the latter.
    """

    layers: int = 0
    retrieval_weight: float = 0.0
    late_interaction: float = 0.0
    memory_interaction: float = 0.0

    def __post_init__(self) -> None:
        for name in ("layers", "retrieval_weight", "late_interaction", "memory_interaction"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ModelError(f"reranker.{name} must not be negative, is {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """All fields, ready for `json.dumps`; what `ModelConfig.reranker` holds.

        Without a weight `memory_interaction` is left out: earlier releases do not know it.
        """
        return {name: value for name, value in asdict(self).items() if value or name != "memory_interaction"}

    @classmethod
    def from_json(cls, value: object, where: str = "config.json") -> RerankerConfig:
        """Parses what `to_json` wrote; ModelError names the key and the file (`where`)."""
        section = Section(value, "reranker", where)
        layers = section.integer("layers", least=0, most=1 << 10)
        retrieval = section.number("retrieval_weight", above=-1.0, most=1e6, default=0.0)
        late = section.number("late_interaction", above=-1.0, most=1e6, default=0.0)
        memory = section.number("memory_interaction", above=-1.0, most=1e6, default=0.0)
        section.end()
        try:
            return cls(layers=layers, retrieval_weight=retrieval, late_interaction=late, memory_interaction=memory)
        except ModelError as error:
            raise error.at(where) from None


@dataclass(frozen=True, kw_only=True)
class LateInteractionConfig:
    """How candidates are chosen from what the first stage retrieves, by the stored memory (`maxsim`).

    `retrieve` passages are retrieved of each question, and the `candidates` best go on to live A. A passage's score is
    its MaxSim, between -1 and 1, plus `retrieval_weight` times the natural logarithm of the first stage's score. With
    `enabled` false, that happens only where it is asked for.
    """

    enabled: bool = True
    retrieve: int = 200
    candidates: int = 10
    retrieval_weight: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= self.retrieve:
            raise ModelError(
                f"late_interaction.candidates ({self.candidates}) must lie between 1 and retrieve ({self.retrieve})"
            )
        if not 0 <= self.retrieval_weight < 1e6:
            raise ModelError(f"late_interaction.retrieval_weight must not be negative, is {self.retrieval_weight}")

    def to_json(self) -> dict[str, Any]:
        """All fields, ready for `json.dumps`; what `ModelConfig.late_interaction` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, where: str = "config.json") -> LateInteractionConfig:
        """Parses what `to_json` wrote; ModelError names the key and the file (`where`)."""
        section = Section(value, "late_interaction", where)
        enabled = section.boolean("enabled", default=True)
        retrieve = section.integer("retrieve", most=1 << 16, default=200)
        candidates = section.integer("candidates", most=1 << 16, default=10)
        weight = section.number("retrieval_weight", above=-1.0, most=1e6, default=0.05)
        section.end()
        try:
            return cls(enabled=enabled, retrieve=retrieve, candidates=candidates, retrieval_weight=weight)
        except ModelError as error:
            raise error.at(where) from None


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """The whole reader. Layers [0, memory) are the memory and question encoder, then come live A and live B."""

    encoder: EncoderConfig
    memory_layers: int
    live_a_layers: int
    live_b_layers: int
    decoder: DecoderConfig
    reranker: RerankerConfig | None = None
    late_interaction: LateInteractionConfig | None = None

    def __post_init__(self) -> None:
        layers = (self.memory_layers, self.live_a_layers, self.live_b_layers)
        if min(layers) < 0 or sum(layers) != self.encoder.num_layers:
            raise ModelError(
                f"memory, live A and live B layers {layers} must add up to the encoder's {self.encoder.num_layers}"
            )
        decoder = self.decoder
        if decoder.tied_head and not decoder.shared_embedding:
            raise ModelError("decoder.tied_head needs shared_embedding: the head is the encoder's word embeddings")
        if decoder.copy_width and decoder.vocab_size != self.encoder.vocab_size:
            raise ModelError(
                f"decoder.copy_width: to copy from passages it must have their vocabulary of {self.encoder.vocab_size} "
                f"tokens, but the decoder has {decoder.vocab_size}"
            )
        if decoder.shared_embedding and (decoder.vocab_size, decoder.d_model) != (
            self.encoder.vocab_size,
            self.encoder.d_model,
        ):
            raise ModelError(
                f"decoder.shared_embedding needs the encoder's table of {self.encoder.vocab_size} x "
                f"{self.encoder.d_model}, but the decoder is {decoder.vocab_size} x {decoder.d_model}"
            )

    @property
    def scores(self) -> bool:
        """Whether the reader scores candidates itself: live A or a separate re-ranker exists (LUMEN has neither)."""
        return self.live_a_layers > 0 or (self.reranker is not None and self.reranker.layers > 0)

    @classmethod
    def from_model(cls, config: ModelConfig, where: str = "config.json") -> ReaderConfig:
        """The reader a model directory describes; ModelError when it has no decoder (an encoder-only model)."""
        if config.decoder is None:
            raise ModelError(f"{where}: this model has no decoder: it can encode a memory but cannot answer from one")
        reranker: Mapping[str, Any] | None = config.reranker
        late: Mapping[str, Any] | None = config.late_interaction
        try:
            return cls(
                encoder=config.encoder,
                memory_layers=config.memory_layers,
                live_a_layers=config.live_a_layers,
                live_b_layers=config.live_b_layers,
                decoder=DecoderConfig.from_json(config.decoder, where),
                reranker=None if reranker is None else RerankerConfig.from_json(reranker, where),
                late_interaction=None if late is None else LateInteractionConfig.from_json(late, where),
            )
        except ModelError as error:
            raise error.at(where) from None
