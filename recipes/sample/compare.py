"""What each ingredient of the sample reader adds, and GLIMMER against LUMEN and FiD: compare.py DATA WORK [STEPS].

Runs after `run.sh DATA WORK`, in its folder. Every reader goes through the recipe's two stages with STEPS steps of 32
questions in the first (default 150) and a quarter of that in the second, from MiniLM's weights and a fresh decoder, so
that they differ in what the table names alone. LUMEN and GLIMMER share the first stage, in which one passage is read
and they are the same network. Answers the dev questions at several m and k and writes compare.json, compare.md and
compare.svg; readers and rows that are there already are kept, so the same command resumes an interrupted run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import glimmer
from glimmer import TerminalProgress, TrainConfig

QUESTION_TOKENS, PASSAGE_TOKENS, ANSWER_TOKENS = 12, 97, 5  # means over the dev questions and this memory
INGREDIENT_SHAPE = (20, 5)
SHAPES = {
    "GLIMMER": [(5, 1), (10, 2), (20, 1), (20, 5)],
    "LUMEN": [(1, 1), (2, 2), (5, 5), (10, 10)],
    "FiD": [(1, 1), (2, 2), (5, 5)],
}
COLOURS = {"GLIMMER": "#b3261e", "LUMEN": "#1f6f5c", "FiD": "#3b5bdb"}
LABELS = {
    "cloze": "cloze only",
    "real": "+ real questions",
    "distilled": "+ distillation",
    "filtered": "+ filtering",
    "GLIMMER": "the recipe: ranking in place of distillation, gold put in",
}
CLOZE = 6_000
"""So many cloze questions are enough for runs this short; drawing from all of them would only take longer to load."""


def stage(file: str, name: str, model: str, steps: int, **changes: Any) -> TrainConfig:
    """A stage of the recipe as short as `steps`, its output and run named after `name`, on real questions and cloze."""
    base = TrainConfig.from_toml(Path(__file__).with_name(file))
    tasks = {task.name: task for task in base.tasks}
    like = replace(
        base,
        model=model,
        steps=steps,
        tasks=(tasks["nq"], replace(tasks["cloze"], file="compare/cloze.jsonl")),
        optimiser=replace(base.optimiser, decay=steps // 2),
        evaluation=None,
        run=f"compare/runs/{name}",
        output=f"compare/{name}",
    )
    return replace(like, **changes)


def readings(steps: int) -> dict[str, TrainConfig]:
    """The first stage: a reader for everyone, one that has seen no real question, one for FiD."""
    real = stage("read.toml", "read", "base", steps)
    cloze = stage("read.toml", "read-cloze", "base", steps, tasks=real.tasks[1:])
    fid = stage("read.toml", "read-fid", "base-fid", steps, memory="embeddings.memory")
    return {config.output: config for config in (real, cloze, fid)}


def readers(steps: int) -> dict[str, TrainConfig]:
    """The second stage: of the ingredients each adds one thing to the one before; the family differs in its split."""
    whole = stage("reader.toml", "GLIMMER", "compare/read", steps)
    real = replace(
        stage("reader.toml", "real", "compare/read", steps),
        losses=replace(whole.losses, distillation_weight=0.0, ranking_weight=0.0),
        data=replace(whole.data, gold=False, irrelevant_weight=1.0),
    )
    losses = replace(real.losses, distillation_weight=1.0)
    filtered = replace(real.data, irrelevant_weight=0.0)

    def named(name: str, like: TrainConfig, **changes: Any) -> TrainConfig:
        return replace(like, run=f"compare/runs/{name}", output=f"compare/{name}", **changes)

    return {
        "GLIMMER": whole,
        "LUMEN": named("LUMEN", whole, model="compare/read-lumen", reranker=None),
        "FiD": named("FiD", whole, model="compare/read-fid", memory="embeddings.memory", reranker=None),
        "real": real,
        "cloze": named("cloze", real, model="compare/read-cloze", tasks=real.tasks[1:]),
        "distilled": named("distilled", real, losses=losses),
        "filtered": named("filtered", real, losses=losses, data=filtered),
    }


def prepare(source: str) -> None:
    """FiD's split of MiniLM, the memory of embeddings that it reads, and the cloze questions."""
    Path("compare").mkdir(exist_ok=True)
    if not Path("base-fid").exists():
        glimmer.convert(source="minilm", output="base-fid", live_proportion="1", rerank_proportion="0")
    if not Path("compare/cloze.jsonl").exists():
        lines = Path("tasks/cloze.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        Path("compare/cloze.jsonl").write_text("".join(Random(0).sample(lines, CLOZE)), encoding="utf-8")
    with TerminalProgress() as progress:  # nothing to do where the memory is made
        glimmer.encode(sources=[source], memory="embeddings.memory", model="base-fid", progress=progress)


def as_lumen(source: str, target: str) -> None:
    """The same weights, all live layers after the choice of passages, and no re-ranker."""
    model = glimmer.load_model(source)
    config = model.config
    split = replace(config, live_a_layers=0, live_b_layers=config.live_a_layers + config.live_b_layers, reranker=None)
    tensors = {name: model.tensors[name] for name in model.tensors if not name.startswith("reranker.")}
    tokenizer = {config.tokenizer.file: model.path / config.tokenizer.file}
    glimmer.save_model(target, split, tensors, tokenizer, "A reading stage, split as LUMEN.\n")


def measured(config: TrainConfig, shape: tuple[int, int], questions: str) -> dict[str, float]:
    """Exact match and the rest at (m, k), with the query's cost and the answer job's speed."""
    candidates, select = shape
    out = Path("compare/predictions.jsonl")
    result = glimmer.answer_file(
        queries=questions,
        memory=config.memory,
        model=config.output,
        output=out,
        candidates=candidates,
        select=select,
        max_answer_tokens=12,
        grounded=True,
        candidates_from="retrieval",
        restart=True,
    )
    costs = glimmer.estimate(
        model=config.output,
        passages=1,  # of one query's cost alone
        passage_tokens=PASSAGE_TOKENS,
        code_bytes=1,
        candidates=candidates,
        selected=select,
        question_tokens=QUESTION_TOKENS,
        answer_tokens=ANSWER_TOKENS,
    )
    scores = quality(glimmer.open_memory(config.memory), Path(questions), out)
    return {**scores, "gflop": costs.online[-1].flops / 1e9, "queries_per_second": result.queries_per_second}


def quality(memory: glimmer.Memory, questions: Path, predictions: Path) -> dict[str, float]:
    """Exact match, F1, and how often the first passage is gold: BM25's first, and the first that the decoder read."""
    metrics = glimmer.evaluate(gold=questions, predictions=predictions).metrics
    records = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    guesses = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    found = memory.search([record["input"] for record in records], k=1)
    read = [memory.passages([page["passage_id"] for page in guess["output"][0]["provenance"][:1]]) for guess in guesses]
    before = sum(map(is_gold, found, records)) / len(records)
    after = sum(map(is_gold, read, records)) / len(records)
    return {"em": metrics["em"], "f1": metrics["f1"], "recall1_before": before, "recall1_after": after}


def is_gold(passages: Sequence[glimmer.Passage], record: dict[str, Any]) -> bool:
    """Whether the first of `passages` lies in a place that the record's provenance names."""
    places = [place for output in record["output"] for place in output.get("provenance") or ()]
    return any(
        passage.article_id == place["wikipedia_id"]
        and passage.start_paragraph_id <= place["end_paragraph_id"]
        and passage.end_paragraph_id >= place["start_paragraph_id"]
        for passage in passages[:1]
        for place in places
    )


def plot(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Exact match against GFLOP a query, logarithmic, a series a reader; each point labelled m/k."""
    wide, tall, left, top = 640, 380, 56, 30
    points = {name: [(shape, row["gflop"], row["em"]) for shape, row in each.items()] for name, each in rows.items()}
    every = [point for each in points.values() for point in each]
    low, high = min(x for _, x, _ in every) / 1.2, max(x for _, x, _ in every) * 1.2
    best = max(y for _, _, y in every) * 1.1 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (wide - left - 20) * log(x / low) / log(high / low), top + (tall - top - 44) * (1 - y / best)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="16" font-weight="bold">exact match (dev) against GFLOP a query; labels are m/k</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(low, best * share)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{wide - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{best * share:.2f}</text>')
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if low <= tick <= high:
            x = place(tick, 0)[0]
            parts.append(f'<path d="M{x:.1f} {top}V{tall - 44}" stroke="#eee"/>')
            parts.append(f'<text x="{x:.1f}" y="{tall - 28}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{wide - 20}" y="{tall - 10}" text-anchor="end">GFLOP a query</text>')
    for number, (name, each) in enumerate(points.items()):
        colour = COLOURS[name]
        parts.append(f'<text x="{left + 90 * number}" y="{tall - 10}" fill="{colour}">● {name}</text>')
        if name != "GLIMMER":  # its points vary in two ways: no line joins them
            line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for _, x, y in each)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for shape, x, y in each:
            px, py = place(x, y)
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
            parts.append(f'<text x="{px + 4:.1f}" y="{py - 4:.1f}" fill="{colour}" font-size="9">{shape}</text>')
    return "\n".join([*parts, "</svg>", ""])


def tables(found: dict[str, dict[str, dict[str, float]]], steps: int) -> str:
    """Both tables in Markdown."""
    m, k = INGREDIENT_SHAPE
    lines = [
        f"Each reader: {steps} steps of 32 questions of the first stage, {steps // 4} of the second.",
        "",
        f"| ingredients (m = {m}, k = {k}) | EM | F1 | recall@1 of BM25 | recall@1 re-ranked |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, label in LABELS.items():
        row = found.get(name, {}).get(f"{m}/{k}")
        if row:
            values = (row["em"], row["f1"], row["recall1_before"], row["recall1_after"])
            lines.append(f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += [
        "",
        "| reader | m | k | GFLOP a query | EM | F1 | queries/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in SHAPES:
        for shape, row in found.get(name, {}).items():
            m_, k_ = shape.split("/")
            lines.append(
                f"| {name} | {m_} | {k_} | {row['gflop']:.2f} | {row['em']:.3f} | {row['f1']:.3f} | "
                f"{row['queries_per_second']:.1f} |"
            )
    return "\n".join([*lines, ""])


def main(data: str, work: str, steps: int) -> None:
    """Trains and measures what is missing."""
    source = str(Path(data, "knowledgesource.jsonl.gz").resolve())
    questions = str(Path(data, "nq-dev-kilt.jsonl").resolve())
    os.chdir(work)
    prepare(source)
    for output, config in readings(steps).items():
        if not Path(output).exists():
            with TerminalProgress() as progress:
                glimmer.train(config=config, progress=progress)
    if not Path("compare/read-lumen").exists():
        as_lumen("compare/read", "compare/read-lumen")
    record = Path("compare/compare.json")
    found: dict[str, dict[str, dict[str, float]]] = json.loads(record.read_text()) if record.exists() else {}
    for name, config in readers(steps // 4).items():
        began = monotonic()
        if not Path(config.output).exists():
            with TerminalProgress() as progress:
                glimmer.train(config=config, progress=progress)
        for shape in SHAPES.get(name, [INGREDIENT_SHAPE]):
            own = found.setdefault(name, {})
            label = "{}/{}".format(*shape)
            if label not in own:
                own[label] = measured(config, shape, questions)
                record.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {monotonic() - began:,.0f} s", flush=True)
    Path("compare/compare.md").write_text(tables(found, steps))
    Path("compare/compare.svg").write_text(plot({name: found[name] for name in SHAPES}))
    print(Path("compare/compare.md").read_text())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 150)
