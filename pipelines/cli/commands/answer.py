"""`glimmer answer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from ....reader.formats.long_questions import LONG_QUESTIONS, LongQuestions
from ....reader.formats.query_fields import parse_field_options
from ....reader.formats.query_layout import FORMATS
from ....reader.serving.answer_defaults import DEFAULT_ANSWER_TOKENS, DEFAULT_CANDIDATES, DEFAULT_SELECT
from ....storage.outputs import is_stream
from ....storage.printable import printable_line
from ....wording import counted
from ...engines import Engine
from ..printing import echo, print_json
from ..tables import duration, grid, pairs
from ..terminal import TerminalProgress
from .options import engine_options, json_option

if TYPE_CHECKING:
    from ....encoders.precision import PrecisionChoice
    from ...answer import AnswerResult
    from ...answering.query_range import CandidatesFrom

_WIDTH = 50  # of a column of the first answers


@click.command()
@click.argument("queries", type=click.Path(allow_dash=True))
@click.option("--memory", required=True, type=click.Path(), help="Directory of the memory to answer from.")
@click.option("--model", required=True, help="A model directory with a decoder, or a built-in name (sample).")
@click.option(
    "--output", required=True, type=click.Path(), help="Prediction file to write or resume; - is standard output."
)
@click.option(
    "--retrieve",
    type=click.IntRange(min=1),
    help="Passages retrieved for each query; of more than --candidates, late interaction over the stored memory "
    "chooses.  [default: by model, else --candidates]",
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    help=f"Passages read for each query.  [default: by model, else {DEFAULT_CANDIDATES}]",
)
@click.option(
    "--select",
    type=click.IntRange(min=1),
    help=f"Passages kept after re-ranking, for the decoder.  [default: {DEFAULT_SELECT}, or all of fewer candidates]",
)
@click.option(
    "--candidates-from",
    type=click.Choice(["auto", "retrieval", "provenance"]),
    default="auto",
    show_default=True,
    help="auto: the passages a query brings, else BM25; retrieval: always BM25; provenance: KILT records' own.",
)
@click.option("--memory-version", type=click.IntRange(min=0), help="Version to answer from.  [default: the newest]")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Format of QUERIES.  [default: by content]")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="KIND=NAME",
    help="Key or column of QUERIES that is the question, id or answers (--field question=Frage); may be repeated.",
)
@click.option(
    "--long-questions",
    type=click.Choice(LONG_QUESTIONS),
    default="auto",
    show_default=True,
    help="Of a question too long for the reader, keep the end or start, answer nothing, or refuse the file; auto keeps "
    "the end of a dialogue and the start of others.",
)
@click.option("--strict", is_flag=True, help="Refuse records without provenance, where candidates come from it.")
@click.option("--beams", type=click.IntRange(min=1), default=1, show_default=True, help="Beams; 1 decodes greedily.")
@click.option(
    "--max-answer-tokens",
    type=click.IntRange(min=1),
    default=DEFAULT_ANSWER_TOKENS,
    show_default=True,
    help="Longest answer, in tokens.",
)
@click.option(
    "--length-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Of beam search; higher favours longer answers.",
)
@click.option(
    "--grounded/--no-grounded",
    default=None,
    help="Allow only answers that occur verbatim in the passages.  [default: where the model's tokenizer loses upper "
    "case, as the sample reader's does]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Queries computed together.  [default: by device]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    default="auto",
    show_default=True,
    help="Matmul precision; accumulation is float32. auto: bfloat16 where the machine has instructions for it, else "
    "float32.",
)
@click.option(
    "--no-answer-below",
    type=click.FloatRange(min=0, max=1),
    metavar="P",
    default=0.0,
    help="Leave an answer empty to which the model gives a lower probability.  [default: answer all]",
)
@click.option(
    "--report", type=click.Path(dir_okay=False), help="HTML file to write about the job; - is standard output."
)
@click.option("--restart", is_flag=True, help="Answer everything anew instead of resuming.")
@engine_options
@json_option
def answer(
    queries: str,
    memory: str,
    model: str,
    output: str,
    retrieve: int | None,
    candidates: int | None,
    select: int | None,
    candidates_from: str,
    memory_version: int | None,
    format_: str | None,
    fields: tuple[str, ...],
    long_questions: str,
    strict: bool,
    beams: int,
    max_answer_tokens: int,
    length_penalty: float,
    grounded: bool | None,
    batch_size: int | None,
    precision: str,
    no_answer_below: float,
    report: str | None,
    restart: bool,
    engine: Engine,
    as_json: bool,
) -> None:
    """Answer a file of questions from a memory.

    QUERIES is JSON (lines or a list: KILT, FiD, NQ-open, HotpotQA, FlashRAG, BEIR), a table (CSV or TSV with a header,
    MS MARCO's and DPR's without), or plain text with a question a line; plain or compressed; - is standard input. How
    it was read is printed. Predictions are written in KILT's format, in input order. Running the same command again
    resumes after the last complete line.

    With --runner, workers of a Beam runner answer ranges of the file; the result is the same to the byte.

    \b
    Example:
      glimmer answer nq-dev-kilt.jsonl --memory wiki.memory --model reader --output nq-dev.predictions.jsonl
    """
    from ...answer import answer_file

    with TerminalProgress() as progress:
        result = answer_file(
            queries=queries,
            memory=memory,
            model=model,
            output=output,
            retrieve=retrieve,
            candidates=candidates,
            select=select,
            memory_version=memory_version,
            beams=beams,
            batch_size=batch_size,
            max_answer_tokens=max_answer_tokens,
            length_penalty=length_penalty,
            grounded=grounded,
            report=report,
            format=format_,
            fields=parse_field_options(fields),
            long_questions=cast(LongQuestions, long_questions),
            strict=strict,
            candidates_from=cast("CandidatesFrom", candidates_from),
            precision=cast("PrecisionChoice", precision),
            no_answer_below=no_answer_below,
            restart=restart,
            engine=None if engine.is_this_process else engine,
            progress=progress,
        )
    piped = is_stream(output) or (report is not None and is_stream(report))
    print_json(result.to_json(), err=piped) if as_json else echo(_text(result), err=piped)


def _text(result: AnswerResult) -> str:
    if not result.answered:
        return f"{result.output}: nothing to do, {counted(result.queries, 'query')} answered before"
    facts: dict[str, object] = {
        "answered": f"{result.answered:,} of {counted(result.queries, 'query')}"
        + (f" ({result.resumed:,} were there already)" if result.resumed else ""),
        "memory version": result.version,
        "time": f"{duration(result.seconds)}, {result.queries_per_second:,.2f} queries/s",
        "empty answers": result.empty + result.without_candidates,
    }
    if result.long_questions:
        facts["long questions"] = result.long_questions
    if result.without_provenance:
        facts["without provenance"] = result.without_provenance
    if result.missing:
        facts["provenance not in memory"] = result.missing
    if result.report is not None:
        facts["report"] = result.report
    rows = [
        (stage, f"{seconds:7,.2f}", f"{1000 * seconds / result.answered:8,.1f}")
        for stage, seconds in result.stages.items()
    ]
    first = [
        (
            printable_line(each.question)[:_WIDTH],
            printable_line(each.answer)[:_WIDTH],
            printable_line(each.title)[:_WIDTH],
        )
        for each in result.first_answers
    ]
    return "\n".join(
        [
            pairs(str(result.output), facts),
            *(["", grid(("first questions", "answer", "best passage"), first)] if first else []),
            "",
            grid(("stage", "seconds", "ms/query"), rows),
            *result.notes,
        ]
    )
