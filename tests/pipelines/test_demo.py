"""The demo: its questions are sound, and on a slice of its corpus the sample reader answers them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from glimmer import UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.demo import QUESTIONS
from glimmer.pipelines.demo_data import lead_sections_file, missing_packages
from glimmer.reader.formats.metrics import normalize_answer
from glimmer.reader.formats.queries import open_queries


@pytest.fixture(scope="module")
def leads() -> dict[str, str]:
    """Title -> lead section, of the demo's corpus."""
    if missing := missing_packages():
        pytest.skip(f"the demo's data is not installed: {', '.join(missing)}")
    try:
        entries = json.loads(lead_sections_file().read_text(encoding="utf-8"))
    except UsageError as error:
        pytest.skip(str(error))
    return {title: entry["extract"] for title, entry in entries.items()}


def test_every_question_has_an_answer_in_the_paragraph_it_names(leads: dict[str, str]) -> None:
    asked = list(open_queries(QUESTIONS))
    assert len(asked) >= 40
    assert len({query.question for query in asked}) == len({query.id for query in asked}) == len(asked)
    for query in asked:
        answers = [normalize_answer(output.answer) for output in query.outputs or () if output.answer]
        (page,) = [page for output in query.outputs or () for page in output.provenance or ()]
        assert page.wikipedia_id is not None
        assert page.start_paragraph_id is not None
        paragraph = leads[page.wikipedia_id].split("\n")[page.start_paragraph_id - 1]
        assert any(f" {answer} " in f" {normalize_answer(paragraph)} " for answer in answers), query.question


@pytest.mark.slow
def test_the_demo_encodes_answers_and_says_how_well(leads: dict[str, str], tmp_path: Path) -> None:
    """Of the corpus only the articles asked about and as many others, so that it takes a minute."""
    titles = {
        page.title
        for query in open_queries(QUESTIONS)
        for output in query.outputs or ()
        for page in output.provenance or ()
        if page.title is not None
    }
    others = [title for title in sorted(leads) if title not in titles][:: len(leads) // 60]
    place = tmp_path / "demo"
    place.mkdir()
    with (place / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for title in sorted({*titles, *others}):
            corpus.write(json.dumps({"id": title, "title": title, "text": leads[title]}) + "\n")
    result = CliRunner().invoke(glimmer, ["demo", "--directory", str(place)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (place / "report.html").is_file()
    lines = result.stdout.splitlines()
    asked = len(list(open_queries(QUESTIONS)))
    right = sum(line.startswith("✓") for line in lines)
    assert right + sum(line.startswith("✗") for line in lines) == asked
    assert f"exact match  {right / asked:.3f}" in result.stdout
    assert right >= asked // 4
