"""The plan step: ranges of sources in, parts out. The same function runs in this process and as a Beam step.

A part counts as made only when it is complete, so a range that is planned again, or by two workers, costs time and
nothing else, and a job that was killed resumes at the parts that are there. A dry run has no parts: what ranges give is
held in memory, without passages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import apache_beam as beam
import pyarrow as pa

from ... import MismatchError
from ...encoders.models import LoadedModel, load_model
from ...progress import repeatedly
from ...storage.files import sha256_bytes
from ...storage.passage import Passage
from ...storage.stores import Store, open_store
from ..corpus.fitting import BATCH, Tokenise
from ..corpus.ranges import SourceRange
from ..corpus.rejects import Rejection
from ..corpus.source_file import SourceFile, reading
from ..engines import Engine, run_step
from ..engines.seen_by_workers import check_model
from ..per_process import PerProcess
from .plan_parts import PartWriter, StoredPart, complete_parts, open_part, part_name, read_done, write_done
from .range_plan import AHEAD, Base, PlanSettings, RangeOutput, RangePlan, plan_range
from .record_selection import SelectionSpec, record_ids
from .reject_order import Numbered

_MARK: Final = "planning"
"""A file beside the parts, by which a worker tells that it sees the job."""

Report = Callable[[float, int], None]
"""Told the share of all sources that is planned (0 to 1), and the passages so far."""

Told = Callable[[float, int], None]
"""Told the share of one range that is planned, and its passages so far."""


@dataclass(frozen=True)
class RangeTask:
    """A range to plan, or, with `ids_only`, the ids of its records to list."""

    number: int
    source: SourceRange
    selection: SelectionSpec = field(default_factory=SelectionSpec)
    ids_only: bool = False

    @property
    def name(self) -> str:
        """The name of the part it makes."""
        return f"{self.number:06d}-ids" if self.ids_only else part_name(self.number, self.selection.describe())


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What planning a range needs: how articles become passages, and what is there already."""

    settings: PlanSettings
    tokenise: Tokenise
    base: Callable[[], Base] | None = None


class Part(Protocol):
    """What planning a range gave."""

    plan: RangePlan

    def rejections(self, *, late: bool) -> Iterator[Numbered]:
        """Rejected records, or passages with `late`, each with its number of articles; see `reject_order`."""


class Planner(Protocol):
    """Plans ranges, and gives what came of each."""

    @property
    def settings(self) -> PlanSettings: ...

    @property
    def prefix(self) -> str:
        """The key of the parts; empty where nothing is written."""

    def run(self, tasks: Sequence[RangeTask], report: Report) -> None:
        """Plans the ranges that are not planned yet. Raises as `plan_range` does."""

    def part(self, task: RangeTask) -> Part | None:
        """What planning a range gave; None for one that was left since a strict plan stops before it."""

    def forget_text(self, task: RangeTask) -> None:
        """Deletes the passages of a part that another one replaces; what it counts stays."""

    def ids(self, task: RangeTask) -> pa.Array:
        """The ids of a range's records, where the task asks for them; see `record_ids`."""


class HeldRanges:
    """Plans ranges in this process and writes nothing: for a dry run."""

    prefix = ""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held: dict[str, _HeldPart | Mapping[str, pa.Array]] = {}

    @property
    def settings(self) -> PlanSettings:
        return self._tools.settings

    def run(self, tasks: Sequence[RangeTask], report: Report) -> None:
        stop = _StrictStop(self.settings)
        for task, told in _one_after_another(tasks, report):
            if task.ids_only:
                self._held[task.name] = _ids(task, told)
                continue
            # A strict plan ends with the first rejection, which has to be told; otherwise they are only counted.
            held = _HeldPart()
            held.plan = _plan(task, self._tools, held if self.settings.strict else None, told)
            self._held[task.name] = held
            if stop.after(held.plan):
                return

    def part(self, task: RangeTask) -> Part | None:
        held = self._held.get(task.name)
        return held if isinstance(held, _HeldPart) else None

    def forget_text(self, task: RangeTask) -> None:
        return None

    def ids(self, task: RangeTask) -> pa.Array:
        held = self._held[task.name]
        assert not isinstance(held, _HeldPart)
        return held["ids"]


