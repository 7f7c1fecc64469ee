"""Token ids agree with the original tokenizers', odd Unicode included; identities change only with the tokenizer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from glimmer import ModelError
from glimmer.encoders.families.encoder_family import TokenizerSpec
from glimmer.encoders.families.family_registry import load_tokenizer
from glimmer.encoders.models import LoadedModel
from glimmer.encoders.tokenizers import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer

GOLDEN = json.loads((Path(__file__).resolve().parent.parent / "goldens" / "tokenizers.json").read_text())
# Hugging Face's port drops control characters and reads the names of special tokens in a text as those tokens; T5 was
# trained with SentencePiece, which does neither.
PORT_DIFFERS = {text for text in GOLDEN["texts"] if "\u0001" in text or "</s>" in text}


@pytest.fixture(scope="module")
def t5(t5_files: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(t5_files / "spiece.model")


@pytest.fixture(scope="module")
def minilm(minilm_model: LoadedModel) -> WordPieceTokenizer:
    return WordPieceTokenizer(minilm_model.path / "tokenizer.json")


def test_t5_ids_equal_sentencepiece_and_transformers(t5: SentencePieceTokenizer) -> None:
    for text, ids, port, reference in zip(
        GOLDEN["texts"],
        t5.encode(GOLDEN["texts"]),
        GOLDEN["t5_transformers"],
        GOLDEN["t5_sentencepiece"],
        strict=True,
    ):
        assert ids.tolist() == reference, text
        if text not in PORT_DIFFERS:
            assert ids.tolist() == port, text


def test_minilm_ids_equal_transformers(minilm: WordPieceTokenizer) -> None:
    for text, ids, reference in zip(GOLDEN["texts"], minilm.encode(GOLDEN["texts"]), GOLDEN["minilm"], strict=True):
        assert ids.tolist() == reference, text


def test_long_texts_are_neither_cut_nor_padded(t5: SentencePieceTokenizer, minilm: WordPieceTokenizer) -> None:
    for tokenizer in (t5, minilm):
        long, short = tokenizer.encode(["word " * 3000, "word"])
        assert len(long) >= 3000
        assert len(short) <= 3


@pytest.mark.parametrize("name", ["t5", "minilm"])
def test_plain_ids_are_the_ids_without_specials(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    (whole,), (plain,) = tokenizer.encode(["Zürich is a city."]), tokenizer.encode_plain(["Zürich is a city."])
    assert [i for i in whole if i not in (tokenizer.bos_id, tokenizer.eos_id)] == plain.tolist()
    assert whole[-1] == tokenizer.eos_id


@pytest.mark.parametrize("name", ["t5", "minilm"])
def test_decoding_leaves_out_specials_and_ids_beyond_the_vocabulary(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    (ids,) = tokenizer.encode(["the capital of france"])
    extended = [tokenizer.pad_id, *ids.tolist(), tokenizer.vocab_size + 5, -1, tokenizer.pad_id]
    assert tokenizer.decode(extended) == "the capital of france"


def test_wordpiece_tells_what_its_tokens_were_written_as(minilm: WordPieceTokenizer) -> None:
    text = "García Márquez’s 8,848.86 m – “naïve” 北京, U.S. half \ud83d pair"
    ids, places = minilm.encode_with_offsets(text)
    assert ids.tolist() == minilm.encode([text])[0].tolist()
    assert len(places) == len(ids)
    start, stop = (
        ids.tolist().index(minilm.encode_plain(["8"])[0][0]),
        ids.tolist().index(minilm.encode_plain(["86"])[0][0]),
    )
    assert text[places[start][0] : places[stop][1]] == "8,848.86"
    assert text[places[1][0] : places[1][1]] == text[: places[1][1]]
    assert places[0] == places[-1] == (0, 0)


def test_a_passages_tokens_are_spelled_as_it_has_them(minilm_model: LoadedModel, t5_files: Path) -> None:
    title, text = "Mount Everest", "It is 8,848.86 m high, says the U.S. survey."
    (tokens,) = minilm_model.passage_tokens([(title, text)])
    (wanted,) = minilm_model.tokenizer.encode_plain(["8,848.86 m"])
    start = next(i for i in range(len(tokens)) if tokens[i : i + len(wanted)].tolist() == wanted.tolist())
    assert minilm_model.surface_text(title, text, tokens, start, start + len(wanted)) == "8,848.86 m"
    assert minilm_model.surface_text(title, text, tokens, 1, 3) == "Mount Everest"
    assert minilm_model.surface_text(title, text + " Other text.", tokens, 1, 3) is None  # not the memory's passage
    decodes_to_what_it_read: Tokenizer = SentencePieceTokenizer(t5_files / "spiece.model")
    assert decodes_to_what_it_read.encode_with_offsets(text) is None


@pytest.mark.parametrize("name", ["t5", "minilm"])
def test_a_lone_surrogate_is_text_too(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    broken, clean = tokenizer.encode(["half \ud83d pair", "half ? pair"])
    assert broken.tolist() == clean.tolist()


def test_identity_ignores_truncation_and_padding_only(minilm_model: LoadedModel, tmp_path: Path) -> None:
    minilm_directory = minilm_model.path
    original = WordPieceTokenizer(minilm_directory / "tokenizer.json")
    definition = json.loads((minilm_directory / "tokenizer.json").read_text(encoding="utf-8"))
    definition["truncation"] = None
    (tmp_path / "a.json").write_text(json.dumps(definition, indent=1))
    definition["model"]["vocab"]["[unused0]"], definition["model"]["vocab"]["[unused1]"] = 2, 1
    (tmp_path / "b.json").write_text(json.dumps(definition))
    assert WordPieceTokenizer(tmp_path / "a.json").identity_bytes() == original.identity_bytes()
    assert WordPieceTokenizer(tmp_path / "b.json").identity_bytes() != original.identity_bytes()


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b"\xff\xfe\x00", None])
def test_a_damaged_or_absent_file_is_a_model_error_naming_it(tmp_path: Path, kind: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer").write_bytes(content)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path, TokenizerSpec(kind=kind, file="tokenizer"))


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="outside"):
        load_tokenizer(model, TokenizerSpec(kind="wordpiece", file="tokenizer.json"))


@pytest.mark.parametrize("name", ["t5", "minilm"])
def test_word_parts_tell_where_words_begin(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    parts = tokenizer.word_parts()
    assert parts.is_continuation.shape == parts.can_be_continued.shape == (tokenizer.vocab_size,)
    text = "Tutankhamun, the boy-king (born 1341), was unbelievably young"
    ids = tokenizer.encode_plain([text])[0]
    inside = np.append(False, parts.is_continuation[ids[1:]] & parts.can_be_continued[ids[:-1]])
    starts = [*np.flatnonzero(~inside).tolist(), len(ids)]
    words = [tokenizer.decode(ids[start:stop]) for start, stop in itertools.pairwise(starts)]
    shown = [word.lower() for word in words if any(letter.isalnum() for letter in word)]
    assert [word.strip("(),- ") for word in shown] == [
        "tutankhamun",
        "the",
        "boy",
        "king",
        "born",
        "1341",
        "was",
        "unbelievably",
        "young",
    ]
