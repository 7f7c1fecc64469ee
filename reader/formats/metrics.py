"""KILT's metrics for one question, as functions of plain values.

Answers: accuracy, exact match, F1 and ROUGE-L over the set of gold answers. Evidence: R-precision, and precision,
recall and success rate at k over ranked evidence sets. Context: whether an answer or a gold page's title occurs in
the passages a guess shows. They follow KILT's scorer (Petroni et al., 2021) in every corner, so that figures compare
with published ones; `evaluation` averages them over files.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from rouge import Rouge

from .kilt import Output, Provenance

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# The `rouge` package recurses once per step of an alignment and keeps a dict entry per pair of words.
_ROUGE_PACKAGE_WORDS = 400
_ROUGE = Rouge(metrics=["rouge-l"])


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, without the articles a, an and the, spaces folded; in that order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def accuracy(guess: str, answers: Collection[str]) -> float:
    """1.0 if the guess is, to the letter, one of the answers."""
    return float(guess in answers)


def exact_match(guess: str, answers: Iterable[str]) -> float:
    """1.0 if the guess equals an answer after `normalize_answer`."""
    normalized = normalize_answer(guess)
    return float(any(normalize_answer(answer) == normalized for answer in answers))


def f1(guess: str, answers: Iterable[str]) -> float:
    """Best F1 over the answers between bags of normalised words."""
    words = Counter(normalize_answer(guess).split())
    return max((_bag_f1(words, Counter(normalize_answer(answer).split())) for answer in answers), default=0.0)


def _bag_f1(guess: Counter[str], answer: Counter[str]) -> float:
    common = (guess & answer).total()
    if common == 0:
        return 0.0
    precision = common / guess.total()
    recall = common / answer.total()
    return 2 * precision * recall / (precision + recall)


def rouge_l(guess: str, answers: Iterable[str]) -> float:
    """Best ROUGE-L f over the answers, on the raw strings, as the PyPI package `rouge` computes it.

    The package raises on a text without a sentence (empty, or full stops only): such a pair scores 0. It recurses over
    the alignment and needs a dict entry per pair of words, so longer texts take `rouge_l_aligned`, which gives the same
    number.
    """
    return max((_rouge_l_pair(guess, answer) for answer in answers), default=0.0)


def _rouge_l_pair(guess: str, answer: str) -> float:
    if not guess.strip(".") or not answer.strip("."):
        return 0.0
    if len(guess.split()) + len(answer.split()) > _ROUGE_PACKAGE_WORDS:
        return rouge_l_aligned(guess, answer)
    return float(_ROUGE.get_scores(guess, answer)[0]["rouge-l"]["f"])


def rouge_l_aligned(guess: str, answer: str) -> float:
    """ROUGE-L f of one pair by the package's definition, without recursion; texts of 5,000 words take 50 MB.

    Sentences end at full stops; the score is that of the set of distinct words on any longest common subsequence of a
    guess sentence and an answer sentence. Both texts must have a character other than a full stop.
    """
    guess_sentences, answer_sentences = _sentences(guess), _sentences(answer)
    aligned: set[str] = set()
    for reference in answer_sentences:
        for sentence in guess_sentences:
            aligned |= _common_words(reference, sentence)
    recall = len(aligned) / len({word for sentence in answer_sentences for word in sentence})
    precision = len(aligned) / len({word for sentence in guess_sentences for word in sentence})
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    # A sentence of spaces alone counts as one empty word, as in the package.
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _common_words(reference: Sequence[str], sentence: Sequence[str]) -> set[str]:
    """Words on one longest common subsequence; among equals the one the package's backward walk meets."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*reference, *sentence]))}
    rows = np.array([numbers[word] for word in reference])
    columns = np.array([numbers[word] for word in sentence])
    table = np.zeros(
        (len(rows) + 1, len(columns) + 1), np.uint16 if min(len(rows), len(columns)) < 65536 else np.uint32
    )
    for i, word in enumerate(rows):
        best = np.where(columns == word, table[i, :-1] + 1, table[i, 1:])
        table[i + 1, 1:] = np.maximum.accumulate(best)
    words: set[str] = set()
    i, j = len(rows), len(columns)
    while i and j:
        if rows[i - 1] == columns[j - 1]:
            words.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1, j] > table[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def guessed_pages(provenance: Sequence[Provenance] | None) -> list[str]:
    """Page ids of a guess in rank order, each at its first place; evidence without a page id is left out."""
    pages = (page.wikipedia_id for page in provenance or ())
    return list(dict.fromkeys(page for page in pages if page is not None))


def r_precision(pages: Sequence[str], outputs: Sequence[Output]) -> float:
    """Share of an evidence set found among the first R guessed pages, R its size; the best set counts.

    Args:
        pages: guessed page ids, best first, without repeats.
        outputs: the gold outputs; a set without page ids scores 0.
    """
    best = 0.0
    for output in outputs:
        gold = guessed_pages(output.provenance)
        if gold:
            best = max(best, len(set(pages[: len(gold)]) & set(gold)) / len(gold))
    return best


def rank_evidence(pages: Sequence[str], outputs: Sequence[Output]) -> tuple[list[bool], int]:
    """The guess as a ranking of evidence sets, and the number of distinct gold sets.

    A set takes one rank, that of its last page to arrive; an entry is True where the set is complete there, False for a
    set that stays incomplete and for a page in no set (or in sets only that had it before). Without guessed pages there
    is nothing to rank and the number is 0.
    """
    if not pages:
        return [], 0
    open_sets: list[set[str]] = []
    for output in outputs:
        if output.provenance is None:
            continue
        # KILT's scorer lets evidence without a page id into the set as "", which no guess can find.
        pages_needed = {page.wikipedia_id or "" for page in output.provenance}
        if pages_needed not in open_sets:
            open_sets.append(pages_needed)
    distinct = len(open_sets)

    complete, wrong = -1, -2
    ranking: list[int] = []  # complete, wrong, or the number of a set that still misses pages
    for page in pages:
        found = False
        for number, missing in enumerate(open_sets):
            if page not in missing:
                continue
            found = True
            if number in ranking:
                ranking.remove(number)
            missing.remove(page)
            ranking.append(number if missing else complete)
        if not found:
            ranking.append(wrong)
    return [entry == complete for entry in ranking], distinct


def precision_at(k: int, ranking: Sequence[bool]) -> float:
    """Complete evidence sets in the first k, over k."""
    return sum(ranking[:k]) / k


def recall_at(k: int, ranking: Sequence[bool], distinct: int) -> float:
    """Complete evidence sets in the first k, over the number of distinct sets (0 where there is none)."""
    return sum(ranking[:k]) / distinct if distinct else 0.0


def success_at(k: int, ranking: Sequence[bool]) -> float:
    """1.0 if any evidence set is complete in the first k."""
    return float(any(ranking[:k]))


def gold_titles(outputs: Sequence[Output]) -> list[str]:
    """Titles of the gold pages, stripped, not empty, each once."""
    titles = (page.title.strip() for output in outputs for page in output.provenance or () if page.title is not None)
    return list(dict.fromkeys(title for title in titles if title))


def contains_any(text: str, phrases: Iterable[str]) -> bool:
    """Whether a phrase occurs in the text, all normalised as answers are (a character match, as KILT does it)."""
    normalized = normalize_answer(text)
    return any(normalize_answer(phrase) in normalized for phrase in phrases)
