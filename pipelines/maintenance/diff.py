"""What differs between two versions of a memory: passages that came, went or moved, and the articles they are of.

Both id maps are sorted, so looking the ids of one up in the other, in order, is a merge that walks both files forwards;
articles come from a few passes over the catalog. A difference in where a row lies (after a compaction) is none: what a
reader sees is compared, not where it is kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...progress import Progress, Quiet
from ...storage.memory import Memory
from ..refreshing.articles import ArticleCounts, articles_with, count_articles
from ..refreshing.row_numbers import Mask, RowNumbers

_SPAN: Final = 1 << 18
_KINDS: Final = ("added", "removed", "moved")


@dataclass(frozen=True, kw_only=True)
class ArticleDiff:
    """One article that differs: `change` is `added`, `changed`, `removed` or `moved`; passages by what became of them.

    `example` is the text of one of those passages, as the version has it that holds it.
    """

    article_id: str
    title: str
    change: str
    added: int
    removed: int
    moved: int
    example: str


@dataclass(frozen=True, kw_only=True)
class VersionDiff:
    """What differs between version `old` and version `new` of a memory.

    Attributes:
        memory, old, new: which.
        added, removed: passages only in `new`, and only in `old`. moved: in both, at other paragraph ids or characters.
        kept: in both, moved ones included.
        articles: articles that `new` has and `old` lacks, that have other passages, that are gone, and the rest.
        examples: the articles with most changes, most first, then by id.
    """

    memory: Path | str
    old: int
    new: int
    added: int
    removed: int
    moved: int
    kept: int
    articles: ArticleCounts
    examples: list[ArticleDiff]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory)}


def diff(
    *, memory: str | Path, old: int, new: int, examples: int = 10, progress: Progress | None = None
) -> VersionDiff:
    """Compares version `old` of a memory with version `new`, which may be the earlier one.

    Args:
        memory: the memory's directory.
        old, new: version numbers.
        examples: how many articles to name.
        progress: progress callback.

    Raises:
        UsageError: a version does not exist.
        DamageError: one cannot be read.

    Examples:
        >>> difference = glimmer.diff(memory="wiki.memory", old=1, new=2)
        >>> [(article.title, article.change) for article in difference.examples]
        [('Hamlet', 'changed')]
    """
    return compare(Memory.open(memory, old), Memory.open(memory, new), examples=examples, progress=progress)


def compare(before: Memory, after: Memory, *, examples: int = 10, progress: Progress | None = None) -> VersionDiff:
    """As `diff`, for two open versions of one memory."""
    progress = progress or Quiet()
    progress.stage("compare", total=before.passages + after.passages, unit="passages")
    gone, moved = _compare(before, after, progress, 0)
    came, _ = _compare(after, before, progress, before.passages)
    progress.done()
    dead, fresh = RowNumbers(before).marked(gone), RowNumbers(after).marked(came)
    shifted = RowNumbers(after).marked(moved)
    return VersionDiff(
        memory=after.location,
        old=before.version,
        new=after.version,
        added=int(came.sum()),
        removed=int(gone.sum()),
        moved=int(moved.sum()),
        kept=before.passages - int(gone.sum()),
        articles=count_articles(before, dead, articles_with(after, fresh)),
        examples=_examples(before, after, {"added": fresh, "removed": dead, "moved": shifted}, examples),
    )


def _compare(one: Memory, other: Memory, progress: Progress, done: int) -> tuple[Mask, Mask]:
    """(bool [passages of one], those that `other` lacks; bool [passages of other], those that moved)."""
    lacking, moved = np.zeros(one.passages, np.bool_), np.zeros(other.passages, np.bool_)
    for start in range(0, one.passages, _SPAN):
        span = np.arange(start, min(start + _SPAN, one.passages))
        there = one.positions_in(other, span)
        lacking[span] = there < 0
        here, there = span[there >= 0], there[there >= 0]
        moved[there] = (one.provenance(here) != other.provenance(there)).any(axis=1)
        progress.at(done + int(span[-1]) + 1)
    return lacking, moved


def _examples(before: Memory, after: Memory, rows: dict[str, Mask], most: int) -> list[ArticleDiff]:
    if not most:
        return []
    sides = {"added": after, "removed": before, "moved": after}
    parts = [_by_article(sides[kind], rows[kind], kind) for kind in _KINDS]
    table = (
        pa.concat_tables(parts)
        .group_by("article_id")
        .aggregate([*((kind, "sum") for kind in _KINDS), *((f"{kind}_passage", "max") for kind in _KINDS)])
    )
    if not len(table):
        return []
    total = pc.add(pc.add(table["added_sum"], table["removed_sum"]), table["moved_sum"])
    table = table.append_column("total", total)
    table = table.take(pc.select_k_unstable(table, most, [("total", "descending"), ("article_id", "ascending")]))
    chosen = table["article_id"].combine_chunks()
    there = set(articles_with(after, None, among=chosen).to_pylist())
    already = set(articles_with(before, None, among=chosen).to_pylist())
    found = []
    for row in table.to_pylist():
        name = row["article_id"]
        kind = next(kind for kind in _KINDS if row[f"{kind}_sum"])
        side = sides[kind]
        [passage] = side.texts(side.locate([row[f"{kind}_passage_max"]]))
        if name not in already:
            change = "added"
        elif name not in there:
            change = "removed"
        else:
            change = "changed" if row["added_sum"] or row["removed_sum"] else "moved"
        found.append(
            ArticleDiff(
                article_id=name,
                title=passage.title,
                change=change,
                added=row["added_sum"],
                removed=row["removed_sum"],
                moved=row["moved_sum"],
                example=passage.text,
            )
        )
    return found


def _by_article(memory: Memory, rows: Mask, kind: str) -> pa.Table:
    """Marked rows by article: how many, and the id of one; columns for every kind, so that tables can be stacked."""
    numbers = RowNumbers(memory)
    schema = pa.schema([("article_id", pa.string()), ("passage_id", pa.string())])
    chosen = [pa.table({"article_id": [], "passage_id": []}, schema)]
    for batch in memory.passage_table(("article_id", "passage_id", "segment", "row")):
        kept = batch.filter(pa.array(rows[numbers.of_batch(batch)]))
        if kept.num_rows:
            chosen.append(pa.Table.from_batches([kept]).select(schema.names).cast(schema))
    counted = pa.concat_tables(chosen).group_by("article_id").aggregate([([], "count_all"), ("passage_id", "min")])
    columns: dict[str, Any] = {"article_id": counted["article_id"]}
    for name in _KINDS:
        mine = name == kind
        columns[name] = counted["count_all"] if mine else pa.array(np.zeros(len(counted), np.int64))
        columns[f"{name}_passage"] = counted["passage_id_min"] if mine else pa.nulls(len(counted), pa.string())
    return pa.table(columns)
