"""Candidates chosen by late interaction over the stored memory, against BM25's own: recall, answers, and their speed.

    python benchmarks/late_interaction.py wiki.memory nq-dev-kilt.jsonl --model sample

QUESTIONS are KILT records with answers and provenance. First, how often a gold passage is among the first k of BM25's
best 200 (`--retrieve`), in BM25's order and in that of late interaction with several weights of BM25's score; `uniform`
counts all question tokens alike. Then exact match, F1, recall@1 of what the decoder reads and questions a second of two
ways to answer, in turns, compiled before: live A over BM25's 40, and over the 10 that late interaction chooses of 200.
Intervals are of the mean over questions, 95 %, from 2,000 resamples; differences pair question with question.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from glimmer.encoders.compilation import enable_compilation_cache
from glimmer.encoders.models import LoadedModel, load_model
from glimmer.reader.formats.kilt import gold_answers
from glimmer.reader.formats.metrics import exact_match, f1
from glimmer.reader.formats.queries import Query, open_queries
from glimmer.reader.model import Params, Reader
from glimmer.reader.serving.answer_options import AnswerOptions
from glimmer.reader.serving.answerer import Answerer, load_network
from glimmer.reader.serving.candidates import CandidateFinder
from glimmer.reader.serving.clock import Clock
from glimmer.reader.serving.late_interaction import LateInteraction
from glimmer.reader.serving.question_batches import Prepared
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.reader.serving.token_frequencies import TokenFrequencies, open_token_frequencies
from glimmer.reader.training.examples import gold_positions
from glimmer.storage.memory import Memory

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15)
AT = (1, 5, 10, 40)
Gold = list[set[int]]
Ranked = list[npt.NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memory")
    parser.add_argument("questions")
    parser.add_argument("--model", default="sample")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--retrieve", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--select", type=int, default=5)
    parser.add_argument("--limit", type=int, help="the first so many questions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-recall", action="store_true")
    given = parser.parse_args()
    enable_compilation_cache()
    memory, model = Memory.open(given.memory), load_model(given.model)
    pairs = list(gold_positions(memory, open_queries(given.questions)))[: given.limit]
    queries, gold = [query for query, _ in pairs], [set(positions) for _, positions in pairs]
    shared = {"select": given.select, "max_answer_tokens": 12, "precision": given.precision}
    options = AnswerOptions.resolved(model, retrieve=given.retrieve, candidates=given.candidates, **shared)
    network = load_network(model, options.precision)
    print(f"{len(queries)} questions over {memory.passages:,} passages, {memory.codec.name}, {options.precision}")
    _recall(model, network, memory, queries, gold, given.retrieve)
    if not given.only_recall:
        plain = AnswerOptions.resolved(model, retrieve=40, candidates=40, **shared)
        _answers(model, network, memory, queries, gold, {"BM25's 40": plain, "late interaction": options}, given.rounds)


def _recall(
    model: LoadedModel,
    network: tuple[Reader, Params],
    memory: Memory,
    queries: Sequence[Query],
    gold: Gold,
    retrieve: int,
) -> None:
    found = CandidateFinder(limit=retrieve, index=open_index(memory), provided=None).find(queries)
    asked = [
        Prepared(number=0, query=query, tokens=tokens, found=each, lengths=memory.token_counts(each.positions))
        for query, tokens, each in zip(
            queries, model.question_tokens([query.question for query in queries]), found, strict=True
        )
    ]
    frequencies = open_token_frequencies(memory)
    print("order | " + " | ".join(f"R@{k}" for k in AT))
    _print_recall("BM25", [each.positions for each in found], gold)
    alike = TokenFrequencies(np.zeros(0, np.uint32), memory.passages)
    for name, counts in (("uniform", alike), ("IDF", frequencies)):
        clock = Clock()
        late = LateInteraction(
            model, *network, memory, counts, retrieve=retrieve, keep=retrieve, weight=0.0, clock=clock
        )
        scored = list(late.narrow(asked))
        for weight in WEIGHTS if name == "IDF" else WEIGHTS[:1]:
            _print_recall(f"MaxSim, {name}, + {weight} log BM25", [_order(each, weight) for each in scored], gold)
        spent = {stage: seconds / len(asked) for stage, seconds in clock.seconds().items() if seconds}
        print("ms a question: " + ", ".join(f"{stage} {1000 * seconds:.1f}" for stage, seconds in spent.items()))


def _order(query: Prepared, weight: float) -> npt.NDArray[np.int64]:
    late, first = query.found.late_scores, query.found.scores
    if late is None or first is None:
        return query.found.positions
    return query.found.positions[np.argsort(-(late + weight * np.log(first)), kind="stable")]


def _print_recall(name: str, ranked: Ranked, gold: Gold) -> None:
    shares = []
    for k in AT:
        hits = [bool(each & set(order[:k].tolist())) for order, each in zip(ranked, gold, strict=True)]
        shares.append(f"{np.mean(hits):.3f} {_interval(np.array(hits, float))}")
    print(f"{name} | " + " | ".join(shares))


def _answers(
    model: LoadedModel,
    network: tuple[Reader, Params],
    memory: Memory,
    queries: Sequence[Query],
    gold: Gold,
    ways: dict[str, AnswerOptions],
    rounds: int,
) -> None:
    index = open_index(memory)
    frequencies = open_token_frequencies(memory)
    answerers = {
        name: Answerer(model, memory, options, network=network, frequencies=frequencies)
        for name, options in ways.items()
    }
    scores: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for name, answerer in answerers.items():  # compiles, too
        answered = list(answerer.answer(queries, index=index))
        right = [gold_answers(each.query.outputs or ()) for each in answered]
        firsts = [
            bool(each.chosen and int(each.found.positions[each.chosen[0]]) in known)
            for each, known in zip(answered, gold, strict=True)
        ]
        judged: dict[str, Callable[[str, Sequence[str]], float]] = {"EM": exact_match, "F1": f1}
        scores[name] = {
            measure: np.array([judge(each.text, known) for each, known in zip(answered, right, strict=True)])
            for measure, judge in judged.items()
        } | {"recall@1": np.array(firsts, float)}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            for _ in answerers[name].answer(queries, index=index):
                pass
            speeds[name].append(len(queries) / (time.perf_counter() - begun))
    for name, measured in scores.items():
        shown = ", ".join(f"{measure} {each.mean():.3f} {_interval(each)}" for measure, each in measured.items())
        print(f"{name}: {shown}; questions/s {', '.join(f'{speed:.1f}' for speed in speeds[name])}")
        seconds = answerers[name].seconds()
        print("  " + ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items()))
    first, second = ways
    for measure in scores[first]:
        difference = scores[second][measure] - scores[first][measure]
        print(f"{second} - {first}, {measure}: {difference.mean():+.3f} {_interval(difference)}")
    print(f"speed: {np.median(speeds[second]) / np.median(speeds[first]):.2f} times")


def _interval(values: npt.NDArray[np.float64]) -> str:
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"[{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
