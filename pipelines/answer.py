"""The answering job: a query file and a memory in, KILT predictions out, in input order, continued after a crash.

`answer` checks everything before it begins: the whole query file, that memory and model belong together, that every
passage the file brings is there, that the output can be written. Then it answers in this process, or, with an engine,
as a Beam job over ranges of the file; both give the same bytes. What a prediction depends on is kept beside the
prediction file, so that only a run of the same kind continues it.
"""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .. import StorageError, UsageError
from ..encoders.models import LoadedModel, load_model
from ..reader.candidates import Brought
from ..reader.generation import GenerationConfig
from ..reader.predictions import PredictionWriter
from ..reader.queries import LONG_QUESTIONS, LongQuestions, QueryFile, open_queries
from ..storage.inputs import is_stream
from ..storage.memory import Memory
from .answering.batches import Shapes
from .answering.questions import LongCounts, QuestionReader
from .answering.range import AnswerWork, CandidatesFrom, RangeAnswerer
from .answering.report import ReportData, render_report
from .answering.shards import RANGE_QUERIES, answer_on_engine, discard_parts
from .answering.stages import check_answers, default_rows
from .answering.tally import Tally, evaluate_answers, shown_numbers
from .encoding.job import Encoding
from .engines import Engine
from .index import check_passages, open_index
from .progress import Progress, Quiet

DEFAULT_CANDIDATES, DEFAULT_SELECT = 40, 10


