"""Training questions out of a memory's own text: one KILT file a kind, for `glimmer train`.

Every live passage is read once; from each as many questions are made as asked for, where its text allows. The files are
what `reader.training.cloze` makes of them, in KILT's format with provenance, and follow from the memory's content and
the seed.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TextIO

from .. import StorageError, UsageError
from ..progress import Progress, Quiet
from ..reader.training import cloze
from ..reader.training.cloze import Made
from ..reader.training.facts import fact, statements
from ..reader.training.spans import Gazetteer, Kind, spans
from ..storage.files import make_directories, storage_error
from ..storage.memory import Memory
from ..storage.outputs import is_stream, writing
from ..storage.passage import Passage
from ..storage.paths import local_path
from ..storage.temporary import temporary_directory

TASKS = ("cloze", "fact", "description", "title", "slot", "claim", "copy")
_OTHERS = 5000  # spans that false claims choose from


@dataclass(frozen=True, kw_only=True)
class TasksResult:
    """What was made: `files` and `questions` by task (a task without questions has no file), of `passages` read.

    `nothing_to_do`: the same files were there already.
    """

    output: Path
    files: Mapping[str, Path]
    questions: Mapping[str, int]
    passages: int
    nothing_to_do: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "output": str(self.output),
            "files": {name: str(path) for name, path in self.files.items()},
            "questions": dict(self.questions),
            "passages": self.passages,
            "nothing_to_do": self.nothing_to_do,
        }


def make_tasks(
    *,
    memory: str | Path,
    output: str | Path,
    version: int | None = None,
    per_passage: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> TasksResult:
    """Writes `output`/<task>.jsonl from a memory's passages.

    Args:
        memory: its directory.
        output: directory to make; must not exist, be empty, or hold what would be written. `-` (standard output) or a
            FIFO gets all tasks' lines, one task after another; a question's id begins with its task.
        version: of the memory; None is the newest.
        per_passage: cloze questions and facts tried a passage; of every other kind one.
        seed: the same seed and content give the same files.
        progress: progress callback.

    Raises:
        UsageError: an output in use, or no such memory or version.
        StorageError: nothing can be written.

    Examples:
        >>> sorted(glimmer.make_tasks(memory="wiki.memory", output="tasks").files)
        ['claim', 'cloze', 'copy', 'description', 'fact', 'slot', 'title']
    """
    progress = progress or Quiet()
    if per_passage < 1:
        raise UsageError(f"at least one question a passage must be made, not {per_passage}")
    opened = Memory.open(memory, version)
    if is_stream(output):
        with temporary_directory("glimmer-tasks-") as made, writing(output) as stream:
            result = _write_tasks(opened, made / "tasks", per_passage, seed, progress)
            for path in result.files.values():
                with path.open("rb") as file:
                    shutil.copyfileobj(file, stream, 1 << 20)
            return replace(result, output=Path(output), files=dict.fromkeys(result.files, Path(output)))
    target = local_path(output)
    exists = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if exists and not (target.is_dir() and {path.name for path in target.iterdir()} <= {f"{n}.jsonl" for n in TASKS}):
        raise UsageError("exists and is not empty", where=target, remedy="remove it or choose another output")
    make_directories(target.parent)
    with temporary_directory(f".{target.name}-", target.parent) as made:
        result = _write_tasks(opened, made / "tasks", per_passage, seed, progress)
        if exists and not _same_files(made / "tasks", target):
            raise UsageError(
                "holds questions made of other passages, or with other settings",
                where=target,
                remedy="remove it or choose another output",
            )
        try:
            if not exists:
                if target.exists():
                    target.rmdir()  # empty, as was seen
                os.rename(result.output, target)  # all of it at once: an interrupted command leaves no half
        except OSError as error:
            raise storage_error(target, error) or StorageError(f"{target}: cannot be made: {error.strerror}") from error
    files = {name: target / path.name for name, path in result.files.items()}
    return replace(result, output=target, files=files, nothing_to_do=exists)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two directories of files hold the same, byte by byte."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def _write_tasks(opened: Memory, target: Path, per_passage: int, seed: int, progress: Progress) -> TasksResult:
    make_directories(target)
    gazetteer, others = _learnt(opened, Random(seed))
    progress.stage("make questions", total=opened.passages, unit="passages")
    counts: Counter[str] = Counter()
    files: dict[str, TextIO] = {}
    try:
        for name in TASKS:
            files[name] = (target / f"{name}.jsonl").open("w", encoding="utf-8")
        done = 0
        for _, passages in opened.scan_texts():
            for passage in passages:
                # Its own generator a passage: what is made of it does not depend on the order they are read in.
                rng = Random(f"{seed} {passage.passage_id}")
                for made in dict.fromkeys(_made(passage, gazetteer, others, per_passage, rng)):
                    counts[made.task] += 1
                    files[made.task].write(_record(made, passage, f"{made.task}-{counts[made.task]}"))
            done += len(passages)
            progress.at(done)
        for name, file in files.items():
            file.close()
            if not counts[name]:
                os.unlink(file.name)
    except OSError as error:
        raise storage_error(target, error) or error from None
    finally:
        for file in files.values():
            file.close()
    progress.done()
    kept = {name: target / f"{name}.jsonl" for name in TASKS if counts[name]}
    return TasksResult(
        output=target, files=kept, questions={name: counts[name] for name in kept}, passages=opened.passages
    )


def _learnt(memory: Memory, rng: Random) -> tuple[Gazetteer, list[tuple[Kind, str]]]:
    """What names are, from the articles' first sentences, and spans from all over for false claims."""
    firsts: list[tuple[str, str]] = []
    texts: list[str] = []
    for _, passages in memory.scan_texts():
        firsts += ((passage.title, passage.text) for passage in passages if _first(passage))
        texts += (passage.text for passage in passages)
    gazetteer = Gazetteer.of(firsts)
    rng.shuffle(texts)
    others: list[tuple[Kind, str]] = [
        (span.kind, text[span.start : span.end])
        for text in texts[:_OTHERS]
        for span in spans(text, gazetteer)[:4]
        if span.kind != "phrase"
    ]
    return gazetteer, others[:_OTHERS]


def _made(
    passage: Passage, gazetteer: Gazetteer, others: list[tuple[Kind, str]], per_passage: int, rng: Random
) -> list[Made]:
    title, text = passage.title, passage.text
    tried = [cloze.cloze(title, text, gazetteer, rng) for _ in range(per_passage)]
    tried.append(cloze.copying(text, rng))
    tried.append(cloze.claim(title, text, gazetteer, others, rng))
    if _first(passage):
        tried += (make(title, text, rng) for make in (cloze.description, cloze.title_of, cloze.slot))
    plain = statements(title, text)
    tried += (fact(plain, rng) for _ in range(per_passage))
    return [made for made in tried if made is not None and made.answer.strip()]


def _first(passage: Passage) -> bool:
    """Whether an article begins here (in KILT's format paragraph 0 is the title)."""
    return passage.start_paragraph_id <= 1 and passage.start_character == 0


def _record(made: Made, passage: Passage, name: str) -> str:
    page = {
        "wikipedia_id": passage.article_id,
        "title": passage.title,
        "start_paragraph_id": passage.start_paragraph_id,
        "start_character": passage.start_character,
        "end_paragraph_id": passage.end_paragraph_id,
        "end_character": passage.end_character,
    }
    output = [{"answer": made.answer, "provenance": [page]}]
    return json.dumps({"id": name, "input": made.question, "output": output}, ensure_ascii=False) + "\n"
