"""`glimmer evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from ....reader.formats.evaluation import RANKS, Evaluation
from ....reader.formats.query_fields import parse_field_options
from ....reader.formats.query_layout import FORMATS
from ..printing import echo, print_json
from ..tables import grid
from .options import json_option

_SHOWN = ("accuracy", "em", "f1", "rougel", "Rprec", "recall@5", "KILT-em", "KILT-f1")


@click.command()
@click.argument("gold", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("guess", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--ranks",
    default=",".join(map(str, RANKS)),
    show_default=True,
    help="The k of recall@k and the other ranked metrics, separated by commas; --json has them all.",
)
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Format of GOLD.  [default: by content]")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="KIND=NAME",
    help="Key or column of GOLD that is the question, id or answers; may be repeated.",
)
@json_option
def evaluate(gold: Path, guess: Path, ranks: str, format_: str | None, fields: tuple[str, ...], as_json: bool) -> None:
    """Score predictions with KILT's metrics.

    GOLD is any query file with answers or provenance that `glimmer answer` reads, or a directory with a KILT file for
    each task; GUESS the predictions, or what KILT's own retrieval writes: a file, or a directory with files of the
    same names. One of the two may be -, standard input.

    \b
    Example:
      glimmer evaluate nq-dev-kilt.jsonl nq-dev.predictions.jsonl
    """
    from ...evaluate import evaluate as evaluate_job

    found = evaluate_job(
        gold=gold, predictions=guess, ranks=_ranks(ranks), format=format_, fields=parse_field_options(fields)
    )
    for warning in found.warnings:
        echo(f"glimmer: warning: {warning}", err=True)
    print_json(found.to_json()) if as_json else echo(_table(found))


def _ranks(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("whole numbers separated by commas, such as 1,5,20", param_hint="--ranks") from None


def _table(found: Evaluation) -> str:
    rows = [
        (task, questions, *(f"{100 * value:{len(name)}.2f}" for name, value in zip(_SHOWN, values, strict=True)))
        for task, questions, values in found.table(_SHOWN)
    ]
    header = ("task", "questions", *_SHOWN)
    return f"{grid(header, rows)}\n\nIn percent. A KILT score counts an answer only where Rprec is 1."
