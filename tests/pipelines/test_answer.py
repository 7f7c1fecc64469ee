"""`glimmer answer` as a job: KILT predictions in input order, the same whatever surrounds a query, continued if cut."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimmer import MismatchError
from glimmer.pipelines.answer import AnswerResult, answer_file
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
from glimmer.reader.formats.kilt import read_guess
from glimmer.reader.formats.queries import open_queries
from glimmer.reader.serving import device_stages as stages
from glimmer.reader.serving.candidates import CandidateFinder
from glimmer.reader.serving.clock import STAGES
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.memory import Memory

QUESTIONS = 14
SMALL = {"candidates": 12, "select": 4, "batch_size": 4, "max_answer_tokens": 6}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    """A directory with a corpus, a GLIMMER reader, the memory of both, and questions."""
    home = tmp_path_factory.mktemp("answer")
    model = tiny_model(home / "glimmer", memory_layers=2, live_a=1, live_b=1, window=48)
    encode(
        sources=[str(tiny_corpus(home / "corpus.jsonl", 60))],
        memory=home / "memory",
        model=str(model),
        passage_words=16,
    )
    tiny_questions(home / "questions.jsonl", QUESTIONS)
    return home


def run(world: Path, output: Path, **changes: Any) -> AnswerResult:
    settings = {"queries": world / "questions.jsonl", "memory": world / "memory", "model": world / "glimmer", **SMALL}
    return answer_file(**{**settings, "output": output, **changes})


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The predictions of one uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    run(world, output)
    return output


def lines(path: Path) -> dict[str, bytes]:
    return {json.loads(line)["id"]: line for line in path.read_bytes().splitlines()}


def squeezed(text: str) -> str:
    return "".join(text.lower().split())


def test_predictions_are_kilts_in_input_order_with_the_best_passage_first(world: Path, whole: Path) -> None:
    records = read_guess(whole)
    assert [record.id for record in records] == [f"q{n}" for n in range(QUESTIONS)]
    memory = Memory.open(world / "memory")
    for record in records:
        (output,) = record.outputs
        assert output.answer
        assert output.provenance is not None
        assert len(output.provenance) == SMALL["select"]
        scores = [page.score for page in output.provenance]
        assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
        positions = memory.locate([page.passage_id or "" for page in output.provenance])
        for page, passage in zip(output.provenance, memory.texts(positions), strict=True):
            assert (page.wikipedia_id, page.title, page.text) == (passage.article_id, passage.title, passage.text)
            assert page.start_paragraph_id == passage.start_paragraph_id
            assert page.end_paragraph_id == passage.end_paragraph_id
    assert len({record.outputs[0].answer for record in records}) > 1, "weights must tell questions apart"


def test_every_stage_is_timed(world: Path, tmp_path: Path) -> None:
    result = run(world, tmp_path / "out.jsonl")
    assert set(STAGES) <= set(result.stages)
    assert all(result.stages[stage] > 0 for stage in STAGES)
    assert result.answered == result.queries == QUESTIONS
    assert result.queries_per_second > 0


def test_order_and_neighbours_change_no_answer(world: Path, whole: Path, tmp_path: Path) -> None:
    """Every prediction is the same to the byte in another order, in other company, and alone in its batch."""
    expected = lines(whole)
    questions = (world / "questions.jsonl").read_text().splitlines()
    for seed, count in ((1, QUESTIONS), (2, 5), (3, 1)):
        chosen = random.Random(seed).sample(questions, count)
        (tmp_path / f"{seed}.jsonl").write_text("\n".join(chosen))
        run(world, tmp_path / f"{seed}.out", queries=tmp_path / f"{seed}.jsonl")
        assert lines(tmp_path / f"{seed}.out") == {json.loads(q)["id"]: expected[json.loads(q)["id"]] for q in chosen}


def test_batch_size_changes_rounding_only(world: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 3):
        run(world, tmp_path / f"{size}", batch_size=size, precision="float32")
        found.append(read_guess(tmp_path / f"{size}"))
    for one, other in zip(*found, strict=True):
        assert one.outputs[0].answer == other.outputs[0].answer
        for a, b in zip(one.outputs[0].provenance or (), other.outputs[0].provenance or (), strict=True):
            assert a.passage_id == b.passage_id
            assert a.score == pytest.approx(b.score, abs=1e-5)


def test_however_the_live_encoders_work_is_cut_the_answers_agree(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerators take whole batches in one call, CPUs a question and a few candidates, the longest first and no wider
    than they are: only rounding may differ."""
    found = []
    for number, cut in enumerate([(4, 12), (2, 5), (1, 5)]):
        monkeypatch.setattr(stages, "_split", lambda *_, cut=cut: cut)
        run(world, tmp_path / str(number), precision="float32", max_answer_tokens=3)
        found.append(read_guess(tmp_path / str(number)))
    for records in zip(*found, strict=True):
        assert len({record.outputs[0].answer for record in records}) == 1
        assert len({tuple(p.passage_id for p in record.outputs[0].provenance or ()) for record in records}) == 1


