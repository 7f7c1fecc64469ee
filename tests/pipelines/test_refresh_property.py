"""Refresh equals rebuild: whatever happened to a corpus, a refreshed memory is the one a fresh encode would make.

A codec's tables are the first memory's: those that it fitted are given to the rebuilt one.

Sources may be spoiled: records that cannot be used, that do not tell their article, that come twice, or whose text is
empty. What the memory should hold then is worked out here, in the simplest way there is.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer import InputError
from glimmer.pipelines.encode import encode
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify


class Article(NamedTuple):
    title: str
    paragraphs: list[str]


Corpus = dict[str, Article]
WORDS = ("ka", "lomi", "terven", "orpi", "dusfe", "ralsha", "nunu", "Mi", "x", "shanter")


def sentence(dice: random.Random) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(3 + dice.randrange(9))).capitalize() + dice.choice(".!?")


def paragraph(dice: random.Random) -> str:
    kind = dice.randrange(8)
    if kind == 0:
        return "Section::::" + sentence(dice)
    if kind == 1:
        return ""
    if kind == 2:
        return "BULLET::::- " + sentence(dice)
    if kind == 3:
        return "x x x x x x x x x x " * (3 + dice.randrange(9))  # overflows the window in equal pieces
    return " ".join(sentence(dice) for _ in range(1 + dice.randrange(14)))


def article(dice: random.Random) -> Article:
    paragraphs = [paragraph(dice) for _ in range(1 + dice.randrange(6))]
    return Article(sentence(dice), [*paragraphs, sentence(dice)])


def first_corpus() -> Corpus:
    dice = random.Random(4)
    return {str(number): article(dice) for number in range(14)}


def edit(corpus: Corpus, past: list[Corpus], kind: str, seed: int) -> None:
    """One change of the kind that happens to an encyclopedia; `past` holds what the corpus was."""
    dice = random.Random(seed)
    if kind == "add article" or not corpus:
        corpus[f"n{dice.randrange(6)}"] = article(dice)
        return
    name = dice.choice(sorted(corpus))
    paragraphs = corpus[name].paragraphs
    at = dice.randrange(len(paragraphs))
    if kind == "edit sentence":
        sentences = paragraphs[at].split(". ")
        sentences[dice.randrange(len(sentences))] = sentence(dice)
        paragraphs[at] = ". ".join(sentences)
    elif kind == "insert paragraph":
        paragraphs.insert(at, paragraph(dice))
    elif kind == "duplicate paragraph":
        paragraphs.insert(dice.randrange(len(paragraphs) + 1), paragraphs[at])
    elif kind == "delete paragraph":
        del paragraphs[at]
    elif kind == "swap paragraphs":
        other = dice.randrange(len(paragraphs))
        paragraphs[at], paragraphs[other] = paragraphs[other], paragraphs[at]
    elif kind == "delete article":
        del corpus[name]
    elif kind == "retitle":
        corpus[name] = Article(sentence(dice), paragraphs)
    elif kind == "rename":
        corpus[f"{name}r"] = corpus.pop(name)
    elif kind == "reorder":
        order = sorted(corpus)
        dice.shuffle(order)
        moved = {each: corpus[each] for each in order}
        corpus.clear()
        corpus.update(moved)
    elif kind == "revert":
        before = dice.choice(past)
        if name in before:
            corpus[name] = copy.deepcopy(before[name])
    if name in corpus and not any(text.strip() for text in corpus[name].paragraphs):
        corpus[name].paragraphs.append(sentence(dice))  # an article without text is a rejected record


EDITS = (
    "edit sentence",
    "insert paragraph",
    "duplicate paragraph",
    "delete paragraph",
    "swap paragraphs",
    "add article",
    "delete article",
    "retitle",
    "rename",
    "reorder",
    "revert",
)
Step = tuple[bool, list[tuple[str, int]], int]
"""Whether the source is a feed of changes; the edits; and how it is spoiled: 0 not at all, else the dice's seed."""
STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 1 << 30)), max_size=6),
        st.integers(0, 1 << 30),
    ),
    min_size=1,
    max_size=4,
)


def line(name: str, each: Article) -> str:
    return json.dumps({"wikipedia_id": name, "wikipedia_title": each.title, "text": [each.title, *each.paragraphs]})


def empty(name: str) -> str:
    return json.dumps({"wikipedia_id": name, "wikipedia_title": "T", "text": ["T", "  "]})


def bad(dice: random.Random, name: str) -> str:
    """A record that cannot be used and tells whose it is."""
    wrong = json.dumps({"wikipedia_id": name, "wikipedia_title": "T", "text": ["T", 5]})
    return dice.choice([wrong, line(name, Article("T", ["The file ends here."]))[:-3]])


NAMELESS = json.dumps({"wikipedia_title": "T", "text": ["T", "Whose is it?"]})


