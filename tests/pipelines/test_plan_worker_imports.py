"""A worker that only plans starts without JAX: it needs a model's tokenizer and none of its weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PLANS = """
import sys
from glimmer.pipelines.planning.plan_step import PlanSettings, PlanWork, open_tools, tokenizer_digest
from glimmer.encoders.models import load_model
from glimmer.storage.stores import open_store

memory, model = sys.argv[1:]
open_store(memory).put("plan/planning", b"")
work = PlanWork(
    memory=memory,
    prefix="plan",
    model=model,
    tokenizer=tokenizer_digest(load_model(model)),
    settings=PlanSettings(window=32),
)
[tokens] = open_tools(work).tokenise([("Kalo miter", "nusha venor pidus")])
assert len(tokens) > 4
print([name for name in ("jax", "jaxlib", "flax", "optax", "tensorstore") if name in sys.modules])
"""


def test_planning_imports_no_jax(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", with_decoder=False)
    command = [sys.executable, "-c", _PLANS, str(tmp_path / "memory"), str(model)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
