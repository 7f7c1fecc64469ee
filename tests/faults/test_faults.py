"""The other faults: full disks, damaged files, wrong clocks, racing writers, failing workers. Old version or new."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ConflictError, DamageError, GlimmerError, StorageError
from glimmer.pipelines.encode import encode
from glimmer.pipelines.jobs import segment_id
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import passage_rows, read_catalog_file
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, commit, rollback
from glimmer.storage.segment_writer import SegmentWriter
from glimmer.storage.verify import verify

pytestmark = pytest.mark.slow

Tried = Callable[..., None]
NOW = datetime.timedelta(0)
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def view(opened: Memory) -> list[tuple[Any, bytes]]:
    where = np.arange(opened.passages)
    codes, _ = opened.fetch(where)
    return [(text, code.tobytes()) for text, code in zip(opened.texts(where), codes, strict=True)]


def thin(memory: Path, keep: Callable[[int], bool], base: int) -> None:
    """A version without the passages whose number in the payload's order `keep` refuses."""
    opened, add, number = Memory.open(memory, base), [], 0
    for file in opened.manifest.files:
        for batch in read_catalog_file(opened.store, file):
            add.append(batch.filter([keep(number + at) for at in range(batch.num_rows)]))
            number += batch.num_rows
    names = [file.name for file in opened.manifest.files]
    commit(memory, base=base, job=f"thin-{base}", operation="refresh", add=add, remove=names)


FILES = ["codes/c.0.0.0", "lengths/c.0", "text/0.arrow", "digests.arrow"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["truncated", "missing", "emptied", "replaced by another shard's"])
def test_a_damaged_shard_is_refused_and_named(two_shards: Path, name: str, fault: str, tried: Tried) -> None:
    path = two_shards / "segments/seg-job-0" / name
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "missing":
        path.unlink()
    elif fault == "emptied":
        path.write_bytes(b"")
    else:
        other = {"codes/c.0.0.0": "codes/c.1.0.0", "lengths/c.0": "lengths/c.1", "text/0.arrow": "text/1.arrow"}
        donor = two_shards / "segments/seg-job-0" / other.get(name, "text/0.arrow")
        path.write_bytes(donor.read_bytes())
    with pytest.raises(GlimmerError):
        view(Memory.open(two_shards))
    report = verify(two_shards)
    assert any(damage.path.endswith(name) for damage in report.damages)
    tried(f"shard {fault}", "refused; verify names file, shard and passages")


@pytest.fixture
def two_shards(kit: Any, tmp_path: Path) -> Path:
    path: Path = kit.memory(tmp_path / "two", 1050)
    return path


