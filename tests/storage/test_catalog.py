"""The catalog: one commit a version, exactly once, nothing lost to a race, and a log that cannot lie unnoticed."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from glimmer import ConflictError, DamageError, StorageError, UsageError
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import CATALOG_SCHEMA, passage_rows
from glimmer.storage.memory import Memory, commit, rollback
from glimmer.storage.stores import Place, Store


def ids(memory: Place, version: int | None = None) -> set[str]:
    opened = Memory.open(memory, version)
    return set(opened.ids(np.arange(opened.passages)))


def files_of(memory: Store) -> set[str]:
    return {name for name in memory.names("passages") if name.endswith(".parquet")}


def test_a_commit_replaces_files_in_one_version_and_history_tells_it(memory: Store, kit: Any) -> None:
    before = Memory.open(memory)
    first, second = (next(f for f in before.manifest.files if s in f.segments) for s in ("seg-job-0", "seg-job-1"))
    survivors = pa.Table.from_batches(
        [batch for batch in before.passage_table() if batch.column("segment")[0].as_py() == "seg-job-1"]
    ).slice(10)
    sealed = kit.segment(memory, "seg-new", [kit.passage(number) for number in range(5000, 5030)])
    new = passage_rows([kit.passage(number) for number in range(5000, 5030)], "seg-new", 0)
    made = commit(
        memory,
        base=2,
        job="job-refresh",
        operation="refresh",
        add=[survivors, new],
        remove=[second.name],
        segments=[sealed],
        rows_added=30,
        rows_removed=10,
        details={"source": "corpus.jsonl"},
    )
    after = Memory.open(memory)
    gone = {kit.passage(number).passage_id for number in range(1100, 1110)}
    assert (made.version, after.version, after.passages) == (3, 3, 1170)
    assert ids(memory) == ids(memory, 2) - gone | {kit.passage(n).passage_id for n in range(5000, 5030)}
    assert first.name in {file.name for file in after.manifest.files}
    assert after.manifest.live_rows == {"seg-job-0": 1100, "seg-job-1": 40, "seg-new": 30}
    newest, *older = after.history()
    assert (newest.operation, newest.job, newest.rows_added, newest.rows_removed) == ("refresh", "job-refresh", 30, 10)
    assert newest.details == {"source": "corpus.jsonl"}
    assert [entry.version for entry in older] == [2, 1, 0]
    # The pinned snapshot still shows what it was opened at.
    assert before.passages == 1150
    assert before.fetch(np.arange(1150))[0].shape[0] == 1150


def test_the_same_job_again_changes_nothing(memory: Store, kit: Any) -> None:
    present = files_of(memory)
    passages = [kit.passage(number) for number in range(1100, 1150)]
    again = kit.add(memory, passages, job="job-1", base=1)
    assert again.version == 2
    assert Catalog(memory).latest_version() == 2
    assert files_of(memory) == present


def test_a_fresh_process_recognises_its_own_commit(memory_path: Path, run_python: Any) -> None:
    code = """
    import sys
    from glimmer.storage.memory import commit
    print(commit(sys.argv[1], base=1, job="job-1", operation="encode").version)
    """
    done = run_python(code, memory_path)
    assert done.stdout.strip() == "2", done.stderr


def test_another_job_on_an_old_base_is_a_conflict_and_leaves_nothing(memory: Store, kit: Any) -> None:
    present = files_of(memory)
    passages = [kit.passage(number) for number in range(6000, 6010)]
    with pytest.raises(ConflictError, match=r"job job-1 .* made version 2"):
        kit.add(memory, passages, job="job-late", base=1)
    assert files_of(memory) == present
    with pytest.raises(UsageError, match="does not exist"):
        kit.add(memory, passages, job="job-late", base=9)


def test_a_race_lost_at_the_last_moment_is_a_conflict(memory: Store, kit: Any) -> None:
    """The winner commits between the loser's look at the version and its own log entry."""
    table = Catalog(memory)
    passages = [kit.passage(number) for number in range(7000, 7010)]
    sealed = kit.segment(memory, "seg-loser", passages)

    def winner(_: object) -> None:
        kit.add(memory, [kit.passage(number) for number in range(8000, 8010)], job="winner", base=2)

    present = files_of(memory)
    with pytest.raises(ConflictError, match="winner"):
        table.commit(
            base=2,
            job="loser",
            operation="encode",
            add=[passage_rows(passages, "seg-loser", 0)],
            segments=[sealed],
            prepare=winner,
        )
    assert table.latest_version() == 3
    assert len(files_of(memory) - present) == 1
    assert ids(memory) == ids(memory, 2) | {kit.passage(n).passage_id for n in range(8000, 8010)}


