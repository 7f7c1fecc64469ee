"""Scores a prediction file against a gold file, as KILT's scorer does.

`score_files` reads both files, pairs them by id and averages `metrics` over every gold question; where gold records
name their task, or gold is a directory with a file a task, each task is averaged too. `glimmer evaluate` prints the
result and the report shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ... import InputError, UsageError
from ...storage.inputs import STDIN, InputFile, open_bytes, plain_file
from ...storage.paths import local_path
from ...wording import counted
from . import metrics
from .kilt import MAX_REPORTED_PROBLEMS, Output, Record, gold_answers, read_gold, read_guess
from .queries import open_queries
from .query_detect import detect

RANKS = (1, 5, 10, 20)
"""The k of recall@k, precision@k, success_rate@k and the in-context metrics, unless asked otherwise."""

_FILE_ENDS = re.compile(r"\.jsonl(\.(gz|bz2|xz|zst))?$")
_SPLIT_NAME = re.compile(r"[-_.](train|dev|test|valid|validation)\b.*$|[-_.](train|dev|test)_.*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Averages over one task's questions, each metric in [0, 1]."""

    questions: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `score_files` found.

    Attributes:
        questions: gold questions scored.
        metrics: averages over all of them, each in [0, 1]: accuracy, em, f1, rougel, KILT-accuracy, KILT-em, KILT-f1,
            KILT-rougel, Rprec, recall@k and success_rate@k (k > 1), precision@k, answer_in_context@k,
            entity_in_context@k, answer_and_ent_in_context@k, entity_in_input.
        tasks: the same per task, in order of first appearance; empty where no task is named.
        warnings: what is odd but does not stop the scoring.
    """

    questions: int
    metrics: Mapping[str, float]
    tasks: Mapping[str, TaskScores] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The metrics by name, then `questions`, `tasks` and `warnings`."""
        return {
            **self.metrics,
            "questions": self.questions,
            "tasks": {name: {**scores.metrics, "questions": scores.questions} for name, scores in self.tasks.items()},
            "warnings": list(self.warnings),
        }

    def table(self, columns: Sequence[str]) -> list[tuple[str, int, tuple[float, ...]]]:
        """Rows (task, questions, the metrics named by `columns`), the whole set last as "all".

        Raises:
            UsageError: a metric was not computed.
        """
        for name in columns:
            if name not in self.metrics:
                raise UsageError(f"no metric {name!r}; there are: {', '.join(self.metrics)}")
        rows = [
            (name, scores.questions, tuple(scores.metrics[column] for column in columns))
            for name, scores in self.tasks.items()
        ]
        return [*rows, ("all", self.questions, tuple(self.metrics[column] for column in columns))]


def score_files(
    *,
    gold: str | os.PathLike[str],
    guess: str | os.PathLike[str],
    ranks: Sequence[int] = RANKS,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
) -> Evaluation:
    """Scores `guess` against `gold` with KILT's metrics.

    Args:
        gold: any query file with answers or provenance that `answer` reads, ids as there; or a directory of KILT files
            (`*.jsonl`, maybe compressed, one task a file, named as in `nq-dev-kilt.jsonl`). "-" is standard input.
        guess: the predictions, or what KILT's own retrieval writes: a file or "-"; where gold is a directory, a
            directory with files of the same names.
        ranks: the k of the ranked metrics, all positive. recall@5 is always among the results.
        format, fields: of the gold file, as `open_queries` takes them.
        stdin: what "-" reads; standard input if None.

    A question without gold answers, or without gold pages, scores 0 in the metrics that need them, and is warned about.
    So is a guess without an answer. Guesses for ids that gold does not have are ignored with a warning.

    Raises:
        InputError: a malformed or duplicate record, or a gold id without a prediction; every one is named.
        UsageError: `ranks` holds something else than positive integers, one path is a directory and the other not, or
            both are standard input.
    """
    gold, guess = os.fspath(gold), os.fspath(guess)
    if gold == guess == STDIN:
        raise UsageError("gold and predictions cannot both be standard input; name one of the files")
    if not all(k > 0 for k in ranks):
        raise UsageError(f"ranks must be positive integers, not {', '.join(map(str, ranks))}")
    ranks = sorted({*ranks, 5})
    warnings: list[str] = []
    scored: list[tuple[str | None, dict[str, float]]] = []
    for task, gold_path, guess_path in _pair_files(gold, guess):
        gold_file, guess_file = plain_file(gold_path, stdin=stdin), plain_file(guess_path, stdin=stdin)
        records = _gold_records(gold_file, format, fields)
        for record, output in _pair_records(records, gold_file.name, guess_file, warnings):
            scored.append((record.task or task, score(record, output, ranks)))
    if not scored:
        raise InputError(f"{gold}: no gold record")

    by_task: dict[str, list[dict[str, float]]] = {}
    for name, values in scored:
        if name is not None:
            by_task.setdefault(name, []).append(values)
    if (rest := sum(name is None for name, _ in scored)) and by_task:
        warnings.append(f"{rest} gold records name no task; they count in the whole alone")
    return Evaluation(
        questions=len(scored),
        metrics=_average([values for _, values in scored]),
        tasks={name: TaskScores(questions=len(rows), metrics=_average(rows)) for name, rows in by_task.items()},
        warnings=tuple(warnings),
    )


