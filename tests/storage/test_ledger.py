"""The ledger: whole records or none, one process at a time, progress by a glance."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glimmer import ConflictError, DamageError, UsageError
from glimmer.storage.ledger import Ledger, Progress
from glimmer.storage.segment_layout import ShardRecord
from glimmer.storage.stores import Store

RECORD = ShardRecord(
    shard=3,
    rows=1024,
    tokens=9000,
    codes_bytes=10,
    codes_sha256="a" * 64,
    lengths_bytes=20,
    lengths_sha256="b" * 64,
    text_bytes=30,
    text_sha256="c" * 64,
)


def test_records_and_progress(store: Store) -> None:
    ledger = Ledger(store, "job")
    assert (ledger.records(), ledger.progress()) == ({}, Progress(0, 0))
    last = replace(RECORD, shard=4, rows=76)
    for record in (RECORD, RECORD, last):
        ledger.record(record)
    assert Ledger(store, "job").records() == {3: RECORD, 4: last}
    assert ledger.progress() == Progress(2, 1100)
    ledger.clear()
    assert store.names("jobs/job") == []


def test_the_plan_comes_back_and_damage_to_it_is_noticed(store: Store) -> None:
    ledger = Ledger(store, "job")
    assert ledger.read_plan() is None
    ledger.write_plan({"rows": 7, "title": "ü"})
    assert ledger.read_plan() == {"rows": 7, "title": "ü"}
    store.put("jobs/job/plan.json", store.read("jobs/job/plan.json").replace(b"7", b"8"))
    with pytest.raises(DamageError, match=r"plan\.json.*checksum"):
        ledger.read_plan()


@pytest.mark.parametrize("name", ["fit.json", "tables.safetensors"])
@pytest.mark.parametrize("fault", ["cut", "flipped", "gone"])
def test_a_fit_comes_back_whole_or_counts_as_not_made(store: Store, name: str, fault: str) -> None:
    ledger = Ledger(store, "job")
    assert ledger.read_fit() is None
    ledger.write_fit({"samples": 7}, b"tables of a codec")
    fit = {"samples": 7, "tables_sha256": hashlib.sha256(b"tables of a codec").hexdigest()}
    assert ledger.read_fit() == (fit, b"tables of a codec")
    key = f"{ledger.key}/{name}"
    content = store.read(key)
    if fault == "gone":
        store.delete(key)
    else:
        store.put(key, content[:-5] if fault == "cut" else content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert ledger.read_fit() is None
    ledger.write_fit({"samples": 7}, b"tables of a codec")
    ledger.forget()
    assert ledger.read_fit() is None


@pytest.mark.parametrize("fault", ["flipped", "cut", "renamed", "empty"])
def test_a_damaged_record_counts_as_not_done(store: Store, fault: str) -> None:
    ledger = Ledger(store, "job")
    ledger.record(RECORD)
    key = "jobs/job/shards/3-1024.json"
    content = bytearray(store.read(key))
    if fault == "flipped":
        content[40] ^= 1
    store.put(key, bytes(b"" if fault == "empty" else content[:50] if fault == "cut" else content))
    if fault == "renamed":
        store.move(key, "jobs/job/shards/4-1024.json")
    assert ledger.records() == {}


def test_only_one_thread_runs_a_job(store: Store) -> None:
    ledger = Ledger(store, "job")
    assert not ledger.running
    with ledger.lock():
        assert Ledger(store, "job").running
        with pytest.raises(ConflictError, match="the job is being run by"), Ledger(store, "job").lock():
            pytest.fail("two threads hold one job")
        with Ledger(store, "another").lock():
            pass
    with ledger.lock():
        pass
    assert not ledger.running


def test_only_one_process_runs_a_job_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom glimmer.storage.ledger import Ledger\n"
        "with Ledger(sys.argv[1], 'job').lock():\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    script = tmp_path / "holder.py"
    script.write_text(code)
    holder = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConflictError, match=f"process {holder.pid}"), Ledger(tmp_path, "job").lock():
        pytest.fail("two processes hold one job")
    with Ledger(tmp_path, "another").lock():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with Ledger(tmp_path, "job").lock():
        pass


def test_a_job_id_cannot_leave_its_directory(tmp_path: Path) -> None:
    for job in ("../x", "a/b", "", "A", "x" * 65):
        with pytest.raises(UsageError, match="job id"):
            Ledger(tmp_path, job)
