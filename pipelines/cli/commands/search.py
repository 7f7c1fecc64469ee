"""`glimmer search`."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from ..printing import echo, print_json
from ..terminal import TerminalProgress
from .options import json_option, memory_argument, version_option

_EXCERPT = 160


@click.command()
@memory_argument
@click.argument("question", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Passages to show.")
@version_option
@json_option
def search(memory: str, question: tuple[str, ...], top: int, version: int | None, as_json: bool) -> None:
    """Look passages up in the first-stage index (BM25), which is built if need be.

    All words after MEMORY are one question.

    \b
    Example:
      glimmer search wiki.memory who wrote the declaration of human rights
    """
    from ....reader.serving.retrieval_index import open_index
    from ....storage.memory import Memory

    words = " ".join(question)
    opened = Memory.open(memory, version)
    with TerminalProgress() as progress:
        found = open_index(opened, progress=progress)
    (hits,) = found.search([words], top)
    passages = opened.texts(hits.positions)
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "score": round(float(score), 4),
            "passage_id": passage.passage_id,
            "article_id": passage.article_id,
            "title": passage.title,
            "start_paragraph_id": passage.start_paragraph_id,
            "end_paragraph_id": passage.end_paragraph_id,
            "text": passage.text,
        }
        for rank, (score, passage) in enumerate(zip(hits.scores, passages, strict=True), 1)
    ]
    if as_json:
        print_json({"memory": memory, "version": opened.version, "question": words, "passages": rows})
        return
    if not rows:
        echo("nothing found: no word of the question stands in the memory")
    for row in rows:
        echo(f"{row['rank']:>3}  {row['score']:>7.2f}  {row['title']}  ({row['passage_id']})")
        echo(textwrap.indent(textwrap.shorten(row["text"], _EXCERPT, placeholder=" …"), " " * 14))
