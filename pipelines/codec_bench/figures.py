"""What the benchmark of codecs finds: a row of figures for each codec, and what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answer_comparison import PairedScore


@dataclass(frozen=True, kw_only=True)
class CodecFigures:
    """What one codec costs and loses.

    Attributes:
        codec: as `--codec` or `--peer` has it; the first row is `bfloat16`, which the others are held against.
        peer: whether it is a method of others that memories cannot have.
        code_bytes: bytes a token; `compression` is how many times less than bfloat16's.
        table_bytes: of all its tables, once a memory.
        relative_mse: Σ|x - decoded x|² / Σ|x - mean x|² over tokens of passages that its tables were not fitted to.
        encode_tokens_per_second, decode_tokens_per_second: of the codec alone, in batches such as the encoder's.
        fit_seconds: to make the tables; a peer of other bits has its centroids from the one before it.
        same_answer: share of questions with the same answer as without compression; None without questions.
        same_first: share whose first passage after re-ranking is the same; None also where the reader does not re-rank.
        em, f1: exact match and F1, with the paired difference; None without gold answers.
        answer_seconds: to answer all questions, compiling included; None without questions.
    """

    codec: str
    peer: bool
    code_bytes: int
    compression: float
    table_bytes: int
    relative_mse: float
    encode_tokens_per_second: float
    decode_tokens_per_second: float
    fit_seconds: float
    same_answer: float | None = None
    same_first: float | None = None
    em: PairedScore | None = None
    f1: PairedScore | None = None
    answer_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            **self.__dict__,
            "em": None if self.em is None else self.em.to_json(),
            "f1": None if self.f1 is None else self.f1.to_json(),
        }

    def summary(self) -> str:
        """One line for people: `pq:bytes=48: 48 bytes a token, relative MSE 0.0512, EM 0.369 (-0.002)`."""
        parts = [f"{self.code_bytes} bytes a token", f"relative MSE {self.relative_mse:.2g}"]
        if self.em is not None:
            parts.append(f"EM {self.em.value:.3f} ({self.em.difference:+.3f})")
        return f"{self.codec}: {', '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class CodecBench:
    """What `bench_codecs` found.

    Attributes:
        memory, version: whose passages; `model` encoded them and answered.
        codecs: a row each, the uncompressed one first.
        queries: questions answered with each codec, 0 where none were given; `scored` of them have gold answers.
        passages: passages encoded, the questions' candidates and those held out.
        held_out_passages, held_out_tokens: what `relative_mse` is of.
        fit_tokens: most tokens that a codec was fitted to, 0 if none was.
        encoder_tokens_per_second: of the memory layers alone, over the passages held out.
        settings: candidates, select, precision and what else the answers depend on; empty without questions.
        plot: the figure, if one was asked for.
    """

    memory: str
    version: int
    model: str
    codecs: tuple[CodecFigures, ...]
    queries: int
    scored: int
    passages: int
    held_out_passages: int
    held_out_tokens: int
    fit_tokens: int
    encoder_tokens_per_second: float
    settings: Mapping[str, Any]
    plot: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            **self.__dict__,
            "codecs": [each.to_json() for each in self.codecs],
            "settings": dict(self.settings),
            "plot": None if self.plot is None else str(self.plot),
        }
