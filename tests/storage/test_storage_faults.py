"""Full disks and places that cannot be written: a clear error, and the memory as it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer.storage.catalog import Catalog
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

Run = Callable[..., subprocess.CompletedProcess[str]]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def namespace_works() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, check=False).returncode
        == 0
    )


needs_namespace = pytest.mark.skipif(not namespace_works(), reason="user namespaces with mounts are not allowed here")

_HEAD = f"""
import os, sys, tempfile
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from pathlib import Path
from kit import Kit
from glimmer import GlimmerError, StorageError
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import passage_rows
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, commit
from glimmer.storage.segment_writer import SegmentWriter
kit, memory = Kit(window=64, width=60, code_bytes=64), Path(sys.argv[1])
"""


def in_small_tmpfs(place: Path, kilobytes: int) -> list[str]:
    place.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={kilobytes}k x "{place}" && exec "$@"'
    return [*NAMESPACE, "sh", "-c", mount, "sh"]


@needs_namespace
@pytest.mark.parametrize("kilobytes", [8, 64, 128, 256, 400, 700, 1000])
def test_a_full_disk_is_a_clear_error_and_nothing_is_half_committed(
    tmp_path: Path, run_python: Run, kilobytes: int
) -> None:
    """Whichever step the disk fills up in: the error says so, the old version stays, and with room the job goes on."""
    code = (
        _HEAD
        + """
import numpy as np
passages = [kit.passage(number) for number in range(3000)]
base = None
try:
    Memory.create(memory, kit.identity())
    first = passages[:100]
    base = kit.add(memory, first, job="first", base=0).version
    kit.add(memory, passages[100:], job="second", base=1)
    print("room enough")
except StorageError as error:
    print("refused:", error)
    if base is not None:
        opened = Memory.open(memory)
        assert (opened.version, opened.passages) == (1, 100)
        assert opened.fetch(np.arange(100))[1].sum() == opened.tokens
"""
    )
    done = run_python(code, tmp_path / "small" / "m", prefix=in_small_tmpfs(tmp_path / "small", kilobytes))
    assert done.returncode == 0, done.stderr
    assert re_full(done.stdout), done.stdout


def re_full(output: str) -> bool:
    return output.startswith("refused:") and "the disk is full" in output and output.count("\n") == 1


@needs_namespace
def test_a_job_goes_on_when_there_is_room_again(tmp_path: Path, run_python: Run) -> None:
    code = (
        _HEAD
        + """
Memory.create(memory, kit.identity())
passages = [kit.passage(number) for number in range(2000)]
filler = memory.parent / "filler"
with open(filler, "wb") as file:
    file.write(bytes(8_000_000))
try:
    kit.add(memory, passages, job="job", base=0)
    sys.exit("the disk was not full")
except StorageError as error:
    print(error)
assert not [path for path in memory.rglob("*") if "__lock" in path.name or ".tmp" in path.name]
filler.unlink()
assert kit.add(memory, passages, job="job", base=0).version == 1
assert Memory.open(memory).passages == 2000
"""
    )
    done = run_python(code, tmp_path / "small" / "m", prefix=in_small_tmpfs(tmp_path / "small", 10_000))
    assert done.returncode == 0, done.stderr + done.stdout


@needs_namespace
def test_a_read_only_memory_is_read_but_not_written(memory_path: Path, tmp_path: Path, run_python: Run) -> None:
    shutil.rmtree(memory_path / "indexes")
    code = """
    import sys
    from pathlib import Path
    import numpy as np
    from glimmer import StorageError
    from glimmer.storage.catalog_files import passage_rows
    from glimmer.storage.ledger import Ledger
    from glimmer.storage.memory import Memory, commit
    from glimmer.storage.segment_writer import SegmentWriter
    from glimmer.storage.verify import verify
    path = Path(sys.argv[1])
    memory = Memory.open(path)
    assert memory.fetch(np.arange(memory.passages))[1].sum() == memory.tokens
    assert not (path / "indexes").exists()
    assert verify(path).sound
    def lock():
        with Ledger(path, "job").lock():
            pass
    for act in (
        lambda: commit(path, base=2, job="job", operation="encode", add=[next(iter(memory.passage_table()))]),
        lambda: SegmentWriter(path, "new").create_arrays(10, 8, 16),
        lambda: Ledger(path, "job").write_plan({}),
        lock,
    ):
        try:
            act()
            sys.exit("it was written")
        except StorageError as error:
            assert "read-only" in str(error), error
            assert str(path) in str(error), error
            print(error)
    """
    mount = f'mount --bind "{memory_path}" "{memory_path}" && mount -o remount,ro,bind "{memory_path}" && exec "$@"'
    for cache in (tmp_path / "cache", Path("/proc/no")):
        prefix = ["env", f"XDG_CACHE_HOME={cache}", *NAMESPACE, "sh", "-c", mount, "sh"]
        done = run_python(code, memory_path, prefix=prefix)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 4
    assert len(list((tmp_path / "cache").rglob("ids.map"))) == 1


_COMMITTER = """
import sys
sys.path.insert(0, {support!r})
from pathlib import Path
from kit import Kit
from glimmer.storage.catalog import Catalog
from glimmer import ConflictError
kit, memory = Kit(), Path(sys.argv[1])
print("ready", flush=True)
base = int(sys.argv[2])
kit.add(memory, [kit.passage(10_000 + 40 * base + k) for k in range(40)], job=f"job-{{base}}", base=base)
"""


@pytest.mark.slow
def test_killed_in_a_commit_then_retried_from_a_fresh_process_applies_once(tmp_path: Path, kit: Any) -> None:
    memory = kit.memory(tmp_path / "m", 20)
    script = tmp_path / "committer.py"
    script.write_text(_COMMITTER.format(support=str(Path(__file__).parents[1] / "support")))
    random = np.random.default_rng(1)

    def start(base: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), str(memory), str(base)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    outcomes = []
    for attempt in range(15):
        base = Catalog(memory).latest_version()
        process = start(base)
        time.sleep(float(random.uniform(0, 0.06)))
        process.kill()
        process.wait()
        opened = Memory.open(memory)
        assert opened.passages == 20 + 40 * (opened.version - 1)
        assert opened.version in (base, base + 1)
        outcomes.append(opened.version - base)
        assert start(base).wait() == 0
        assert Memory.open(memory).passages == 20 + 40 * (attempt + 1)
        assert Catalog(memory).latest_version() == base + 1
    assert verify(memory).sound
    assert 0 in outcomes
