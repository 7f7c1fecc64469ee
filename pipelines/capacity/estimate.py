"""What a memory costs before it is made, and what it saves: `glimmer estimate`.

Offline: operations, hours and bytes of encoding a corpus. Online: multiply-adds of one query for FiD, LUMEN and
GLIMMER over the same passages, by the papers' short formula and counted in full (`costs`). Hours come from a hardware
peak and the share of it that is reached, and are no better than those two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import UsageError
from ...encoders.families.t5 import T5_1_1_SIZES, T5Config
from ...encoders.model_config import ModelConfig
from ...encoders.strict_json import read_json
from ...reader.config import DecoderConfig, ReaderConfig
from .costs import StageCosts, formula_cost, memory_passage_cost, stage_costs

PEAKS = {
    "a100": 312e12,
    "h100": 989e12,
    "tpu-v4": 275e12,
    "tpu-v5e": 197e12,
    "tpu-v5p": 459e12,
    "cpu-core-amx": 0.8e12,
    "cpu-core": 0.14e12,
}
"""bfloat16 operations per second at peak, dense: makers' figures; of CPU cores, what was measured on one."""

LEFT_OUT = (
    "norms, softmax, activations, embedding look-ups, biases and top-k (under 1 % of the operations)",
    "reading weights and memory: decoding is often bound by memory bandwidth, not by operations",
    "retrieval, fetching and decompression",
)
"""What no number here includes."""

FORMULA_LEAVES_OUT = ("question tokens", "attention scores", "the vocabulary's scores", "the question encoder")
"""What the papers' formula leaves out and the full count has."""

# A 100-word passage's title, text and token ids; a catalog row with its place in the id map; the passage's length.
_TEXT_BYTES = 1_250
_CATALOG_BYTES = 52
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """Encoding the corpus once.

    `flops` are operations (two a multiply-add), attention scores and padding included; `formula_flops` the same by
    12d² a token and layer, without either; bytes are of the memory on disk before zstd.
    """

    passages: int
    tokens: float
    flops: float
    formula_flops: float
    hours: float
    code_bytes: float
    text_bytes: float
    catalog_bytes: float

    @property
    def bytes(self) -> float:
        """All of the memory."""
        return self.code_bytes + self.text_bytes + self.catalog_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """One query with one reader.

    `formula` is multiply-adds by the papers' formula; `stages` the full count; `fetched_bytes` what is read from the
    memory; `seconds` the operations of the full count at the given rate.
    """

    name: str
    candidates: int
    selected: int
    live_a_layers: int
    live_b_layers: int
    formula: float
    stages: StageCosts
    fetched_bytes: float
    seconds: float

    @property
    def flops(self) -> float:
        """Operations of the full count."""
        return 2.0 * self.stages.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The whole estimate; `online` has the readers in a fixed order, GLIMMER last."""

    model: str
    config: ReaderConfig
    peak_flops: float
    utilisation: float
    offline: Offline
    online: tuple[Online, ...]

    def speedup(self, over: str = "FiD over all", *, formula: bool = False) -> float:
        """How many times fewer operations GLIMMER takes than the reader named `over`.

        Raises:
            UsageError: there is no reader of that name.
        """
        named = {reader.name: reader for reader in self.online}
        if over not in named:
            raise UsageError(f"no reader {over!r}; there are: {', '.join(named)}")
        if formula:
            return named[over].formula / self.online[-1].formula
        return named[over].stages.total / self.online[-1].stages.total

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        config, offline = self.config, self.offline
        return {
            "model": self.model,
            "layers": {
                "memory": config.memory_layers,
                "live_a": config.live_a_layers,
                "live_b": config.live_b_layers,
            },
            "peak_flops": self.peak_flops,
            "utilisation": self.utilisation,
            "offline": {
                "passages": offline.passages,
                "tokens": offline.tokens,
                "flops": offline.flops,
                "formula_flops": offline.formula_flops,
                "hours": offline.hours,
                "bytes": offline.bytes,
                "code_bytes": offline.code_bytes,
                "text_bytes": offline.text_bytes,
                "catalog_bytes": offline.catalog_bytes,
            },
            "online": [
                {
                    "name": reader.name,
                    "candidates": reader.candidates,
                    "selected": reader.selected,
                    "formula_multiply_adds": reader.formula,
                    "multiply_adds": reader.stages.to_json(),
                    "flops": reader.flops,
                    "fetched_bytes": reader.fetched_bytes,
                    "seconds": reader.seconds,
                }
                for reader in self.online
            ],
            "formula_leaves_out": list(FORMULA_LEAVES_OUT),
            "left_out": list(LEFT_OUT),
        }


def split_layers(layers: int, alpha: float, beta: float) -> tuple[int, int, int]:
    """Layer counts (memory, live A, live B) for live proportion α and re-rank proportion β, rounded to whole layers.

    Raises:
        UsageError: α or β out of range, or a part that rounds to nothing though its proportion is not 0.
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha must lie in (0, 1], not {alpha}")
    if not 0 <= beta < 1:
        raise UsageError(f"beta must lie in [0, 1), not {beta}")
    live = round(alpha * layers)
    live_a = round(beta * live)
    memory, live_b = layers - live, live - live_a
    for part, count, wanted in (
        ("live encoder", live, True),
        ("memory encoder", memory, alpha < 1),
        ("live A (the re-ranked part)", live_a, beta > 0),
        ("live B", live_b, True),
    ):
        if wanted and count == 0:
            raise UsageError(f"of {layers} layers, alpha {alpha:g} and beta {beta:g} leave none for the {part}")
    return memory, live_a, live_b


