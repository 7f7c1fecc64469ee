"""The demo: real Wikipedia, real weights, every real part, in minutes on a laptop.

It encodes 10,033 Wikipedia lead sections with the lower layers of MiniLM, looks into the memory, verifies it, and looks
up passages for a few questions in the first-stage index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage.inspect import Inspection, inspect_memory
from ..storage.memory import Memory
from ..storage.passage import Passage
from ..storage.verify import VerifyReport, verify
from .demo_data import install_packages, missing_packages, write_corpus
from .encode import EncodeResult, encode
from .index import open_index
from .progress import Progress, Quiet

QUESTIONS = (
    "Who wrote the theory of general relativity?",
    "Which planet is the largest in the Solar System?",
    "What is the capital of Mongolia?",
    "When was the printing press invented?",
    "Which gas do plants take in for photosynthesis?",
)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made and found: `found` has the questions and their top passages, best first, with BM25 scores."""

    encoded: EncodeResult
    inspection: Inspection
    report: VerifyReport
    found: list[tuple[str, list[tuple[float, Passage]]]]


def prepare(*, progress: Progress | None = None) -> None:
    """Installs the two data packages where they are missing; UsageError if that fails."""
    progress = progress or Quiet()
    if missing := missing_packages():
        progress.say(f"installing {' and '.join(missing)} (data only, without their requirements)")
        install_packages()


def demo(
    *, directory: str | Path, questions: Sequence[str] = QUESTIONS, top: int = 3, progress: Progress | None = None
) -> DemoResult:
    """Makes `directory`/corpus.jsonl and `directory`/memory and asks `questions`; a second run finds the memory made.

    Raises whatever the jobs raise.
    """
    progress = progress or Quiet()
    prepare(progress=progress)
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    corpus = root / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    encoded = encode(sources=[str(corpus)], memory=root / "memory", model="minilm", progress=progress)
    memory = Memory.open(root / "memory")
    progress.stage("verify", total=None, unit="shards")
    report = verify(memory.directory, progress=lambda done, total: progress.at(done, total=total))
    progress.done()
    index = open_index(memory, progress=progress)
    found = []
    for question, hits in zip(questions, index.search(questions, top), strict=True):
        scores = [float(score) for score in hits.scores]
        found.append((question, list(zip(scores, memory.texts(hits.positions), strict=True))))
    return DemoResult(encoded=encoded, inspection=inspect_memory(memory), report=report, found=found)
