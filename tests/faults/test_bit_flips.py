"""One flipped bit, anywhere in a memory: what would change what a reader sees is found by verify, and never read.

The reader's view is everything it can ask for: version, ids, codes, lengths, texts, provenance, catalog rows, and the
codec's tables. A flip is harmless only if that whole view is unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import GlimmerError
from glimmer.storage.memory import Memory, read_tables
from glimmer.storage.verify import verify

Tried = Callable[..., None]

KINDS: Mapping[str, str] = {
    "payload": "segments/*/codes/c.*",
    "lengths": "segments/*/lengths/c.*",
    "text": "segments/*/text/*.arrow",
    "catalog data": "passages/*.parquet",
    "catalog log": "passages/_delta_log/*.json",
    "codec tables": "codec/*.safetensors",
    "the rest": "**/*",
}


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    """Three versions, two segments, codec `pq` with its tables."""
    path, of_pq = tmp_path / "m", kit.of_pq()
    of_pq.create(path)
    of_pq.add(path, [kit.passage(number) for number in range(130)], job="job-0", base=0)
    of_pq.add(path, [kit.passage(number) for number in range(130, 170)], job="job-1", base=1)
    return path


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
