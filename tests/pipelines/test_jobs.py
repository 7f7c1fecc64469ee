"""The skeleton of jobs, shown by a kind of job that exists in this file only: crashes, rivals, refusals, resumption.

The kinds that Glimmer has run through the same tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ConflictError, GlimmerError, InputError, StorageError
from glimmer.pipelines import jobs
from glimmer.pipelines.jobs import Job
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.progress import Quiet
from glimmer.storage.catalog_files import passage_rows, read_catalog_file
from glimmer.storage.ledger import Ledger
from glimmer.storage.manifest import Manifest
from glimmer.storage.memory import Memory, commit
from glimmer.storage.passage import SHARD_ROWS
from glimmer.storage.segment_writer import SegmentWriter
from glimmer.storage.verify import verify

ROWS = SHARD_ROWS + 20


# A kind of job of its own: every second passage goes, the others are copied to a new segment.


def halve(memory: Path, progress: Quiet | None = None, refused: bool = False) -> tuple[Manifest, Job]:
    base = Memory.open(memory, 1)
    job = Job(memory, "halve", {"content": base.manifest.content_sha256}, base=1, progress=progress)
    positions = np.arange(0, base.passages, 2)

    def plan() -> dict[str, Any]:
        if refused:
            raise InputError("half of nothing")
        return {"rows": len(positions)}

    def copy(shards: list[int]) -> None:
        for shard in shards:
            part = positions[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
            job.segment.write_text(shard, base.texts(part))
            job.record_shard(shard, *base.fetch(part))

    def work() -> Manifest:
        rows = job.plan(plan)["rows"]
        sealed = job.write_segment("copy", copy, rows=rows, window=base.window, code_bytes=base.codec.code_bytes)
        return job.commit(
            add=[passage_rows(base.texts(positions), sealed.segment, 0)],
            remove=[file.name for file in base.manifest.files],
            segment=sealed,
            rows_added=0,
            rows_removed=base.passages - rows,
            details={},
        )

    return job.run(work), job


@dataclass(frozen=True)
class Kind:
    """A kind of job: `prepare` makes the memory it starts from, `run` may be repeated after any crash."""

    prepare: Callable[[Any, Path], object]
    run: Callable[[Path], object]
    damaged_before: bool = False


def prepare_sparse(kit: Any, memory: Path) -> None:
    kit.memory(memory, ROWS, 20)
    opened = Memory.open(memory)
    [file] = [file for file in opened.manifest.files if file.rows == ROWS]
    rows = [batch.slice(0, batch.num_rows // 2) for batch in read_catalog_file(opened.store, file)]
    commit(memory, base=2, job="thin", operation="refresh", add=rows, remove=[file.name])


def prepare_damaged(kit: Any, memory: Path) -> None:
    """The text of one passage is lost; the others of its segment can only be moved to a new one."""
    kit.memory(memory, ROWS)
    text = memory / "segments/seg-job-0/text/0.arrow"
    whole = text.read_bytes()
    assert whole.count(b"Text of passage 5:") == 1
    text.write_bytes(whole.replace(b"Text of passage 5:", b"Test of passage 5:"))


KINDS = {
    "halve": Kind(lambda kit, memory: kit.memory(memory, 2 * ROWS), halve),
    "compact": Kind(prepare_sparse, lambda memory: compact(memory=memory)),
    "repair": Kind(prepare_damaged, lambda memory: repair(memory=memory, drop=True), damaged_before=True),
}


class Crash(BaseException):
    """The process ends: nothing but locks is let go of."""


def after(target: object, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The process ends just after the first call of a function."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        function = getattr(target, name)

        def ending(*arguments: Any, **settings: Any) -> Any:
            function(*arguments, **settings)
            raise Crash

        patch.setattr(target, name, ending)

    return arm


def before(target: object, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The process ends just before the first call of a function."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        def ending(*_: Any, **__: Any) -> Any:
            raise Crash

        patch.setattr(target, name, ending)

    return arm


MOMENTS = {
    "before the plan is written": before(Ledger, "write_plan"),
    "after the plan": after(Ledger, "write_plan"),
    "after the first shard": after(Ledger, "record"),
    "before the seal": before(SegmentWriter, "seal"),
    "after the seal": after(SegmentWriter, "seal"),
    "after the commit": after(jobs, "commit"),
    "before the ledger is cleared": before(Ledger, "clear"),
}


def content(memory: Path) -> dict[str, tuple[bytes, str]]:
    """passage id -> codes and text, of the newest version."""
    opened = Memory.open(memory)
    where = np.arange(opened.passages)
    codes, _ = opened.fetch(where)
    return {p.passage_id: (code.tobytes(), p.text) for code, p in zip(codes, opened.texts(where), strict=True)}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    for name, kind in KINDS.items():
        kind.prepare(kit, root / name)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def expected(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Any]]:
    """Kind -> version and content that an undisturbed job ends with."""
    root, found = tmp_path_factory.mktemp("undisturbed"), {}
    for name, kind in KINDS.items():
        shutil.copytree(originals[name], root / name)
        kind.run(root / name)
        found[name] = Memory.open(root / name).version, content(root / name)
    return found


@pytest.fixture
def memory(originals: dict[str, Path], tmp_path: Path) -> Path:
    """A memory that can be halved."""
    return Path(shutil.copytree(originals["halve"], tmp_path / "m"))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", KINDS)
def test_a_crash_leaves_one_version_or_the_other_and_the_same_job_ends_as_undisturbed(
    name: str, moment: str, originals: dict[str, Path], expected: dict[str, tuple[int, Any]], tmp_path: Path
) -> None:
    memory, kind = Path(shutil.copytree(originals[name], tmp_path / "m")), KINDS[name]
    with pytest.MonkeyPatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises(Crash):
            kind.run(memory)
    version, wanted = expected[name]
    if not kind.damaged_before:
        assert content(memory) == (wanted if Memory.open(memory).version == version else content(originals[name]))
        assert verify(memory).sound
    kind.run(memory)
    assert (Memory.open(memory).version, content(memory)) == (version, wanted)
    assert verify(memory).sound


def test_a_resumed_job_writes_only_what_is_missing(memory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        MOMENTS["after the first shard"](patch)
        with pytest.raises(Crash):
            halve(memory)
    written: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        write = SegmentWriter.write_shard

        def counting(self: SegmentWriter, shard: int, *values: Any) -> Any:
            written.append(shard)
            return write(self, shard, *values)

        patch.setattr(SegmentWriter, "write_shard", counting)
        _, job = halve(memory)
    assert (written, job.resumed) == ([1], SHARD_ROWS)


def test_the_same_job_again_has_nothing_to_do_and_writes_nothing(memory: Path) -> None:
    made, _ = halve(memory)
    stamps = {path: path.stat().st_mtime_ns for path in memory.rglob("*")}
    again, job = halve(memory)
    assert (again.version, job.nothing_to_do, job.seconds) == (made.version, True, {})
    assert {path: path.stat().st_mtime_ns for path in memory.rglob("*")} == stamps


def test_one_process_at_a_time(memory: Path) -> None:
    name = Job(memory, "halve", {"content": Memory.open(memory).manifest.content_sha256}, base=1).name
    with Ledger(memory, name).lock(), pytest.raises(ConflictError, match="being run"):
        halve(memory)


class Rival(Quiet):
    """Commits another job once a stage begins."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle = meddle

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self._meddle()


