"""The demo: real Wikipedia, real weights, every real part, in minutes on a laptop.

It encodes 10,033 Wikipedia lead sections with the lower layers of MiniLM, looks into the memory, verifies it, and
answers questions from it with the sample reader: written for this demo, none of them seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress, Quiet
from ..reader.formats.kilt import Record, gold_answers, read_guess
from ..reader.formats.metrics import exact_match
from ..reader.formats.queries import Query, open_queries
from ..reader.training.log import Scores
from ..storage.files import write_atomic
from ..storage.memory import Memory
from ..storage.paths import local_path
from ..storage.statistics import Inspection, inspect_memory
from ..storage.verify import VerifyReport
from .answer import AnswerResult, answer_file
from .answering.quality import AnswerQuality
from .demo_data import install_packages, missing_packages, write_corpus
from .encode import EncodeResult, encode
from .maintenance.verification import verify

MODEL = "sample"
CANDIDATES, SELECT = 40, 5
QUESTIONS = Path(__file__).parent / "demo_questions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One of the demo's questions: the reader's answer, the gold ones, the title of the best passage after re-ranking
    and whether the answer is right by KILT's exact match."""

    question: str
    answer: str
    gold: tuple[str, ...]
    title: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made and found.

    Attributes:
        encoded, inspection, report: of the memory.
        answered: the questions in their order.
        answers: of the answer job: predictions, HTML report, speed.
        quality: exact match, F1, recall@1 before and after re-ranking.
        candidates, select: passages read of each question, and of these for the decoder.
    """

    encoded: EncodeResult
    inspection: Inspection
    report: VerifyReport
    answered: list[Answered]
    answers: AnswerResult
    quality: Scores
    candidates: int = CANDIDATES
    select: int = SELECT


def prepare(*, progress: Progress | None = None) -> None:
    """Installs the two data packages where they are missing; UsageError if that fails."""
    progress = progress or Quiet()
    if missing := missing_packages():
        progress.say(f"installing {' and '.join(missing)} (data only, without their requirements)")
        install_packages()


def demo(*, directory: str | Path, progress: Progress | None = None) -> DemoResult:
    """Makes `directory`/corpus.jsonl and `directory`/memory, and answers the demo's questions anew.

    A second run finds the memory made. Raises whatever the jobs raise.
    """
    progress = progress or Quiet()
    prepare(progress=progress)
    root = local_path(directory)
    root.mkdir(parents=True, exist_ok=True)
    corpus, questions, predictions = root / "corpus.jsonl", root / "questions.jsonl", root / "predictions.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    write_atomic(questions, QUESTIONS.read_bytes())
    encoded = encode(sources=[str(corpus)], memory=root / "memory", model=MODEL, progress=progress)
    memory = Memory.open(root / "memory")
    report = verify(memory=memory.location, progress=progress)
    answers = answer_file(
        queries=questions,
        memory=memory.location,
        model=MODEL,
        output=predictions,
        retrieve=CANDIDATES,  # no late interaction, whatever the model says
        candidates=CANDIDATES,
        select=SELECT,
        max_answer_tokens=16,
        report=root / "report.html",
        restart=True,
        progress=progress,
    )
    asked = open_queries(questions)
    return DemoResult(
        encoded=encoded,
        inspection=inspect_memory(memory),
        report=report,
        answered=[_judged(query, guess) for query, guess in zip(asked, read_guess(predictions), strict=True)],
        answers=answers,
        quality=AnswerQuality(memory, asked)(predictions),
    )


def _judged(query: Query, guess: Record) -> Answered:
    first = guess.outputs[0]
    gold = gold_answers(query.outputs or ())
    said = first.answer or ""
    best = next(iter(first.provenance or ()), None)
    return Answered(
        question=query.question,
        answer=said,
        gold=tuple(gold),
        title=(best.title if best is not None else None) or "",
        right=exact_match(said, gold) > 0,
    )