class _HeldPart:
    """A part in memory: it has no passages, and rejections only of a strict plan."""

    plan: RangePlan

    def __init__(self) -> None:
        self._rejections: dict[bool, list[Numbered]] = {False: [], True: []}

    def write(self, passages: Sequence[Passage]) -> None:
        return None

    def reject(self, rejection: Rejection, *, articles: int, late: bool) -> None:
        self._rejections[late].append((articles, rejection))

    def rejections(self, *, late: bool) -> Iterator[Numbered]:
        return iter(self._rejections[late])


@dataclass(frozen=True, kw_only=True)
class PlanWork:
    """All a worker needs to plan ranges of one job, small enough to ship to it.

    Attributes:
        memory: where the parts go, under the key `prefix`.
        model: the directory of the model whose tokenizer is used; its digest is `tokenizer`.
        settings: how articles become passages.
        base: opens what is there already, in the worker.
        files: some of the sources.
    """

    memory: str
    prefix: str
    model: str
    tokenizer: str
    settings: PlanSettings
    base: Callable[[], Callable[[], Base]] | None = None
    files: tuple[SourceFile, ...] = ()

    def check_sight(self) -> None:
        """Whether this process sees memory, model and sources; raises what keeps it from that."""
        if not open_store(self.memory).exists(f"{self.prefix}/{_MARK}"):
            raise MismatchError(
                "a worker does not find the job there", where=self.memory, remedy="let it see the same files"
            )
        check_model(self.model)
        for file in self.files:
            with reading(file):
                pass


def tokenizer_digest(model: LoadedModel) -> str:
    """What tells apart models that make other tokens of a passage."""
    return sha256_bytes(model.tokenizer.identity_bytes() + model.config.passage_template.encode())


def open_tools(work: PlanWork) -> Tools:
    """What a worker plans with. Raises MismatchError for a model with another tokenizer than the job's."""
    work.check_sight()
    model = load_model(work.model).with_window(work.settings.window)
    if tokenizer_digest(model) != work.tokenizer:
        raise MismatchError(
            f"{work.model}: a worker found another tokenizer there than the job was started with; give every worker "
            "the same model directory"
        )
    return Tools(
        settings=work.settings,
        tokenise=model.passage_tokens,
        base=None if work.base is None else work.base(),
    )


