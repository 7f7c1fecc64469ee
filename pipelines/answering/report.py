"""The report of an answering job: one HTML page that needs nothing beside itself.

`glimmer answer --report` fills a `ReportData` while it works and writes `render_report`'s page at the end: settings,
throughput, seconds per stage, how scores are distributed before and after re-ranking, and a sample of queries with
their passages in both orders, the answer highlighted. Every piece of text is escaped, and the page forbids scripts
and outside addresses, so that a passage cannot do anything to its reader.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from string import Template

from ... import __version__
from ...reader.formats.evaluation import Evaluation
from ...reader.serving.quotes import answer_pattern
from ...storage.printable import printable
from .charts import ScoreSample, score_chart
from .risk_coverage import RiskCoverage, risk_coverage_section

SAMPLE_QUERIES = 25
"""Queries shown with their passages, unless asked otherwise."""

SHOWN_PASSAGES = 10
"""Passages shown of each ranking."""

_EXCERPT = 300  # characters of a passage shown at first
_METRICS = ("accuracy", "em", "f1", "rougel", "Rprec", "recall@5", "KILT-em", "KILT-f1")
_STAGE_COLOURS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPassage:
    """A candidate passage of a shown query.

    `retrieval_score` is the first stage's (None where the query file gave the passage), `rerank_score` the re-ranker's
    (None where there is none); `kept`: the decoder saw it; `gold`: it is on a page of the query's gold evidence.
    """

    passage_id: str
    title: str
    text: str
    retrieval_score: float | None = None
    rerank_score: float | None = None
    kept: bool = False
    gold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """A query to show.

    `gold` are its right answers (empty: unknown), `correct` whether the answer is one of them (None: unknown); `before`
    the candidates in first-stage order, `after` in the order of the re-ranker, best first (empty: not re-ranked).
    """

    id: str
    question: str
    answer: str
    gold: tuple[str, ...] = ()
    correct: bool | None = None
    before: tuple[ReportPassage, ...] = ()
    after: tuple[ReportPassage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        title: heading of the page, such as the query file's name.
        created: when the job ended.
        settings: name -> value as it should be read, in order.
        queries: queries answered by the job (by this run of it).
        seconds: wall time of answering them, start-up left out.
        stages: (stage, seconds spent in it), in the order of the pipeline. Stages overlap, so they may sum to more than
            `seconds`.
        retrieval_scores, rerank_scores: scores of all candidates and of those kept, sampled (None: nothing to show).
        evaluation: metrics over the queries with gold, where there are any.
        coverage: how right the more probable answers are, where that is known.
        samples: the queries to show, in order.
        notes: remarks such as warnings, one sentence each.
    """

    title: str
    created: datetime
    settings: Mapping[str, object]
    queries: int
    seconds: float
    stages: Sequence[tuple[str, float]] = ()
    retrieval_scores: ScoreSample | None = None
    rerank_scores: ScoreSample | None = None
    evaluation: Evaluation | None = None
    coverage: RiskCoverage | None = None
    samples: Sequence[ReportQuery] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def render_report(data: ReportData) -> str:
    """The report as one HTML document (UTF-8 text), without any outside resource or script."""
    sections = (
        _figures(data),
        _notes(data),
        _metrics(data),
        "" if data.coverage is None else risk_coverage_section(data.coverage),
        _stages(data),
        _scores(data),
        _settings(data),
        _queries(data),
    )
    templates = resources.files(__package__) / "templates"
    page = Template((templates / "report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=_escape(data.title),
        subtitle=f"{data.created:%Y-%m-%d %H:%M} · {_quantity(data.queries, 'query', 'queries')} answered",
        style=(templates / "report.css").read_text(encoding="utf-8"),
        body="\n".join(section for section in sections if section),
        footer=f"Made by Glimmer {_escape(__version__)}. Everything on this page is in this one file.",
    )


def _escape(value: object) -> str:
    return html.escape(printable(str(value)))


def _quantity(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"
    if value >= 60:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _figures(data: ReportData) -> str:
    figures = [("Queries", f"{data.queries:,}", ""), ("Wall time", _seconds(data.seconds), "")]
    if data.seconds > 0:
        figures.append(("Throughput", f"{data.queries / data.seconds:,.2f}", "queries/s"))
    if data.evaluation is not None:
        chosen = (("em", "Exact match"), ("f1", "F1"), ("Rprec", "R-precision"))
        figures += [
            (label, _percent(data.evaluation.metrics[name]), "%")
            for name, label in chosen
            if name in data.evaluation.metrics
        ]
    cells = "".join(
        f'<div class="figure"><dt>{_escape(label)}</dt><dd>{_escape(value)} <small>{_escape(unit)}</small></dd></div>'
        for label, value, unit in figures
    )
    return f'<section id="figures" class="figures" aria-label="Key figures"><dl>{cells}</dl></section>'


def _notes(data: ReportData) -> str:
    if not data.notes:
        return ""
    items = "".join(f"<li>{_escape(note)}</li>" for note in data.notes)
    return f'<section id="notes"><h2>Worth knowing</h2><ul>{items}</ul></section>'


def _metrics(data: ReportData) -> str:
    if data.evaluation is None:
        return ""
    columns = [name for name in _METRICS if name in data.evaluation.metrics]
    head = "".join(f'<th scope="col" class="number">{_escape(name)}</th>' for name in ("questions", *columns))
    rows = "".join(
        f'<tr><th scope="row">{_escape(task)}</th><td class="number">{count:,}</td>'
        + "".join(f'<td class="number">{_percent(value)}</td>' for value in values)
        + "</tr>"
        for task, count, values in data.evaluation.table(columns)
    )
    return (
        '<section id="metrics"><h2>Quality</h2><div class="scroll" tabindex="0" role="region" aria-label="Metrics">'
        f'<table><thead><tr><th scope="col">task</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">KILT metrics in percent. A KILT score counts an answer only where R-precision is 1.</p>'
        "</section>"
    )


def _stages(data: ReportData) -> str:
    total = sum(seconds for _, seconds in data.stages)
    if total <= 0:
        return ""
    bar = "".join(
        f'<span class="s{place % _STAGE_COLOURS}" style="flex:{seconds / total:.4f}" title="{_escape(name)}"></span>'
        for place, (name, seconds) in enumerate(data.stages)
        if seconds > 0
    )
    per_query = max(data.queries, 1)
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch s{place % _STAGE_COLOURS}"></span>{_escape(name)}</th>'
        f'<td class="number">{_seconds(seconds)}</td><td class="number">{_percent(seconds / total)}</td>'
        f'<td class="number">{1000 * seconds / per_query:.1f}</td></tr>'
        for place, (name, seconds) in enumerate(data.stages)
    )
    return (
        f'<section id="stages"><h2>Where the time went</h2><div class="bar" aria-hidden="true">{bar}</div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Seconds per stage"><table class="stages">'
        '<thead><tr><th scope="col">stage</th><th scope="col" class="number">time</th>'
        '<th scope="col" class="number">share, %</th>'
        f'<th scope="col" class="number">ms/query</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">Stages overlap where reading continues while the device computes, so that their sum may exceed'
        " the wall time.</p></section>"
    )


def _scores(data: ReportData) -> str:
    charts = [
        score_chart(sample, caption)
        for sample, caption in (
            (data.retrieval_scores, "Before re-ranking: first-stage scores"),
            (data.rerank_scores, "After re-ranking: re-ranker scores"),
        )
        if sample is not None and sample.all
    ]
    if not charts:
        return ""
    return (
        f'<section id="scores"><h2>Scores of the candidates</h2><div class="columns">{"".join(charts)}</div>'
        '<p class="note">Share of all candidates, and of those the re-ranker kept, that fall into each range of scores.'
        "</p></section>"
    )


def _settings(data: ReportData) -> str:
    items = "".join(
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>" for name, value in data.settings.items()
    )
    return f'<section id="settings"><h2>Settings</h2><dl class="settings">{items}</dl></section>' if items else ""


def _queries(data: ReportData) -> str:
    if not data.samples:
        return ""
    shown = "".join(_query(query, opened=place == 0) for place, query in enumerate(data.samples))
    count = _quantity(len(data.samples), "query", "queries")
    return (
        f'<section id="queries"><h2>Answers, looked at closely</h2><p class="note">A sample of {count}. Passages with a'
        f" coloured edge were given to the decoder; up to {SHOWN_PASSAGES} of each order are shown.</p>"
        f"{shown}</section>"
    )


def _query(query: ReportQuery, *, opened: bool) -> str:
    if query.correct is None:
        verdict = '<span class="verdict unknown">no gold</span>'
    elif query.correct:
        verdict = '<span class="verdict right">✓ right</span>'
    else:
        verdict = '<span class="verdict wrong">✗ wrong</span>'
    gold = f" · <span>gold:</span> {_escape(' / '.join(query.gold))}" if query.gold else ""
    answer = _escape(query.answer) if query.answer.strip() else "<i>(empty)</i>"
    ranks = {passage.passage_id: rank for rank, passage in enumerate(query.before, 1)}
    rankings = [_ranking("Before re-ranking", query.before, query.answer, "retrieval_score", {})]
    if query.after:
        rankings.append(_ranking("After re-ranking", query.after, query.answer, "rerank_score", ranks))
    return (
        f'<details class="query"{" open" if opened else ""}><summary><span class="question">{_escape(query.question)}'
        f'</span>{verdict}<span class="reply"><span>answer:</span> <b>{answer}</b>{gold}</span></summary>'
        f'<div class="rankings"><p class="note">id {_escape(query.id)}</p>'
        f'<div class="columns">{"".join(rankings)}</div></div></details>'
    )


def _ranking(heading: str, passages: Sequence[ReportPassage], answer: str, score: str, ranks: Mapping[str, int]) -> str:
    if not passages:
        return ""
    items = "".join(
        _passage(passage, rank, answer, getattr(passage, score), ranks.get(passage.passage_id))
        for rank, passage in enumerate(passages[:SHOWN_PASSAGES], 1)
    )
    rest = len(passages) - SHOWN_PASSAGES
    more = f'<p class="note">and {_quantity(rest, "more passage", "more passages")}</p>' if rest > 0 else ""
    return f'<div><h3>{heading}</h3><ol class="passages">{items}</ol>{more}</div>'


def _passage(passage: ReportPassage, rank: int, answer: str, score: float | None, before: int | None) -> str:
    move = ""
    if before is not None:
        if before > rank:
            move = f'<span class="move up" title="was {before}">▲ {before - rank}</span>'
        elif before < rank:
            move = f'<span class="move down" title="was {before}">▼ {rank - before}</span>'
        else:
            move = '<span class="move" title="same place">=</span>'
    evidence = '<span class="evidence" title="on a gold page">gold page</span>' if passage.gold else ""
    return (
        f'<li class="{"kept" if passage.kept else "left"}"><div class="passage-head"><span class="rank">{rank}</span>'
        f'<span class="passage-title">{_escape(passage.title)}</span>{evidence}{move}'
        f'<span class="score">{_number(score)}</span></div>'
        f"{_excerpt(passage.text, answer)}</li>"
    )


def _excerpt(text: str, answer: str) -> str:
    """The part of a passage around the answer, the whole of it behind a click."""
    pattern = answer_pattern(answer)
    found = pattern.search(text) if pattern else None
    if len(text) <= _EXCERPT + 40:
        return f'<p class="passage-text">{highlight(text, answer)}</p>'
    start = max(0, found.start() - _EXCERPT // 3) if found else 0
    if start and found:
        start = text.find(" ", start, found.start()) + 1 or start
    end = max(text.rfind(" ", start, start + _EXCERPT), found.end() if found else 0)
    end = end if end > start else start + _EXCERPT
    part = highlight(text[start:end], answer)
    return (
        f'<p class="passage-text">{"… " if start else ""}{part}{" …" if end < len(text) else ""}</p>'
        '<details class="whole"><summary>whole passage</summary>'
        f'<p class="passage-text">{highlight(text, answer)}</p></details>'
    )


def highlight(text: str, answer: str) -> str:
    """The text as HTML with every occurrence of the answer marked, whatever its case, spacing and punctuation.

    An answer without a word marks nothing; it matches whole words only.
    """
    pattern = answer_pattern(answer)
    return "".join(_marked(text, pattern.finditer(text))) if pattern else _escape(text)


def _marked(text: str, matches: Iterable[re.Match[str]]) -> Iterable[str]:
    end = 0
    for match in matches:
        yield _escape(text[end : match.start()])
        yield f"<mark>{_escape(match.group())}</mark>"
        end = match.end()
    yield _escape(text[end:])