@pytest.mark.parametrize("version", range(3))
@pytest.mark.parametrize("fault", ["cut", "emptied", "gone", "garbage", "of another version"])
def test_a_corrupted_log_entry_is_never_read_as_a_version(
    kit: Any, tmp_path: Path, version: int, fault: str, tried: Tried
) -> None:
    memory = kit.memory(tmp_path / "m", 30, 20)
    truth = {number: view(Memory.open(memory, number)) for number in range(3)}
    log = memory / "passages/_delta_log"
    path = log / f"{version:020d}.json"
    content = path.read_bytes()
    if fault == "gone":
        path.unlink()
    else:
        other = (log / f"{(version + 1) % 3:020d}.json").read_bytes()
        made = {"cut": content[: len(content) // 3], "emptied": b"", "garbage": b"\x00\xff" * 99}
        path.write_bytes(made.get(fault, other))
    for number in range(3):
        try:
            assert view(Memory.open(memory, number)) == truth[number]
        except GlimmerError:
            continue
    if (version, fault) == (2, "gone"):
        assert Memory.open(memory).version == 1, "as if it had never been committed"
    else:
        assert not verify(memory).sound
        assert not repair(memory=memory).sound
        with pytest.raises(DamageError):
            vacuum(memory=memory, older_than=NOW, keep_versions=1)
    path.write_bytes(content)
    assert view(Memory.open(memory)) == truth[2]
    tried(f"log entry {fault}", "refused, nothing deleted; whole again with the entry")


def failing_once(error: BaseException) -> Callable[..., Any]:
    """`SegmentWriter.write_shard`, but for shard 1 raising `error` the first time."""
    written, failures = SegmentWriter.write_shard, [error]

    def failing(self: SegmentWriter, shard: int, *values: Any) -> Any:
        if shard == 1 and failures:
            raise failures.pop()
        return written(self, shard, *values)

    return failing


def test_a_worker_that_raises_once_costs_nothing(
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Tried,
) -> None:
    model = str(tiny_model(tmp_path / "model", with_decoder=False))
    corpus = str(tiny_corpus(tmp_path / "corpus.jsonl", 900))
    encode(sources=[corpus], memory=tmp_path / "whole", model=model)
    expected = view(Memory.open(tmp_path / "whole"))
    for number, error in enumerate((StorageError("once"), RuntimeError("once"), MemoryError("once"))):
        written = SegmentWriter.write_shard
        failures = [error]

        def failing(
            self: SegmentWriter, shard: int, *values: Any, written: Any = written, failures: Any = failures
        ) -> Any:
            if shard == 1 and failures:
                raise failures.pop()
            return written(self, shard, *values)

        monkeypatch.setattr(SegmentWriter, "write_shard", failing)
        memory = tmp_path / f"m{number}"
        with pytest.raises(BaseException, match="once"):
            encode(sources=[corpus], memory=memory, model=model)
        encode(sources=[corpus], memory=memory, model=model)
        monkeypatch.undo()
        assert view(Memory.open(memory)) == expected
        assert verify(memory).sound
        tried("worker raises once", "the same command goes on; equal bytes")


@pytest.mark.parametrize("days", [-20_000, -1, 1, 3000])
def test_a_skewed_clock_changes_nothing_but_dates(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, tried: Tried
) -> None:
    memory = kit.memory(tmp_path / "m", 40, 30)
    shifted = time.time() + days * 86400

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(shifted, tz)

    monkeypatch.setattr(datetime, "datetime", Shifted)
    monkeypatch.setattr(time, "time", lambda: shifted)
    monkeypatch.setattr(time, "time_ns", lambda: int(shifted * 1e9))
    thin(memory, lambda number: number % 2 == 0, 2)
    truth = view(Memory.open(memory))
    compact(memory=memory)
    vacuum(memory=memory, older_than=datetime.timedelta(days=7))
    monkeypatch.undo()
    kit.add(memory, [kit.passage(number) for number in range(900, 910)], job="later", base=4)
    rollback(memory, to=4, base=5, job="back")
    vacuum(memory=memory, older_than=datetime.timedelta(days=7))
    times = [entry.time for entry in reversed(Catalog(memory).history())]
    assert times == sorted(set(times))
    assert view(Memory.open(memory)) == truth
    assert verify(memory).sound
    tried("clock skew", "history in order, nothing needed deleted")


def test_two_writers_one_wins_and_the_other_may_try_again(kit: Any, tmp_path: Path, tried: Tried) -> None:
    for number in range(12):
        memory = kit.memory(tmp_path / f"m{number}", 30)
        outcomes: list[object] = []
        gate = threading.Barrier(2)

        def write(which: int, memory: Path = memory, gate: Any = gate, outcomes: Any = outcomes) -> None:
            passages = [kit.passage(1000 * which + k) for k in range(1, 10)]
            sealed = kit.segment(memory, f"seg-{which}", passages)
            gate.wait()
            rows = passage_rows(passages, sealed.segment, 0)
            try:
                made = commit(memory, base=1, job=f"w{which}", operation="encode", add=[rows], segments=[sealed])
                outcomes.append(made.version)
            except ConflictError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=write, args=(which,)) for which in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(isinstance(outcome, ConflictError) for outcome in outcomes) == [False, True]
        assert Memory.open(memory).passages == 39
        assert verify(memory).sound
        loser = 1 if Catalog(memory).manifest().job == "w2" else 2
        kit.add(memory, [kit.passage(1000 * loser + k) for k in range(1, 10)], job="again", base=2)
        assert Memory.open(memory).passages == 48
        tried("two writers", "one commits, the other is told and can try again")


def test_a_commit_retried_from_a_fresh_process_applies_once(kit: Any, tmp_path: Path, tried: Tried) -> None:
    memory = kit.memory(tmp_path / "m", 30)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from pathlib import Path
from kit import Kit
kit = Kit()
print(kit.add(Path(sys.argv[1]), [kit.passage(n) for n in range(50, 60)], job="retried", base=1).version)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, memory], capture_output=True, text=True, check=True)
        assert done.stdout == "2\n"
        assert Memory.open(memory).passages == 40
        tried("commit retried from a fresh process", "applied once")


