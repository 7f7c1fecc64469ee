"""One flipped bit, anywhere in a memory: what would change what a reader sees is found by verify, and never read.

The reader's view is everything it can ask for: version, ids, codes, lengths, texts, provenance, catalog rows, and the
decoded codebooks. A flip is harmless only if that whole view is unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from glimmer import GlimmerError
from glimmer.storage.codecs import TableShape, codecs_forgotten_afterwards, register_codec
from glimmer.storage.codecs.int8 import Int8Codec
from glimmer.storage.memory import Memory, read_tables
from glimmer.storage.verify import verify

Tried = Callable[..., None]

KINDS: Mapping[str, str] = {
    "payload": "segments/*/codes/c.*",
    "lengths": "segments/*/lengths/c.*",
    "text": "segments/*/text/*.arrow",
    "catalog data": "passages/*.parquet",
    "catalog log": "passages/_delta_log/*.json",
    "codebooks": "codec/*.safetensors",
    "the rest": "**/*",
}


class TableCodec:
    """int8 with a codebook beside it, as a trained codec has one; stands in for any codec with tables."""

    name = "tabled"

    def __init__(self, width: int, table: Any) -> None:
        self._inner, self._table, self.width, self.code_bytes = Int8Codec(width), table, width, width + 4

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        return self._inner.encode(x, ids)

    def decode(self, codes: jax.Array, dtype: Any) -> jax.Array:
        return self._inner.decode(codes, dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    def tables(self) -> dict[str, Any]:
        return {"book": self._table}


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Iterator[Path]:
    """Three versions, two segments, a codec with codebooks."""
    table = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    path = tmp_path / "m"
    with codecs_forgotten_afterwards():
        register_codec(
            TableCodec.name,
            code_bytes=lambda spec: spec.width + 4,
            tables=lambda spec: {"book": TableShape((16, 4), np.float32)},
            load=lambda spec, tables: TableCodec(spec.width, tables["book"]),
        )
        Memory.create(path, kit.identity(codec={"name": "tabled", "width": kit.width}), {"book": table})
        kit.add(path, [kit.passage(number) for number in range(130)], job="job-0", base=0)
        kit.add(path, [kit.passage(number) for number in range(130, 170)], job="job-1", base=1)
        yield path


def view(path: Path) -> tuple[Any, ...]:
    """All that a reader can see of the newest version; raises GlimmerError where it is refused."""
    opened = Memory.open(path)
    where = np.arange(opened.passages)
    codes, lengths = opened.fetch(where)
    rows = [batch.to_pylist() for batch in opened.passage_table()]
    tables = {name: table.tobytes() for name, table in read_tables(path, opened.identity).items()}
    return (
        opened.version,
        opened.identity.to_bytes(),
        opened.ids(where),
        codes.tobytes(),
        lengths.tobytes(),
        opened.provenance(where).tobytes(),
        opened.texts(where),
        rows,
        tables,
        [manifest.to_text() for manifest in opened.history()],
    )


def try_flips(path: Path, kind: str, count: int, seed: int) -> Counter[str]:
    """Flips `count` bits in files of one kind, one at a time; counts what came of them, and asserts the two rules."""
    truth = view(path)
    files = sorted(file for file in path.glob(KINDS[kind]) if file.is_file() and file.stat().st_size)
    assert files, kind
    # Bits are drawn by size, so that every bit of the kind is as likely as another.
    sizes = np.array([file.stat().st_size for file in files])
    dice, outcomes = np.random.default_rng(seed), Counter[str]()
    for _ in range(count):
        file = files[int(dice.choice(len(files), p=sizes / sizes.sum()))]
        content = file.read_bytes()
        bit = int(dice.integers(8 * len(content)))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(flipped)
        try:
            found = not verify(path).sound
        except GlimmerError:
            found = True
        try:
            seen = view(path)
        except GlimmerError:
            outcome = "refused"
        else:
            outcome = "unchanged" if seen == truth else "changed"
        place = f"{file.relative_to(path)}, bit {bit}"
        assert outcome != "changed", f"{place}: a reader sees something else than was written"
        assert found or outcome == "unchanged", f"{place}: a reader is refused, and verify sees nothing"
        outcomes[f"{outcome}, {'found by verify' if found else 'harmless'}"] += 1
        file.write_bytes(content)
    assert view(path) == truth
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_thousand_flipped_bits_none_reaches_a_reader_and_verify_finds_all_that_matter(
    memory: Path, kind: str, tried: Tried
) -> None:
    for outcome, times in try_flips(memory, kind, 300, list(KINDS).index(kind)).items():
        tried(f"bit flipped: {kind}", outcome, times)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_flipped_bits_of_every_kind(memory: Path, kind: str) -> None:
    try_flips(memory, kind, 6, 100 + list(KINDS).index(kind))
