"""`glimmer refresh`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ....wording import counted
from ...engines import Engine
from ..printing import echo, print_json, shown_path
from ..tables import duration, pairs, size, worker_table
from ..terminal import TerminalProgress
from .corpus_options import corpus_arguments, corpus_options
from .diff import shortened
from .options import engine_options, json_option, range_option

if TYPE_CHECKING:
    from ...refresh import RefreshPlan, RefreshResult
    from ...refreshing.counts import RefreshCounts


def article_limit(_context: click.Context, _option: click.Parameter, value: str) -> float | int:
    """A number of articles, `30`, as an int; or a share of them, `5%` or `0.05`, as a float."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        share = float(text.removesuffix("%").rstrip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{value!r} is neither a share such as 5% or 0.05 nor a number of articles such as 30")
    return share


@click.command()
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("--memory", required=True, type=click.Path(), help="Directory of the memory to bring up to date.")
@click.option("--model", help="A model with the same memory encoder.  [default: the one the memory names]")
@corpus_options
@click.option("--partial", is_flag=True, help="SOURCE holds only new and changed articles; all others stay.")
@click.option("--deleted", type=click.Path(), help="With --partial: a file of article ids to drop, one a line.")
@click.option(
    "--max-removed",
    callback=article_limit,
    metavar="SHARE|NUMBER",
    default="20%",
    show_default=True,
    help="Refuse to remove more articles than this share (5%, 0.05) or number (30), but for those of --deleted;"
    " 100% removes any number.",
)
@click.option(
    "--remove-absent",
    is_flag=True,
    help="Remove articles that SOURCE does not hold even if a rejected record does not tell whose it is.",
)
@click.option("--strict", is_flag=True, help="Stop at the first bad record instead of setting it aside.")
@click.option("--dry-run", is_flag=True, help="Show what would be added, changed and removed; write nothing.")
@click.option(
    "--index/--no-index",
    default=None,
    help="Build the new version's first-stage index.  [default: if the version before has one]",
)
@range_option
@engine_options
@json_option
def refresh(
    sources: tuple[str, ...],
    memory: str,
    model: str | None,
    format_: str | None,
    fields: tuple[str, ...],
    mixed: bool,
    partial: bool,
    deleted: str | None,
    max_removed: float | int,
    remove_absent: bool,
    strict: bool,
    dry_run: bool,
    index: bool | None,
    range_mb: float,
    engine: Engine,
    as_json: bool,
) -> None:
    """Bring a memory up to date with a corpus that changed.

    SOURCE is the whole corpus as it is now (see `glimmer encode`), or with --partial only its new and changed articles:
    then the last record of an article decides, and an empty text removes it. An article whose record is rejected stays
    as it is. Only new passages are encoded; readers see the old version until the new one is whole. Running the same
    command again resumes a job that was interrupted.

    \b
    Examples:
      glimmer refresh kilt_knowledgesource.json --memory wiki.memory
      glimmer refresh today.jsonl --partial --deleted gone.txt --memory wiki.memory
    """
    from ...refresh import refresh as refresh_job
    from ...refresh import refresh_dry_run

    arguments: dict[str, Any] = {
        "sources": sources,
        "memory": memory,
        "model": model,
        "strict": strict,
        "partial": partial,
        "deleted": deleted,
        "max_removed": max_removed,
        "remove_absent": remove_absent,
        **corpus_arguments(format_, fields, mixed),
    }
    with TerminalProgress() as progress:
        if dry_run:
            expected = refresh_dry_run(**arguments, progress=progress)
        else:
            result = refresh_job(
                **arguments,
                index=index,
                engine=engine,
                range_bytes=max(1, int(range_mb * 1e6)),
                progress=progress,
            )
    if dry_run:
        print_json(expected.to_json()) if as_json else echo(_dry_run_table(expected))
    else:
        print_json(result.to_json()) if as_json else echo(summary(result))


def summary(result: RefreshResult) -> str:
    """The summary table of a refresh."""
    if result.nothing_changed:
        title = f"{shown_path(result.memory)}: nothing to do, version {result.version} is up to date"
    else:
        title = f"{shown_path(result.memory)}: version {result.version} committed, from version {result.base}"
    rows = _counts(result.counts, result, str(result.rejects)) | _rejected(result)
    if not result.nothing_changed:
        rows["bytes"] = f"{size(result.bytes_written)}  ({size(result.code_bytes_written)} of codes)"
    for stage, seconds in result.seconds.items():
        rows[f"{stage} time"] = duration(seconds)
    return pairs(title, rows) + worker_table(result.workers)


def _dry_run_table(expected: RefreshPlan) -> str:
    title = f"Dry run from version {expected.base}: nothing was written"
    rows = _counts(expected.counts, expected, None) | {"rejected records": sum(expected.plan.rejected.values())}
    if expected.refused is not None:
        rows["would be refused"] = expected.refused
    lines = [pairs(title, rows)]
    for name, passages, sign in (("added", expected.added, "+"), ("removed", expected.removed, "-")):
        if passages:
            lines += ["", f"  passages {name}, for example"]
            lines += [f"  {sign} {p.article_id}  {p.title}: {shortened(p.text, 80)}" for p in passages]
    return "\n".join(lines)


def _counts(counts: RefreshCounts, kept: RefreshPlan | RefreshResult, rejects: str | None) -> dict[str, object]:
    rows: dict[str, object] = {
        "articles": f"{counts.articles_added:,} added, {counts.articles_changed:,} changed, "
        f"{counts.articles_removed:,} removed, {counts.articles_kept:,} kept",
    }
    if counts.articles_kept_rejected:
        one = counts.articles_kept_rejected == 1
        their = "its new record was rejected" if one else "their new records were rejected"
        see = f" (see {rejects})" if rejects is not None else ""
        rows["kept"] = (
            f"{counted(counts.articles_kept_rejected, 'article')}, because {their}{see}: "
            f"{_named(kept.kept_rejected, counts.articles_kept_rejected)}"
        )
    if counts.articles_kept_absent:
        rows["kept, absent"] = (
            f"{counted(counts.articles_kept_absent, 'article')} that the sources do not hold, because "
            f"{_unidentified(counts)} not tell whose they are: "
            f"{_named(kept.kept_absent, counts.articles_kept_absent)}; "
            "mend the records, or remove the articles with --remove-absent"
        )
    if counts.articles_removed_empty:
        rows["removed"] = f"{counted(counts.articles_removed_empty, 'article')}, by an empty text"
    rows |= {
        "passages": f"{counts.passages_added:,} added, {counts.passages_removed:,} removed, "
        f"{counts.passages_kept:,} kept ({counts.passages_moved:,} of them moved)",
        "tokens to encode": counts.tokens_added,
    }
    if counts.records_superseded:
        rows["superseded records"] = f"{counts.records_superseded:,}, by a later record of the same article"
    if counts.deleted_unknown:
        rows["unknown deletions"] = f"{counted(counts.deleted_unknown, 'id')} to delete, not in the memory"
    return rows


def _unidentified(counts: RefreshCounts) -> str:
    does = "does" if counts.records_unidentified == 1 else "do"
    return f"{counted(counts.records_unidentified, 'rejected record')} {does}"


def _named(ids: Sequence[str], count: int) -> str:
    return ", ".join(ids) + (" …" if count > len(ids) else "")


def _rejected(result: RefreshResult) -> dict[str, object]:
    rejected = sum(result.plan.rejected.values())
    return {"rejected records": f"{rejected:,}" + (f"  ({result.rejects})" if result.rejects else "")}