@dataclass(frozen=True, kw_only=True)
class AnswerResult:
    """What an answering job did.

    Attributes:
        output: the prediction file, complete.
        report: the report, if one was asked for.
        queries: queries in the file; `resumed` of them were answered before this run, `answered` by it.
        version: the memory's version.
        format, fields: how the query file was read: its format, and which of its fields was taken for what.
        long_questions: queries whose question was shortened or skipped, of the whole file.
        without_provenance: queries to be answered from provenance whose record has none, of the whole file.
        lacking: queries with provenance that the memory does not have, of the whole file.
        without_candidates: queries that found no passage; their answer is empty. `empty`: other empty answers.
        seconds: wall seconds of answering, start-up and index building left out.
        stages: seconds by stage; stages overlap (see `answering.clock`).
        notes: remarks worth showing, a sentence each.
    """

    output: Path
    report: Path | None
    queries: int
    resumed: int
    answered: int
    version: int
    without_candidates: int
    empty: int
    seconds: float
    stages: Mapping[str, float]
    format: str
    fields: Mapping[str, str]
    long_questions: LongCounts
    without_provenance: int
    lacking: int
    notes: tuple[str, ...] = ()

    @property
    def queries_per_second(self) -> float:
        """Queries answered by this run in a second of answering; 0 where there was nothing to do."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "output": str(self.output),
            "report": None if self.report is None else str(self.report),
            "queries": self.queries,
            "resumed": self.resumed,
            "answered": self.answered,
            "version": self.version,
            "format": self.format,
            "fields": dict(self.fields),
            "long_questions": {"shortened": self.long_questions.shortened, "skipped": self.long_questions.skipped},
            "without_provenance": self.without_provenance,
            "provenance_not_in_memory": self.lacking,
            "without_candidates": self.without_candidates,
            "empty_answers": self.empty,
            "seconds": self.seconds,
            "queries_per_second": self.queries_per_second,
            "stages": dict(self.stages),
            "notes": list(self.notes),
        }


def answer(
    *,
    queries: str | os.PathLike[str],
    memory: str | os.PathLike[str],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    candidates: int = DEFAULT_CANDIDATES,
    select: int | None = None,
    memory_version: int | None = None,
    beams: int = 1,
    batch_size: int | None = None,
    max_answer_tokens: int = 32,
    length_penalty: float = 1.0,
    grounded: bool = False,
    report: str | os.PathLike[str] | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    long_questions: LongQuestions = "auto",
    strict: bool = False,
    candidates_from: CandidatesFrom = "auto",
    precision: Literal["bfloat16", "float32"] = "bfloat16",
    restart: bool = False,
    engine: Engine | None = None,
    range_queries: int = RANGE_QUERIES,
    stdin: BinaryIO | None = None,
    progress: Progress | None = None,
) -> AnswerResult:
    """Answers every query of `queries` from a memory, or goes on where an earlier run of the same command was cut.

    Args:
        queries: a query file of any format of `reader.queries.FORMATS`, compressed or not, or "-" for standard input.
        memory: the memory's directory.
        model: a model directory with a decoder, whose lower layers made the memory.
        output: the prediction file; predictions of the same queries and settings in it are kept.
        candidates: passages read of each query (m). A reader that does not re-rank reads `select` only.
        select: passages kept for the decoder (k); None is `DEFAULT_SELECT`, or all candidates where they are fewer.
        memory_version: the version to answer from; None is the newest.
        beams: 1 is greedy decoding.
        batch_size: queries in a batch; None suits the device. Other sizes change rounding, nothing else.
        max_answer_tokens, length_penalty: see `GenerationConfig`.
        grounded: allow only answers that stand in the passages.
        report: an HTML file to write about the job.
        format: the query file's format; None tells it from the content.
        fields: names of its fields that are not known: "question", "id", "answers" -> key or column.
        long_questions: what is done with questions that the reader cannot take whole: "keep-end" and "keep-start"
            shorten them, "auto" keeps the end of a dialogue, the surroundings of a marked mention and the start of all
            others, "skip" answers nothing, "fail" refuses the file.
        strict: with "provenance": refuse records without any, and pages that the memory lacks.
        candidates_from: "auto" takes the passages a query brings, else retrieves; "retrieval" always retrieves;
            "provenance" answers KILT records from their own gold provenance; a record without any, or whose pages the
            memory lacks, is answered from what there is, at worst emptily.
        precision: of products.
        restart: answer everything anew.
        engine: runs the job as a Beam graph over ranges of `range_queries`; None answers in this process.
        stdin: what "-" reads; None is standard input.
        progress: hears how the job goes.

    Raises, before any work: InputError for bad queries and for passages they bring that the memory lacks, UsageError
    for numbers that contradict each other and versions that do not exist, ModelError for a model that cannot answer,
    MismatchError for a memory of another encoder or an output of other settings, StorageError for an output that cannot
    be written. Whatever ends the job later, predictions written stay and the same command goes on after them.
    """
    progress = progress or Quiet()
    generation = GenerationConfig(
        beams=beams, max_new_tokens=max_answer_tokens, length_penalty=length_penalty, grounded=grounded
    )
    select = min(DEFAULT_SELECT, candidates) if select is None else select
    _check_numbers(candidates, select, batch_size, range_queries)
    if long_questions not in LONG_QUESTIONS:
        raise UsageError(f"no way {long_questions!r} to treat long questions; there are: {', '.join(LONG_QUESTIONS)}")
    if engine is not None and is_stream(queries):
        raise UsageError("a stream cannot be shared with Beam workers; save the queries to a file first")
    target, page = Path(output), None if report is None else Path(report)

    progress.stage("check", total=None, unit="queries")
    asked = open_queries(
        os.fspath(queries),
        format=format,
        fields=fields,
        long_questions=long_questions,
        provenance_as_candidates=candidates_from == "provenance",
        stdin=stdin,
        progress=progress.at,
    )
    if asked.path.exists() and target.exists() and asked.path.samefile(target):
        raise UsageError(f"{target} is the query file itself; choose another --output")
    progress.say(asked.description)
    if engine is not None and asked.copied:
        raise UsageError(f"{asked.name} is compressed, and Beam workers need the plain file; unpack it first")
    opened = Memory.open(Path(memory), memory_version)
    check_passages(opened)
    loaded = load_model(model)
    config = check_answers(loaded, grounded=grounded)
    Encoding.checked(loaded, opened.identity, opened.directory)
    read = candidates if config.scores else select
    notes = []
    if read < candidates:
        notes.append(f"This model does not re-rank, so it reads the first {select} candidates of each query.")
    long = QuestionReader(loaded, Shapes(loaded, opened.window).longest_question, long_questions).check(asked)
    if long:
        notes.append(f"Questions too long to be read whole: {long} (--long-questions {long_questions}).")
    brings = candidates_from != "retrieval" and asked.with_candidates > 0
    brought = Brought(opened, asked.read) if brings else None
    lacking = 0
    if brought is not None and candidates_from == "provenance" and not strict:
        lacking = brought.lacking(asked.read())
        notes += _provenance_notes(asked, lacking)
    elif brought is not None:
        brought.check(asked.read(), asked.name)
    if page is not None:
        _check_writable(page)
    progress.done()

    work = AnswerWork(
        queries=asked,
        memory=str(opened.directory.resolve()),
        version=opened.version,
        model=str(loaded.path.resolve()),
        candidates=read,
        select=select,
        rows=batch_size or default_rows(),
        generation=generation,
        precision=precision,
        brings=brings,
        long_questions=long_questions,
        settings=(
            *_settings(asked, opened, loaded, generation, read, select, precision, brings).items(),
            # A file without long questions is answered alike whatever the rule.
            *((("long_questions", long_questions),) if long else ()),
        ),
        scores=page is not None,
    )
    ids = (query.id for query in asked)
    with PredictionWriter(target, ids, settings=dict(work.settings), restart=restart) as writer:
        resumed = writer.completed
        if restart or resumed == asked.count:
            discard_parts(work, target)
        if page is not None:
            work = replace(work, shown=shown_numbers(resumed, asked.count))
        seconds, tally = 0.0, Tally()
        if resumed < asked.count:
            if resumed:
                progress.say(f"going on after {resumed:,} of {asked.count:,} predictions in {target}")
            if not (brings and asked.with_candidates == asked.count):
                open_index(opened, progress=progress)  # built here, once, whoever needs it then
            answerer = None
            if engine is None:
                answerer = RangeAnswerer(work, memory=opened, model=loaded, brought=brought)
            progress.stage("answer", total=asked.count, unit="queries", start=resumed)
            begun = time.perf_counter()
            if engine is not None:
                tally = answer_on_engine(
                    work,
                    output=target,
                    first=resumed,
                    engine=engine,
                    progress=progress,
                    range_queries=range_queries,
                )
            elif answerer is not None:
                listener = progress
                tally = answerer.answer(
                    writer, 0, asked.count, on_written=lambda written: listener.at(resumed + written)
                )
            seconds = time.perf_counter() - begun
            progress.done()
    if tally.without_candidates:
        notes.append(f"{tally.without_candidates:,} queries found no passage; their answer is empty.")
    result = AnswerResult(
        output=target,
        report=page,
        queries=asked.count,
        resumed=resumed,
        answered=asked.count - resumed,
        version=opened.version,
        without_candidates=tally.without_candidates,
        empty=tally.empty,
        seconds=seconds,
        stages=tally.seconds,
        format=asked.format,
        fields=asked.fields,
        long_questions=long,
        without_provenance=asked.without_provenance,
        lacking=lacking,
        notes=tuple(notes),
    )
    if page is not None:
        _write_report(page, result, tally, work, opened, candidates_from)
    return result


def _check_numbers(candidates: int, select: int, batch_size: int | None, range_queries: int) -> None:
    if not 1 <= select <= candidates:
        raise UsageError(f"--select {select} must lie between 1 and --candidates {candidates}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {batch_size}")
    if range_queries < 1:
        raise UsageError(f"a range has at least 1 query, not {range_queries}")


def _provenance_notes(asked: QueryFile, lacking: int) -> list[str]:
    notes = []
    if asked.without_provenance:
        notes.append(f"{asked.without_provenance:,} records have no provenance; their answer is empty.")
    if lacking:
        notes.append(f"{lacking:,} records have provenance that the memory lacks; they are answered without it.")
    return notes


def _check_writable(path: Path) -> None:
    """StorageError unless a file can be made where `path` is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-"):
            pass
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; choose another place") from error


