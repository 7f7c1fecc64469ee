"""The answering job: a query file and a memory in, KILT predictions out, in input order, continued after a crash.

`answer_file` checks everything before it begins: the whole query file, that memory and model belong together, that
every passage the file brings is there, that the output can be written. Then it answers in this process, or, with an
engine, as a Beam job over ranges of the file; both give the same bytes. What a prediction depends on is kept beside the
prediction file, so that only a run of the same kind continues it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from .. import UsageError
from ..encoders.builtin_models import name_for_others
from ..encoders.models import LoadedModel, load_model
from ..encoders.precision import PrecisionChoice
from ..progress import Progress, Quiet
from ..reader.encoder_match import check_encoder
from ..reader.formats.predictions import PredictionWriter
from ..reader.formats.queries import LongQuestions, QueryFile, open_queries
from ..reader.serving.analysis import DEFAULT_LANGUAGE
from ..reader.serving.answer_defaults import DEFAULT_ANSWER_TOKENS, DEFAULT_CANDIDATES
from ..reader.serving.answer_options import AnswerOptions
from ..reader.serving.candidates import ProvidedPassages
from ..reader.serving.question_batches import Shapes
from ..reader.serving.question_reader import LongCounts, QuestionReader
from ..reader.serving.retrieval_index import check_passages, index_language, open_index
from ..reader.serving.token_frequencies import open_token_frequencies
from ..storage import inputs, outputs
from ..storage.memory import Memory
from ..wording import counted
from .answering.job_report import RunFigures, write_report
from .answering.output import PredictionTarget, prediction_target
from .answering.query_range import AnswerWork, CandidatesFrom, RangeAnswerer
from .answering.range_graph import RANGE_QUERIES, answer_on_engine, discard_parts
from .answering.tally import FirstAnswer, Tally, first_answers, shown_numbers
from .engines import Engine
from .engines.seen_by_workers import memory_for_workers


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
        missing: queries with provenance that the memory does not have, of the whole file.
        without_candidates: queries that found no passage; their answer is empty. `empty`: other empty answers.
        seconds: wall seconds of answering, start-up and index building left out.
        stages: seconds by stage; stages overlap (see `answering.clock`).
        notes: remarks worth showing, a sentence each.
        first_answers: of the file, to show; empty where the output is a stream. Not part of the JSON.
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
    missing: int
    notes: tuple[str, ...] = ()
    first_answers: tuple[FirstAnswer, ...] = ()

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
            "provenance_not_in_memory": self.missing,
            "without_candidates": self.without_candidates,
            "empty_answers": self.empty,
            "seconds": self.seconds,
            "queries_per_second": self.queries_per_second,
            "stages": dict(self.stages),
            "notes": list(self.notes),
        }


def answer_file(
    *,
    queries: str | os.PathLike[str],
    memory: str | os.PathLike[str],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    retrieve: int | None = None,
    candidates: int | None = None,
    select: int | None = None,
    memory_version: int | None = None,
    beams: int = 1,
    batch_size: int | None = None,
    max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
    length_penalty: float = 1.0,
    grounded: bool | None = None,
    report: str | os.PathLike[str] | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    long_questions: LongQuestions = "auto",
    strict: bool = False,
    candidates_from: CandidatesFrom = "auto",
    precision: PrecisionChoice = "auto",
    no_answer_below: float = 0.0,
    restart: bool = False,
    engine: Engine | None = None,
    range_queries: int = RANGE_QUERIES,
    stdin: BinaryIO | None = None,
    progress: Progress | None = None,
) -> AnswerResult:
    """Answers every query of `queries` from a memory, or resumes an interrupted run of the same command.

    Args:
        queries: a query file of any format of `reader.queries.FORMATS`, compressed or not, or "-" for standard input.
        memory: the memory's directory.
        model: a model directory with a decoder, whose lower layers made the memory.
        output: the prediction file; predictions of the same queries and settings in it are kept.
        retrieve: passages retrieved for each query. Where they are more than `candidates`, late interaction over the
            stored memory chooses. None is what the model's `config.json` says, else `candidates`.
        candidates: passages read of each query (m); None is what the model's `config.json` says, else
            `DEFAULT_CANDIDATES`. A reader that does not re-rank reads `select` only.
        select: passages kept for the decoder (k); None is `DEFAULT_SELECT`, or all candidates where they are fewer.
        memory_version: the version to answer from; None is the newest.
        beams: 1 is greedy decoding.
        batch_size: queries in a batch; None suits the device. Other sizes change rounding, nothing else.
        max_answer_tokens, length_penalty: see `GenerationConfig`.
        grounded: allow only answers that occur verbatim in the passages; None does where the model's tokenizer loses
            upper case, so that answers are written as the passages have them.
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
        precision: of matrix products, "bfloat16" or "float32"; accumulation is float32. "auto" is bfloat16 where this
            machine has instructions for it.
        no_answer_below: answers to which the decoder gives a lower probability are left empty, with a note; the
            report's table tells which value answers how many questions how well.
        restart: answer everything anew.
        engine: runs the job as a Beam graph over ranges of the file; None answers in this process.
        range_queries: queries of a range.
        stdin: what "-" reads; None is standard input.
        progress: progress callback.

    Returns:
        What was done: counts, seconds by stage, the first answers.

    Raises, before any work:
        InputError: bad queries, or passages they bring that the memory lacks.
        UsageError: numbers that contradict each other, a version that does not exist.
        ModelError: the model cannot answer.
        MismatchError: a memory of another encoder, or an output of other settings.
        StorageError: the output cannot be written.

    Whatever ends the job later, predictions written stay and the same command resumes after them.

    Examples:
        >>> result = glimmer.answer_file(
        ...     queries="questions.jsonl", memory="wiki.memory", model="sample", output="predictions.jsonl"
        ... )
        >>> result.first_answers[0].answer
        'Michelangelo'
    """
    progress = progress or Quiet()
    if range_queries < 1:
        raise UsageError(f"a range has at least 1 query, not {range_queries}")
    if engine is not None and inputs.is_stream(queries):
        raise UsageError("a stream cannot be shared with Beam workers; save the queries to a file first")
    _check_outputs(output, report, queries=queries, memory=memory, model=model)

    loaded = load_model(model)
    options = AnswerOptions.resolved(
        loaded,
        retrieve=retrieve,
        candidates=candidates,
        select=select,
        beams=beams,
        max_answer_tokens=max_answer_tokens,
        length_penalty=length_penalty,
        grounded=grounded,
        precision=precision,
        batch_size=batch_size,
        long_questions=long_questions,
        no_answer_below=no_answer_below,
    )

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
    progress.say(asked.description)
    if engine is not None and asked.copied:
        raise UsageError(f"{asked.name} is compressed, and Beam workers need the plain file; unpack it first")
    opened = Memory.open(memory, memory_version)
    check_passages(opened)
    check_encoder(loaded, opened.identity, opened.location)
    notes = []
    if options.candidates < (candidates or DEFAULT_CANDIDATES) and not options.late_interaction:
        notes.append(f"This model does not re-rank, so it reads the first {options.select} candidates of each query.")
    long = QuestionReader(loaded, Shapes(loaded, opened.window).longest_question, long_questions).check(asked)
    if long:
        notes.append(f"Questions too long to be read whole: {long} (--long-questions {long_questions}).")
    uses_provided = candidates_from != "retrieval" and asked.with_candidates > 0
    provided = ProvidedPassages(opened, asked.read) if uses_provided else None
    missing = 0
    if provided is not None and candidates_from == "provenance" and not strict:
        missing = provided.missing(asked.read())
        notes += _provenance_notes(asked, missing)
    elif provided is not None:
        provided.check(asked.read(), asked.name)
    progress.done()
    retrieves = not (uses_provided and asked.with_candidates == asked.count)
    language = index_language(opened) if retrieves else DEFAULT_LANGUAGE

    work = AnswerWork(
        queries=asked,
        memory=memory_for_workers(opened.store, engine or Engine()),
        version=opened.version,
        model=name_for_others(loaded.path),
        options=options,
        provided=uses_provided,
        settings=(
            *_settings(asked, opened, loaded, options, uses_provided).items(),
            # A file without long questions is answered alike whatever the rule; the usual language goes without saying.
            *((("long_questions", long_questions),) if long else ()),
            *((("index_language", language),) if language != DEFAULT_LANGUAGE else ()),
        ),
        scores=report is not None,
    )
    with prediction_target(output) as target:
        resumed, seconds, tally = _answer_into(
            target, work, opened, loaded, provided, restart, engine, range_queries, progress
        )
        if tally.without_candidates:
            notes.append(f"{counted(tally.without_candidates, 'query')} found no passage and got an empty answer.")
        first = () if target.stream is not None else first_answers(asked, target.path)
        if report is not None:
            write_report(
                report,
                figures=RunFigures(
                    answered=asked.count - resumed, resumed=resumed, seconds=seconds, stages=tally.seconds, notes=notes
                ),
                tally=tally,
                work=work,
                memory=opened,
                predictions=target.path,
                candidates_from=candidates_from,
            )
    return AnswerResult(
        output=Path(output),
        report=None if report is None else Path(report),
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
        missing=missing,
        notes=tuple(notes),
        first_answers=first,
    )


def _answer_into(
    target: PredictionTarget,
    work: AnswerWork,
    memory: Memory,
    model: LoadedModel,
    provided: ProvidedPassages | None,
    restart: bool,
    engine: Engine | None,
    range_queries: int,
    progress: Progress,
) -> tuple[int, float, Tally]:
    """Writes the predictions that `target` lacks; returns how many were there, seconds of answering, and the tally."""
    asked = work.queries
    ids = (query.id for query in asked)
    settings = dict(work.settings)
    with PredictionWriter(target.path, ids, settings=settings, restart=restart, copy_to=target.stream) as writer:
        resumed = writer.completed
        if restart or resumed == asked.count:
            discard_parts(work, target.path)
        if work.scores:
            work = replace(work, shown=shown_numbers(resumed, asked.count))
        if resumed == asked.count:
            return resumed, 0.0, Tally()
        if resumed:
            progress.say(f"resuming after {resumed:,} of {asked.count:,} predictions in {target.path}")
        if work.retrieves:
            open_index(memory, progress=progress)  # built here, once, whoever needs it then
        if work.options.late_interaction:
            open_token_frequencies(memory, progress=progress)
        answerer = RangeAnswerer(work, memory=memory, model=model, provided=provided) if engine is None else None
        progress.stage("answer", total=asked.count, unit="queries", start=resumed)
        begun = time.perf_counter()
        if answerer is not None:
            tally = answerer.answer(writer, 0, asked.count, on_written=lambda written: progress.at(resumed + written))
        else:
            assert engine is not None
            tally = answer_on_engine(
                work,
                output=target.path,
                first=resumed,
                engine=engine,
                progress=progress,
                range_queries=range_queries,
            )
            target.copy_all()
        seconds = time.perf_counter() - begun
        progress.done()
    return resumed, seconds, tally


def _check_outputs(
    output: str | os.PathLike[str],
    report: str | os.PathLike[str] | None,
    *,
    queries: str | os.PathLike[str],
    memory: str | os.PathLike[str],
    model: str | os.PathLike[str],
) -> None:
    """Refuses outputs that would destroy what the job reads, or each other."""
    others = {"the query file": queries, "the memory": memory, "the model": model if Path(model).is_dir() else None}
    outputs.check_output(output, "--output", others)
    if report is not None:
        others |= {"--output": output}
        if not outputs.is_stream(output):
            others |= {"the settings of --output": f"{os.fspath(output)}.settings.json"}
        outputs.check_output(report, "--report", others)


def _provenance_notes(asked: QueryFile, missing: int) -> list[str]:
    notes = []
    if asked.without_provenance:
        notes.append(f"{counted(asked.without_provenance, 'record')} without provenance, answered emptily.")
    if missing:
        notes.append(f"{counted(missing, 'record')} with provenance that the memory lacks, answered without it.")
    return notes


def _settings(
    asked: QueryFile, memory: Memory, model: LoadedModel, options: AnswerOptions, uses_provided: bool
) -> dict[str, Any]:
    """What predictions depend on."""
    return {
        "queries": asked.digest,
        "candidates_brought": uses_provided,
        "memory": memory.manifest.identity_sha256,
        "version": memory.version,
        "content": memory.manifest.content_sha256,
        "encoder": model.fingerprint,
        **model.digests,
        **options.settings(),
    }