@pytest.mark.parametrize("when", ["before it begins", "while it copies"])
def test_who_is_overtaken_says_so_and_leaves_nothing(memory: Path, kit: Any, when: str) -> None:
    def meddle() -> None:
        kit.add(memory, [kit.passage(number) for number in range(9000, 9005)], job="rival", base=1)

    if when == "before it begins":
        meddle()
    with pytest.raises(ConflictError):
        halve(memory, Rival(meddle) if when == "while it copies" else None)
    assert {path.name for path in (memory / "segments").iterdir()} == {"seg-job-0", "seg-rival"}
    assert not list((memory / "jobs").iterdir())
    assert Memory.open(memory).version == 2


def test_a_plan_that_is_refused_leaves_nothing(memory: Path) -> None:
    with pytest.raises(InputError, match="half of nothing"):
        halve(memory, refused=True)
    assert [path.name for path in (memory / "segments").iterdir()] == ["seg-job-0"]
    assert not list((memory / "jobs").iterdir())
    assert halve(memory)[0].version == 2


def test_the_id_follows_what_the_job_depends_on_whatever_the_order(tmp_path: Path) -> None:
    first = Job(tmp_path, "halve", {"a": 1, "b": [2]}, base=0)
    assert Job(tmp_path, "halve", {"b": [2], "a": 1}, base=0).name == first.name
    assert Job(tmp_path, "halve", {"a": 1, "b": [3]}, base=0).name != first.name
    assert Job(tmp_path, "third", {"a": 1, "b": [2]}, base=0).segment.segment != first.segment.segment


def test_what_was_planned_before_a_store_failed_is_kept(tmp_path: Path) -> None:
    job = Job(tmp_path / "m", "encode", {"sources": "some"}, base=0)
    part = f"{job.ledger.key}/plan/part"

    def refused(error: GlimmerError) -> Mapping[str, Any]:
        job.store.put(part, b"planned")
        raise error

    with pytest.raises(StorageError):
        job.plan(lambda: refused(StorageError("the disk is full")))
    assert job.store.exists(part)
    with pytest.raises(InputError):
        job.plan(lambda: refused(InputError("a truncated file")))
    assert not job.store.exists(part)