def test_the_kept_passages_are_those_that_sorting_all_gives(world: Path, whole: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "all", select=SMALL["candidates"])
    for few, every in zip(read_guess(whole), read_guess(tmp_path / "all"), strict=True):
        kept = [page.passage_id for page in few.outputs[0].provenance or ()]
        ranked = sorted(every.outputs[0].provenance or (), key=lambda page: -(page.score or 0.0))
        assert kept == [page.passage_id for page in ranked[: len(kept)]]


def test_the_first_stages_scores_count_as_the_model_says(
    world: Path, whole: Path, tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so much weight that nothing else matters, BM25's order stands; passages that queries bring have no score."""
    monkeypatch.setattr(stages, "_split", lambda *_: (2, 5))  # calls that do not divide the candidates
    model = tiny_model(tmp_path / "m", memory_layers=2, live_a=1, live_b=1, window=48, retrieval_weight=1e5)
    run(world, tmp_path / "all", model=model, select=SMALL["candidates"], precision="float32")
    memory = Memory.open(world / "memory")
    finder = CandidateFinder(limit=SMALL["candidates"], index=open_index(memory), provided=None)
    for query, record in zip(open_queries(world / "questions.jsonl").read(), read_guess(tmp_path / "all"), strict=True):
        (found,) = finder.find([query])
        named = memory.locate([page.passage_id or "" for page in record.outputs[0].provenance or ()])
        scores = dict(zip(found.positions.tolist(), (found.scores if found.scores is not None else ()), strict=True))
        assert [scores[position] for position in named.tolist()] == sorted(scores.values(), reverse=True)
    questions = (world / "questions.jsonl").read_bytes().splitlines()
    answered = [json.loads(line)["output"] for line in lines(whole).values()]
    bringing = [json.loads(asked) | {"output": output} for asked, output in zip(questions, answered, strict=True)]
    (tmp_path / "bringing.jsonl").write_text("\n".join(map(json.dumps, bringing)))
    run(world, tmp_path / "a", queries=tmp_path / "bringing.jsonl", candidates_from="provenance", model=model)
    run(world, tmp_path / "b", queries=tmp_path / "bringing.jsonl", candidates_from="provenance")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("name", "layers", "scored"),
    [
        ("lumen", {"memory_layers": 2, "live_a": 0, "live_b": 2}, False),
        ("own re-ranker", {"memory_layers": 2, "live_a": 0, "live_b": 2, "reranker_layers": 1}, True),
    ],
)
def test_the_whole_family_answers_from_the_same_memory(
    world: Path, tmp_path: Path, tiny_model: Callable[..., Path], name: str, layers: dict[str, int], scored: bool
) -> None:
    model = tiny_model(tmp_path / "m", window=48, **layers)
    result = run(world, tmp_path / "out", model=model)
    assert bool(result.notes) != scored  # a reader that does not re-rank says that it reads the first k only
    for record in read_guess(tmp_path / "out"):
        assert len(record.outputs[0].provenance or ()) == SMALL["select"]


