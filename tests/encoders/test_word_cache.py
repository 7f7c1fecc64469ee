"""The word cache gives the ids that the tokenizers library gives, whatever the text; where it cannot, there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer.encoders.models import LoadedModel
from glimmer.encoders.tokenizers import SentencePieceTokenizer, WordPieceTokenizer
from glimmer.encoders.word_cache import word_cache

SPECIAL = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")
ODD = (
    *("[", "]", "[SEP", "SEP]", "[sep]", "[SEP][SEP]", "x[MASK]y", "##ing", "##", "foo", "Foo", "<b>", "</b>"),
    *("\n", "\r", "\t", "\v", "\f", "\x00", "\x1c", "\x85", "\xa0", "\xad", "\u2028", "\u3000", "\u200b", "\ufeff"),
    *("\u0301", "e\u0301", "é", "İ", "ẞ", "ﬁ", "Ω", "ς", "Σ", "Å", "\u1e9b\u0323", "가", "각", "\u1161"),
    *(
        "北京",
        "北 京",
        "\U00020000",
        "ก็",
        "ﷺ",
        "…",
        "’",
        "—",
        "€",
        "\ufffd",
        "\ud83d",
        "😀",
        "👩\u200d👧",
        "\U000e0001",
    ),
    *("a" * 64, "a" * 65, "b" * 100, "b" * 101, "é" * 70, "-" * 80, "3,000.5", "U.S.", "don't", "(1941–45)", " ", "  "),
)


@pytest.fixture(scope="module")
def definition(minilm_model: LoadedModel) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((minilm_model.path / "tokenizer.json").read_text(encoding="utf-8"))
    parsed["truncation"] = parsed["padding"] = None
    return parsed


def texts() -> st.SearchStrategy[str]:
    """Words of real alphabets, white space of all kinds, names of special tokens, control characters, surrogates."""
    letters = st.text(st.characters(), max_size=6)
    latin = st.text("abcXYZ019.,;:-'()é[]", min_size=1, max_size=12)
    word = st.one_of(st.sampled_from((*SPECIAL, *ODD)), latin, letters)
    glue = st.sampled_from(("", " ", " ", " ", "  ", "\n", "\t"))
    return st.lists(st.tuples(word, glue), max_size=12).map(lambda parts: "".join(a + b for a, b in parts))


def library_ids(library: tokenizers.Tokenizer, text: str, *, special: bool) -> list[int]:
    printable = text.encode("utf-8", "replace").decode()
    return list(library.encode(printable, add_special_tokens=special).ids)


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(texts(), max_size=6))
def test_ids_are_the_librarys_for_any_text(
    minilm_model: LoadedModel, definition: dict[str, Any], batch: list[str]
) -> None:
    tokenizer = minilm_model.tokenizer
    library = tokenizers.Tokenizer.from_str(json.dumps(definition))
    for text, whole, plain in zip(batch, tokenizer.encode(batch), tokenizer.encode_plain(batch), strict=True):
        assert whole.tolist() == library_ids(library, text, special=True)
        assert plain.tolist() == library_ids(library, text, special=False)


def normaliser(flags: tuple[bool, bool, bool | None, bool]) -> dict[str, Any]:
    clean_text, chinese, accents, lowercase = flags
    return {
        "type": "BertNormalizer",
        "clean_text": clean_text,
        "handle_chinese_chars": chinese,
        "strip_accents": accents,
        "lowercase": lowercase,
    }


@pytest.mark.parametrize("flags", list(product((True, False), (True, False), (True, False, None), (True, False))))
def test_ids_are_the_librarys_under_every_normaliser_of_bert(
    definition: dict[str, Any], flags: tuple[bool, bool, bool | None, bool]
) -> None:
    changed = definition | {"normalizer": normaliser(flags)}
    library = tokenizers.Tokenizer.from_str(json.dumps(changed))
    cache = word_cache(changed, library, most=40)  # so few that words are dropped and asked for again
    assert cache is not None

    @settings(max_examples=30, deadline=None)
    @given(batch=st.lists(texts(), max_size=4))
    def check(batch: list[str]) -> None:
        for text, ids in zip(batch, cache.encode(batch, special=False), strict=True):
            assert ids.tolist() == library_ids(library, text, special=False)

    check()


def with_added(definition: dict[str, Any], content: str, **flags: bool) -> dict[str, Any]:
    token = {"id": 5, "content": content, "special": False, "normalized": True}
    token |= {"single_word": False, "lstrip": False, "rstrip": False} | flags
    return definition | {"added_tokens": [*definition["added_tokens"], token]}


@pytest.mark.parametrize("content", ["foo", "<b>", "oba", "]["])
@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_inside_words_are_found(definition: dict[str, Any], content: str, normalized: bool) -> None:
    changed = with_added(definition, content, normalized=normalized)
    library = tokenizers.Tokenizer.from_str(json.dumps(changed))
    cache = word_cache(changed, library)
    assert cache is not None

    @settings(max_examples=60, deadline=None)
    @given(text=texts())
    def check(text: str) -> None:
        assert cache.encode([text], special=False)[0].tolist() == library_ids(library, text, special=False)

    check()
    for text in ("foobar <b>foo</b> FOO f oo fo\no", "][ [SEP][SEP] a]["):
        assert cache.encode([text], special=False)[0].tolist() == library_ids(library, text, special=False)


def without_text(definition: dict[str, Any]) -> dict[str, Any]:
    post = definition["post_processor"]
    return definition | {"post_processor": post | {"single": post["single"][:1]}}


def sequence(definition: dict[str, Any]) -> dict[str, Any]:
    return definition | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}


@pytest.mark.parametrize(
    "change",
    [
        sequence,
        without_text,
        lambda definition: definition | {"normalizer": None},
        lambda definition: definition | {"pre_tokenizer": {"type": "Punctuation", "behavior": "Isolated"}},
        lambda definition: definition | {"added_tokens": []},
        lambda definition: with_added(definition, "new york"),
        lambda definition: with_added(definition, "new\tyork"),
        lambda definition: with_added(definition, "北京"),
        lambda definition: with_added(definition, "foo", single_word=True),
        lambda definition: with_added(definition, "foo", lstrip=True),
        lambda definition: with_added(definition, "foo", rstrip=True),
    ],
)
def test_a_tokenizer_that_may_look_across_spaces_has_no_cache(
    definition: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    changed = change(definition)
    library = tokenizers.Tokenizer.from_str(json.dumps(changed))
    assert word_cache(changed, library) is None
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    text = "New York, foo new york\tbar 北京"
    (ids,) = WordPieceTokenizer(tmp_path / "tokenizer.json").encode([text])
    assert ids.tolist() == library.encode(text).ids


def test_a_tokenizer_without_special_tokens_around_a_text_has_a_cache(definition: dict[str, Any]) -> None:
    changed = definition | {"post_processor": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(changed))
    cache = word_cache(changed, library)
    assert cache is not None
    assert cache.encode(["a text"], special=True)[0].tolist() == library_ids(library, "a text", special=True)


def test_words_stay_bounded_and_those_in_use_stay_known(definition: dict[str, Any]) -> None:
    library = tokenizers.Tokenizer.from_str(json.dumps(definition))
    cache = word_cache(definition, library, most=100)
    assert cache is not None
    for start in range(0, 5000, 50):
        text = "the " + " ".join(f"é{number}" for number in range(start, start + 50))
        assert cache.encode([text], special=False)[0].tolist() == library_ids(library, text, special=False)
    assert len(cache) <= 2 * (100 + 51 + 1)
    assert "the" in cache
    assert "é0" not in cache


def test_ids_can_be_written_to(minilm_model: LoadedModel) -> None:
    first, again = (minilm_model.tokenizer.encode(["the capital of france"])[0] for _ in range(2))
    first[:] = 0
    assert again.tolist() == minilm_model.tokenizer.encode(["the capital of france"])[0].tolist()


def test_sentencepiece_cuts_a_word_by_what_comes_before_it(t5_files: Path) -> None:
    """Why SentencePiece has no word cache: log probabilities are summed in float32 from the text's beginning."""
    tokenizer = SentencePieceTokenizer(t5_files / "spiece.model")
    found = set()
    for words in range(40):
        text = "many more words of a text " * words + "SSSB"
        found.add(tuple(tokenizer.encode_plain([text])[0][-4:].tolist()))
    assert len(found) > 1
