"""What a refresh costs against encoding everything: 1 % of articles with a sentence edited, and nothing edited at all.

Both run in one process, one after the other, on the same corpus (default: the development data's `wiki_small`). Time is
the sum of the job's stages; process start-up and compilation are left out by encoding a small corpus that needs every
compiled shape first (a job finds the programs compiled that an earlier one used). Bytes are those of all files that the
job left on disk, indexes included.

    python benchmarks/refresh_cost.py [--sources FILE] [--model minilm] [--articles N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from glimmer.pipelines.encode import encode
from glimmer.pipelines.refresh import RefreshResult, refresh
from glimmer.storage.memory import Memory


def records(path: Path, most: int | None) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(most or 1 << 60), lines, strict=False)]


def write(path: Path, corpus: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in corpus), encoding="utf-8")
    return str(path)


def edited(corpus: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """The corpus with one sentence changed in `share` of its articles, chosen by a fixed seed."""
    dice = random.Random(1)
    chosen = set(dice.sample(range(len(corpus)), round(share * len(corpus))))
    return [
        record | {"text": _edit(record["text"], dice)} if i in chosen else record for i, record in enumerate(corpus)
    ]


def _edit(text: list[str], dice: random.Random) -> list[str]:
    at = dice.randrange(1, len(text)) if len(text) > 1 else 0
    sentences = text[at].split(". ")
    sentences[dice.randrange(len(sentences))] = "This sentence was written later, by somebody who knew better"
    return [*text[:at], ". ".join(sentences), *text[at + 1 :]]


def warm_up(directory: Path, model: str) -> None:
    """A small job that needs every shape, so that all programs are compiled."""
    corpus = [
        {"wikipedia_id": str(n), "wikipedia_title": "Warm", "text": ["Warm", " ".join(["word"] * (1 + 2 * n))]}
        for n in range(120)
    ]
    encode(sources=[write(directory / "warm.jsonl", corpus)], memory=directory / "warm", model=model)


def on_disk(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def measured(memory: Path, job: Callable[[], Any]) -> tuple[Any, float, float, int]:
    """(result, wall seconds, seconds of its stages, bytes of the files that came)."""
    before = on_disk(memory) if memory.exists() else {}
    begun = time.perf_counter()
    result = job()
    wall = time.perf_counter() - begun
    came = sum(size for path, size in on_disk(memory).items() if path not in before)
    return result, wall, sum(result.seconds.values()), came


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("GLIMMER_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--sources", type=Path, default=data / "wiki_small" / "knowledgesource.jsonl.gz")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--articles", type=int)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        home = Path(name)
        memory = home / "m"
        corpus = records(arguments.sources, arguments.articles)
        warm_up(home, arguments.model)
        first = write(home / "first.jsonl", corpus)
        whole = measured(memory, partial(encode, sources=[first], memory=memory, model=arguments.model))
        print(f"{len(corpus):,} articles, {whole[0].plan.passages:,} passages, model {arguments.model}")
        print(f"{'':<26}{'stages s':>10}{'share':>9}{'MB':>10}{'share':>9}")
        print(f"{'full encode':<26}{whole[2]:>10.2f}{'':>9}{whole[3] / 1e6:>10.2f}")
        for label, share in (("refresh, 1 % changed", 0.01), ("refresh, 0 changed", 0.0)):
            # The second time the same corpus as the first, in another file: nothing is left to change.
            source = write(home / f"{share}.jsonl", edited(corpus, 0.01))
            found = measured(memory, partial(refresh, sources=[source], memory=memory))
            result: RefreshResult = found[0]
            print(
                f"{label:<26}{found[2]:>10.2f}{found[2] / whole[2]:>9.2%}{found[3] / 1e6:>10.3f}"
                f"{found[3] / whole[3]:>9.2%}   {result.counts.passages_added} passages encoded, "
                f"{result.counts.passages_removed} dropped; "
                + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.seconds.items())
            )
        assert Memory.open(memory).version == 2


if __name__ == "__main__":
    main()