def test_fusion_in_decoder_reads_a_memory_of_embeddings(
    world: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model(tmp_path / "fid", memory_layers=0, live_a=0, live_b=4, window=48, family="t5")
    encode(sources=[str(world / "corpus.jsonl")], memory=tmp_path / "mem", model=str(model), passage_words=16)
    result = run(world, tmp_path / "out", model=model, memory=tmp_path / "mem")
    assert result.answered == QUESTIONS


def test_a_reader_that_copies_knows_what_stands_in_the_passages_it_kept(
    world: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """Grounded or not, in any company: the tokens it may copy are those of its own passages."""
    model = tiny_model(tmp_path / "m", memory_layers=2, live_a=1, live_b=1, window=48, copy_width=8)
    for grounded in (False, True):
        run(world, tmp_path / f"{grounded}", model=model, grounded=grounded)
        expected = lines(tmp_path / f"{grounded}")
        questions = (world / "questions.jsonl").read_text().splitlines()
        (tmp_path / "few.jsonl").write_text("\n".join(questions[9:4:-1]))
        run(world, tmp_path / f"few-{grounded}", model=model, grounded=grounded, queries=tmp_path / "few.jsonl")
        few = lines(tmp_path / f"few-{grounded}")
        assert few == {name: expected[name] for name in few}
    for record in read_guess(tmp_path / "True"):
        (output,) = record.outputs
        assert output.answer
        # Word for word and letter for letter, upper case and spaces included.
        assert any(output.answer in f"{page.title}: {page.text}" for page in output.provenance or ())


def test_a_query_that_finds_nothing_gets_an_empty_answer(world: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("kalo mishami?\nqqqq xyzzy\nterlo\n")
    result = run(world, tmp_path / "out", queries=tmp_path / "q.txt")
    outputs = [record.outputs[0] for record in read_guess(tmp_path / "out")]
    assert outputs[1].answer == ""
    assert outputs[1].provenance == ()
    assert outputs[0].provenance
    assert result.without_candidates == 1
    assert any("found no passage" in note for note in result.notes)


def test_fewer_candidates_than_selected_are_all_there_is(world: Path, whole: Path, tmp_path: Path) -> None:
    page = read_guess(whole)[0].outputs[0].provenance
    assert page is not None
    record = {"id": "a", "input": "kalo?", "passage_ids": [page[0].passage_id, page[1].passage_id]}
    (tmp_path / "q.jsonl").write_text(json.dumps(record))
    run(world, tmp_path / "out", queries=tmp_path / "q.jsonl")
    (answered,) = read_guess(tmp_path / "out")
    assert {p.passage_id for p in answered.outputs[0].provenance or ()} == {page[0].passage_id, page[1].passage_id}


def test_standard_input_is_a_query_file(world: Path, whole: Path, tmp_path: Path) -> None:
    content = io.BytesIO((world / "questions.jsonl").read_bytes())
    run(world, tmp_path / "out", queries="-", stdin=content)
    assert (tmp_path / "out").read_bytes() == whole.read_bytes()


def test_beam_search_runs(world: Path, whole: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "out", beams=3)
    assert len(read_guess(tmp_path / "out")) == QUESTIONS


def test_grounded_answers_stand_in_the_selected_passages(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "out", grounded=True)
    for record in read_guess(tmp_path / "out"):
        # Without spaces: an answer may be cut inside a word, where no spelling gives its tokens back.
        shown = squeezed(record.outputs[0].answer or "").lstrip("#")
        assert shown
        assert any(shown in squeezed(f"{page.title}: {page.text}") for page in record.outputs[0].provenance or ())


# Going on after a crash.


@pytest.mark.parametrize("torn", [b"", b'{"id":"q7","outp'])
def test_a_second_run_goes_on_after_the_last_complete_line(
    world: Path, whole: Path, tmp_path: Path, torn: bytes
) -> None:
    output = tmp_path / "out.jsonl"
    run(world, output)
    kept = b"".join(output.read_bytes().splitlines(keepends=True)[:7])
    output.write_bytes(kept + torn)
    result = run(world, output)
    assert (result.resumed, result.answered) == (7, QUESTIONS - 7)
    assert output.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_left_alone(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(world, output)
    before = output.read_bytes()
    result = run(world, output)
    assert (result.resumed, result.answered) == (QUESTIONS, 0)
    assert result.stages == {}
    assert output.read_bytes() == before


def test_predictions_of_other_settings_are_not_continued(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "out")
    with pytest.raises(MismatchError, match="other settings \\(select"):
        run(world, tmp_path / "out", select=3)
    result = run(world, tmp_path / "out", select=3, restart=True)
    assert result.answered == QUESTIONS


def test_a_smaller_batch_may_continue(world: Path, whole: Path, tmp_path: Path) -> None:
    """Running out of memory must not cost what was answered."""
    output = tmp_path / "out"
    run(world, output)
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:7]))
    assert run(world, output, batch_size=2).resumed == 7


# As a Beam job.


def test_ranges_answered_by_beam_give_the_same_bytes(world: Path, whole: Path, tmp_path: Path) -> None:
    result = run(world, tmp_path / "out", engine=Engine(), range_queries=5, report=tmp_path / "r.html")
    assert (tmp_path / "out").read_bytes() == whole.read_bytes()
    assert result.answered == QUESTIONS
    assert result.stages["live A"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.settings.json", "r.html"]
    page = (tmp_path / "r.html").read_text()
    assert page.count('<details class="query"') == QUESTIONS


def test_beam_goes_on_with_what_the_plain_job_began(world: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(world, output)
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:3]))
    result = run(world, output, engine=Engine(), range_queries=5)
    assert result.resumed == 3
    assert output.read_bytes() == whole.read_bytes()


# The report.


def test_the_report_shows_gold_quality_and_both_orders(world: Path, whole: Path, tmp_path: Path) -> None:
    first, second = read_guess(whole)[:2]
    page = (first.outputs[0].provenance or ())[0]
    gold = [
        {
            "id": "right",
            "input": json.loads((world / "questions.jsonl").read_text().splitlines()[0])["input"],
            "output": [{"answer": first.outputs[0].answer, "provenance": [{"wikipedia_id": page.wikipedia_id}]}],
        },
        {"id": "wrong", "input": "kalo?", "output": [{"answer": "nothing of the kind"}]},
    ]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, gold)))
    result = run(world, tmp_path / "out", queries=tmp_path / "gold.jsonl", report=tmp_path / "sub" / "r.html")
    assert result.report == tmp_path / "sub" / "r.html"
    shown = (tmp_path / "sub" / "r.html").read_text(encoding="utf-8")
    for expected in ("✓ right", "✗ wrong", "Before re-ranking", "After re-ranking", "gold page", "KILT-em", "50.0"):
        assert expected in shown
    assert second.id == "q1"
