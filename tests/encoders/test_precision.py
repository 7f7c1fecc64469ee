"""Precision left to the machine: bfloat16 where there are instructions for it, and never another one in secret."""

from __future__ import annotations

import pytest

from glimmer import UsageError
from glimmer.encoders import precision as module
from glimmer.encoders.precision import chosen_precision, cpu_has_bfloat16, native_precision

SAPPHIRE_RAPIDS = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile amx_bf16\n"
HASWELL = "processor\t: 0\nmodel name\t: bf16 lover's delight\nflags\t\t: fpu fma avx avx2 bmi2\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve svebf16 i8mm bf16\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\n"


@pytest.mark.parametrize(
    ("info", "expected"),
    [(SAPPHIRE_RAPIDS, True), (HASWELL, False), (GRAVITON_3, True), (GRAVITON_2, False), ("", False)],
    ids=["AMX", "AVX2", "Arm with bf16", "Arm without", "unknown"],
)
def test_a_processor_says_whether_it_has_the_instructions(
    info: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpu_has_bfloat16(info) is expected
    monkeypatch.setattr(module, "_cpu_info", lambda: info)
    assert native_precision() == ("bfloat16" if expected else "float32")


def test_auto_follows_what_is_recorded_and_a_stated_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpu_info", lambda: HASWELL)
    assert chosen_precision("auto") == "float32"
    assert chosen_precision("auto", recorded="bfloat16") == "bfloat16"
    assert chosen_precision("bfloat16") == "bfloat16"
    assert chosen_precision("float32", recorded="bfloat16") == "float32"
    with pytest.raises(UsageError, match="float16"):
        chosen_precision("float16")