_RACER = """
import sys, time
sys.path.insert(0, {support!r})
from pathlib import Path
from kit import Kit
from glimmer import ConflictError
from glimmer.storage.catalog import Catalog
kit, memory, me = Kit(), Path(sys.argv[1]), int(sys.argv[2])
lost = 0
for number in range(5):
    passages = [kit.passage(100_000 + 1000 * me + 10 * number + k) for k in range(10)]
    while True:
        base = Catalog(memory).latest_version()
        try:
            kit.add(memory, passages, job=f"job-{{me}}-{{number}}-{{base}}", base=base)
            break
        except ConflictError:
            lost += 1
print(lost)
"""


def test_four_processes_lose_no_update(tmp_path: Path, kit: Any) -> None:
    memory = kit.memory(tmp_path / "memory", 20)
    script = tmp_path / "racer.py"
    script.write_text(_RACER.format(support=str(Path(__file__).parents[1] / "support")))
    racers = [
        subprocess.Popen([sys.executable, str(script), str(memory), str(me)], stdout=subprocess.PIPE, text=True)
        for me in range(4)
    ]
    lost = [int(racer.communicate(timeout=120)[0]) for racer in racers]
    assert sum(lost) > 0, "the processes never met; the test shows nothing"
    opened = Memory.open(memory)
    assert opened.version == 1 + 20
    wanted = {kit.passage(100_000 + 1000 * me + k).passage_id for me in range(4) for k in range(50)}
    assert wanted <= ids(memory)
    assert opened.passages == 220
    assert Catalog(memory).check_log(opened.version) == []


def test_rollback_makes_an_old_version_new_again_and_refresh_can_run_after_it(memory: Store, kit: Any) -> None:
    made = rollback(memory, to=1, base=2, job="undo")
    assert (made.version, made.operation, made.rows_removed) == (3, "rollback", 50)
    assert ids(memory) == ids(memory, 1)
    assert Memory.open(memory).segments.keys() == {"seg-job-0"}
    assert len(ids(memory, 2)) == 1150
    forth = rollback(memory, to=2, base=3, job="redo")
    assert forth.version == 4
    assert ids(memory) == ids(memory, 2)


def test_rollback_to_a_vacuumed_version_says_so(memory: Store) -> None:
    rollback(memory, to=1, base=2, job="undo")
    gone = {f.name for f in Memory.open(memory, 2).manifest.files}
    gone -= {f.name for f in Memory.open(memory).manifest.files}
    for name in gone:
        memory.delete(f"passages/{name}")
    with pytest.raises(UsageError, match="vacuumed"):
        rollback(memory, to=2, base=3, job="redo")


def test_a_passage_listed_twice_stops_the_commit(memory: Store, kit: Any) -> None:
    present = files_of(memory)
    with pytest.raises(DamageError, match="more than once"):
        kit.add(memory, [kit.passage(7)], job="twice", base=2)
    assert Catalog(memory).latest_version() == 2
    assert files_of(memory) == present
    assert sorted(memory.names("indexes")) == ["1", "2"]


def test_rows_that_cannot_be_are_refused(memory: Store, kit: Any) -> None:
    rows = passage_rows([kit.passage(9999)], "seg-job-0", 3)
    for add, message in (
        ([rows.drop_columns(["row"])], "lack the columns"),
        ([rows.set_column(2, "row", pa.array(["x"]))], "do not fit"),
        ([rows.set_column(3, "n_tokens", pa.array([None], pa.int32()))], "nulls"),
        ([passage_rows([kit.passage(9999)], "nowhere", 0)], "segments"),
    ):
        with pytest.raises(UsageError, match=message):
            commit(memory, base=2, job="bad", operation="encode", add=add)
    with pytest.raises(UsageError, match="no live files"):
        commit(memory, base=2, job="bad", operation="encode", remove=["part-x.parquet"])
    with pytest.raises(UsageError, match="job id"):
        commit(memory, base=2, job="../x", operation="encode")