def test_a_reader_works_through_compactions_and_vacuums(kit: Any, tmp_path: Path, tried: Tried) -> None:
    """A pinned reader and one that opens the newest version read all the while, in threads, and never see a mixture."""
    memory = kit.memory(tmp_path / "m", 300, 60)
    thin(memory, lambda number: number % 3 == 0, 2)
    pinned, truth = Memory.open(memory), view(Memory.open(memory))
    wrong: list[Exception] = []
    stop, reads = threading.Event(), [0]

    def read(again: bool) -> None:
        while not stop.is_set():
            try:
                seen = view(Memory.open(memory) if again else pinned)
            except GlimmerError as error:
                wrong.append(error)
            else:
                if seen != truth:
                    wrong.append(AssertionError("a mixture"))
            reads[0] += 1

    threads = [threading.Thread(target=read, args=(again,)) for again in (False, True)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        compact(memory=memory)
        vacuum(memory=memory, older_than=NOW, keep_versions=4)
        base = Catalog(memory).latest_version()
        if base < 6:
            rollback(memory, to=3, base=base, job=f"back-{base}")
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert reads[0] > 4
    assert verify(memory).sound
    tried("reader across compaction and vacuum", "same passages, same bytes, at every read", reads[0])


_FULL = """
import sys; sys.path.insert(0, {support!r})
import json
from pathlib import Path
import lifecycle
from glimmer import StorageError
name, memory, room = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
scenario = lifecycle.SCENARIOS[name]
scenario.prepare(memory)
before = lifecycle.look(memory)
filler = memory.parent / "filler"
import os
free = os.statvfs(memory.parent).f_bavail * os.statvfs(memory.parent).f_bsize
with open(filler, "wb") as file:
    file.write(bytes(max(0, free - room)))
try:
    scenario.run(memory)
    outcome = "had room"
except StorageError as error:
    assert "disk is full" in str(error), error
    outcome = "refused"
middle = lifecycle.look(memory)
filler.unlink()
scenario.run(memory)
print(json.dumps([outcome, before, middle, lifecycle.look(memory)]))
"""


@pytest.mark.parametrize("kilobytes", [0, 8, 24, 60, 150])
@pytest.mark.parametrize("name", ["refresh", "compaction", "vacuum", "rollback", "repair"])
def test_a_full_disk_leaves_the_old_version_and_with_room_the_job_goes_on(
    name: str, kilobytes: int, tmp_path: Path, tried: Tried
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    place = tmp_path / "small"
    place.mkdir()
    mount = f'mount -t tmpfs -o size=4m x "{place}" && exec "$@"'
    if subprocess.run([*NAMESPACE, "sh", "-c", mount, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces with mounts are not allowed here")
    code = _FULL.format(support=str(Path(__file__).parents[1] / "support"))
    command = [*NAMESPACE, "sh", "-c", mount, "sh", sys.executable, "-W", "ignore", "-c", code, name]
    done = subprocess.run(
        [*command, str(place / "m"), str(1024 * kilobytes)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome, before, middle, after = json.loads(done.stdout.splitlines()[-1])
    if outcome == "refused" and name != "repair":
        assert middle == before
    assert (name, outcome) != ("vacuum", "refused"), "it is what makes room"
    assert after["damages"] == []
    tried(f"disk full: {name}", f"{outcome}; old version whole, and the job goes on with room")


def test_a_second_process_that_is_refused_leaves_the_first_ones_plan_alone(
    tiny_model: Callable[..., Path], tiny_corpus: Callable[..., Path], tmp_path: Path, kit: Any, tried: Tried
) -> None:
    model = str(tiny_model(tmp_path / "model", with_decoder=False))
    corpus = str(tiny_corpus(tmp_path / "corpus.jsonl", 20))
    job = encode(sources=[corpus], memory=tmp_path / "whole", model=model).job
    writer = SegmentWriter(tmp_path / "m", segment_id(job))
    with Ledger(tmp_path / "m", job).lock():
        writer.write_text(0, [kit.passage(1)])
        with pytest.raises(ConflictError, match="is being run"):
            encode(sources=[corpus], memory=tmp_path / "m", model=model)
        assert writer.read_text(0) == [kit.passage(1)]
    encode(sources=[corpus], memory=tmp_path / "m", model=model)
    assert view(Memory.open(tmp_path / "m")) == view(Memory.open(tmp_path / "whole"))
    tried("second process during the plan", "refused; the first one's work stays")
