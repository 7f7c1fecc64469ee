"""`glimmer bench`, with `glimmer bench codecs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from ....reader.formats.query_fields import parse_field_options
from ....reader.formats.query_layout import FORMATS
from ....reader.serving.answer_defaults import DEFAULT_CANDIDATES, DEFAULT_SELECT
from ....storage.outputs import is_stream
from ....wording import counted
from ..printing import echo, print_json
from ..tables import grid
from ..terminal import TerminalProgress
from ..verbosity import verbosity_options
from .options import CodecType, json_option, memory_argument

if TYPE_CHECKING:
    from ....encoders.precision import Precision
    from ...codec_bench.answer_comparison import PairedScore
    from ...codec_bench.figures import CodecBench


@click.group()
def bench() -> None:
    """Compare codecs on your own corpus and questions.

    \b
    Example:
      glimmer bench codecs wiki.memory --model sample --queries nq-dev-kilt.jsonl
    """


@bench.command()
@memory_argument
@click.option("--model", required=True, help="A model directory, or a built-in name (sample); its layers made MEMORY.")
@click.option(
    "--queries",
    type=click.Path(allow_dash=True),
    help="Query file, best with gold answers; without it nothing is answered.",
)
@click.option(
    "--codec",
    "codecs",
    type=CodecType(),
    multiple=True,
    help="A codec to compare; may be repeated.  [default: int8, and pq 16, 32 and 64 times smaller than bfloat16]",
)
@click.option(
    "--peer",
    "peers",
    metavar="colbertv2[:bits=1|2][,centroids=N]",
    multiple=True,
    help="A method of others to compare, which memories cannot have: ColBERTv2's residual coding; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first so many questions.")
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    default=DEFAULT_CANDIDATES,
    show_default=True,
    help="Passages read for each query.",
)
@click.option(
    "--select",
    type=click.IntRange(min=1),
    help=f"Passages kept after re-ranking, for the decoder.  [default: {DEFAULT_SELECT}, or all of fewer candidates]",
)
@click.option("--memory-version", type=click.IntRange(min=0), help="Version to compare on.  [default: the newest]")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Format of the queries.  [default: by content]")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="KIND=NAME",
    help="Key or column of the queries that is the question, id or answers; may be repeated.",
)
@click.option(
    "--grounded/--no-grounded", default=None, help="As in glimmer answer.  [default: as the model's tokenizer wants]"
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Queries computed together.  [default: by device]")
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Matmul precision of the reader; accumulation is float32.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    help="SVG image to write: exact match, or without gold answers the error, against bytes; - is standard output.",
)
@json_option
def codecs(
    memory: str,
    model: str,
    queries: str | None,
    codecs: tuple[str, ...],
    peers: tuple[str, ...],
    limit: int | None,
    candidates: int,
    select: int | None,
    memory_version: int | None,
    format_: str | None,
    fields: tuple[str, ...],
    grounded: bool | None,
    batch_size: int | None,
    precision: str,
    plot: str | None,
    as_json: bool,
) -> None:
    """Compare codecs: bytes, error, speed, and what answers lose.

    The passages that the questions need are encoded once without compression. Each codec is fitted to a sample of the
    memory's passages, and every question is answered from its codes in the memory's place. Exact match and F1 are held
    against those of bfloat16, question by question, with 95 % intervals. The memory is not changed.

    \b
    Example:
      glimmer bench codecs wiki.memory --model sample --queries nq-dev-kilt.jsonl --codec int8 --codec pq:bytes=48
    """
    from ...codec_bench.bench_codecs import bench_codecs

    with TerminalProgress() as progress:
        result = bench_codecs(
            memory=memory,
            model=model,
            queries=queries,
            codecs=codecs,
            peers=peers,
            limit=limit,
            plot=plot,
            candidates=candidates,
            select=select,
            memory_version=memory_version,
            batch_size=batch_size,
            grounded=grounded,
            precision=cast("Precision", precision),
            format=format_,
            fields=parse_field_options(fields),
            progress=progress,
        )
    piped = plot is not None and is_stream(plot)
    print_json(result.to_json(), err=piped) if as_json else echo(table(result), err=piped)


codecs.params += verbosity_options()


def table(result: CodecBench) -> str:
    """The table for people, and under it what the figures were measured on."""
    header = ["codec", "bytes", "times smaller", "relative MSE", "encode tokens/s", "decode tokens/s"]
    if result.queries:
        header += ["same first", "EM %", "difference [95 %]", "F1 %", "difference [95 %]"]
    rows = []
    for each in result.codecs:
        row: list[object] = [
            each.codec,
            each.code_bytes,
            f"{each.compression:13.1f}",
            f"{each.relative_mse:12.2g}",
            f"{each.encode_tokens_per_second:15,.0f}",
            f"{each.decode_tokens_per_second:15,.0f}",
        ]
        if result.queries:
            row.append("" if each.same_first is None else f"{each.same_first:10.3f}")
            for score in (each.em, each.f1):
                row += ["" if score is None else f"{100 * score.value:4.1f}", _difference(score)]
        rows.append(row)
    facts = [
        f"{result.memory}, version {result.version}; model {result.model}.",
        f"Error over {counted(result.held_out_passages, 'passage')} held out from fitting "
        f"({counted(result.held_out_tokens, 'token')}); the memory layers alone encode "
        f"{result.encoder_tokens_per_second:,.0f} tokens/s.",
    ]
    if result.queries:
        asked = counted(result.queries, "question")
        facts.append(
            f"{asked}, {result.scored:,} with gold answers; m = {result.settings['candidates']}, k = "
            f"{result.settings['select']}; differences to bfloat16 are paired, intervals a bootstrap over questions."
        )
    return "\n".join([grid(header, rows), "", *facts])


def _difference(score: PairedScore | None) -> str:
    if score is None:
        return ""
    return f"{100 * score.difference:+.1f} [{100 * score.low:+.1f}, {100 * score.high:+.1f}]"
