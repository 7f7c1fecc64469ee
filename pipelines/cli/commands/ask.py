"""`glimmer ask`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ....reader.serving.answer_defaults import DEFAULT_CANDIDATES, DEFAULT_SELECT
from ..printing import echo, echo_marked, print_json_line
from ..signals import raise_interrupts
from ..terminal import TerminalProgress
from .options import memory_argument, version_option

if TYPE_CHECKING:
    from ....reader.serving.question_answering import Answer

_PROMPT = "question> "


@click.command()
@memory_argument
@click.argument("question", nargs=-1)
@click.option(
    "--model",
    help="A model directory with a decoder, or a built-in name (sample).  [default: the reader that goes with the "
    "memory's encoder, where one is known]",
)
@version_option
@click.option(
    "--retrieve",
    type=click.IntRange(min=1),
    help="Passages retrieved for each question; of more than --candidates, late interaction over the stored memory "
    "chooses.  [default: by model, else --candidates]",
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    help=f"Passages read for each question.  [default: by model, else {DEFAULT_CANDIDATES}]",
)
@click.option(
    "--select",
    type=click.IntRange(min=1),
    help=f"Passages kept after re-ranking, for the decoder.  [default: {DEFAULT_SELECT}, or all of fewer candidates]",
)
@click.option("--beams", type=click.IntRange(min=1), default=1, show_default=True, help="Beams; 1 decodes greedily.")
@click.option(
    "--grounded/--no-grounded",
    default=None,
    help="Allow only answers that occur verbatim in the passages.  [default: where the model's tokenizer loses upper "
    "case, as the sample reader's does]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each question, one a line.")
def ask(
    memory: str,
    question: tuple[str, ...],
    model: str | None,
    version: int | None,
    retrieve: int | None,
    candidates: int | None,
    select: int | None,
    beams: int,
    grounded: bool | None,
    as_json: bool,
) -> None:
    """Ask a memory a question.

    Prints the answer, the page that it is from, and the sentence that holds it. All words after MEMORY are one
    question; without any, questions are read from standard input, a line each, until its end or Ctrl-C.

    \b
    Example:
      glimmer ask wiki.memory who painted the ceiling of the sistine chapel
      glimmer ask wiki.memory < questions.txt
    """
    from ....reader.serving.question_answering import open_reader
    from ....reader.serving.searchable_memory import open_memory

    with TerminalProgress() as progress:
        opened = open_memory(memory, version=version, progress=progress)
        reader = open_reader(model, opened, progress=progress)
        opened.first_stage()
    questions = iter([" ".join(question)]) if question else _typed()
    with reader, suppress(KeyboardInterrupt):  # which ends it as well while an answer is on its way
        for number, asked in enumerate(questions):
            answer = reader.answer(
                asked, retrieve=retrieve, candidates=candidates, select=select, beams=beams, grounded=grounded
            )
            if as_json:
                print_json_line(answer.to_json())
            else:
                if number:
                    echo("")
                _show(answer)
            sys.stdout.flush()  # whoever reads a pipe gets each answer as it comes


def _typed() -> Iterator[str]:
    """Lines of standard input that are not blank; on a terminal with a prompt, line editing and a history."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401  (input() uses it once it is imported)

    raise_interrupts()
    while True:
        try:
            if sys.stdout.isatty():
                line = input(_PROMPT)
            else:  # the prompt is not part of what is piped
                echo(_PROMPT, err=True, nl=False)
                line = sys.stdin.readline()
                if not line:
                    raise EOFError
        except (EOFError, KeyboardInterrupt):
            echo("", err=True)
            return
        if line.strip():
            yield line.strip()


def _show(answer: Answer) -> None:
    page = answer.page
    if page is None:
        echo("no answer: no word of the question stands in the memory")
        return
    echo(answer.text or "no answer")
    echo(f"  {page.title or '(no title)'}  ({page.article_id})")
    if answer.quote is not None:
        quote = answer.quote
        sentence, start, end = quote.sentence, quote.start, quote.end
        echo_marked(f"  {sentence[:start]}", sentence[start:end], sentence[end:])
    if answer.note is not None:
        echo(f"  ({answer.note})")
