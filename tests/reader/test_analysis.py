"""Text analysis: what looks the same is found, in every script, and English is what it always was."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer.reader.serving.analysis import LANGUAGES, characters_and_pairs, one_form, question_pairs, word_analyzer
from glimmer.reader.serving.retrieval import Bm25Index, build_index

OF = {"memory": "abc", "version": 1}
TEXTS = {
    "ja": ("灯台", "犬吠埼の灯台は1874年に建てられた。第3の灯台である。"),
    "zh": ("故宫", "故宫位于北京市中心，是明清两代的皇家宫殿，旧称紫禁城。"),
    "ko": ("등대", "등대는 바닷가에 서서 배에게 길을 알려 준다."),
    "th": ("ประภาคาร", "ประภาคารสร้างขึ้นที่ปากแม่น้ำเพื่อนำทางเรือในเวลากลางคืน"),
    "lo": ("ນະຄອນ", "ນະຄອນຫຼວງວຽງຈັນເປັນເມືອງຫຼວງຂອງລາວ"),
    "km": ("ភ្នំពេញ", "រាជធានីភ្នំពេញស្ថិតនៅមាត់ទន្លេមេគង្គ"),
    "my": ("ရန်ကုန်", "ရန်ကုန်မြို့သည်မြန်မာနိုင်ငံ၏အကြီးဆုံးမြို့ဖြစ်သည်"),
    "en": ("Lighthouse", "A lighthouse guides ships along the coast at night."),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    directory = tmp_path_factory.mktemp("analysis") / "bm25"
    passages = [(f"{n:02d}", *TEXTS[name]) for n, name in enumerate(TEXTS)]
    build_index(directory, passages, OF)
    return Bm25Index.open(directory, OF)


def found(index: Bm25Index, question: str) -> list[str]:
    return [list(TEXTS)[position] for position in index.search([question], 5)[0].positions]


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("灯台", "ja"),
        ("灯", "ja"),
        ("犬吠埼はどこですか", "ja"),
        ("紫禁城在哪里", "zh"),
        ("宫", "zh"),
        ("바닷가", "ko"),
        ("등대가", "ko"),
        ("แม่น้ำ", "th"),
        ("ນະຄອນຫຼວງ", "lo"),
        ("ទន្លេ", "km"),
        ("မြန်မာ", "my"),
        ("lighthouses", "en"),
    ],
)
def test_a_word_inside_a_run_without_spaces_is_found(index: Bm25Index, question: str, language: str) -> None:
    assert found(index, question)[0] == language


def test_characters_that_stand_apart_are_not_taken_for_a_word(index: Bm25Index) -> None:
    """故 and 京 are both in the passage, 故京 is not."""
    assert found(index, "故京") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café Zoë", unicodedata.normalize("NFD", "Café Zoë")),
        ("ガイド", unicodedata.normalize("NFD", "ガイド")),
        ("등대", unicodedata.normalize("NFD", "등대")),
        ("ガイド", "ｶﾞｲﾄﾞ"),
        ("JR 1901", "ＪＲ １９０１"),
        ("灯台", "灯\u200b台"),
        ("葛\U000e0100飾", "葛飾"),
        ("⼭⽕", "山火"),
    ],
)
def test_what_looks_the_same_finds_each_other(tmp_path: Path, one: str, other: str) -> None:
    for name, text, question in (("a", one, other), ("b", other, one)):
        build_index(tmp_path / name, [("1", "", f"the {text} there"), ("2", "", "others")], OF)
        assert Bm25Index.open(tmp_path / name, OF).search([question], 5)[0].positions.tolist() == [0]


def test_pairs_and_single_characters_are_indexed_and_pairs_are_asked_for() -> None:
    assert characters_and_pairs("JR東日本の駅 (2)") == "東 日 本 の 駅 東日 日本 本の の駅"
    assert question_pairs("JR東日本 駅") == ["東日", "日本", "駅"]
    assert question_pairs("น้ำป่า") == ["น้" + "ำ", "ำ" + "ป่", "ป่" + "า"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"])))
def test_latin_text_is_what_it_was(text: str) -> None:
    assert one_form(text) is text
    assert characters_and_pairs(text) == ""
    assert question_pairs(text) == []


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_a_question_asks_only_for_what_its_own_passage_is_indexed_by(text: str) -> None:
    text = one_form(text.encode("utf-8", "replace").decode())
    assert one_form(text) == text or len(text) > 2_000
    assert set(question_pairs(text)) <= set(characters_and_pairs(text).split(" "))


def test_english_words_are_those_of_tantivys_own_analyzer() -> None:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", tokenizer_name="en_stem")
    index = tantivy.Index(builder.build())
    writer = index.writer(15_000_000, 1)
    text = f"Running cats' Café naïveté {'x' * 39} {'y' * 40} {'z' * 41} 東京 it's 1,000 e-mail İstanbul"
    document = tantivy.Document()
    document.add_text("text", text)
    writer.add_document(document)
    writer.commit()
    index.reload()
    searcher = index.searcher()
    words = word_analyzer("english").analyze(text)
    assert ("y" * 40 in words, "z" * 41 in words) == (False, False)
    for word in words:
        assert len(searcher.search(tantivy.Query.term_query(index.schema, "text", word), 1).hits) == 1, word


@pytest.mark.parametrize(
    ("language", "asked", "text"),
    [
        ("german", "Häuser", "das Haus"),
        ("french", "chevaux rapides", "un cheval rapide"),
        ("russian", "маяки", "на маяке"),
        ("spanish", "faros", "el faro"),
        ("none", "lighthouse", "lighthouse"),
    ],
)
def test_a_language_has_its_own_stems(tmp_path: Path, language: str, asked: str, text: str) -> None:
    build_index(tmp_path / "i", [("1", "", text), ("2", "", "etwas")], OF, language=language)
    assert Bm25Index.open(tmp_path / "i", OF).search([asked], 5)[0].positions.tolist() == [0]


def test_without_a_stemmer_words_are_found_as_they_stand(tmp_path: Path) -> None:
    build_index(tmp_path / "i", [("1", "", "lighthouses")], OF, language="none")
    assert Bm25Index.open(tmp_path / "i", OF).search(["lighthouse"], 5)[0].positions.tolist() == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_finds_scripts_without_spaces_and_long_words(tmp_path: Path, language: str) -> None:
    build_index(tmp_path / "i", [("1", "", "x"), ("2", "灯台", "犬吠埼の灯台")], OF, language=language)
    assert Bm25Index.open(tmp_path / "i", OF).search(["灯台"], 5)[0].positions.tolist() == [1]
    longest = 13 if language == "english" else 26
    assert len(word_analyzer(language).analyze("ა" * longest)) == 1


def test_passages_of_a_rare_script_are_not_lost_among_others(tmp_path: Path) -> None:
    """One Japanese passage among a thousand English ones; a term of it weighs what an English term does."""
    passages = [(f"{n:04d}", "Ships", f"ship number {n} sails") for n in range(1000)]
    passages += [("5000", "灯台", "銚子の灯台 tower"), ("6000", "Tower", "a tower without any light")]
    build_index(tmp_path / "i", passages, OF)
    (hits,) = Bm25Index.open(tmp_path / "i", OF).search(["灯台 tower"], 5)
    assert hits.positions.tolist() == [1000, 1001]
    (alone,) = Bm25Index.open(tmp_path / "i", OF).search(["灯台"], 5)
    assert alone.scores[0] > 3


@pytest.mark.parametrize(
    "text", ["a" + "\u0315\u0300" * 200_000, "が" * 300_000, "\u0e49" * 300_000, "가\u0301" * 200_000]
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.perf_counter()
    characters_and_pairs(one_form(unicodedata.normalize("NFD", text) if text[0] == "が" else text))
    assert time.perf_counter() - begun < 10
