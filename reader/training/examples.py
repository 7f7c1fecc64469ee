"""From a task's file to training examples: tokens of question and answers, candidates, and whether they are any use.

Candidates are what a reader would be given, the best of the first stage, with the gold passages put in for the last of
them where they were not found (if so asked). A question none of whose candidates is gold or holds an answer teaches the
decoder to guess and the re-ranker nothing; relevance filtering drops such questions or lets them count less, and says
how many there were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...encoders.models import LoadedModel
from ...storage.memory import Memory
from ..formats.kilt import gold_answers
from ..formats.metrics import normalize_answer
from ..formats.queries import Candidate, Query, QueryFile
from ..serving.candidates import CandidateFinder, Found, ProvidedPassages

_AT_ONCE = 256  # questions tokenised, retrieved and checked together
_TEXTS_KEPT = 1 << 16  # candidates' normalised texts held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question to train on.

    Attributes:
        question: int32 [n], tokens as the question encoder reads them.
        answers: int32 [t] each, tokens with the decoder's end of answer; one is drawn each time.
        positions: int64 [c], its candidates in the memory, at least one.
        gold: bool [c], which of them are gold.
        retrieval: float32 [c], their scores of the first stage; those it did not find have the least that it gave.
        places: int32 [s, 2] for each answer: where it stands in gold passages, token for token, as (candidate, place of
            its first token).
        weight: how much it counts.
    """

    question: npt.NDArray[np.int32]
    answers: tuple[npt.NDArray[np.int32], ...]
    positions: npt.NDArray[np.int64]
    gold: npt.NDArray[np.bool_]
    retrieval: npt.NDArray[np.float32]
    places: tuple[npt.NDArray[np.int32], ...]
    weight: float


