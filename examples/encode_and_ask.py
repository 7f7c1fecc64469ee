"""Encodes a small corpus into a memory, searches it, and answers questions from it.

    python examples/encode_and_ask.py [DIRECTORY]

DIRECTORY gets the memory (default: `example.memory` in the current directory). A second run finds the memory made, and
answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import glimmer

ARTICLES = Path(__file__).resolve().parent / "data" / "articles.jsonl"
QUESTIONS = ["who painted the ceiling of the Sistine chapel", "who was the eiffel tower named after"]


def main(place: str = "example.memory") -> None:
    made = glimmer.encode(sources=[str(ARTICLES)], memory=place, model="sample")
    print("the memory was there" if made.nothing_to_do else f"encoded {made.plan.passages} passages")

    memory = glimmer.open_memory(place)
    for passage in memory.search(QUESTIONS[0], k=3):
        print(f"  {passage.score:5.1f}  {passage.title}")
    [vectors] = memory.vectors(memory.search(QUESTIONS[0], k=1))
    print(f"  the best passage is {vectors.shape[0]} tokens of {vectors.shape[1]} numbers")

    reader = glimmer.open_reader("sample", memory)
    for answer in reader.answer(QUESTIONS):
        print(f"{answer.question}? {answer.text}")
        print(f"  {answer.quote}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
