"""History: what came and went with each version, rollbacks included, and which versions can still be had."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer import UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.history import history
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import passage_rows
from glimmer.storage.memory import Memory, commit


def refreshed(kit: Any, memory: Path, come: Iterable[int], go: Iterable[int], job: str) -> None:
    """A version that adds passages `come` and drops passages `go`, as a refresh does."""
    base = Memory.open(memory)
    gone = {kit.passage(number).passage_id for number in go}
    added = [kit.passage(number) for number in come]
    kept = [
        batch.filter([name not in gone for name in batch.column("passage_id").to_pylist()])
        for batch in base.passage_table()
    ]
    sealed = [kit.segment(memory, f"seg-{job}", added)] if added else []
    rows = [passage_rows(added, sealed[0].segment, 0)] if added else []
    commit(
        memory,
        base=base.version,
        job=job,
        operation="refresh",
        add=[*kept, *rows],
        remove=[file.name for file in base.manifest.files],
        segments=sealed,
        rows_added=len(added),
        rows_removed=len(gone),
    )


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    """Version 1: passages 0 to 39. Version 2: 100 to 109 for 0 to 9. Version 3: 200 and 201 for 100."""
    made: Path = kit.memory(tmp_path / "m", 40)
    refreshed(kit, made, range(100, 110), range(10), "second")
    refreshed(kit, made, (200, 201), (100,), "third")
    return made


def rows(memory: Path) -> dict[int, tuple[int, int]]:
    return {entry.version: (entry.added, entry.removed) for entry in history(memory=memory)}


def test_a_rollback_shows_the_passages_that_come_and_go_not_their_difference(memory: Path) -> None:
    rollback(memory=memory, to=2)
    assert rows(memory) == {4: (1, 2), 3: (2, 1), 2: (10, 10), 1: (40, 0), 0: (0, 0)}
    rollback(memory=memory, to=1)
    rollback(memory=memory, to=3)
    rollback(memory=memory, to=0)
    found = rows(memory)
    assert (found[5], found[6], found[7]) == ((10, 10), (11, 10), (0, 41))


def test_a_passage_that_went_and_came_back_is_no_change(kit: Any, memory: Path) -> None:
    refreshed(kit, memory, (0, 100), (200,), "fourth")
    rollback(memory=memory, to=2)
    assert rows(memory)[5] == (0, 2), "100 is in both, in another segment; 0 and 201 go"


def test_a_compaction_between_them_counts_for_nothing(memory: Path) -> None:
    compact(memory=memory, dead_share=0)
    rollback(memory=memory, to=3)
    assert rows(memory)[5] == (0, 0)
    rollback(memory=memory, to=1)
    assert rows(memory)[6] == (10, 11)


def test_rollbacks_that_recorded_totals_only_are_counted_from_their_segments(memory: Path) -> None:
    """As earlier releases did, and as a rollback away from a damaged version still does."""
    catalog = Catalog(memory)
    assert catalog.rollback(to=1, base=3, job="old").rows_removed == 1
    assert catalog.rollback(to=3, base=4, job="older").rows_added == 1
    assert (rows(memory)[4], rows(memory)[5]) == ((10, 11), (11, 10))


def test_what_the_manifests_do_not_tell_stays_as_it_was_recorded(memory: Path) -> None:
    compact(memory=memory, dead_share=0)
    Catalog(memory).rollback(to=1, base=4, job="old")
    assert rows(memory)[5] == (0, 1)


def test_away_from_a_damaged_version_a_rollback_still_goes(memory: Path) -> None:
    first = {file.name for file in Memory.open(memory, 1).manifest.files}
    for file in Memory.open(memory).manifest.files:
        if file.name not in first:
            (memory / "passages" / file.name).write_bytes(b"damaged")
    (memory / "indexes" / "3" / "ids.map").unlink()
    assert rollback(memory=memory, to=1).passages == 40
    assert rows(memory)[4] == (10, 11)


def test_vacuumed_versions_are_marked(memory: Path) -> None:
    listed = CliRunner().invoke(glimmer, ["history", str(memory)]).stdout
    assert "vacuumed" not in listed
    rollback(memory=memory, to=1)
    vacuum(memory=memory, older_than=datetime.timedelta(0), keep_versions=1)
    assert {entry.version: entry.vacuumed for entry in history(memory=memory)} == {
        4: False,
        3: True,
        2: True,
        1: False,  # version 4 names all that version 1 does
        0: False,  # there was nothing to lose
    }
    for version, lost in ((3, True), (2, True), (1, False), (0, False)):
        if lost:
            with pytest.raises(UsageError, match="was vacuumed"):
                Memory.open(memory, version)
        else:
            Memory.open(memory, version)
    done = CliRunner().invoke(glimmer, ["history", str(memory)])
    marks = {line.split()[0]: "vacuumed" in line for line in done.stdout.splitlines()[2:]}
    assert marks == {"4": False, "3": True, "2": True, "1": False, "0": False}
    record = json.loads(CliRunner().invoke(glimmer, ["history", str(memory), "--json"]).stdout)
    assert [version["vacuumed"] for version in record["versions"]] == [False, True, True, False, False]


def test_damage_of_the_newest_version_is_not_called_vacuumed(memory: Path) -> None:
    for file in Memory.open(memory).manifest.files:
        (memory / "passages" / file.name).unlink()
    assert not history(memory=memory)[0].vacuumed
