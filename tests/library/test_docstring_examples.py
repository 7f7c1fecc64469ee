"""The examples in the docstrings of the public names run, in the order of a first day, on a small memory."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import cbor2
import pytest

import glimmer

ORDER = (
    "encode", "open_memory", "Memory", "Memory.search", "Memory.vectors", "load_model", "save_model", "open_reader",
    "Reader", "Reader.answer", "Answer", "answer_file", "evaluate", "bench_codecs", "export", "verify",
    "refresh_dry_run", "refresh", "history", "diff", "compact", "vacuum", "repair", "make_tasks", "rollback",
    "estimate", "convert", "train", "outline_questions",
)  # fmt: skip
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
def test_the_examples_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    articles = corpus.read_text(encoding="utf-8")
    Path("corpus.jsonl").write_text(articles, encoding="utf-8")
    Path("changed.jsonl").write_text(articles.replace("It is set in Denmark.", "It is set at Elsinore."), "utf-8")
    asked = (("who painted the ceiling of the sistine chapel", "Michelangelo"), ("who wrote hamlet", "Shakespeare"))
    questions = [{"id": str(n), "input": q, "output": [{"answer": a}]} for n, (q, a) in enumerate(asked)]
    Path("questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in questions), "utf-8")
    outline = [0, "Ferns", b"enwiki:Ferns", [[0, "Uses", b"Uses", [[0, "Food", b"Food", []]]]]]
    Path("outlines.cbor").write_bytes(cbor2.dumps(outline))
    Path("hierarchical.qrels").write_text("enwiki:Ferns/Uses 0 p1 1\nenwiki:Ferns/Uses/Food 0 p2 1\n", "utf-8")
    known: dict[str, object] = {"glimmer": glimmer}
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for name in ORDER:
        value: object = glimmer
        for part in name.split("."):
            value = getattr(value, part)
        example = doctest.DocTestParser().get_doctest(value.__doc__ or "", dict(known), name, None, None)
        assert example.examples, name
        runner.run(example, out=failures.append, clear_globs=False)
        if name == "open_memory":
            known["memory"] = example.globs["memory"]
        if name == "Memory":
            known["best"] = example.globs["best"]
        if name == "open_reader":
            known["reader"] = example.globs["reader"]
    assert not failures, "".join(failures)


def test_every_function_has_an_example_that_is_run() -> None:
    functions = {name for name in glimmer.__all__ if name.islower() and not name.startswith("_")}
    assert functions <= set(ORDER)