def score(gold: Record, guess: Output, ranks: Iterable[int] = RANKS) -> dict[str, float]:
    """Every metric of one question, by name. The guess's provenance stands best first."""
    answers = gold_answers(gold.outputs)
    answer = (guess.answer or "").strip()
    if answer:
        found = {
            "accuracy": metrics.accuracy(answer, answers),
            "em": metrics.exact_match(answer, answers),
            "f1": metrics.f1(answer, answers),
            "rougel": metrics.rouge_l(answer, answers),
        }
    else:
        found = dict.fromkeys(("accuracy", "em", "f1", "rougel"), 0.0)

    pages = metrics.guessed_pages(guess.provenance)
    r_precision = metrics.r_precision(pages, gold.outputs)
    result = dict(found)
    for name, value in found.items():
        result[f"KILT-{name}"] = value if r_precision == 1 else 0.0
    result["Rprec"] = r_precision

    titles = metrics.gold_titles(gold.outputs)
    ranking, distinct = metrics.rank_evidence(pages, gold.outputs)
    shown = [page.text for page in guess.provenance or ()]
    with_answer = [text is not None and metrics.contains_any(text, answers) for text in shown]
    with_title = [text is not None and metrics.contains_any(text, titles) for text in shown]
    with_both = [both[0] and both[1] for both in zip(with_answer, with_title, strict=True)]
    for k in ranks:
        if k > 1:
            result[f"recall@{k}"] = metrics.recall_at(k, ranking, distinct)
            result[f"success_rate@{k}"] = metrics.success_at(k, ranking)
        result[f"precision@{k}"] = metrics.precision_at(k, ranking)
        result[f"answer_in_context@{k}"] = float(any(with_answer[:k]))
        result[f"entity_in_context@{k}"] = float(any(with_title[:k]))
        result[f"answer_and_ent_in_context@{k}"] = float(any(with_both[:k]))
    result["entity_in_input"] = float(metrics.contains_any(gold.question or "", titles))
    return result


def _average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def task_of_file(path: Path) -> str:
    """The task a file name stands for: `nq-dev-kilt.jsonl` is `nq`."""
    name = _FILE_ENDS.sub("", path.name)
    return _SPLIT_NAME.sub("", name) or name


def _pair_files(gold: str | Path, guess: str | Path) -> list[tuple[str | None, str | Path, str | Path]]:
    """(task, gold file, guess file) to score."""
    gold_place, guess_place = (None if str(each) == STDIN else local_path(each) for each in (gold, guess))
    if gold_place is None or not gold_place.is_dir():
        if guess_place is not None and guess_place.is_dir():
            raise UsageError(f"{guess} is a directory but {gold} is not; give a prediction file")
        return [(None, gold, guess)]
    if guess_place is None or not guess_place.is_dir():
        raise UsageError(f"{gold} is a directory, so the predictions must be one too, with the same file names")
    files = sorted(path for path in gold_place.iterdir() if _FILE_ENDS.search(path.name) and path.is_file())
    if not files:
        raise InputError(f"{gold}: no *.jsonl in this directory")
    if absent := [path.name for path in files if not (guess_place / path.name).is_file()]:
        raise InputError(f"{guess}: no predictions for {', '.join(absent)}")
    return [(task_of_file(path), path, guess_place / path.name) for path in files]


def _gold_records(file: InputFile, format: str | None, fields: Mapping[str, str] | None) -> list[Record]:
    """The gold records of a query file of any format, in order.

    A KILT file of a line a record is read as KILT's scorer does, which needs no questions.
    """
    if _is_blank(file):
        return []
    with open_bytes(file) as handle:
        layout = detect(handle, file.name, format, fields)
    if layout.format == "kilt" and not layout.array and not fields:
        return read_gold(file)
    queries = open_queries(file, format=format, fields=fields, long_questions="keep-start")
    if not queries.with_gold:
        raise InputError(f"{file.name} has no answers to compare with (it was read as {queries.description})")
    return [
        Record(id=query.id, place=query.place, question=query.question, outputs=query.outputs or (), task=query.task)
        for query in queries
    ]


def _pair_records(
    gold: Sequence[Record], gold_name: str, guess: InputFile, warnings: list[str]
) -> Iterable[tuple[Record, Output]]:
    """Gold records in order, each with its prediction."""
    guesses = {record.id: record.outputs[0] for record in read_guess(guess)}
    if missing := [record for record in gold if record.id not in guesses]:
        raise InputError(
            f"{guess.name}: no prediction for {_listed([record.id for record in missing])}"
            f" ({len(missing)} of {len(gold)} gold ids; the first is at {missing[0].place})"
        )
    if extra := guesses.keys() - {record.id for record in gold}:
        ids = _listed(sorted(extra))
        warnings.append(
            f"{guess.name}: {counted(len(extra), 'prediction')} for ids that {gold_name} does not have: {ids}; ignored"
        )
    if silent := sum(guesses[record.id].answer is None for record in gold):
        warnings.append(
            f"{guess.name}: {counted(silent, 'prediction')} with pages but no answer; answer metrics 0 there"
        )
    if unanswered := sum(not gold_answers(record.outputs) for record in gold):
        warnings.append(f"{gold_name}: {counted(unanswered, 'record')} without an answer; answer metrics 0 there")
    if unsupported := sum(not any(output.provenance for output in record.outputs) for record in gold):
        warnings.append(
            f"{gold_name}: {counted(unsupported, 'record')} without provenance; retrieval and KILT metrics 0 there"
        )
    return [(record, guesses[record.id]) for record in gold]


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:MAX_REPORTED_PROBLEMS])
    return shown if len(ids) <= MAX_REPORTED_PROBLEMS else f"{shown}, … and {len(ids) - MAX_REPORTED_PROBLEMS} more"


def _is_blank(file: InputFile) -> bool:
    with open_bytes(file) as handle:
        return not any(block.strip() for block in iter(lambda: handle.read(1 << 20), b""))
