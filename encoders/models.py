"""Models, opened by directory or by name: configuration, tokenizer, and weights that are read only when asked for.

Inspecting a model or encoding with its lower layers does not pull a whole T5-XXL into memory. What lies in a model
directory, and how one is written, is in `model_directory`; the models that are had by name in `builtin_models`.
JAX and Flax are imported when an encoder is made: a process that only tokenises starts without them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import ModelError, UsageError
from ..progress import busy
from .builtin_models import BUILT_IN, builtin_directory
from .families.family_registry import find_family, load_tokenizer
from .fingerprint import fingerprint
from .model_config import ModelConfig, read_model_config
from .model_directory import WEIGHTS
from .tokenizers import Ids, Tokenizer
from .weights import Tensors, read_safetensors

if TYPE_CHECKING:
    from jax.typing import DTypeLike

    from .layered import LayeredEncoder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """An open model directory. `tensors` maps dotted names to arrays, each read from disk when asked for."""

    config: ModelConfig
    tensors: Tensors
    tokenizer: Tokenizer
    path: Path

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the memory encoder (see `fingerprint.fingerprint`); reads the covered tensors once."""
        with busy(f"loading model {self.path.name}"):
            return fingerprint(self.config, self.tensors, self.tokenizer)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights' file and of the configuration but for its `source`: what a run of it rests on."""
        described = {key: value for key, value in self.config.to_json().items() if key != "source"}
        with (self.path / WEIGHTS).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "weights": weights,
            "config": hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
        }

    def with_window(self, window: int) -> LoadedModel:
        """The model with the window of a memory, which decides how titles are cut and is not in the fingerprint."""
        return self if self.config.window == window else replace(self, config=replace(self.config, window=window))

    def encoder(
        self, dtype: DTypeLike = "float32", layers: slice = slice(None), *, param_dtype: DTypeLike | None = None
    ) -> LayeredEncoder:
        """The layered encoder with its weights, holding the embedding and `layers` (a contiguous slice).

        Products compute in `dtype`. Matrices are kept in `param_dtype` (default: `dtype`, so that nothing is converted
        per call; training passes float32); norms, biases and what all layers share (T5's relative bias) stay
        float32.
        """
        import jax.numpy as jnp
        from flax import nnx

        config = self.config.encoder
        layer_range = range(config.num_layers)[layers]
        if layer_range.step != 1:
            raise ValueError(f"layers must be a contiguous slice, not {layers}")
        family = find_family(config.family)
        abstract = nnx.eval_shape(lambda: family.module(config, rngs=nnx.Rngs(0), dtype=dtype, layer_range=layer_range))
        graph, state = nnx.split(abstract)
        kept = jnp.dtype(dtype if param_dtype is None else param_dtype)
        filled = []
        for path, leaf in nnx.to_flat_state(state):
            steps = [str(step) for step in path]
            if steps[0] == "layers":
                steps[1] = str(int(steps[1]) + layer_range.start)
            name = ".".join(["encoder", *steps])
            array = self.tensors.expect(name, tuple(leaf.shape))
            wide = array.ndim < 2 or steps[0] in family.context_parameters
            filled.append((path, leaf.replace(jnp.asarray(array, jnp.float32 if wide else kept))))
        encoder: LayeredEncoder = nnx.merge(graph, nnx.from_flat_state(filled))
        return encoder

    def passage_tokens(self, pairs: Sequence[tuple[str, str]]) -> list[Ids]:
        """(title, text) pairs through the passage template -> ids with special tokens, not truncated.

        A title longer than a quarter of the window is cut to fit it, so that text always has room.
        """
        return self.tokenizer.encode(self._passage_inputs(pairs))

    def surface_text(self, title: str, text: str, tokens: Ids, start: int, stop: int) -> str | None:
        """The text that tokens [start, stop) of a passage were made from, upper case and all.

        `tokens` are what the memory holds of the passage. None where they cannot be traced back to the text, or need
        not be, since the tokenizer decodes to what was written.
        """
        (written,) = self._passage_inputs([(title, text)])
        found = self.tokenizer.encode_with_offsets(written)
        if found is None or not np.array_equal(found[0], tokens):
            return None
        return written[found[1][start][0] : found[1][stop - 1][1]]

    def _passage_inputs(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        titles = self._cut_titles([title for title, _ in pairs], self.config.window // 4)
        template = self.config.passage_template
        return [template.format(title=title, text=text) for title, (_, text) in zip(titles, pairs, strict=True)]

    def question_tokens(self, questions: Sequence[str]) -> list[Ids]:
        """Questions through the question template -> ids with special tokens, not truncated."""
        return self.tokenizer.encode([self.config.question_template.format(question=each) for each in questions])

    def _cut_titles(self, titles: Sequence[str], most: int) -> list[str]:
        cut = list(titles)
        # A character can become several tokens (normalisation), rarely more than four: shorter titles always fit.
        pending = [number for number, title in enumerate(cut) if 4 * len(title) > most]
        while pending:
            counts = [len(ids) for ids in self.tokenizer.encode_plain([cut[number] for number in pending])]
            long = [(number, count) for number, count in zip(pending, counts, strict=True) if count > most]
            for number, count in long:
                length = len(cut[number])
                cut[number] = cut[number][: max(0, min(length - 1, length * most // count))].rstrip()
            pending = [number for number, _ in long if cut[number]]
        return cut


def load_model(path_or_builtin: str | os.PathLike[str]) -> LoadedModel:
    """Opens a model; its weights are read when they are asked for.

    Args:
        path_or_builtin: a model directory, or a built-in name (`minilm`, `sample`); a directory of that name wins.

    Raises:
        ModelError: the directory is not a model; the message names the file and the key or tensor at fault.
        UsageError: nothing of that name exists.

    Examples:
        >>> glimmer.load_model("sample").config.memory_layers
        3
    """
    path = Path(path_or_builtin)
    if not path.is_dir():
        if str(path_or_builtin) not in BUILT_IN:
            known = ", ".join(sorted(BUILT_IN))
            raise UsageError(f"{path}: no such model directory; give one that `glimmer convert` wrote, or: {known}")
        path = builtin_directory(str(path_or_builtin))
    config = read_model_config(path)
    tokenizer = load_tokenizer(path, config.tokenizer)
    if tokenizer.vocab_size > config.encoder.vocab_size:
        raise ModelError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} entries, the embedding {config.encoder.vocab_size} rows"
        )
    tensors = read_safetensors(path / WEIGHTS)
    tensors.lazy("encoder.embedding")
    encoder = config.encoder
    _log.info(
        "model %s: %s, %d + %d + %d layers of width %d, window %d",
        *(path, encoder.family, config.memory_layers, config.live_a_layers, config.live_b_layers),
        *(encoder.d_model, config.window),
    )
    return LoadedModel(config=config, tensors=tensors, tokenizer=tokenizer, path=path)
