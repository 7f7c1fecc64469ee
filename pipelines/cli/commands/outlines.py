"""`glimmer outlines`."""

from __future__ import annotations

import click

from ....storage.outputs import is_stream
from ..printing import echo, print_json, shown_path
from ..terminal import TerminalProgress
from .options import json_option


@click.command()
@click.argument("outlines", type=click.Path(dir_okay=False))
@click.option("--qrels", type=click.Path(dir_okay=False), help="TREC's judgements; only topics in them are written.")
@click.option("--output", required=True, type=click.Path(), help="KILT file to write; - is standard output.")
@json_option
def outlines(outlines: str, qrels: str | None, output: str, as_json: bool) -> None:
    """Make questions of TREC CAR's outlines.

    OUTLINES is a CBOR file of outlines (or pages), plain or compressed. A query is a page's name, or a name and the
    headings that lead to a section; paragraphs that the qrels judge relevant become its provenance, so that `glimmer
    evaluate` scores what was found in a memory of the paragraphs.

    \b
    Example:
      glimmer outlines test.pages.cbor-outlines.cbor --qrels test.pages.cbor-hierarchical.qrels --output car.jsonl
    """
    from ...outlines import outline_questions

    with TerminalProgress() as progress:
        result = outline_questions(outlines=outlines, qrels=qrels, output=output, progress=progress)
    piped = is_stream(output)
    if as_json:
        print_json(result.to_json(), err=piped)
        return
    judged = f", {result.judged:,} with provenance" if qrels is not None else ""
    echo(f"{shown_path(output)}: {result.questions:,} questions of {result.pages:,} pages{judged}", err=piped)
    if result.unmatched:
        echo(f"  {result.unmatched:,} topics of the qrels are in no outline", err=piped)
