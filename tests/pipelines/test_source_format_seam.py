"""A source format is one file: registered by whoever imports it, or named by a package in an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import glimmer
from glimmer import UsageError
from glimmer.pipelines.corpus import Article, format_names, read_articles
from glimmer.pipelines.corpus.formats import format_registry, register_format, source_formats

FORMAT_FILE = Path(__file__).resolve().parents[1] / "support" / "haiku_format.py"
POEMS = "#haiku\nThe old pond\na frog leaps in\nwater's sound\n#haiku\nWinter\nsolitude\nin a world of one colour\n"


@pytest.fixture
def haiku(monkeypatch: pytest.MonkeyPatch) -> None:
    source_formats()  # the built-in ones, before the registry is replaced by a copy that the test may add to
    monkeypatch.setattr(format_registry, "_registered", dict(format_registry._registered))
    import haiku_format

    register_format(haiku_format.Haiku())


@pytest.mark.usefixtures("haiku")
def test_a_registered_format_is_told_from_content_and_encoded(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    source = tmp_path / "poems.txt"
    source.write_text(POEMS)
    articles = [article for article in read_articles([source]) if isinstance(article, Article)]
    assert [(article.title, article.paragraphs) for article in articles] == [
        ("The old pond", ["a frog leaps in", "water's sound"]),
        ("Winter", ["solitude", "in a world of one colour"]),
    ]
    assert next(iter(source_formats())) == "haiku"
    model = str(tiny_model(tmp_path / "model", memory_layers=1, live_a=1, live_b=1, window=32))
    made = glimmer.encode(sources=source, memory=tmp_path / "m", model=model)
    assert made.plan.articles == 2


@pytest.mark.usefixtures("haiku")
def test_a_name_is_registered_once() -> None:
    class Other:
        name = "haiku"

    with pytest.raises(UsageError, match="registered already"):
        register_format(Other())  # type: ignore[arg-type]


def test_the_built_in_formats_are_tried_from_the_most_particular_to_the_most_general() -> None:
    names = format_names()
    assert names == (
        *(
            "car",
            "kilt",
            "cirrus",
            "json",
            "parquet",
            "arrow",
            "wikiextractor",
            "dpr",
            "tsv",
            "msmarco-docs",
            "msmarco",
        ),
        *("wikipedia", "tfds"),
    )


def test_another_package_brings_a_format_by_an_entry_point_and_a_broken_one_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "poetry_corpora.py").write_text(FORMAT_FILE.read_text())
    information = tmp_path / "poetry_corpora-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: poetry-corpora\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[glimmer.source_formats]\nhaiku = poetry_corpora\nbroken = absent_module\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "glimmer", "encode", "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "haiku" in result.stdout
    assert "absent_module" not in result.stdout
