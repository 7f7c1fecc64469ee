"""Real Wikipedia articles and questions about them: the committed excerpt, and the whole where it is at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


@dataclass(frozen=True)
class Wikipedia:
    """A KILT knowledge source, how many articles and paragraphs are in it, and questions with answers and pages."""

    directory: Path
    articles: int
    paragraphs: int

    @property
    def source(self) -> Path:
        return self.directory / "knowledgesource.jsonl.gz"

    @property
    def questions(self) -> Path:
        return self.directory / "nq-dev-kilt.jsonl"


EXCERPT = Wikipedia(FIXTURES / "wikipedia", 840, 894)
WHOLE = Wikipedia(
    Path(os.environ.get("GLIMMER_TEST_DATA", ROOT.parent / "shared" / "data")) / "wiki_small", 18_599, 19_312
)
