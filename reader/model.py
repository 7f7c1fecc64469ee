"""The reader: from a question and the memory of its candidate passages to an answer, in stages.

    question   embed + the lower layers, the question alone, once                       -> [B,Sq,D]
    live A     [question; memory] of each of m candidates, then the re-ranker's scores  -> [B,m,Sq+L,D], [B,m]
    select     the k best                                                               -> [B,k]
    live B     the remaining layers on those, laid end to end                           -> [B,k*(Sq+L),D]
    answer     decoding over them

`ReaderModule` holds the layers (Flax NNX). `Reader` is what callers use: it is split from its weights once, every stage
is a plain function of (params, arrays) at fixed shapes, and `params` is a nested dict, as any JAX transformation takes.
Jit the stages one by one (`Stages`) to time them, or compose them in a function of your own to train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from .. import ModelError
from ..encoders.families.family_registry import find_family
from ..progress import busy
from .config import ReaderConfig, RerankerConfig
from .copying import log_likelihood, mixture_log_likelihood
from .decoder import Decoder
from .fusion import Fused, fuse, fused_prior, fused_tokens
from .generation import Generated, GenerationConfig, generate
from .grounded import Grounding, check_groundable
from .live_encoder import Lengths, join, run_live
from .reranker import Reranker, gather_selected, select, with_retrieval

if TYPE_CHECKING:
    from ..encoders.models import LoadedModel

Params = dict[str, Any]
Decode = Callable[[jax.Array, DTypeLike], jax.Array]


class ReaderModule(nnx.Module):
    """Encoder (all layers), re-ranker (None for LUMEN and FiD) and decoder; names are the weight files' names."""

    def __init__(self, config: ReaderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike) -> None:
        self.encoder = find_family(config.encoder.family).module(config.encoder, rngs=rngs, dtype=dtype)
        own = config.reranker or RerankerConfig()
        self.reranker = (
            Reranker(config.encoder, own.layers, late_interaction=own.late_interaction, rngs=rngs, dtype=dtype)
            if config.scores
            else None
        )
        self.decoder = Decoder(config.decoder, memory_width=config.encoder.d_model, rngs=rngs, dtype=dtype)


class Candidates(NamedTuple):
    """Live A's output: `hidden` float32 [B,m,Sq+L,D] and `scores` float32 [B,m] (None: this reader does not score)."""

    hidden: jax.Array
    scores: jax.Array | None