def test_files_are_split_and_sorted_by_segment_and_row(store: Store, kit: Any) -> None:
    Memory.create(store, kit.identity())
    passages = [kit.passage(number) for number in range(100)]
    sealed = kit.segment(store, "s", passages)
    rows = passage_rows(passages, "s", 0)
    made = Catalog(store).commit(
        base=0,
        job="j",
        operation="encode",
        add=(rows.slice(start, 7) for start in range(0, 100, 7)),
        segments=[sealed],
        max_file_rows=32,
    )
    assert sorted(file.rows for file in made.files) == [4, 32, 32, 32]
    assert (made.passages, made.tokens) == (100, sum(len(passage.tokens) for passage in passages))
    for file in made.files:
        table = pq.read_table(pa.BufferReader(store.read(f"passages/{file.name}")))
        assert table.schema.equals(CATALOG_SCHEMA)
        values = table.column("row").to_pylist()
        assert values == sorted(values)


def test_duckdb_reads_the_live_files_delta_names(memory_path: Path) -> None:
    live = DeltaTable(str(memory_path / "passages")).file_uris()
    rows = duckdb.execute(
        "select segment, count(*), sum(n_tokens) from read_parquet(?) group by segment order by segment", [live]
    ).fetchall()
    opened = Memory.open(memory_path)
    assert [(row[0], row[1]) for row in rows] == [("seg-job-0", 1100), ("seg-job-1", 50)]
    assert sum(row[2] for row in rows) == opened.tokens


def test_time_never_runs_backwards_whatever_the_clock_does(
    memory: Store, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Wrong:
            return cls(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("glimmer.storage.manifest.datetime.datetime", Wrong)
    made = kit.add(memory, [kit.passage(4000)], job="skewed", base=2)
    monkeypatch.undo()
    times = [entry.time for entry in reversed(Catalog(memory).history())]
    assert times == sorted(set(times))
    assert made.time > times[2]


def test_no_flipped_bit_in_the_log_changes_what_is_read(memory: Store) -> None:
    table = Catalog(memory)
    truth = {version: table.manifest(version) for version in range(3)}
    random = np.random.default_rng(5)
    refused = 0
    for version in range(3):
        key = f"passages/_delta_log/{version:020d}.json"
        content = memory.read(key)
        for bit in random.choice(len(content) * 8, 150, replace=False).tolist():
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << (bit % 8)
            memory.put(key, bytes(flipped))
            try:
                assert table.manifest(2) == truth[2]
                assert table.read_manifest(version) == truth[version]
            except (DamageError, StorageError):
                refused += 1
            if version < 2:
                assert table.check_log(2), "the chain of digests shows every change to an earlier entry"
        memory.put(key, content)
    assert refused > 150
    assert table.check_log(2) == []


@pytest.mark.parametrize("fault", ["gone", "empty", "cut", "not-ours"])
def test_a_broken_log_entry_is_named(memory: Store, fault: str) -> None:
    key = f"passages/_delta_log/{1:020d}.json"
    content = memory.read(key)
    if fault == "gone":
        memory.delete(key)
    elif fault == "not-ours":
        lines = [json.loads(line) for line in content.splitlines()]
        for line in lines:
            line.get("commitInfo", {}).pop("glimmer", None)
        memory.put(key, "\n".join(map(json.dumps, lines)).encode())
    else:
        memory.put(key, content[: 0 if fault == "empty" else len(content) // 2])
    with pytest.raises(DamageError, match="_delta_log"):
        Memory.open(memory, 1)
    assert any(entry == key for entry, _ in Catalog(memory).check_log(2))


def test_versions_that_do_not_exist(memory: Store, new_store: Callable[[], Store]) -> None:
    with pytest.raises(UsageError, match="version 9 does not exist; the newest is 2"):
        Memory.open(memory, 9)
    with pytest.raises(UsageError, match="version -1"):
        Memory.open(memory, -1)
    with pytest.raises(UsageError, match="no memory here"):
        Memory.open(new_store())
