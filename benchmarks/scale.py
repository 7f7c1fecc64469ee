"""Everything but the encoder at the size of Wikipedia: time and peak memory of each step on made-up passages.

Makes a memory of 22 million passages (`made_memory.py`), then does to it what jobs, readers and people do, each step in
a process of its own: the encode job's seal and commit, opening, looking up, fetching, a refresh that replaces 1 % of
the passages, anywhere, `diff`, `rollback`, `history`, `inspect`, `vacuum --dry-run`, and answering questions. Memory is
given twice: anonymous, which the process must have, and with the pages of mapped files, which the system takes back
when it needs them.

    python benchmarks/scale.py [--rows 22000000] [--words 12] [--directory DIR] [--index] [--json FILE]

With 12 words each, passages take about 300 bytes. What is not in it is reading, cutting and encoding text.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import made_memory as made
import numpy as np
import numpy.typing as npt
from made_plan import MadePlan

from glimmer.pipelines.corpus import Article
from glimmer.pipelines.corpus.passages import PassageDraft
from glimmer.pipelines.encoding.encoding_job import planned_rows
from glimmer.pipelines.jobs import Job
from glimmer.pipelines.maintenance.diff import diff
from glimmer.pipelines.maintenance.history import history
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.pipelines.refreshing.articles import count_articles
from glimmer.pipelines.refreshing.changes import Changes, files_to_replace, surviving_rows
from glimmer.pipelines.refreshing.comparison import Comparison
from glimmer.pipelines.refreshing.range_comparison import ComparesRanges
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.memory import Memory
from glimmer.storage.passage import SHARD_ROWS
from glimmer.storage.segment_writer import SealedSegment
from glimmer.storage.statistics import inspect_memory
from glimmer.storage.version_indexes import index_key

_CHANGED = 0.01
_FIRST, _SECOND = 1, 2  # seeds of the two segments
_QUESTIONS, _CANDIDATES = 64, 20
_MIB = 1 << 20


@dataclass
class Run:
    """One run's settings, and the parts that a step times by itself, in seconds."""

    home: Path
    rows: int
    words: int
    model: str | None
    laps: dict[str, float] = field(default_factory=dict)

    @property
    def memory(self) -> Path:
        return self.home / "made.memory"

    @property
    def shards(self) -> int:
        return -(-self.rows // SHARD_ROWS)

    def ids(self, shard: int) -> npt.NDArray[np.uint8]:
        """uint8 [n, 16]: passage ids of a shard of the first corpus."""
        return made.passage_ids(_FIRST, shard, min(SHARD_ROWS, self.rows - shard * SHARD_ROWS))

    def some_ids(self, count: int) -> list[str]:
        """Ids of passages of the first corpus, chosen anywhere, all of one shard in eight."""
        shards = range(0, self.shards, max(self.shards * 512 // count, 1))
        found = np.concatenate([self.ids(shard) for shard in shards])
        return [row.tobytes().hex() for row in np.random.default_rng(3).permutation(found)[:count]]

    @cached_property
    def replaced(self) -> npt.NDArray[np.bool_]:
        """bool [rows]: passages that the second corpus has not any more; it has others in their place."""
        found: npt.NDArray[np.bool_] = np.random.default_rng(7).random(self.rows, np.float32) < _CHANGED
        return found

    def job(self, kind: str) -> Job:
        return Job(self.memory, kind, {"rows": self.rows, "words": self.words}, base=int(kind == "refresh"))

    def sealed(self, kind: str, rows: int) -> SealedSegment:
        """The segment of a job whose shards are all in the ledger."""
        job, empty = self.job(kind), Memory.open(self.memory, 0, check=False)
        return job.write_segment(
            "encode", lambda shards: None, rows=rows, window=empty.window, code_bytes=empty.codec.code_bytes
        )

    @contextlib.contextmanager
    def lap(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.laps[what] = time.perf_counter() - begun


def make(run: Run) -> None:
    created = Memory.create(run.memory, made.identity(run.model))
    for kind, rows, seed in (("encode", run.rows, _FIRST), ("refresh", int(run.replaced.sum()), _SECOND)):
        made.write_segment(
            run.job(kind),
            rows=rows,
            words=run.words,
            window=created.window,
            code_bytes=created.codec.code_bytes,
            seed=seed,
        )


def plan(run: Run) -> None:
    made_plan = MadePlan(run.home / "plan", run.rows)
    run.laps["ranges"] = made_plan.ranges
    planned = made_plan.merge()
    assert planned.summary.passages == run.rows // made.ARTICLE * made.ARTICLE


def make_plan(run: Run) -> None:
    (run.home / "plan").mkdir()
    MadePlan(run.home / "plan", run.rows).make()


def progress(run: Run) -> None:
    ledger = run.job("encode").ledger
    with run.lap("one look"):
        assert ledger.progress().rows == run.rows


def seal(run: Run) -> None:
    assert run.sealed("encode", run.rows).rows == run.rows


def commit(run: Run) -> None:
    job, sealed = run.job("encode"), run.sealed("encode", run.rows)
    with run.lap("without the seal"):
        job.commit(add=planned_rows(job.segment, run.shards), segment=sealed, details={})


def open_without_map(run: Run) -> None:
    shutil.rmtree(run.memory / index_key(1))
    opened = Memory.open(run.memory, 1, check=False)
    with run.lap("id map built"):
        assert opened.articles


def open_checked(run: Run) -> None:
    with run.lap("sizes of all files"):
        opened = Memory.open(run.memory, 1)
    with run.lap("id map"):
        assert opened.articles


def locate(run: Run) -> None:
    opened, ids = Memory.open(run.memory, 1, check=False), run.some_ids(100_000)
    with run.lap("first time"):
        assert (opened.locate(ids) >= 0).all()
    with run.lap("again"):
        opened.locate(ids)
    with run.lap("an absent one"):
        assert opened.locate(["0" * 32], missing="skip")[0] == -1


def fetch(run: Run) -> None:
    opened = Memory.open(run.memory, 1, check=False)
    positions = np.random.default_rng(4).integers(0, run.rows, 1280)
    with run.lap("codes"):
        for part in np.split(positions, 4):
            opened.fetch(part)
    with run.lap("texts"):
        opened.texts(positions)


def compare(run: Run) -> None:
    base = Memory.open(run.memory, 1, check=False)
    found = ComparesRanges.of(base, partial=False)()
    comparison = Comparison(base)
    added = 0
    fresh = int(run.replaced.sum())
    others = np.concatenate([made.passage_ids(_SECOND, shard, SHARD_ROWS) for shard in range(-(-fresh // SHARD_ROWS))])
    with run.lap("ids looked up"):
        for shard in range(run.shards):
            ids = run.ids(shard)
            first = shard * SHARD_ROWS
            gone = run.replaced[first : first + len(ids)]
            ids[gone] = others[added : added + int(gone.sum())]
            added += int(gone.sum())
            paragraph = np.arange(len(ids)) % made.ARTICLE + 1
            end = np.full(len(ids), made.text_bytes(run.words))
            place = np.stack([paragraph, 0 * paragraph, paragraph, end], axis=1).astype(np.int32)
            positions = found.find(made.hexadecimal(ids).to_pylist())
            kept = positions >= 0
            found.keep(positions[kept], place[kept])
            for at in np.flatnonzero(~kept).tolist():
                article = Article(made.article_id(_FIRST, first + at), "", [""], "")
                found.add(PassageDraft(article, "", 1, 0, 1, 1))
    with run.lap("rows that go"):
        comparison.take(found.arrays(), added)
        changes = comparison.changes()
    with run.lap("articles counted"):
        count_articles(base, changes.dead, comparison.renewed)
    assert changes.removed == comparison.added == fresh
    assert not len(changes.moved)
    digest = changes.save(base.store, "changes.safetensors")
    (run.home / "changes.sha256").write_text(digest)


def refresh(run: Run) -> None:
    base, job, fresh = Memory.open(run.memory, 1, check=False), run.job("refresh"), int(run.replaced.sum())
    sealed = run.sealed("refresh", fresh)
    changes = Changes.load(base.store, "changes.safetensors", (run.home / "changes.sha256").read_text())
    files = files_to_replace(base, changes, fresh)
    rows = itertools.chain(
        surviving_rows(base, changes, files), planned_rows(job.segment, -(-sealed.rows // SHARD_ROWS))
    )
    manifest = job.commit(
        add=rows,
        remove=[file.name for file in files],
        segment=sealed,
        rows_added=fresh,
        rows_removed=fresh,
        details={},
    )
    assert manifest.passages == run.rows


def difference(run: Run) -> None:
    found = diff(memory=run.memory, old=1, new=2)
    assert found.added == found.removed == int(run.replaced.sum())


def roll_back(run: Run) -> None:
    assert rollback(memory=run.memory, to=1, index=False).version == 3


def past(run: Run) -> None:
    assert len(history(memory=run.memory)) >= 3


def inspect(run: Run) -> None:
    with run.lap("catalog"):
        assert inspect_memory(Memory.open(run.memory)).passages == run.rows


def leftovers(run: Run) -> None:
    vacuum(memory=run.memory, older_than=datetime.timedelta(0), keep_versions=1, dry_run=True)


def build_index(run: Run) -> None:
    opened = Memory.open(run.memory)
    with run.lap("built"):
        open_index(opened)
    place = opened.store.local_path(f"{opened.index_key}/bm25")
    assert place is not None
    run.laps["bytes a passage"] = sum(file.stat().st_size for file in place.iterdir()) / run.rows


def search(run: Run) -> None:
    opened = Memory.open(run.memory, check=False)
    with run.lap("index opened, its files hashed"):
        index = open_index(opened)
    questions = [each["question"] for each in _questions(run, opened, given=False)]
    with run.lap("64 questions, 100 passages each"):
        assert any(len(hits.positions) for hits in index.search(questions, 100))


def answer_given(run: Run) -> None:
    _answer(run, given=True)


def answer_retrieved(run: Run) -> None:
    _answer(run, given=False)


def _answer(run: Run, *, given: bool) -> None:
    from glimmer.pipelines.answer import answer_file

    assert run.model is not None
    queries, output = run.home / f"questions-{given}.jsonl", run.home / f"answers-{given}.jsonl"
    opened = Memory.open(run.memory, check=False)
    queries.write_text("".join(json.dumps(each) + "\n" for each in _questions(run, opened, given=given)))
    result = answer_file(
        queries=queries, memory=run.memory, model=run.model, output=output, candidates=_CANDIDATES, restart=True
    )
    assert result.answered == _QUESTIONS
    run.laps["answering"] = result.seconds


def _questions(run: Run, memory: Memory, *, given: bool) -> list[dict[str, Any]]:
    """Questions made of words of passages chosen anywhere, with the ids of such passages where they are `given`."""
    rng, found = np.random.default_rng(5), []
    for number in range(_QUESTIONS):
        positions = rng.integers(0, run.rows, _CANDIDATES)
        words = memory.texts(positions[:1])[0].text.split()
        question: dict[str, Any] = {"id": str(number), "question": f"what of {' '.join(rng.permutation(words)[:6])}"}
        if given:
            question["passage_ids"] = memory.ids(np.unique(positions))
        found.append(question)
    return found


Step = Callable[[Run], None]
STEPS: dict[str, tuple[str, Step]] = {
    "make": ("making the passages (not Glimmer)", make),
    "parts": ("making the parts of a plan (not Glimmer)", make_plan),
    "plan": ("plan: parts of all ranges merged", plan),
    "progress": ("encode: how far, from the ledger", progress),
    "seal": ("encode: records read, segment sealed", seal),
    "commit": ("encode: sealed and committed", commit),
    "open": ("open, id map absent", open_without_map),
    "check": ("open", open_checked),
    "locate": ("100,000 ids looked up", locate),
    "fetch": ("1,280 random passages", fetch),
    "compare": ("refresh, 1 % replaced: compared", compare),
    "refresh": ("refresh, 1 % replaced: committed", refresh),
    "diff": ("diff of the two versions", difference),
    "rollback": ("rollback", roll_back),
    "history": ("history", past),
    "inspect": ("inspect", inspect),
    "vacuum": ("vacuum --dry-run", leftovers),
    "answer": (f"{_QUESTIONS} questions with {_CANDIDATES} passages given", answer_given),
}
INDEX_STEPS: dict[str, tuple[str, Step]] = {
    "index": ("first-stage index", build_index),
    "search": ("first-stage search", search),
    "retrieve": (f"{_QUESTIONS} questions, passages retrieved", answer_retrieved),
}
_ANSWERING = ("answer", "retrieve")


class Peak:
    """The most memory of this process, in MiB: anonymous by looking often, all of it by the kernel's own mark."""

    def __init__(self) -> None:
        self.anonymous = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.anonymous = max(self.anonymous, _status("RssAnon"))

    def end(self) -> tuple[float, float]:
        """(anonymous, all) so far."""
        self._ended.set()
        self._thread.join()
        return max(self.anonymous, _status("RssAnon")), _status("VmHWM")


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(f"{name}:"))


def run_step(name: str, run: Run) -> dict[str, Any]:
    """Runs a step in this process and measures it."""
    what, step = (STEPS | INDEX_STEPS)[name]
    peak, wall, cpu = Peak(), time.perf_counter(), time.process_time()
    step(run)
    seconds, used = time.perf_counter() - wall, time.process_time() - cpu
    anonymous, resident = peak.end()
    return {
        "step": name,
        "what": what,
        "seconds": seconds,
        "processor_seconds": used,
        "anonymous_mib": anonymous,
        "resident_mib": resident,
        "parts": run.laps,
    }


def shown(found: dict[str, Any]) -> str:
    """A row of the table."""
    parts = ", ".join(f"{name} {value:,.3g}" for name, value in found["parts"].items())
    return (
        f"| {found['what']}{f' ({parts})' if parts else ''} | {found['seconds']:,.1f} | "
        f"{found['processor_seconds']:,.1f} | {found['anonymous_mib']:,.0f} | {found['resident_mib']:,.0f} |"
    )


def measure(options: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    """Runs the steps one after another, each in a process of its own, and prints a row for each."""
    steps = [*STEPS, *(INDEX_STEPS if options.index else ())]
    if options.model == "none":
        steps = [name for name in steps if name not in _ANSWERING]
    chosen = [name for name in steps if options.only is None or name in options.only]
    print(f"{options.rows:,} passages of {options.words} words\n", flush=True)
    print("| step (seconds of its parts) | seconds | of processor | anonymous MiB | resident MiB |", flush=True)
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    found = []
    for name in chosen:
        arguments = ["--rows", str(options.rows), "--words", str(options.words), "--model", options.model]
        command = [sys.executable, __file__, *arguments, "--directory", str(home), "--step", name]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(ended.stdout.splitlines()[-1]))
        print(shown(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=22_000_000, help="passages")
    parser.add_argument("--words", type=int, default=12, help="words of a passage")
    parser.add_argument("--model", default="sample", help="the reader that answers; none: nobody does")
    parser.add_argument("--directory", type=Path, help="where a temporary directory for the memory is made")
    parser.add_argument("--keep", action="store_true", help="use --directory itself and keep what is in it")
    parser.add_argument("--index", action="store_true", help="build the first-stage index too, and answer with it")
    parser.add_argument("--only", action="append", choices=[*STEPS, *INDEX_STEPS], help="steps to run; may be repeated")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--step", choices=[*STEPS, *INDEX_STEPS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        model = None if options.model == "none" else options.model
        print(json.dumps(run_step(options.step, Run(options.directory, options.rows, options.words, model))))
        return
    with contextlib.ExitStack() as stack:
        if options.keep:
            home = options.directory
            home.mkdir(parents=True, exist_ok=True)
        else:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        found = measure(options, home)
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "words": options.words, "steps": found}, indent=1))


if __name__ == "__main__":
    main()
