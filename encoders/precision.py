"""Which precision products are computed in, where that is left to the machine.

A processor without bfloat16 instructions widens every operand of a bfloat16 product: on one with AVX2 alone, encoding
took twice as long in bfloat16 as in float32. What a job chose is recorded with what it made, so that a later job
elsewhere does not choose again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, cast, get_args

from .. import UsageError

Precision = Literal["bfloat16", "float32"]
"""Of matrix products; accumulation is float32."""

PrecisionChoice = Literal["auto", "bfloat16", "float32"]
"""`auto` is what was recorded, or else `native_precision`."""

_CPU_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # as Linux names them, on x86 and on Arm
_CPU_INFO: Final = Path("/proc/cpuinfo")
_FIRST_GPU: Final = 8.0  # NVIDIA's compute capability with bfloat16: Ampere


def chosen_precision(choice: str, *, recorded: str | None = None) -> Precision:
    """The precision that `choice` comes to; `recorded` is that of what exists already, None where nothing does.

    Raises UsageError for a choice that there is none.
    """
    if choice not in get_args(PrecisionChoice):
        raise UsageError(f"no precision {choice!r}; there are: {', '.join(get_args(PrecisionChoice))}")
    if choice != "auto":
        return cast(Precision, choice)
    return cast(Precision, recorded) if recorded is not None else native_precision()


def native_precision() -> Precision:
    """bfloat16 where JAX's default backend has instructions for it, else float32.

    Of processors that is known on Linux alone; others get float32, which is never the much slower of the two.
    """
    import jax

    if jax.default_backend() == "cpu":
        return "bfloat16" if cpu_has_bfloat16(_cpu_info()) else "float32"
    capability = getattr(jax.local_devices()[0], "compute_capability", None)  # of NVIDIA's, such as "8.0"
    try:
        return "float32" if capability is not None and float(capability) < _FIRST_GPU else "bfloat16"
    except ValueError:
        return "bfloat16"


def cpu_has_bfloat16(info: str) -> bool:
    """Whether the processor that Linux describes by `info`, /proc/cpuinfo, multiplies bfloat16 numbers."""
    lines = (line.partition(":") for line in info.splitlines())
    return any(
        not _CPU_FLAGS.isdisjoint(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")
    )


def _cpu_info() -> str:
    try:
        return _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