class StoredRanges:
    """Plans ranges into parts under `prefix` of `store`, in this process or on other workers.

    Args:
        store, prefix: where the parts go.
        tools: what this process plans with.
        work: what other workers plan with; None where there are none.
        engine: where ranges are planned.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        tools: Tools,
        work: PlanWork | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._store, self.prefix, self._tools, self._work = store, prefix, tools, work
        self._engine = engine or Engine()
        self._complete: dict[str, int] = {}

    @property
    def settings(self) -> PlanSettings:
        return self._tools.settings

    def run(self, tasks: Sequence[RangeTask], report: Report) -> None:
        self._complete = complete_parts(self._store, self.prefix)
        left = [task for task in tasks if task.name not in self._complete]
        if self._work is None or len(left) < 2 or self._engine.is_this_process:
            stop = _StrictStop(self.settings)
            for task, told in _one_after_another(left, report):
                plan = make_part(self._store, self.prefix, task, self._tools, told)
                if plan is not None and stop.after(plan):
                    break
        else:
            wanted = {task.name: task.source.size for task in left}
            total = sum(wanted.values())

            def poll() -> None:
                done = {name: n for name, n in complete_parts(self._store, self.prefix).items() if name in wanted}
                report(sum(wanted[name] for name in done) / total, sum(done.values()))

            self._store.put(f"{self.prefix}/{_MARK}", b"")
            with repeatedly(poll, self._store.poll_seconds, "progress"):
                run_step(
                    *("Plan", left, PlanRanges(self._work), self._engine),
                    done=lambda: len(complete_parts(self._store, self.prefix)),
                )
        self._complete = complete_parts(self._store, self.prefix)

    def part(self, task: RangeTask) -> StoredPart | None:
        if task.name not in self._complete:
            return None
        return open_part(self._store, f"{self.prefix}/{task.name}", self._complete[task.name])

    def forget_text(self, task: RangeTask) -> None:
        part = self.part(task)
        if part is not None:
            part.delete_text()

    def ids(self, task: RangeTask) -> pa.Array:
        return read_done(self._store, f"{self.prefix}/{task.name}", self._complete[task.name])[1]["ids"]


class PlanRanges(beam.DoFn):
    """Plans ranges; outputs nothing, the parts are the result. A process opens tokenizer and base once."""

    def __init__(self, work: PlanWork) -> None:
        self._work = work
        self._opened = PerProcess(functools.partial(open_tools, work))

    def check(self) -> None:
        """Raises what keeps this process from running the step, and loads nothing large."""
        self._work.check_sight()

    def setup(self) -> None:
        self._tools = self._opened.acquire()
        self._store = open_store(self._work.memory)

    def process(self, task: RangeTask) -> Iterator[None]:
        make_part(self._store, self._work.prefix, task, self._tools, None)
        return iter(())

    def teardown(self) -> None:
        del self._tools
        self._opened.release()


def make_part(store: Store, prefix: str, task: RangeTask, tools: Tools, told: Told | None) -> RangePlan | None:
    """Does a task and writes its part; what the plan gave, None where ids alone were asked for."""
    key = f"{prefix}/{task.name}"
    if task.ids_only:
        write_done(store, key, 0, {}, _ids(task, told))
        return None
    writer = PartWriter(store, key)
    plan = _plan(task, tools, writer, told)
    writer.finish(plan)
    return plan


class _StrictStop:
    """Tells when a strict plan has seen enough to know which record stops the job (`reject_order`)."""

    def __init__(self, settings: PlanSettings) -> None:
        self._strict, self._rejected, self._drafts = settings.strict, False, 0

    def after(self, plan: RangePlan) -> bool:
        """Whether no further range is needed, after `plan`, the next one's."""
        if self._rejected:
            self._drafts += int(plan.arrays["drafts"].to_numpy(zero_copy_only=False).sum())
        self._rejected = self._rejected or bool(self._strict and plan.counts.rejected)
        return not plan.complete or self._drafts >= (AHEAD + 2) * BATCH


def _plan(task: RangeTask, tools: Tools, output: RangeOutput | None, told: Told | None) -> RangePlan:
    plan = plan_range(
        task.source,
        selection=task.selection(),
        settings=tools.settings,
        tokenise=tools.tokenise,
        output=output,
        base=None if tools.base is None else tools.base(),
        progress=None if told is None else lambda share, counts: told(share, counts.passages),
    )
    if told is not None:
        told(1.0, plan.counts.passages)
    return plan


def _ids(task: RangeTask, told: Told | None) -> dict[str, pa.Array]:
    return record_ids(task.source.read(lambda share: told(share, 0) if told is not None else None, lambda kind: None))


def _one_after_another(tasks: Sequence[RangeTask], report: Report) -> Iterator[tuple[RangeTask, Told]]:
    """Each task, and what reports how far it is as a share of all of them."""
    total = sum(task.source.size for task in tasks)
    done = passages = 0
    for task in tasks:
        told = _ToldOf(report, done, task.source.size, total, passages)
        yield task, told
        done += task.source.size
        passages += told.passages


class _ToldOf:
    """Reports one task, of `size` out of `total` bytes, after others of `done` bytes that gave `before` passages."""

    def __init__(self, report: Report, done: int, size: int, total: int, before: int) -> None:
        self._report, self._done, self._size, self._total, self._before = report, done, size, total, before
        self.passages = 0

    def __call__(self, share: float, passages: int) -> None:
        self.passages = passages
        self._report((self._done + share * self._size) / self._total, self._before + passages)
