"""`import glimmer`: exactly the public names, each documented, loaded when first used; the import itself is light."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import glimmer

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = {
    # open and ask
    "open_memory", "Memory", "Passage", "ScoredPassage", "open_reader", "Reader", "Answer", "Quote",
    # jobs
    "encode", "EncodeResult", "refresh", "refresh_dry_run", "RefreshResult", "RefreshPlan", "answer_file",
    "AnswerResult", "evaluate", "Evaluation", "TaskScores", "train", "TrainConfig", "TrainResult", "make_tasks",
    "TasksResult", "outline_questions", "OutlinesResult", "convert", "ConvertResult", "estimate", "Estimate",
    "bench_codecs", "CodecBench", "CodecFigures", "PairedScore",
    # maintenance
    "verify", "VerifyReport", "Damage", "repair", "RepairResult", "compact", "CompactResult", "vacuum", "VacuumResult",
    "rollback", "RollbackResult", "history", "VersionEntry", "diff", "VersionDiff", "export", "ExportResult",
    # models, engines, progress
    "load_model", "save_model", "LoadedModel", "ModelConfig", "Engine", "Progress", "TerminalProgress",
    # errors
    "GlimmerError", "InputError", "UsageError", "PassageNotFoundError", "ModelError", "MismatchError", "ConflictError",
    "DamageError", "StorageError",
    "__version__",
}  # fmt: skip


def test_these_are_the_public_names() -> None:
    assert set(glimmer.__all__) == NAMES
    assert sorted(glimmer.__all__) == list(glimmer.__all__)
    assert set(dir(glimmer)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_a_public_name_says_what_it_is(name: str) -> None:
    value = getattr(glimmer, name)
    assert value.__name__ == name
    text = inspect.getdoc(value)
    assert text
    if inspect.isfunction(value):
        assert "\nRaises" in text
        assert "\nExamples:\n    >>> " in text
        for parameter in inspect.signature(value).parameters:
            assert f"{parameter}:" in text or f"{parameter}," in text, parameter


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'glimmer' has no attribute 'no_such_name'"):
        glimmer.no_such_name  # noqa: B018


def test_type_checkers_see_what_is_loaded_later() -> None:
    """The imports under TYPE_CHECKING and the table of modules are the same."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = {
        node.module: tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert imports == glimmer._MODULES


def run(code: str) -> dict[str, object]:
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found: dict[str, object] = json.loads(printed)
    return found


def test_the_import_is_light() -> None:
    found = run(
        "import sys, time, json; before = set(sys.modules); begun = time.process_time(); import glimmer\n"
        "print(json.dumps({'seconds': time.process_time() - begun, 'new': sorted(set(sys.modules) - before)}))"
    )
    new = found["new"]
    assert isinstance(new, list)
    assert [name for name in new if name.split(".")[0] == "glimmer"] == ["glimmer", "glimmer.errors"]
    assert not {"numpy", "jax", "apache_beam", "pyarrow", "click", "rich"} & set(new)
    assert isinstance(found["seconds"], float)
    assert found["seconds"] < 0.03


def test_opening_a_memory_needs_neither_jax_nor_beam(tmp_path: Path, kit: object) -> None:
    kit.memory(tmp_path / "m", 3)  # type: ignore[attr-defined]
    found = run(
        f"import sys, json, glimmer; memory = glimmer.open_memory({str(tmp_path / 'm')!r}); memory.search('text')\n"
        "print(json.dumps({'length': len(memory), 'heavy': sorted({'jax', 'apache_beam'} & set(sys.modules))}))"
    )
    assert found == {"length": 3, "heavy": []}