def put(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
    return path


def write(path: Path, corpus: Corpus) -> Path:
    return put(path, [line(name, each) for name, each in corpus.items()])


def whole(dice: random.Random | None, corpus: Corpus, held: Corpus) -> tuple[list[str], Corpus | None]:
    """The lines of a whole corpus, and what a memory of `held` should hold after them; None if they are refused."""
    if dice is None:
        return [line(name, each) for name, each in corpus.items()], copy.deepcopy(corpus) or None
    lines: list[str] = []
    expected: Corpus = {}
    usable, nameless = 0, dice.random() < 0.3
    for name, each in corpus.items():
        fate = dice.randrange(6)
        if fate == 0:
            lines.append(dice.choice([bad(dice, name), empty(name)]))
            if name in held:
                expected[name] = held[name]
            continue
        if fate == 1:
            lines.append(bad(dice, name))
        lines.append(line(name, each))
        if fate == 2:
            lines.append(dice.choice([bad(dice, name), empty(name), line(name, article(dice))]))
        expected[name] = each
        usable += 1
    if nameless:
        lines.append(NAMELESS)
        expected |= {name: each for name, each in held.items() if name not in expected}
    return lines, copy.deepcopy(expected) if usable else None


def feed(
    dice: random.Random | None, corpus: Corpus, before: Corpus, held: Corpus
) -> tuple[list[str], list[str], Corpus | None]:
    """The lines of a feed of changes, its deletion list, and what a memory of `held` should hold after them.

    None if they are refused.
    """
    lines: list[str] = []
    usable = len(before.keys() - corpus.keys())
    gone, expected = [name for name in before if name not in corpus], dict(held)
    if dice is not None:
        emptied = [name for name in gone if dice.random() < 0.5]
        gone = [name for name in gone if name not in emptied]
        for name in emptied:
            lines += [line(name, article(dice))] * dice.randrange(2) + [empty(name)]
        expected = {name: each for name, each in expected.items() if name not in emptied}
    expected = {name: each for name, each in expected.items() if name not in gone}
    for name, each in corpus.items():
        if before.get(name) == each:
            continue
        if dice is not None and dice.random() < 0.5:
            lines.append(dice.choice([bad(dice, name), empty(name), line(name, article(dice))]))
        if dice is not None and dice.random() < 0.2:
            lines += [line(name, each), bad(dice, name)]
        else:
            lines.append(line(name, each))
            expected[name] = each
            usable += 1
    if dice is not None and dice.random() < 0.3:
        lines.append(NAMELESS)
    return lines, gone, copy.deepcopy(expected) if usable or not lines else None


def everything(path: Path) -> dict[str, Any]:
    """Passage id -> all that a reader can see of it: codes, length, text, tokens, where it stands in its article."""
    memory = Memory.open(path)
    positions = np.arange(memory.passages)
    codes, lengths = memory.fetch(positions)
    found = {
        passage.passage_id: (codes[at].tobytes(), int(lengths[at]), passage._plain(), passage.tokens.tolist())
        for at, passage in enumerate(memory.texts(positions))
    }
    assert list(found) == sorted(found)
    assert memory.articles == len({row[2][1] for row in found.values()})
    assert memory.tokens == sum(row[1] for row in found.values())
    return found


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


@pytest.fixture(scope="module", params=["int8", pytest.param("pq:bytes=6", marks=pytest.mark.slow)])
def first(model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The memory of the corpus as it is before anything happens."""
    home = tmp_path_factory.mktemp("first")
    corpus = write(home / "corpus.jsonl", first_corpus())
    encode(sources=[str(corpus)], memory=home / "m", model=str(model), codec=request.param)
    return home / "m"


def live_through(steps: list[Step], first: Path, model: Path, home: Path) -> None:
    """Refreshes a copy of `first` after each step, and compares it in the end with a memory made from nothing."""
    shutil.copytree(first, home / "m")
    corpus = first_corpus()
    past, held = [copy.deepcopy(corpus)], copy.deepcopy(corpus)
    for number, (partial, edits, spoilt) in enumerate(steps):
        for kind, seed in edits:
            edit(corpus, past, kind, seed)
        dice = random.Random(spoilt) if spoilt else None
        source = home / f"{number}.jsonl"
        if partial:
            lines, gone, expected = feed(dice, corpus, past[-1], held)
            (home / "gone.txt").write_text("".join(f"{name}\n" for name in gone))
            arguments: dict[str, Any] = {"partial": True, "deleted": home / "gone.txt"}
        else:
            lines, expected = whole(dice, corpus, held)
            arguments = {}
        arguments |= {"sources": [str(put(source, lines))], "format": "kilt", "max_removed": 1.0}
        if expected is None:
            with pytest.raises(InputError, match=r"no article can be used|no articles|empty"):
                refresh(memory=home / "m", **arguments)
        else:
            refresh(memory=home / "m", **arguments)
            held = expected
        past.append(copy.deepcopy(corpus))
    if not held:
        return
    given = first if Memory.open(first).identity.tables_sha256 else None
    final = write(home / "final.jsonl", held)
    encode(sources=[str(final)], memory=home / "fresh", model=str(model), codec_tables=given)
    assert everything(home / "m") == everything(home / "fresh")
    assert verify(home / "m").sound


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_a_refreshed_memory_is_a_rebuilt_one(
    steps: list[Step], first: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("life")
    live_through(steps, first, model, home)
    shutil.rmtree(home)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_a_refreshed_memory_is_a_rebuilt_one_over_many_histories(
    steps: list[Step], first: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("life")
    live_through(steps, first, model, home)
    shutil.rmtree(home)


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_of_edit_by_itself(kind: str, first: Path, model: Path, tmp_path: Path) -> None:
    """From whole corpora and from partial feeds, and with something taken back."""
    edits = ([(kind, 1), (kind, 2)], [(kind, 3), (kind, 4)], [("revert", 7)])
    steps: list[Step] = [(number > 0, each, 0) for number, each in enumerate(edits)]
    live_through(steps, first, model, tmp_path)


@pytest.mark.parametrize("seed", range(1, 5))
def test_spoilt_sources_lose_nothing(seed: int, first: Path, model: Path, tmp_path: Path) -> None:
    edits = [(kind, 10 * seed + number) for number, kind in enumerate(EDITS)]
    live_through([(False, edits[:6], seed), (True, edits[6:], seed + 1), (False, [], 0)], first, model, tmp_path)
