"""`glimmer encode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ....wording import counted
from ...corpus.passages import DEFAULT_WORDS
from ...engines import Engine
from ..printing import echo, print_json, shown_path
from ..tables import duration, pairs, size, worker_table
from ..terminal import TerminalProgress
from .corpus_options import corpus_arguments, corpus_options
from .options import codec_or_tables_option, engine_options, json_option, range_option

if TYPE_CHECKING:
    from ...capacity.dry_run import DryRun
    from ...encode import EncodeResult


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--memory", required=True, type=click.Path(), help="Directory of the memory to make.")
@click.option("--model", required=True, help="A model directory, or a built-in name (minilm, sample).")
@codec_or_tables_option
@click.option(
    "--codec-tables",
    metavar="FILE|MEMORY",
    help="Take the codec's tables from another memory, or its codec/tables.safetensors, instead of fitting new ones.",
)
@corpus_options
@click.option(
    "--passage-words", type=click.IntRange(min=1), default=DEFAULT_WORDS, show_default=True, help="Words in a passage."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    default="auto",
    show_default=True,
    help="Matmul precision; accumulation is float32. auto: the memory's, or for a new one bfloat16 where the machine "
    "has instructions for it, else float32.",
)
@click.option("--strict", is_flag=True, help="Stop at the first bad record instead of setting it aside.")
@click.option("--dry-run", is_flag=True, help="Count passages, tokens, FLOPs, bytes and time; write nothing.")
@range_option
@engine_options
@json_option
def encode(
    sources: tuple[str, ...],
    memory: str,
    model: str,
    codec: str | None,
    codec_tables: str | None,
    format_: str | None,
    fields: tuple[str, ...],
    mixed: bool,
    passage_words: int,
    precision: str,
    strict: bool,
    dry_run: bool,
    range_mb: float,
    engine: Engine,
    as_json: bool,
) -> None:
    """Encode a corpus into a committed memory.

    SOURCE is a file, a directory, a glob, a URL, standard input (-), or a TensorFlow dataset
    (tfds:wikipedia/20230601.en). JSON lines, Parquet, Arrow and tab-separated files with an id, a text and perhaps a
    title are read under the names that corpora usually give these; see `docs/encode.md` for the formats. Running the
    same command again resumes an interrupted job.

    \b
    Example:
      glimmer encode kilt_knowledgesource.json --memory wiki.memory --model minilm
    """
    arguments: dict[str, Any] = {
        "sources": sources,
        "model": model,
        "codec": codec,
        "codec_tables": codec_tables,
        "passage_words": passage_words,
        "precision": precision,
        "strict": strict,
        **corpus_arguments(format_, fields, mixed),
    }
    if dry_run:
        from ...capacity.dry_run import dry_run as dry_run_job

        with TerminalProgress() as progress:
            expected = dry_run_job(**arguments, progress=progress)
        print_json(expected.to_json()) if as_json else echo(_dry_run_table(expected))
        return
    from ...encode import encode as encode_job

    with TerminalProgress() as progress:
        result = encode_job(
            **arguments, memory=memory, engine=engine, range_bytes=max(1, int(range_mb * 1e6)), progress=progress
        )
    print_json(result.to_json()) if as_json else echo(summary(result))


def summary(result: EncodeResult) -> str:
    """The summary table of an encode job."""
    plan = result.plan
    rejected = sum(plan.rejected.values())
    rows: dict[str, object] = {
        "version": result.version,
        "articles": plan.articles,
        "passages": plan.passages,
        "tokens": plan.tokens,
        "rejected records": f"{rejected:,}" + (f"  ({result.rejects})" if result.rejects else ""),
        "bytes": f"{size(result.bytes_written)}  ({size(result.code_bytes_written)} of codes)",
        "compression": f"{result.compression:.2f}x vs bfloat16",
    }
    for stage, seconds in result.seconds.items():
        rows[f"{stage} time"] = duration(seconds)
    if result.resumed:
        rows["resumed"] = f"{counted(result.resumed, 'passage')} encoded before"
    elif encoding := result.seconds.get("encode"):
        rows["encode rate"] = f"{plan.passages / encoding:,.0f} passages/s, {plan.tokens / encoding:,.0f} tokens/s"
    title = (
        f"{shown_path(result.memory)}: nothing to do, this job made version {result.version} before"
        if result.nothing_to_do
        else f"{shown_path(result.memory)}: version {result.version} committed"
    )
    return pairs(title, rows) + worker_table(result.workers)


def _dry_run_table(expected: DryRun) -> str:
    rejected = sum(expected.plan.rejected.values())
    return pairs(
        "Dry run: nothing was written",
        {
            "articles": expected.plan.articles,
            "passages": expected.plan.passages,
            "tokens": expected.plan.tokens,
            "rejected records": rejected,
            "FLOPs": f"{expected.flops:.3g}  ({expected.padded_flops / expected.flops:.2f} times that with padding)",
            "bytes": f"at most {size(expected.most_bytes)}, of which {size(expected.text_bytes)} are text and ids",
            "expected time": f"{duration(expected.seconds)} on this machine ({expected.devices})",
            "compilations": expected.compilations,
        },
    )