class Reader:
    """One reader of the FiD / LUMEN / GLIMMER family, without its weights.

    Letters: B questions, Sq the question's width, m candidates, k selected, L the passages' width, D the encoder's
    width, V the decoder's vocabulary. `dtype` is the compute dtype; hidden states are float32 in every precision, and
    with float32 all arithmetic is exact float32. Every method that takes `params` is traceable and shape-static; `key`
    and `dropout_rate` turn training dropout on. Wrong shapes raise ValueError while tracing.
    """

    def __init__(self, config: ReaderConfig, *, dtype: DTypeLike = jnp.bfloat16) -> None:
        self.config, self.dtype = config, dtype
        abstract = nnx.eval_shape(lambda: ReaderModule(config, rngs=nnx.Rngs(0), dtype=dtype))
        self._graph, state = nnx.split(abstract)
        self._shapes: Params = nnx.to_pure_dict(state)

    # Weights

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's dotted name and shape."""
        return {name: tuple(leaf.shape) for name, leaf in _flatten(self._shapes).items()}

    def init(self, seed: int) -> Params:
        """Random float32 weights (the family's own initialisation); the same seed gives the same weights."""
        module = ReaderModule(self.config, rngs=nnx.Rngs(seed), dtype=self.dtype)
        return nnx.to_pure_dict(nnx.split(module)[1])

    def params(
        self, tensors: Mapping[str, np.ndarray], *, dtype: DTypeLike | None = None, where: str = "weights"
    ) -> Params:
        """Weights by dotted name -> params. Names of other parts of a model file are ignored.

        Matrices are held in `dtype` (default: the compute dtype, for answering; pass float32 to train); what is small
        and enters float32 arithmetic (norms, biases, the score) in float32. ModelError names a tensor that is missing
        or of another shape.
        """
        wanted = jnp.dtype(self.dtype if dtype is None else dtype)
        shared = {f"encoder.{part}" for part in find_family(self.config.encoder.family).context_parameters}
        flat: dict[str, jax.Array] = {}
        for name, shape in self.shapes().items():
            if name not in tensors:
                raise ModelError(f"{where}: no tensor {name}; the file does not hold the reader its config describes")
            value = tensors[name]
            if tuple(value.shape) != shape:
                raise ModelError(f"{where}: {name} has shape {tuple(value.shape)}, but the config asks for {shape}")
            exact = (
                len(shape) < 2
                or name in shared
                or name.endswith(
                    ("relative_bias", "reranker.score.kernel", "copy.sentinel.kernel", "copy.onward.kernel")
                )
            )
            flat[name] = jnp.asarray(value).astype(jnp.float32 if exact else wanted)
        return _unflatten(flat, self._shapes)

    def tensors(self, params: Params) -> dict[str, np.ndarray]:
        """Params -> weights by dotted name, in the dtype they are held in; the inverse of `params`."""
        return {name: np.asarray(leaf) for name, leaf in _flatten(params).items()}

    # Stages

    def question(self, params: Params, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """The question encoder: tokens int32 [B,Sq], lengths int32 [B] -> float32 [B,Sq,D], padding undefined."""
        module, layers = self._module(params), self.config.memory_layers
        hidden = module.encoder.embed(tokens)
        if layers:
            context = module.encoder.context(jnp.arange(tokens.shape[1]) < lengths[:, None], None)
            hidden = module.encoder.run(hidden, context, 0, layers)
        return module.encoder.finish(hidden) if layers == self.config.encoder.num_layers else hidden

    def memory(self, params: Params, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Passages' memory made on the fly: tokens int32 [B,m,L], lengths int32 [B,m] -> float32 [B,m,L,D].

        The same layers as the memory encoder's, for readers without a store (FiD, where it is the embedding) and for
        training the lower layers.
        """
        batch, candidates, width = tokens.shape
        module, layers = self._module(params), self.config.memory_layers
        hidden = module.encoder.embed(tokens.reshape(-1, width)).reshape(batch, candidates, width, -1)
        alone = Lengths(jnp.zeros((batch,), jnp.int32), lengths)
        hidden = run_live(module.encoder, hidden, alone, 0, layers, question_width=0)
        return module.encoder.finish(hidden) if layers == self.config.encoder.num_layers else hidden

    def live_a(
        self,
        params: Params,
        question: jax.Array,
        memory: jax.Array,
        lengths: Lengths,
        *,
        decode: Decode | None = None,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> Candidates:
        """Live layers A over [question; memory] and the re-ranker's scores.

        `question` [B,Sq,D] as `question` gives it; `memory` [B,m,L,D], or stored codes uint8 [B,m,L,code_bytes] with
        the codec's `decode(codes, dtype)`, traced in here; `lengths.passages` int32 [B,m] is 0 for an absent one.
        """
        module, config = self._module(params), self.config
        if decode is not None:
            memory = decode(memory, self.dtype)
        hidden = join(question, memory)
        settings: dict[str, Any] = {"question_width": question.shape[1], "dropout_rate": dropout_rate}
        keys = (None, None) if key is None else jax.random.split(key)
        stop = config.memory_layers + config.live_a_layers
        hidden = run_live(module.encoder, hidden, lengths, config.memory_layers, stop, key=keys[0], **settings)
        scores = None if module.reranker is None else module.reranker(hidden, lengths, key=keys[1], **settings)
        return Candidates(hidden, scores)

    def ranked(
        self, candidates: Candidates, retrieval: jax.Array | None, late_scores: jax.Array | None = None
    ) -> Candidates:
        """Candidates with scores of the stages before in their own, as configured.

        `retrieval` float32 [B,m] is the first stage's (0: not known). `late_scores` float32 [B,m] are those by which
        late interaction chose the candidates, None where it did not: with a weight they stand in for the former.
        """
        own = self.config.reranker or RerankerConfig()
        if late_scores is not None and own.memory_interaction and candidates.scores is not None:
            return candidates._replace(scores=candidates.scores + own.memory_interaction * late_scores)
        weight = own.retrieval_weight
        if retrieval is None or candidates.scores is None or weight == 0:
            return candidates
        return candidates._replace(scores=with_retrieval(candidates.scores, retrieval, weight))

    def select(
        self, candidates: Candidates, lengths: Lengths, count: int, scores: jax.Array | None = None
    ) -> jax.Array:
        """The best `count` candidates, int32 [B,count], best first; equal scores keep the candidates' order.

        `scores` float32 [B,m] replaces the reader's own. A reader that does not score keeps the order it was given.
        Absent passages come last.
        """
        if scores is None:
            scores = candidates.scores
        if scores is None:
            scores = jnp.zeros(lengths.passages.shape, jnp.float32)
        return select(jnp.where(lengths.passages > 0, scores, -jnp.inf), count)

    def attach_copy_inputs(
        self,
        fused: Fused,
        tokens: jax.Array | None,
        lengths: jax.Array,
        scores: jax.Array | None,
        *,
        question_width: int,
    ) -> Fused:
        """`fused` with what a decoder that copies needs to know of its k passages; unchanged for any other.

        `tokens` int32 [B,k,L], of which `lengths` int32 [B,k] are real; `scores` float32 [B,k] of the re-ranker (None:
        a reader that does not score, whose passages are all alike).
        """
        decoder = self.config.decoder
        if not decoder.copy_width or tokens is None:
            return fused
        prior = None
        if decoder.copy_by_score and scores is not None:
            prior = fused_prior(scores, question_width + tokens.shape[2])
        return fused._replace(tokens=fused_tokens(tokens, lengths, question_width), prior=prior)

    def live_b(
        self,
        params: Params,
        hidden: jax.Array,
        lengths: Lengths,
        chosen: jax.Array | None = None,
        *,
        question_width: int,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> Fused:
        """Live layers B over the candidates `chosen` int32 [B,k] (None: all) of `hidden` [B,m,Sq+L,D], then fusion."""
        module, config = self._module(params), self.config
        if chosen is not None:
            hidden, lengths = gather_selected(hidden, lengths, chosen)
        start, stop = config.memory_layers + config.live_a_layers, config.encoder.num_layers
        hidden = run_live(
            module.encoder,
            hidden,
            lengths,
            start,
            stop,
            question_width=question_width,
            dropout_rate=dropout_rate,
            key=key,
        )
        if config.memory_layers < stop:  # else question and memory came out finished
            hidden = module.encoder.finish(hidden)
        return fuse(hidden, lengths, question_width)

    def answer(
        self, params: Params, fused: Fused, generation: GenerationConfig, ground: Grounding | None = None
    ) -> Generated:
        """Decodes answers over the fused passages; `ground` (see `grounded.grounding`) where generation is grounded.

        A decoder that copies needs to know what stands in them: `fused` is what `attach_copy_inputs` gave.
        """
        if generation.grounded:
            check_groundable(self.config)
        module = self._module(params)
        cross = module.decoder.cross(fused)
        return generate(module.decoder, self._table(module), cross, generation, ground)

    def logits(
        self,
        params: Params,
        fused: Fused,
        answers: jax.Array,
        *,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: float32 [B,T,V], at place t the logits of `answers[:, t]` given what precedes it (logarithms
        of probabilities where the decoder copies).

        `answers` int32 [B,T] ends with eos and is padded after it; the start token is put before it here.
        """
        module, inputs = self._module(params), self._inputs(answers)
        return module.decoder.logits(inputs, fused, self._table(module), dropout_rate=dropout_rate, key=key)

    def log_likelihood(
        self,
        params: Params,
        fused: Fused,
        answers: jax.Array,
        lengths: jax.Array,
        *,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """log p(answer | fused passages) float32 [B,T] by token, natural logarithm, 0 from `lengths` int32 [B] on.

        `lengths` counts the end-of-answer token too. Sum for the answer's log-probability, average for its perplexity.
        """
        return self.watched_log_likelihood(
            params, fused, answers, lengths, watched=0, dropout_rate=dropout_rate, key=key
        )[0]

    def watched_log_likelihood(
        self,
        params: Params,
        fused: Fused,
        answers: jax.Array,
        lengths: jax.Array,
        *,
        watched: int,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """`log_likelihood`, and what the first `watched` heads of every cross-attention layer attended to.

        The latter as in `TeacherForcingOutput.attention_log_probs`.
        """
        module, inputs = self._module(params), self._inputs(answers)
        taught = module.decoder.teach(
            inputs, fused, self._table(module), watched=watched, dropout_rate=dropout_rate, key=key
        )
        if taught.mixture is None or fused.tokens is None:
            log_probs = log_likelihood(taught.logits, answers)
        else:
            log_probs = mixture_log_likelihood(taught.logits, taught.mixture, fused.tokens, answers)
        return jnp.where(jnp.arange(answers.shape[1]) < lengths[:, None], log_probs, 0.0), taught.attention_log_probs

    def _inputs(self, answers: jax.Array) -> jax.Array:
        """What the decoder is given to write answers int32 [B,T]: the start token, then all of them but the last."""
        start = jnp.full((answers.shape[0], 1), self.config.decoder.start_id, answers.dtype)
        return jnp.concatenate([start, answers[:, :-1]], axis=1)

    def _module(self, params: Params) -> ReaderModule:
        # Happens while tracing only: under jit it costs nothing per call.
        return nnx.merge(self._graph, nnx.State(params))

    def _table(self, module: ReaderModule) -> jax.Array | None:
        return module.encoder.embedding[...] if self.config.decoder.shared_embedding else None


class Stages:
    """A reader's stages jitted one by one, for a job that times them. Each call compiles once per shape.

    `decode` is the storage codec's decode, `select` the number of passages kept.
    """

    def __init__(
        self, reader: Reader, generation: GenerationConfig, *, select: int, decode: Decode | None = None
    ) -> None:
        self.reader = reader
        self.question = jax.jit(reader.question)
        self.memory = jax.jit(reader.memory)
        self.live_a = jax.jit(lambda params, *arrays: reader.live_a(params, *arrays, decode=decode))
        self.select = jax.jit(lambda candidates, lengths, scores: reader.select(candidates, lengths, select, scores))
        self.live_b = jax.jit(reader.live_b, static_argnames=("question_width",))
        self.answer = jax.jit(
            lambda params, fused, ground: reader.answer(params, fused, generation, ground),
        )


def load_reader(model: LoadedModel, *, dtype: DTypeLike = jnp.bfloat16) -> tuple[Reader, Params]:
    """The reader of a model directory and its weights, ready to answer; ModelError where it holds no reader."""
    where = str(model.path)
    reader = Reader(ReaderConfig.from_model(model.config, where), dtype=dtype)
    with busy(f"loading model {model.path.name}"):
        return reader, reader.params(model.tensors, where=where)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _unflatten(flat: Mapping[str, Any], like: Mapping[Any, Any], prefix: str = "") -> Params:
    return {
        key: _unflatten(flat, value, f"{prefix}{key}.") if isinstance(value, Mapping) else flat[f"{prefix}{key}"]
        for key, value in like.items()
    }
