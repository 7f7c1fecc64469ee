"""Which precision made a memory is recorded, and later jobs follow that, whatever machine they run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from changing import payload

from glimmer import MismatchError
from glimmer.encoders import precision
from glimmer.pipelines.encode import encode
from glimmer.pipelines.refresh import refresh
from glimmer.progress import Quiet
from glimmer.storage.memory import Memory

AVX2 = "flags\t\t: fpu avx2 fma\n"
AMX = "flags\t\t: fpu avx2 fma avx512_bf16 amx_bf16\n"


class Said(Quiet):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_memory_begun_on_one_machine_is_continued_alike_on_another(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = str(tiny_model(tmp_path / "model", window=48))
    small, large = tiny_corpus(tmp_path / "small.jsonl", 6), tiny_corpus(tmp_path / "large.jsonl", 12)
    said = Said()
    monkeypatch.setattr(precision, "_cpu_info", lambda: AVX2)
    encode(sources=[str(small)], memory=tmp_path / "m", model=model, passage_words=16, progress=said)
    assert Memory.open(tmp_path / "m").identity.encoder.precision == "float32"
    assert "precision: float32, by this machine" in said.lines
    encode(sources=[str(large)], memory=tmp_path / "whole", model=model, passage_words=16, precision="float32")

    monkeypatch.setattr(precision, "_cpu_info", lambda: AMX)
    again = encode(sources=[str(small)], memory=tmp_path / "m", model=model, passage_words=16, progress=said)
    assert again.nothing_to_do
    assert "precision: float32, as the memory records" in said.lines
    with pytest.raises(MismatchError, match="precision"):
        encode(sources=[str(small)], memory=tmp_path / "m", model=model, passage_words=16, precision="bfloat16")
    refresh(sources=[str(large)], memory=tmp_path / "m")
    assert payload(tmp_path / "m") == payload(tmp_path / "whole"), "a refresh computes as the memory records"

    encode(sources=[str(small)], memory=tmp_path / "other", model=model, passage_words=16)
    assert Memory.open(tmp_path / "other").identity.encoder.precision == "bfloat16"