@dataclass(slots=True)
class TaskCounts:
    """What became of a task's questions; each of those not `used` is in exactly one of the other counts.

    `irrelevant` ones have candidates without gold passage or answer: they are left out, or, where they may count with
    less weight, among the `used` as well.
    """

    questions: int = 0
    used: int = 0
    irrelevant: int = 0
    without_answer: int = 0
    without_candidates: int = 0
    question_too_long: int = 0
    answers_too_long: int = 0

    def to_json(self) -> dict[str, Any]:
        """All counts by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """How examples are made.

    Attributes:
        candidates: passages of an example (m).
        passage_tokens: passages are read so far; 0 reads them whole. An answer beyond does not count as held.
        question_tokens, answer_tokens: the longest that are trained on, special tokens included.
        gold: put the gold passages among the candidates where retrieval missed them, at most half of them.
        irrelevant_weight: what questions without a relevant candidate count; 0 drops them.
        eos_id: the decoder's end of answer.
    """

    candidates: int
    passage_tokens: int
    question_tokens: int
    answer_tokens: int
    gold: bool
    irrelevant_weight: float
    eos_id: int


def gold_positions(memory: Memory, queries: QueryFile) -> Iterator[tuple[Query, list[int]]]:
    """Every query of a KILT file with the positions of its gold passages, in the order its provenance names them.

    Provenance that the memory does not have is passed over: the corpus may be a part of the knowledge source.
    """
    provided = ProvidedPassages(memory, lambda: map(_with_gold, queries.read()))
    for group in _groups(queries.read(), _AT_ONCE):
        for query, found in zip(group, provided.resolve([_with_gold(query) for query in group]), strict=True):
            yield query, list(dict.fromkeys(position for each in found for position in each))


def load_examples(
    queries: QueryFile, model: LoadedModel, memory: Memory, finder: CandidateFinder, settings: ExampleSettings
) -> tuple[list[Example], TaskCounts]:
    """The examples of one task file, in its order, and what was left out of it and why.

    Questions go through the model's question template as the file words them. `finder` gives `settings.candidates`
    candidates or fewer for each.
    """
    examples: list[Example] = []
    counts = TaskCounts()
    texts: dict[int, _Text] = {}  # of one group or more: questions over a small corpus share their candidates
    for group in _groups(gold_positions(memory, queries), _AT_ONCE):
        questions = [query for query, _ in group]
        tokens = model.question_tokens([query.question for query in questions])
        found = finder.find(questions)
        golden = [np.array(gold, np.int64) for _, gold in group]
        wanted = np.unique(np.concatenate([*(each.positions for each in found), *golden]))
        unseen = np.array([position for position in wanted.tolist() if position not in texts], np.int64)
        if len(texts) + len(unseen) > _TEXTS_KEPT:
            texts, unseen = {}, wanted
        texts |= zip(unseen.tolist(), _texts(memory, unseen, settings.passage_tokens), strict=True)
        for (query, gold), ids, each in zip(group, tokens, found, strict=True):
            counts.questions += 1
            answers = gold_answers(query.outputs or ())
            short = _answers(model, answers, settings)
            positions, relevant = each.positions.tolist(), False
            # A gold paragraph may lie in several passages, and evidence in many: those with the answer, if any.
            held = [position for position in gold if _holds_answer([position], texts, answers, short)]
            gold = held or gold
            if settings.gold:
                positions = _with_positions(positions, gold[: max(1, settings.candidates // 2)], settings.candidates)
            if not answers:
                counts.without_answer += 1
            elif not positions:
                counts.without_candidates += 1
            elif len(ids) > settings.question_tokens:
                counts.question_too_long += 1
            elif not short:
                counts.answers_too_long += 1
            else:
                relevant = bool(set(positions) & set(gold)) or _holds_answer(positions, texts, answers, short)
                counts.irrelevant += not relevant
                weight = 1.0 if relevant else settings.irrelevant_weight
                if weight > 0:
                    counts.used += 1
                    examples.append(
                        Example(
                            question=np.asarray(ids, np.int32),
                            answers=short,
                            positions=np.array(positions, np.int64),
                            gold=np.isin(positions, gold),
                            retrieval=_scores(each, positions),
                            places=tuple(_places(answer[:-1], positions, gold, texts) for answer in short),
                            weight=weight,
                        )
                    )
    return examples, counts


def _with_gold(query: Query) -> Query:
    pages = dict.fromkeys(
        (page.wikipedia_id, page.start_paragraph_id, page.end_paragraph_id)
        for output in query.outputs or ()
        for page in output.provenance or ()
        if page.wikipedia_id is not None
    )
    return replace(
        query,
        candidates=tuple(
            Candidate(wikipedia_id=page, start_paragraph_id=start, end_paragraph_id=end) for page, start, end in pages
        ),
    )


def _scores(found: Found, positions: Sequence[int]) -> npt.NDArray[np.float32]:
    if found.scores is None or not len(found.scores):
        return np.zeros(len(positions), np.float32)
    known = dict(zip(found.positions.tolist(), found.scores.tolist(), strict=True))
    least = min(known.values())
    return np.array([known.get(position, least) for position in positions], np.float32)


def _with_positions(found: list[int], gold: Sequence[int], most: int) -> list[int]:
    """Up to `most` of `found`, in order, with all of `gold`: what was not found takes the place of the last others."""
    missing = [position for position in gold if position not in found]
    others = [position for position in found if position not in gold]
    kept = set(gold) | set(others[: most - len(gold)])
    return [position for position in found if position in kept] + missing


def _answers(
    model: LoadedModel, answers: Sequence[str], settings: ExampleSettings
) -> tuple[npt.NDArray[np.int32], ...]:
    every = model.tokenizer.encode_plain(list(answers)) if answers else []
    return tuple(
        np.append(np.asarray(ids, np.int32), np.int32(settings.eos_id))
        for ids in every
        if 0 < len(ids) < settings.answer_tokens
    )


class _Text(NamedTuple):
    """A passage: its text normalised as KILT does, the tokens that are read, and whether those are all."""

    normal: str
    tokens: npt.NDArray[np.int32]
    whole: bool


def _texts(memory: Memory, positions: npt.NDArray[np.int64], most: int) -> list[_Text]:
    passages = memory.texts(positions) if len(positions) else []
    return [
        _Text(
            normalize_answer(passage.text),
            np.asarray(passage.tokens[: most or None], np.int32),
            not 0 < most < len(passage.tokens),
        )
        for passage in passages
    ]


def _holds_answer(
    positions: Sequence[int],
    texts: dict[int, _Text],
    answers: Sequence[str],
    encoded: Sequence[npt.NDArray[np.int32]],
) -> bool:
    """Whether an answer stands in a candidate: as whole words of its text, both normalised as KILT does, or, where it
    is not read to its end, token for token in what is read of it."""
    wanted = [f" {normal} " for answer in answers if (normal := normalize_answer(answer))]
    return any(
        any(answer in f" {text.normal} " for answer in wanted)
        if text.whole
        else any(len(_found(answer[:-1], text.tokens)) for answer in encoded)
        for text in (texts[position] for position in positions if position in texts)
    )


def _places(
    answer: npt.NDArray[np.int32], positions: Sequence[int], gold: Sequence[int], texts: dict[int, _Text]
) -> npt.NDArray[np.int32]:
    """Where the tokens of an answer stand in the gold ones of `positions`: int32 [s, 2], candidate and first token."""
    found = [
        (candidate, start)
        for candidate, position in enumerate(positions)
        if position in gold
        for start in _found(answer, texts[position].tokens).tolist()
    ]
    return np.array(found, np.int32).reshape(-1, 2)


def _found(answer: npt.NDArray[np.int32], tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Where `answer` begins in `tokens`."""
    if not 0 < len(answer) <= len(tokens):
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(answer))
    return np.flatnonzero((windows == answer).all(axis=1))


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
