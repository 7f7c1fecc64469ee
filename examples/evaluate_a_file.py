"""Answers a file of questions and scores the answers with KILT's metrics.

    python examples/evaluate_a_file.py [DIRECTORY]

DIRECTORY gets the memory, the predictions and a report as a web page (default: `example` in the current directory).
Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import glimmer

DATA = Path(__file__).resolve().parent / "data"


def main(place: str = "example") -> None:
    directory = Path(place)
    memory, predictions = directory / "wiki.memory", directory / "predictions.jsonl"
    questions = str(DATA / "questions.jsonl")
    directory.mkdir(parents=True, exist_ok=True)

    glimmer.encode(sources=[str(DATA / "articles.jsonl")], memory=memory, model="sample")
    glimmer.answer_file(
        queries=questions, memory=memory, model="sample", output=predictions, select=5, report=directory / "run.html"
    )
    scores = glimmer.evaluate(gold=questions, predictions=predictions).metrics
    print(f"exact match {scores['em']:.3f}, F1 {scores['f1']:.3f}, R-precision of the pages {scores['Rprec']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
