"""Text analysis of the first-stage index: the same terms from passages and from questions.

Words are runs of letters and digits, in lower case, reduced to their stem in the index's language. Scripts that are
written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Yi), and Korean, whose words take many endings,
are cut into overlapping pairs of characters besides, as Lucene's CJK analyzer does; these stand in fields of their own.
A passage is indexed by its single characters too, so that a question of one character finds it. Text that can be
encoded in more than one way (é as one character or as two, full-width and half-width forms) is brought into one form
first (NFC; NFKC for those forms).
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import Any, Final

import tantivy

from ... import UsageError

DEFAULT_LANGUAGE: Final = "english"
NO_STEMMER: Final = "none"
STEMMERS: Final = (
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
)  # fmt: skip
LANGUAGES: Final = (*STEMMERS, NO_STEMMER)
"""What an index's language may be: that of its stemmer, or none."""

_ENGLISH_WORD_BYTES = 40  # tantivy's `en_stem`: longer words are not indexed
_WORD_BYTES = 80  # 26 characters in scripts whose characters take three bytes
_PIECE = 256  # normalisation takes quadratic time in the length of a run of combining marks
_WHOLE = 2_048

_MARKS = (  # combining marks of the scripts below: vowel signs, tone marks
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\ua9e5\uaa7b-\uaa7d\u17b4-\u17d3\u17dd"
    "\u302a-\u302f\u3099\u309a"
)
_UNSEEN = "\u00ad\u200b-\u200d\u2060\ufe00-\ufe0f\U000e0100-\U000e01ef"  # joiners, variation selectors
_CHARACTERS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai, without its digits
    "\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f"  # Burmese
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"  # Hangul
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"  # kana
    "\u3105-\u312f\u31a0-\u31bf\ua000-\ua48c"  # Bopomofo, Yi
    "\u3005-\u3007\u3021-\u302f\u3031-\u3035\u3038-\u303c\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U000323af"
)
_COMPATIBLE = re.compile("[\u2e80-\u2fdf\ufb13-\ufdff\ufe70-\ufefc\uff01-\uffef]+")
"""Presentation forms and radicals: full-width and half-width, Arabic and Hebrew ligatures."""
_OTHER = re.compile("[\u0300-\u1fff\u2070-\U0010ffff]")
"""Beyond Latin letters and punctuation, which are always in one form: a quick test that most text fails."""
_RUN = re.compile(f"[{_CHARACTERS}][{_CHARACTERS}{_UNSEEN}]*")
_DROPPED = re.compile(f"[{_UNSEEN}]+")
_CHARACTER = re.compile(f"[^{_MARKS}][{_MARKS}]*|[{_MARKS}]+")
_PIECES = re.compile(rf"\S{{1,{_PIECE}}}\s*|\s+")


def check_language(language: str) -> str:
    """`language` if an index can have it; else raises UsageError."""
    if language not in LANGUAGES:
        raise UsageError(f"there is no stemmer for {language!r}; choose one of {', '.join(LANGUAGES)}")
    return language


def word_analyzer(language: str) -> Any:
    """The tantivy analyzer for words, of text in one form."""
    longest = _ENGLISH_WORD_BYTES if language == DEFAULT_LANGUAGE else _WORD_BYTES
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(longest)).filter(tantivy.Filter.lowercase())
    if language != NO_STEMMER:
        builder = builder.filter(tantivy.Filter.stemmer(language))
    return builder.build()


def character_analyzer() -> Any:
    """The tantivy analyzer for what `characters_and_pairs` gives."""
    return tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()


def is_plain(text: str) -> bool:
    """Whether `text` has Latin letters and punctuation only: it is in one form, and in no script without spaces."""
    return text.isascii() or _OTHER.search(text) is None


def one_form(text: str) -> str:
    """`text` with one encoding for what looks the same; ASCII and Latin-1 come back as they are."""
    if is_plain(text):
        return text
    if len(text) <= _WHOLE:
        text = unicodedata.normalize("NFC", text)
    else:
        text = "".join(unicodedata.normalize("NFC", piece) for piece in _PIECES.findall(text))
    return _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found.group()), text)


def characters_and_pairs(text: str) -> str:
    """The characters of scripts without spaces in a text in one form, single and in pairs, with spaces between."""
    if is_plain(text):
        return ""
    terms = []
    for run in _RUN.findall(text):
        characters = _characters(run)
        terms += characters
        terms += _pairs(characters)
    return " ".join(terms)


def question_pairs(text: str) -> list[str]:
    """Those of a question, in one form: pairs, and a single character where one stands alone."""
    terms = []
    for run in _RUN.findall(text):
        characters = _characters(run)
        terms += _pairs(characters) if len(characters) > 1 else characters
    return terms


def _characters(run: str) -> list[str]:
    """The characters of a run as a reader counts them: vowel signs and tone marks stay with their consonant."""
    return _CHARACTER.findall(_DROPPED.sub("", run))


def _pairs(characters: list[str]) -> list[str]:
    return [first + second for first, second in pairwise(characters)]
