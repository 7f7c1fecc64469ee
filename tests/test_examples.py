"""The examples run as they are, each from an empty directory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sample_weights")]


def run(script: str, place: Path) -> str:
    """What the example prints, run in `place`."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script], cwd=place, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_encode_and_ask(tmp_path: Path) -> None:
    first = run("encode_and_ask.py", tmp_path)
    assert re.search(r"^encoded \d+ passages$", first, re.MULTILINE)
    assert "who painted the ceiling of the Sistine chapel? Michelangelo\n" in first
    assert "**Gustave Eiffel**" in first
    assert "the memory was there" in run("encode_and_ask.py", tmp_path)


def test_evaluate_a_file(tmp_path: Path) -> None:
    shown = run("evaluate_a_file.py", tmp_path)
    [exact] = re.findall(r"^exact match (\d\.\d+),", shown, re.MULTILINE)
    assert float(exact) > 0.4
    assert (tmp_path / "example" / "run.html").stat().st_size > 1000


def test_the_notebook(tmp_path: Path) -> None:
    """Executed as Jupyter does, in a copy of the directory; the cell of five lines shows the answer."""
    import nbclient
    import nbformat

    place = shutil.copytree(EXAMPLES, tmp_path / "examples")
    notebook = nbformat.read(place / "first_answer.ipynb", as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "outputs are not committed"
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()
    shown = ["".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in notebook.cells]
    [answer] = [text for text in shown if "**Michelangelo**" in text]
    assert answer.startswith("Michelangelo\n")
