"""The report is one page that shows everything and trusts nothing it shows."""

from __future__ import annotations

import re
from datetime import datetime
from html.parser import HTMLParser

import pytest

from glimmer.pipelines.answering.charts import SAMPLE_SIZE, ScoreSample, score_chart
from glimmer.pipelines.answering.report import (
    SHOWN_PASSAGES,
    ReportData,
    ReportPassage,
    ReportQuery,
    highlight,
    render_report,
)
from glimmer.reader.formats.evaluation import Evaluation, TaskScores

ATTACK = "\"><script>alert(1)</script><img src=x onerror=alert(2)>' onmouseover='x\ud800\x00"


class Page(HTMLParser):
    """Elements met, text, and whether tags close as they open."""

    VOID = frozenset({"meta", "line", "rect", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def passage(name: str, **more: object) -> ReportPassage:
    return ReportPassage(passage_id=name, title=f"Title {name}", text=f"Text of {name}, by Ada Lovelace.", **more)  # type: ignore[arg-type]


def report(text: str = "harmless") -> ReportData:
    retrieval, rerank = ScoreSample(), ScoreSample()
    retrieval.add([1.0, 2.0, 30.0], [False, True, True])
    rerank.add([-1.0, 0.5], [False, True])
    passages = (
        passage("a", retrieval_score=3.0, rerank_score=-1.5),
        passage("b", retrieval_score=2.0, rerank_score=4.25, kept=True, gold=True),
    )
    hostile = ReportPassage(passage_id=text, title=text, text=text, retrieval_score=1.0)
    metrics = {"em": 0.25, "f1": 0.5, "KILT-em": 0.125}
    return ReportData(
        title=text,
        created=datetime(2026, 5, 4, 3, 2),
        settings={"model": text, text: 10},
        queries=120,
        seconds=60.0,
        stages=[("retrieve", 1.0), (text, 30.0), ("decode", 0.0)],
        retrieval_scores=retrieval,
        rerank_scores=rerank,
        evaluation=Evaluation(questions=4, metrics=metrics, tasks={text: TaskScores(questions=4, metrics=metrics)}),
        samples=[
            ReportQuery(
                id="q1",
                question="Who?",
                answer="ada lovelace",
                gold=("Ada Lovelace",),
                correct=True,
                before=passages,
                after=passages[::-1],
            ),
            ReportQuery(id=text, question=text, answer=text, gold=(text,), correct=False, before=(hostile,)),
            ReportQuery(id="q3", question="What?", answer=" "),
        ],
        notes=[text],
    )


def test_it_has_every_part() -> None:
    page = Page(render_report(report()))
    assert page.ids() == ["figures", "notes", "metrics", "stages", "scores", "settings", "queries"]
    for part in ("120", "1 min 00 s", "2.00", "queries/s", "KILT-em", "12.5", "Before re-ranking", "After re-ranking"):
        assert part in page.text
    for part in ("✓ right", "✗ wrong", "no gold", "(empty)", "▲ 1", "▼ 1", "gold page", "4.25", "−1.50"):
        assert part in page.text


def test_it_needs_nothing_from_outside() -> None:
    page = Page(render_report(report()))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in page.elements)
    assert "url(" not in render_report(report())
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.elements)


def test_nothing_shown_becomes_markup() -> None:
    harmless, hostile = Page(render_report(report())), Page(render_report(report(ATTACK)))
    assert "alert(1)" in hostile.text
    assert [tag for tag, _ in hostile.elements if tag != "mark"] == [
        tag for tag, _ in harmless.elements if tag != "mark"
    ]
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert render_report(report(ATTACK)).encode("utf-8"), "what UTF-8 cannot hold is replaced"


def test_a_title_with_template_signs_is_left_as_it_is() -> None:
    assert "$style ${body} $5" in Page(render_report(report("$style ${body} $5"))).text


def test_a_bare_job_has_a_report() -> None:
    data = ReportData(title="t", created=datetime(2026, 1, 1), settings={}, queries=0, seconds=0.0)
    assert Page(render_report(data)).ids() == ["figures"]


def test_long_rankings_are_cut_and_say_so() -> None:
    many = tuple(passage(str(number)) for number in range(SHOWN_PASSAGES + 3))
    data = report()
    sample = ReportQuery(id="q", question="?", answer="", before=many)
    page = Page(render_report(ReportData(**{**data.__dict__, "samples": [sample]})))
    assert "and 3 more passages" in page.text
    assert f"Title {SHOWN_PASSAGES}" not in page.text


@pytest.mark.parametrize(
    ("text", "answer", "marked"),
    [
        ("By Ada Lovelace.", "ada lovelace", ["Ada Lovelace"]),
        ("By Ada\n Lovelace, ADA-LOVELACE", "Ada  Lovelace!", ["Ada\n Lovelace", "ADA-LOVELACE"]),
        ("art, party", "art", ["art"]),
        ("<b>1 < 2</b>", "1 < 2", ["1 &lt; 2"]),
        ("anything", "", []),
        ("anything", "?!", []),
        ("a+b (c", "(c", ["c"]),
    ],
)
def test_the_answer_is_highlighted_whatever_its_case_and_signs(text: str, answer: str, marked: list[str]) -> None:
    shown = highlight(text, answer)
    assert re.findall(r"<mark>(.*?)</mark>", shown, re.DOTALL) == marked
    assert "<b>" not in shown


def test_a_long_passage_shows_the_part_with_the_answer() -> None:
    text = "early words " * 100 + "the answer is Ada Lovelace indeed " + "late words " * 100
    sample = ReportQuery(
        id="q", question="?", answer="Ada Lovelace", before=(ReportPassage(passage_id="p", title="T", text=text),)
    )
    shown = render_report(ReportData(**{**report().__dict__, "samples": [sample]}))
    excerpt = re.search(r'<p class="passage-text">(.*?)</p>', shown, re.DOTALL)
    assert excerpt is not None
    assert "<mark>Ada Lovelace</mark>" in excerpt.group(1)
    assert len(excerpt.group(1)) < 400
    assert "whole passage" in shown


def test_score_samples_stay_small_and_even() -> None:
    sample = ScoreSample()
    sample.add((float(n) for n in range(100_000)), (True for _ in range(100_000)))
    sample.add([float("nan"), float("inf")], [True, True])
    assert len(sample.all) == len(sample.kept) == SAMPLE_SIZE
    assert sum(sample.all) / SAMPLE_SIZE == pytest.approx(50_000, rel=0.02)


def test_charts_survive_equal_scores_and_none_kept() -> None:
    sample = ScoreSample()
    sample.add([2.0, 2.0], [False, False])
    chart = score_chart(sample, "A <chart>")
    assert "A &lt;chart&gt;" in chart
    assert "kept" not in chart
    assert "nan" not in chart.lower()