def t5_config(size: str, *, alpha: float, beta: float) -> ReaderConfig:
    """The reader made of a T5.1.1 of one of `T5_1_1_SIZES`.

    Raises:
        UsageError: the size does not exist, or the proportions leave a part empty.
    """
    if size not in T5_1_1_SIZES:
        raise UsageError(f"no model size {size!r}; there are: {', '.join(T5_1_1_SIZES)}; or give a model directory")
    encoder = T5Config.released(size)
    memory, live_a, live_b = split_layers(encoder.num_layers, alpha, beta)
    decoder = DecoderConfig(
        vocab_size=encoder.vocab_size,
        d_model=encoder.d_model,
        d_ff=encoder.d_ff,
        num_heads=encoder.num_heads,
        d_kv=encoder.d_kv,
        num_layers=encoder.num_layers,
        kv_heads=encoder.num_heads,
    )
    return ReaderConfig(
        encoder=encoder, memory_layers=memory, live_a_layers=live_a, live_b_layers=live_b, decoder=decoder
    )


def model_config(model: str | Path, *, alpha: float | None = None, beta: float | None = None) -> ReaderConfig:
    """The reader that `model` names: one of `T5_1_1_SIZES`, or a model directory.

    A directory has its layers shared out already; α and β share them out anew. A size takes α = 1/3, β = 1/4 unless
    told.

    Raises:
        UsageError: neither a size nor a directory, or proportions that leave a part empty.
        ModelError: the directory is not a model that can answer.
    """
    path = Path(model)
    if not path.is_dir():
        return t5_config(str(model), alpha=1 / 3 if alpha is None else alpha, beta=1 / 4 if beta is None else beta)
    file = path / "config.json"
    config = ReaderConfig.from_model(ModelConfig.from_json(read_json(file), str(file)), str(file))
    if alpha is None and beta is None:
        return config
    live = config.live_a_layers + config.live_b_layers
    memory, live_a, live_b = split_layers(
        config.encoder.num_layers,
        live / config.encoder.num_layers if alpha is None else alpha,
        config.live_a_layers / live if beta is None else beta,
    )
    return replace(config, memory_layers=memory, live_a_layers=live_a, live_b_layers=live_b)


