"""`glimmer.Reader`: a model and a memory that answer questions from Python, warm from one call to the next.

It answers with the engine of `glimmer answer` (`answerer`), so the same questions and options get the same answers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Self, overload

from ... import GlimmerError, UsageError
from ...encoders.builtin_models import BUILT_IN
from ...encoders.models import LoadedModel, load_model
from ...encoders.precision import PrecisionChoice, chosen_precision
from ...progress import Progress, Quiet
from ...storage.memory import Memory as MemorySnapshot
from ...storage.passage import Passage
from ...storage.stores import Place
from ..encoder_match import check_encoder
from ..formats.kilt import RecordError
from ..formats.queries import Candidate, LongQuestions, Query
from ..formats.query_fields import Fields
from ..formats.query_json import make_query
from ..formats.query_layout import Layout
from ..model import Params
from ..model import Reader as ReaderNetwork
from .answer_defaults import DEFAULT_ANSWER_TOKENS
from .answer_options import AnswerOptions
from .answerer import AnsweredQuery, Answerer, load_network
from .candidates import ProvidedPassages
from .device_stages import check_answers
from .quotes import Quote, find_quote
from .retrieval_index import check_passages
from .scored_passage import ScoredPassage
from .searchable_memory import Memory, open_memory

_KEPT: Final = 4
"""Sets of options whose compiled programs are kept."""

GivenPassages = Sequence[Passage | str]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """An answer and what it rests on; `str` gives its text.

    Attributes:
        question: the question as it was asked.
        text: the answer; "" where no passage was found, or the decoder wrote nothing.
        probability: what the decoder gives the whole answer, 0 to 1; None where nothing was decoded.
        passages: what the decoder read, best first, with scores.
        quote: the sentence that holds the answer, with its passage; None where the answer stands in none of `passages`.
        note: what is remarkable (a question that was shortened), None for most.

    Examples:
        >>> answer = reader.answer("who was the eiffel tower named after")
        >>> answer.text, answer.page.title
        ('Gustave Eiffel', 'Eiffel Tower')
        >>> print(answer.quote)
        It is named after **Gustave Eiffel**, whose company designed and built the tower from 1887 to 1889.
    """

    question: str
    text: str
    probability: float | None
    passages: tuple[ScoredPassage, ...]
    quote: Quote | None
    note: str | None

    @property
    def page(self) -> Passage | None:
        """The passage to point at: that of the quote, else the best one; None where none was read."""
        if self.quote is not None:
            return self.quote.passage
        return self.passages[0] if self.passages else None

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "question": self.question,
            "answer": self.text,
            "probability": self.probability,
            "quote": None if self.quote is None else self.quote.to_json(),
            "passages": [passage.to_json() for passage in self.passages],
            "note": self.note,
        }

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        page = "" if self.page is None else f", page={self.page.title!r}"
        return f"Answer({self.text!r}, question={self.question!r}{page}, passages={len(self.passages)})"


class Reader:
    """A reader with its weights on the device and a memory to answer from; `open_reader` makes one.

    Programs are compiled when their shape is first met, for fixed shapes to which questions and passages are padded, so
    that later calls compile nothing; they are also kept on disk between processes. Safe to use from several threads:
    calls are answered one after another. It holds device memory until it is closed or forgotten; as a context manager
    it is closed at the block's end.

    Examples:
        >>> with glimmer.open_reader("sample", "wiki.memory") as reader:
        ...     print(reader.answer("who painted the ceiling of the Sistine chapel"))
        Michelangelo
    """

    def __init__(
        self,
        model: LoadedModel,
        memory: Memory,
        *,
        precision: PrecisionChoice = "auto",
        batch_size: int | None = None,
    ) -> None:
        snapshot = memory.snapshot
        check_answers(model, grounded=False)
        check_encoder(model, snapshot.identity, snapshot.location)
        check_passages(snapshot)
        self._model, self._memory = model, memory
        self._precision, self._batch_size = chosen_precision(precision), batch_size
        self._described = f"<glimmer.Reader {model.path.name!r} over {memory!r}>"
        AnswerOptions.resolved(model, precision=self._precision, batch_size=batch_size)
        self._network: tuple[ReaderNetwork, Params] | None = load_network(model, self._precision)
        self._answerers: dict[AnswerOptions, Answerer] = {}
        self._lock = threading.Lock()

    @property
    def memory(self) -> Memory:
        """The memory that is answered from."""
        return self._memory

    @overload
    def answer(  # type: ignore[overload-overlap]
        self,
        questions: str,
        *,
        passages: GivenPassages | None = None,
        retrieve: int | None = None,
        candidates: int | None = None,
        select: int | None = None,
        beams: int = 1,
        grounded: bool | None = None,
        max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        length_penalty: float = 1.0,
        long_questions: LongQuestions = "auto",
    ) -> Answer: ...

    @overload
    def answer(
        self,
        questions: Sequence[str],
        *,
        passages: Sequence[GivenPassages] | None = None,
        retrieve: int | None = None,
        candidates: int | None = None,
        select: int | None = None,
        beams: int = 1,
        grounded: bool | None = None,
        max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        length_penalty: float = 1.0,
        long_questions: LongQuestions = "auto",
    ) -> list[Answer]: ...

    def answer(
        self,
        questions: str | Sequence[str],
        *,
        passages: GivenPassages | Sequence[GivenPassages] | None = None,
        retrieve: int | None = None,
        candidates: int | None = None,
        select: int | None = None,
        beams: int = 1,
        grounded: bool | None = None,
        max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        length_penalty: float = 1.0,
        long_questions: LongQuestions = "auto",
    ) -> Answer | list[Answer]:
        """Answers one question, or several in batches; as `glimmer.answer_file` does with equal options.

        Args:
            questions: a question, or a sequence of them.
            passages: answer from these instead of retrieving: passages of this memory or their ids, best first; for
                several questions a sequence of them for each. The first `retrieve` are looked at.
            retrieve: passages retrieved for each question. Where they are more than `candidates`, late interaction over
                the stored memory chooses. None is what the model's `config.json` says, else `candidates`.
            candidates: passages read of each question (m); None is what the model's `config.json` says, else 40. A
                reader that does not re-rank reads `select`.
            select: passages kept for the decoder (k); None is 10, or all candidates where they are fewer.
            beams: 1 is greedy decoding.
            grounded: allow only answers that occur verbatim in the passages; None does where the model's tokenizer
                loses upper case, so that answers are written as the passages have them.
            max_answer_tokens: longest answer, in tokens.
            length_penalty: of beam search; higher favours longer answers.
            long_questions: what is done with a question that the reader cannot take whole: "keep-end", "keep-start",
                "skip" (an empty answer), "fail", or "auto", which keeps the end of a dialogue, the surroundings of a
                marked mention, and the start of any other.

        Returns:
            An `Answer`, or a list of them in the order of the questions.

        Raises:
            UsageError: options that contradict each other, an empty question, or a reader that was closed.
            InputError: a question is too long, where `long_questions` is "fail".
            PassageNotFoundError: the memory has no passage of a given id.
            MismatchError: grounded answers from a model whose decoder has a vocabulary of its own.
            DamageError: a passage is not what was written.

        Examples:
            >>> reader.answer(["who wrote hamlet", "who painted guernica"], select=5)
            [Answer('William Shakespeare', ...), Answer('Pablo Picasso', ...)]
            >>> reader.answer("who wrote hamlet", passages=memory.search("hamlet", k=3)).text
            'William Shakespeare'
        """
        asked = [questions] if isinstance(questions, str) else list(questions)
        given: list[GivenPassages] | None = None
        if passages is not None:
            given = [passages] if isinstance(questions, str) else list(passages)  # type: ignore[list-item, arg-type]
            if len(given) != len(asked):
                raise UsageError(f"passages must be given for each of the {len(asked):,} questions, not {len(given):,}")
        options = AnswerOptions.resolved(
            self._model,
            retrieve=retrieve,
            candidates=candidates,
            select=select,
            beams=beams,
            max_answer_tokens=max_answer_tokens,
            length_penalty=length_penalty,
            grounded=grounded,
            precision=self._precision,
            batch_size=self._batch_size,
            long_questions=long_questions,
        )
        queries = [
            self._query(number, question, None if given is None else given[number], long_questions)
            for number, question in enumerate(asked)
        ]
        # Ids are all that given passages are known by, so nothing has to be looked for in the catalog.
        provided = None if given is None else ProvidedPassages(self._memory.snapshot, lambda: ())
        with self._lock:
            answerer = self._answerer(options)
            index = self._memory.first_stage() if given is None else None
            with closing(answerer.answer(queries, index=index, provided=provided)) as answered:
                answers = [_answer(asked[each.number], each) for each in answered]
        return answers[0] if isinstance(questions, str) else answers

    def _query(self, number: int, question: object, given: GivenPassages | None, rule: LongQuestions) -> Query:
        candidates = None
        if given is not None:
            ids = [each.passage_id if isinstance(each, Passage) else each for each in given]
            self._memory.positions(ids)
            candidates = tuple(Candidate(id=each) for each in ids)
        layout = Layout(format="text", fields=Fields(question=None), long_questions=rule)
        try:
            return make_query(layout, id=str(number), question=question, candidates=candidates)
        except RecordError as problem:
            raise UsageError(str(problem), where=f"question {number + 1}") from None

    def _answerer(self, options: AnswerOptions) -> Answerer:
        """The engine for `options`, with its compiled programs; those of the options used longest ago are let go."""
        if self._network is None:
            raise UsageError(f"{self!r}: open the reader again with glimmer.open_reader")
        answerer = self._answerers.pop(options, None)
        if answerer is None:
            answerer = Answerer(
                self._model,
                self._memory.snapshot,
                options,
                network=self._network,
                frequencies=self._memory.token_frequencies() if options.late_interaction else None,
            )
        self._answerers[options] = answerer
        while len(self._answerers) > _KEPT:
            del self._answerers[next(iter(self._answerers))]
        return answerer

    def __repr__(self) -> str:
        return self._described if self._network is not None else f"{self._described[:-1]} (closed)>"

    def close(self) -> None:
        """Lets go of weights and compiled programs. The memory stays open."""
        with self._lock:
            self._network = None
            self._answerers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_reader(
    model: str | os.PathLike[str] | None,
    memory: Memory | Place,
    *,
    precision: PrecisionChoice = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Reader:
    """Loads a reader to answer from a memory.

    Args:
        model: a model directory with a decoder, or a built-in name ("sample"); None takes the reader that goes with the
            memory's encoder, where one is known.
        memory: an open memory, or a memory's directory, whose newest version is opened then.
        precision: of matrix products, "bfloat16" or "float32"; accumulation is float32. "auto" is bfloat16 where this
            machine has instructions for it.
        batch_size: questions computed together; None suits the device. Another size changes rounding, nothing else.
        progress: called while a memory that is opened here builds its index, and while the model is loaded.

    Raises:
        UsageError: no such model or memory; a memory without passages; no reader is known for it.
        ModelError: the model cannot answer.
        MismatchError: the memory was made by another encoder than the model's lower layers.

    Examples:
        >>> memory = glimmer.open_memory("wiki.memory")
        >>> reader = glimmer.open_reader("sample", memory)
        >>> reader
        <glimmer.Reader 'sample...' over <glimmer.Memory '...wiki.memory', version 1: 7 passages, ...>>
    """
    progress = progress or Quiet()
    opened = memory if isinstance(memory, Memory) else open_memory(memory, progress=progress)
    progress.stage("load", total=1, unit="model")
    loaded = load_model(model) if model is not None else find_reader(opened.snapshot)
    reader = Reader(loaded, opened, precision=precision, batch_size=batch_size)
    progress.at(1)
    progress.done()
    return reader


def find_reader(memory: MemorySnapshot) -> LoadedModel:
    """The reader that goes with a memory's encoder: the model that made it if that has a decoder, else `sample`.

    Raises UsageError where neither fits.
    """
    encoder = memory.identity.encoder
    for name in dict.fromkeys((encoder.source, "sample")):
        try:
            model = load_model(name)
        except GlimmerError:
            if name == encoder.source and name in BUILT_IN:
                raise  # it fits, and the message says what to install
            continue
        if model.config.decoder is not None and model.fingerprint == encoder.fingerprint:
            return model
    raise UsageError(
        f"no reader is known for the encoder of this memory ({encoder.name})",
        where=str(memory.location),
        remedy="name a model directory with a decoder whose lower layers made the memory (--model)",
    )


def _answer(question: str, each: AnsweredQuery) -> Answer:
    passages = tuple(ScoredPassage.scored(each.passages, each.scores))
    return Answer(
        question=question,
        text=each.text,
        probability=each.probability,
        passages=passages,
        quote=find_quote(each.text, passages),
        note=each.note,
    )
