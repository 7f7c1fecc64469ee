"""The five lines of the README with the real sample reader."""

from __future__ import annotations

from pathlib import Path

import pytest

import glimmer


@pytest.mark.slow
def test_five_lines_answer_a_question(corpus: Path, tmp_path: Path) -> None:
    glimmer.encode(sources=[str(corpus)], memory=tmp_path / "m", model="sample")
    memory = glimmer.open_memory(tmp_path / "m")
    assert memory.search("who painted the ceiling of the sistine chapel", k=1)[0].title == "Sistine Chapel ceiling"
    reader = glimmer.open_reader("sample", memory)
    questions = ["who painted the ceiling of the sistine chapel", "who was the eiffel tower named after"]
    painter, engineer = reader.answer(questions)
    assert (painter.text, engineer.text) == ("Michelangelo", "Gustave Eiffel"), "in the passages' upper case"
    assert painter.page is not None
    assert painter.page.title == "Sistine Chapel ceiling"
    assert str(painter.quote) == (
        "The Sistine Chapel ceiling was painted in fresco by **Michelangelo** between 1508 and 1512."
    )
    assert painter.text in reader.answer(questions[0], passages=memory.search(questions[0], k=2)).text
