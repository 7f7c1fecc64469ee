"""`glimmer estimate`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ....encoders.families.t5 import T5_1_1_SIZES
from ....reader.config import ReaderConfig
from ....storage.codecs import code_bytes, parse_codec
from ....wording import counted
from ...capacity.estimate import FORMULA_LEAVES_OUT, LEFT_OUT, PEAKS, Estimate, model_config, readers_table
from ...capacity.estimate import estimate as estimate_costs
from ...capacity.job_hours import (
    BUCKET,
    DISK,
    PLANNING_RATE,
    SOURCE_BYTES,
    STORES,
    WRITING_RATE,
    JobEstimate,
    Storage,
    Workers,
    estimate_job,
)
from ...capacity.store_requests import KINDS, Price, Requests
from ..printing import echo, print_json
from ..tables import duration, grid, pairs, size
from .options import codec_option, json_option


class _Peak(click.ParamType[float]):
    """A hardware name of `PEAKS`, or operations a second as a number."""

    name = "name or number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        if text in PEAKS:
            return PEAKS[text]
        try:
            return float(text)
        except ValueError:
            self.fail(f"{text!r} is neither a number nor one of {', '.join(PEAKS)}", param, ctx)


_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option(
    "--model", default="t5-base", show_default=True, help=f"A model directory, or a size: {', '.join(T5_1_1_SIZES)}."
)
@click.option(
    "--passages", type=click.IntRange(min=1), default=22_000_000, show_default=True, help="Passages of the corpus."
)
@click.option(
    "--passage-tokens",
    type=click.FloatRange(min=0, min_open=True),
    default=130.0,
    show_default=True,
    help="Mean tokens of a passage.",
)
@codec_option
@click.option("--live-proportion", type=float, help="Share of layers run online, α.  [default: the model's, or 1/3]")
@click.option("--rerank-proportion", type=float, help="Share of those before re-ranking, β.  [default: or 1/4]")
@click.option(
    "--candidates", type=click.IntRange(min=1), default=40, show_default=True, help="Passages read for each query, m."
)
@click.option(
    "--select", type=click.IntRange(min=1), default=10, show_default=True, help="Passages kept for the decoder, k."
)
@click.option("--question-tokens", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--answer-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--peak",
    type=_Peak(),
    default="h100",
    show_default=True,
    help=f"bfloat16 operations a second, or one of: {', '.join(PEAKS)}.",
)
@click.option(
    "--utilisation",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of the peak that is reached.",
)
@click.option(
    "--padding",
    type=click.FloatRange(min=1),
    default=1.0,
    show_default=True,
    help="Computed tokens per real one.",
)
@click.option("--code-bytes", "token_bytes", type=_POSITIVE, help="Bytes a token in the memory, in place of --codec.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Each with an accelerator.")
@click.option("--cores", type=_POSITIVE, default=16.0, show_default=True, help="Processor cores of a worker.")
@click.option(
    "--tokens-per-second",
    type=_POSITIVE,
    help="That a worker encodes, as measured.  [default: what --peak and --utilisation give]",
)
@click.option(
    "--planning-rate",
    type=_POSITIVE,
    default=PLANNING_RATE / 1e6,
    show_default=True,
    help="MB of source text that a core plans in a second.",
)
@click.option(
    "--writing-rate",
    type=_POSITIVE,
    default=WRITING_RATE / 1e6,
    show_default=True,
    help="MB of codes that a worker compresses, hashes and writes in a second.",
)
@click.option(
    "--start-seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Loading and compiling."
)
@click.option("--source-gigabytes", type=_POSITIVE, help="Of source text.  [default: KILT's 1.59 kB a passage]")
@click.option(
    "--storage",
    type=click.Choice(STORES),
    default=DISK,
    show_default=True,
    help="A disk that workers share, or a bucket that gives each its bandwidth.",
)
@click.option("--bandwidth", type=_POSITIVE, default=1.0, show_default=True, help="GB a second, to disk or bucket.")
@click.option(
    "--request-milliseconds",
    type=click.FloatRange(min=0),
    help="That a request takes.  [default: 30 of a bucket, none of a disk]",
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="KIND=AMOUNT",
    help=f"Of a thousand requests ({', '.join(KINDS)}), or of a GB and month (stored); may be repeated.",
)
@json_option
def estimate(
    model: str,
    passages: int,
    passage_tokens: float,
    codec: str,
    live_proportion: float | None,
    rerank_proportion: float | None,
    candidates: int,
    select: int,
    question_tokens: int,
    answer_tokens: int,
    peak: float,
    utilisation: float,
    padding: float,
    token_bytes: float | None,
    workers: int,
    cores: float,
    tokens_per_second: float | None,
    planning_rate: float,
    writing_rate: float,
    start_seconds: float,
    source_gigabytes: float | None,
    storage: str,
    bandwidth: float,
    request_milliseconds: float | None,
    prices: tuple[str, ...],
    as_json: bool,
) -> None:
    """Estimate FLOPs, hours, requests and bytes before spending them.

    Offline: encoding the corpus once, stage by stage, on a number of workers. Online: one query, with FiD, LUMEN and
    GLIMMER side by side over the same passages.

    \b
    Example:
      glimmer estimate --model t5-xxl --passages 22000000 --peak tpu-v5p
      glimmer estimate --workers 8 --storage bucket --bandwidth 1.25 --price put=0.005 --price get=0.0004
    """
    price = Price.parse(prices)
    config = model_config(model, alpha=live_proportion, beta=rerank_proportion)
    expected = estimate_costs(
        model=config,
        passages=passages,
        passage_tokens=passage_tokens,
        code_bytes=token_bytes or code_bytes(parse_codec(codec, config.encoder.d_model, config.encoder.vocab_size)),
        candidates=candidates,
        selected=select,
        question_tokens=question_tokens,
        answer_tokens=answer_tokens,
        peak_flops=peak,
        utilisation=utilisation,
        padding=padding,
    )
    offline = expected.offline
    job = estimate_job(
        offline,
        workers=Workers(
            count=workers,
            tokens_per_second=tokens_per_second or offline.tokens / (3600 * offline.hours),
            cores=cores,
            planning_rate=1e6 * planning_rate,
            writing_rate=1e6 * writing_rate,
            start_seconds=start_seconds,
        ),
        storage=Storage(
            kind=storage,
            bandwidth=1e9 * bandwidth,
            request_seconds=_request_seconds(storage, request_milliseconds),
        ),
        source_bytes=passages * SOURCE_BYTES if source_gigabytes is None else 1e9 * source_gigabytes,
        price=price,
    )
    stored_as = codec if token_bytes is None else f"{token_bytes:g}-byte"
    if as_json:
        print_json(expected.to_json() | {"model": model, "codec": stored_as, "job": job.to_json()})
    else:
        echo(_text(model, stored_as, config, expected, job))


def _request_seconds(storage: str, milliseconds: float | None) -> float:
    return (0.030 if storage == BUCKET else 0.0) if milliseconds is None else milliseconds / 1000


def _text(model: str, codec: str, config: ReaderConfig, expected: Estimate, job: JobEstimate) -> str:
    offline = expected.offline
    header, *rows = readers_table(expected.online)
    layers = f"{config.memory_layers} memory, {config.live_a_layers} live A, {config.live_b_layers} live B"
    return "\n".join(
        [
            pairs(
                f"{model}: {layers} layers, {config.decoder.num_layers} decoder layers",
                {
                    "passages": f"{offline.passages:,}, {offline.tokens:,.0f} tokens",
                    "encoding": f"{offline.flops:.3g} FLOP, {duration(3600 * offline.hours)} at "
                    f"{expected.peak_flops * expected.utilisation:.3g} FLOP/s",
                    "memory on disk": f"{size(offline.bytes)}: {size(offline.code_bytes)} {codec} codes, "
                    f"{size(offline.text_bytes)} text, {size(offline.catalog_bytes)} catalog",
                },
            ),
            "",
            *_job_lines(job),
            "",
            grid(header, _aligned(header, rows)),
            "",
            f"GLIMMER takes {expected.speedup():.1f} times fewer operations than FiD over the same passages, "
            f"{expected.speedup(formula=True):.1f} times by the papers' formula.",
            f"The formula leaves out {', '.join(FORMULA_LEAVES_OUT)}.",
            f"Not counted anywhere: {'; '.join(LEFT_OUT)}.",
        ]
    )


def _job_lines(job: JobEstimate) -> list[str]:
    workers, slowest = job.workers, job.binds
    stages: list[tuple[str, ...]] = []
    for stage in job.stages:
        needs = [f"{name} {duration(seconds)}" for name, seconds in stage.needs.items() if seconds]
        stages.append((stage.name, duration(stage.seconds), stage.binds, ", ".join(needs)))
    kinds = ("stage", *KINDS, "sent", "read")
    requests = [_request_row(one) for one in (*job.requests, _sum(job.requests))]
    lines = [
        f"The job takes {duration(job.seconds)} on {counted(workers.count, 'worker')}, each encoding "
        f"{workers.tokens_per_second:,.0f} tokens a second and planning on {workers.cores:g} cores.",
        f"Its longest stage is {slowest.name}, bound by {slowest.binds}. Encoding and writing run at once.",
        "",
        grid(("stage", "time", "bound by", "of that"), stages),
        "",
        grid(kinds, _aligned(kinds, requests)),
    ]
    if job.price is not None:
        stored = job.price.stored * job.stored_bytes / 1e9
        lines += ["", f"requests cost {job.price.of(job.requests):,.2f}; storing costs {stored:,.2f} a month"]
    return lines


def _sum(requests: Sequence[Requests]) -> Requests:
    return Requests(
        stage="total",
        **{kind: sum(getattr(one, kind) for one in requests) for kind in KINDS},
        bytes_put=sum(one.bytes_put for one in requests),
        bytes_read=sum(one.bytes_read for one in requests),
    )


def _request_row(one: Requests) -> tuple[str, ...]:
    return (one.stage, *(f"{getattr(one, kind):,}" for kind in KINDS), size(one.bytes_put), size(one.bytes_read))


def _aligned(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows with all columns but the first aligned right."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    return [(row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))) for row in rows]
