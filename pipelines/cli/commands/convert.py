"""`glimmer convert`."""

from __future__ import annotations

from typing import Literal, cast

import click

from ...defaults import DEFAULT_WINDOW
from ..printing import echo, print_json
from .options import json_option


@click.command()
@click.argument("source")
@click.option("--output", required=True, type=click.Path(), help="Model directory to make.")
@click.option(
    "--live-proportion", default="1/3", show_default=True, help="Share of the encoder's layers run online, α."
)
@click.option(
    "--rerank-proportion", default="1/4", show_default=True, help="Share of the live layers before re-ranking, β."
)
@click.option("--tokenizer", type=click.Path(), help="spiece.model or tokenizer.json, where SOURCE has none.")
@click.option(
    "--window",
    type=click.IntRange(min=8),
    help=f"Most tokens of a passage.  [default: {DEFAULT_WINDOW}, or the encoder's positions if fewer]",
)
@click.option("--passage-template", help="With {title} and {text}.  [default: the family's]")
@click.option("--question-template", help="With {question}.  [default: the family's]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="How weights are stored.",
)
@click.option("--allow-empty-live", is_flag=True, help="Accept a live part without layers, as an encoder alone needs.")
@json_option
def convert(
    source: str,
    output: str,
    live_proportion: str,
    rerank_proportion: str,
    tokenizer: str | None,
    window: int | None,
    passage_template: str | None,
    question_template: str | None,
    dtype: str,
    allow_empty_live: bool,
    as_json: bool,
) -> None:
    """Turn a T5 v1.1 or BERT checkpoint into a model directory.

    SOURCE is a Hugging Face directory (safetensors, or PyTorch weights, read without running code), a T5X checkpoint
    file (with --tokenizer), or hf:NAME for a model on the hub. α = 1 makes fusion-in-decoder, β = 0
    makes LUMEN. An output that holds the same model already is left as it is.

    \b
    Example:
      glimmer convert hf:google/t5-v1_1-base --output reader --live-proportion 1/3 --rerank-proportion 1/4
    """
    from ...convert import convert as convert_checkpoint

    result = convert_checkpoint(
        source=source,
        output=output,
        live_proportion=live_proportion,
        rerank_proportion=rerank_proportion,
        tokenizer=tokenizer,
        window=window,
        passage_template=passage_template,
        question_template=question_template,
        dtype=cast(Literal["float32", "bfloat16"], dtype),
        allow_empty_live=allow_empty_live,
    )
    if not as_json:
        echo("\n".join(result.lines()))
        return
    config = result.config
    print_json(
        {
            "output": str(result.output),
            "source": config.source,
            "layers": {
                "memory": config.memory_layers,
                "live_a": config.live_a_layers,
                "live_b": config.live_b_layers,
                "decoder": config.decoder["num_layers"] if config.decoder else 0,
            },
            "live_proportion": {"requested": str(result.requested_live), "given": result.live_proportion},
            "rerank_proportion": {"requested": str(result.requested_rerank), "given": result.rerank_proportion},
            "parameters": result.parameters,
            "bytes": result.bytes_written,
            "nothing_to_do": result.nothing_to_do,
        }
    )