def estimate(
    *,
    model: str | Path | ReaderConfig,
    passages: int,
    passage_tokens: float,
    code_bytes: float,
    alpha: float | None = None,
    beta: float | None = None,
    candidates: int = 40,
    selected: int = 10,
    question_tokens: int = 20,
    answer_tokens: int = 16,
    peak_flops: float = PEAKS["h100"],
    utilisation: float = 0.4,
    padding: float = 1.0,
    text_bytes: float = _TEXT_BYTES,
) -> Estimate:
    """Costs of a corpus of `passages` passages with one model.

    Args:
        model: one of `T5_1_1_SIZES`, a model directory, or a configuration.
        passages: passages of the corpus.
        passage_tokens: mean tokens of a passage.
        code_bytes: bytes a token in the memory (a codec's `code_bytes`).
        alpha, beta: live and re-rank proportions; None: the model's own, or 1/3 and 1/4.
        candidates, selected: m and k.
        question_tokens, answer_tokens: n_q and n_t.
        peak_flops, utilisation: operations a second the hardware can do, and the share of it that is reached.
        padding: computed tokens per real one, at least 1 (sorted by length about 1.3; unsorted 3).
        text_bytes: bytes of title, text and token ids a passage.

    Raises:
        UsageError: a number out of range.
        ModelError: the model directory is not a model that can answer.

    Examples:
        >>> costs = glimmer.estimate(model="t5-base", passages=32_000_000, passage_tokens=130, code_bytes=772)
        >>> f"{costs.offline.bytes / 1e12:.1f} TB"
        '3.3 TB'
    """
    _check(
        {"passages": passages, "passage_tokens": passage_tokens, "code_bytes": code_bytes, "peak_flops": peak_flops},
        {"question_tokens": question_tokens, "answer_tokens": answer_tokens, "utilisation": utilisation},
    )
    if utilisation > 1:
        raise UsageError(f"utilisation is a share of the peak, at most 1, not {utilisation}")
    if padding < 1:
        raise UsageError(f"padding is computed tokens per real one, at least 1, not {padding}")
    if isinstance(model, ReaderConfig):
        if alpha is not None or beta is not None:
            raise UsageError("alpha and beta are given by the configuration")
        name, config = "configuration", model
    else:
        name, config = str(model), model_config(model, alpha=alpha, beta=beta)
    rate = peak_flops * utilisation
    length = round(passage_tokens * padding)
    width = config.encoder.d_model
    flops = 2.0 * passages * memory_passage_cost(config, length)
    offline = Offline(
        passages=passages,
        tokens=passages * passage_tokens,
        flops=flops,
        formula_flops=2.0 * passages * passage_tokens * config.memory_layers * 12 * width * width,
        hours=flops / rate / 3600,
        code_bytes=passages * (passage_tokens * code_bytes + _LENGTH_BYTES),
        text_bytes=passages * text_bytes,
        catalog_bytes=passages * _CATALOG_BYTES,
    )

    layers = config.encoder.num_layers
    live = config.live_a_layers + config.live_b_layers
    fid = replace(config, memory_layers=0, live_a_layers=0, live_b_layers=layers, reranker=None)
    lumen = replace(config, live_a_layers=0, live_b_layers=live, reranker=None)

    def reader(label: str, shape: ReaderConfig, m: int, k: int) -> Online:
        stages = stage_costs(
            shape,
            question_tokens=question_tokens,
            passage_tokens=length,
            candidates=m,
            selected=k,
            answer_tokens=answer_tokens,
        )
        formula = formula_cost(
            width=width,
            layers=layers,
            live_a=shape.live_a_layers,
            live_b=shape.live_b_layers,
            passage_tokens=passage_tokens,
            answer_tokens=answer_tokens,
            candidates=m,
            selected=k,
        )
        return Online(
            name=label,
            candidates=m,
            selected=k,
            live_a_layers=shape.live_a_layers,
            live_b_layers=shape.live_b_layers,
            formula=formula,
            stages=stages,
            fetched_bytes=m * passage_tokens * code_bytes if shape.memory_layers else 0.0,
            seconds=2.0 * stages.total / rate,
        )

    readers = [
        reader("FiD over all", fid, candidates, candidates),
        reader("FiD over the selected", fid, selected, selected),
        reader("LUMEN over all", lumen, candidates, candidates),
        reader("LUMEN over the selected", lumen, selected, selected),
        reader("GLIMMER", config, candidates, selected),
    ]
    return Estimate(
        model=name,
        config=config,
        peak_flops=peak_flops,
        utilisation=utilisation,
        offline=offline,
        online=tuple(readers),
    )


def _check(*groups: dict[str, float]) -> None:
    for name, value in ((name, value) for group in groups for name, value in group.items()):
        if not value > 0:
            raise UsageError(f"{name} must be positive, not {value}")


def readers_table(readers: Sequence[Online]) -> list[tuple[str, ...]]:
    """Rows for people, the header first: reader, passages read and kept, GFLOP by the formula and in full, seconds."""
    rows: list[tuple[str, ...]] = [("reader", "read → kept", "formula, GFLOP", "counted, GFLOP", "seconds", "fetched")]
    for reader in readers:
        rows.append(
            (
                reader.name,
                f"{reader.candidates} → {reader.selected}",
                f"{2e-9 * reader.formula:,.1f}",
                f"{1e-9 * reader.flops:,.1f}",
                f"{reader.seconds:.2g}",
                f"{reader.fetched_bytes / 2**20:,.1f} MiB",
            )
        )
    return rows
