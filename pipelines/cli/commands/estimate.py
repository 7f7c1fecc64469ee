"""`glimmer estimate`."""

from __future__ import annotations

import click

from ....encoders.families.t5 import T5_1_1_SIZES
from ....reader.config import ReaderConfig
from ....storage.codecs import code_bytes, parse_codec
from ...capacity.estimate import FORMULA_LEAVES_OUT, LEFT_OUT, PEAKS, Estimate, model_config, readers_table
from ...capacity.estimate import estimate as estimate_costs
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
    as_json: bool,
) -> None:
    """Estimate FLOPs, hours and bytes before spending them.

    Offline: encoding the corpus once. Online: one query, with FiD, LUMEN and GLIMMER side by side over the same
    passages.

    \b
    Example:
      glimmer estimate --model t5-xxl --passages 22000000 --peak tpu-v5p
    """
    config = model_config(model, alpha=live_proportion, beta=rerank_proportion)
    expected = estimate_costs(
        model=config,
        passages=passages,
        passage_tokens=passage_tokens,
        code_bytes=code_bytes(parse_codec(codec, config.encoder.d_model)),
        candidates=candidates,
        selected=select,
        question_tokens=question_tokens,
        answer_tokens=answer_tokens,
        peak_flops=peak,
        utilisation=utilisation,
        padding=padding,
    )
    if as_json:
        print_json(expected.to_json() | {"model": model, "codec": codec})
    else:
        echo(_text(model, codec, config, expected))


def _text(model: str, codec: str, config: ReaderConfig, expected: Estimate) -> str:
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
            grid(header, _aligned(header, rows)),
            "",
            f"GLIMMER takes {expected.speedup():.1f} times fewer operations than FiD over the same passages, "
            f"{expected.speedup(formula=True):.1f} times by the papers' formula.",
            f"The formula leaves out {', '.join(FORMULA_LEAVES_OUT)}.",
            f"Not counted anywhere: {'; '.join(LEFT_OUT)}.",
        ]
    )


def _aligned(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows with all columns but the first aligned right."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    return [(row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))) for row in rows]
