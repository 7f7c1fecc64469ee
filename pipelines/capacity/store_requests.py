"""Requests and bytes between the workers of an encode job and the store that holds the memory.

Counts follow from the files that a job writes and reads: three a shard (text, codes, lengths) and its ledger entry, the
parts that the plan leaves, the catalog's files, and a few for the job; a test holds them against what a server logs.
Sizes are before compression: most codes hardly compress. A bucket bills requests by kind; on a disk they cost next to
nothing, and the bytes are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ... import UsageError
from ...storage.manifest import FILE_ROWS_LIMIT
from ...storage.passage import SHARD_ROWS
from ...storage.stores.object_settings import POLL_S

KINDS: Final = ("put", "get", "head", "list", "delete")
"""Kinds of requests. Price lists mostly count `head` with `get` and `list` with `put`; `delete` is mostly free."""

RANGE_BYTES: Final = 64 << 20
"""Source text that is planned as one range."""

_PART_BYTES: Final = 16 << 20  # text in one file of a plan's part
_LISTED: Final = 1000  # names in one answer, and in one request to delete
_LEDGER_BYTES: Final = 500
_JOB_PUTS, _JOB_GETS, _JOB_HEADS = 16, 40, 20  # settings, plan, locks, digests, manifest, log entries, id map …


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests of one stage: by kind, with bytes sent to the store and read from it."""

    stage: str
    put: int = 0
    get: int = 0
    head: int = 0
    list: int = 0
    delete: int = 0
    bytes_put: float = 0.0
    bytes_read: float = 0.0

    @property
    def count(self) -> int:
        """Requests of all kinds."""
        return self.put + self.get + self.head + self.list + self.delete

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What the store's owner charges, in any currency: `requests` by kind per thousand, `stored` per GB and month."""

    requests: Mapping[str, float]
    stored: float = 0.0

    @classmethod
    def parse(cls, options: Sequence[str]) -> Price | None:
        """`put=0.005`, `get=0.0004`, `stored=0.023` …; None for no options. Raises UsageError for anything else."""
        if not options:
            return None
        found: dict[str, float] = {}
        for option in options:
            kind, _, text = option.partition("=")
            try:
                amount = float(text)
            except ValueError:
                amount = math.nan
            if kind not in (*KINDS, "stored") or not 0 <= amount < math.inf or kind in found:
                raise UsageError(
                    f"--price {option}: say KIND=AMOUNT once for a kind: {', '.join(KINDS)} (for a thousand requests), "
                    "stored (for a GB and month)"
                )
            found[kind] = amount
        stored = found.pop("stored", 0.0)
        return cls(requests=found, stored=stored)

    def of(self, requests: Sequence[Requests]) -> float:
        """What the requests of all stages cost."""
        counts = {kind: sum(int(getattr(one, kind)) for one in requests) for kind in self.requests}
        return sum(amount * counts[kind] / 1000 for kind, amount in self.requests.items())


def encode_requests(
    *, passages: int, source_bytes: float, text_bytes: float, code_bytes: float, catalog_bytes: float
) -> tuple[Requests, ...]:
    """Requests of an encode job, by stage: plan, encode, write, commit.

    Args:
        passages: rows of the memory.
        source_bytes: of text to plan; the sources themselves are read from wherever they lie, and not counted.
        text_bytes, code_bytes, catalog_bytes: of the whole memory.
    """
    shards, ranges = -(-passages // SHARD_ROWS), max(1, math.ceil(source_bytes / RANGE_BYTES))
    parts = max(ranges, math.ceil(text_bytes / _PART_BYTES))
    catalogs = -(-passages // FILE_ROWS_LIMIT)
    pages = -(-shards // _LISTED)
    return (
        # A range leaves its text, an index and a mark that it is complete.
        Requests(stage="plan", put=parts + 2 * ranges, list=-(-(parts + 2 * ranges) // _LISTED), bytes_put=text_bytes),
        # A shard's text is read from a part, and written.
        Requests(
            stage="encode",
            put=shards,
            get=shards,
            head=shards,
            bytes_put=text_bytes,
            bytes_read=text_bytes,
        ),
        # Lengths are compared with the text; all three files are read back for their digests; the ledger is told.
        Requests(
            stage="write",
            put=3 * shards,
            get=4 * shards,
            head=shards,
            bytes_put=code_bytes + _LEDGER_BYTES * shards,
            bytes_read=code_bytes + 2 * text_bytes,
        ),
        # The ledger is read; files are listed; the catalog's rows come from the text.
        Requests(
            stage="commit",
            put=_JOB_PUTS + catalogs,
            get=2 * shards + _JOB_GETS,
            head=_JOB_HEADS,
            list=5 * pages,
            delete=-(-(shards + parts + 2 * ranges) // _LISTED),
            bytes_put=catalog_bytes,
            bytes_read=text_bytes + _LEDGER_BYTES * shards,
        ),
    )


def polling_requests(*, passages: int, seconds: float, request_seconds: float) -> int:
    """Listings with which the driver follows `seconds` of encoding: the ledger's entries, which grow to one a shard."""
    pages = max(1, -(-passages // SHARD_ROWS) // (2 * _LISTED))
    return round(pages * seconds / (POLL_S + pages * request_seconds))
