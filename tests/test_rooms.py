"""Imports point one way: pipelines -> reader -> (encoders, storage); encoders and storage know nobody."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "encoders": {"encoders"},
    "storage": {"storage"},
    "reader": {"reader", "encoders", "storage"},
    "pipelines": {"pipelines", "reader", "encoders", "storage"},
}


def _rooms_imported(path: Path) -> set[str]:
    package = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            targets = [base + (node.module or "").split(".")] if node.module else [[*base, a.name] for a in node.names]
            found |= {parts[0] for parts in targets if parts and parts[0] in ALLOWED}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glimmer."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("glimmer.")}
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    offenders = {
        str(path.relative_to(ROOT)): extra
        for path in (ROOT / room).rglob("*.py")
        if (extra := _rooms_imported(path) - ALLOWED[room])
    }
    assert offenders == {}


@pytest.mark.parametrize("room", ALLOWED)
def test_no_module_grows_past_500_lines(room: str) -> None:
    long = {
        p.name: n for p in (ROOT / room).rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert long == {}
