"""A real browser lays the report out at phone and desktop width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from glimmer.pipelines.answering.charts import ScoreSample
from glimmer.pipelines.answering.report import ReportData, ReportPassage, ReportQuery, render_report
from glimmer.reader.formats.evaluation import Evaluation

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found; install chromium to lay the report out")

# The page itself forbids scripts, so a frame around it at the wanted width does the measuring.
FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" style="border:0;width:{width}px;height:2000px"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const beyond = [...page.querySelectorAll("body *")].filter(
    (e) => !e.closest(".scroll") && e.getBoundingClientRect().right > {width} + 1);
  const seen = [...page.querySelectorAll("section")].filter((e) => e.getBoundingClientRect().height > 20);
  document.title = [root.scrollWidth, beyond.map((e) => e.className || e.tagName).join("+"),
    seen.map((e) => e.id).join("+")].join("|");
}};
frame.srcdoc = {page};
</script>"""


def page() -> str:
    scores = ScoreSample()
    scores.add([float(number % 37) for number in range(500)], [number % 4 == 0 for number in range(500)])
    passages = tuple(
        ReportPassage(
            passage_id=str(number),
            title="Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch " * (1 + number % 2),
            text=f"{'x' * 300} and then some ordinary words about the number {number}.",
            retrieval_score=1234567.891,
            rerank_score=-1234567.891,
            kept=number < 3,
            gold=True,
        )
        for number in range(12)
    )
    names = ("accuracy", "em", "f1", "rougel", "Rprec", "recall@5", "KILT-em", "KILT-f1")
    return render_report(
        ReportData(
            title="a-very-long-file-name-without-any-break-" * 3,
            created=datetime(2026, 1, 1),
            settings={"memory": "/a/very/long/path/" * 8, "a long name of a setting " * 2: 1},
            queries=1_234_567,
            seconds=98_765.0,
            stages=[("decompress", 40_000.0), ("live A", 20_000.0), ("decode", 30_000.0)],
            retrieval_scores=scores,
            rerank_scores=scores,
            evaluation=Evaluation(questions=9, metrics=dict.fromkeys(names, 1.0)),
            samples=[
                ReportQuery(id="q", question="q" * 200, answer="number", before=passages, after=passages[::-1]),
            ],
            notes=["One."],
        )
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_and_every_section_is_seen(tmp_path: Path, width: int) -> None:
    content = json.dumps(page()).replace("</", "<\\/")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=content), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
            "--window-size=1400,2200",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, "the browser did not run the measurement"
    scroll_width, beyond, seen = title.group(1).split("|")
    assert int(scroll_width) <= width
    assert beyond == ""
    assert seen.split("+") == ["figures", "notes", "metrics", "stages", "scores", "settings", "queries"]