def _settings(
    asked: QueryFile,
    memory: Memory,
    model: LoadedModel,
    generation: GenerationConfig,
    candidates: int,
    select: int,
    precision: str,
    brings: bool,
) -> dict[str, Any]:
    """What predictions depend on. Not the batch size: it may be lowered to go on after running out of memory."""
    return {
        "queries": asked.digest,
        "candidates_brought": brings,
        "memory": memory.manifest.identity_sha256,
        "version": memory.version,
        "content": memory.manifest.content_sha256,
        "encoder": model.fingerprint,
        **model.digests,
        "candidates": candidates,
        "select": select,
        "beams": generation.beams,
        "max_answer_tokens": generation.max_new_tokens,
        "length_penalty": generation.length_penalty,
        "grounded": generation.grounded,
        "precision": precision,
    }


def _write_report(
    page: Path, result: AnswerResult, tally: Tally, work: AnswerWork, memory: Memory, candidates_from: str
) -> None:
    asked, generation = work.queries, work.generation
    if work.brings:
        source = "the query file" if asked.with_candidates == asked.count else "the query file, else BM25"
    else:
        source = "BM25"
    if candidates_from == "provenance":
        source = "gold provenance"
    notes = list(result.notes)
    if result.resumed:
        notes.append(
            f"{result.resumed:,} of {result.queries:,} predictions were there already; time, scores and the sample are "
            "of the others."
        )
    data = ReportData(
        title=Path(asked.name).name,
        created=datetime.datetime.now().astimezone(),
        settings={
            "query file": f"{asked.name} ({asked.format})",
            "memory": f"{memory.directory}, version {memory.version}",
            "passages": f"{memory.passages:,}",
            "codec": memory.codec.name,
            "model": work.model,
            "candidates": f"{work.candidates}, from {source}",
            "selected": work.select,
            "decoding": "greedy" if generation.beams == 1 else f"{generation.beams} beams",
            "longest answer": f"{generation.max_new_tokens} tokens",
            "grounded": "yes" if generation.grounded else "no",
            "precision": work.precision,
            "queries in a batch": work.rows,
        },
        queries=result.answered,
        seconds=result.seconds,
        stages=list(result.stages.items()),
        retrieval_scores=tally.retrieval_scores if tally.retrieval_scores.all else None,
        rerank_scores=tally.rerank_scores if tally.rerank_scores.all else None,
        evaluation=evaluate_answers(asked, result.output),
        samples=[tally.samples[number] for number in sorted(tally.samples)],
        notes=notes,
    )
    temporary = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(render_report(data), encoding="utf-8")
        temporary.replace(page)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{page} cannot be written: {error.strerror}; the predictions are complete") from error
