"""Records with named fields, from JSON or from a table's rows, made into articles.

`text` may be running text, whose non-blank lines are the paragraphs; a list of sentences, which make one paragraph
(HotpotQA); or a list of lists of sentences, a paragraph each. Where KILT's title field stands beside a text that begins
with the title, that line is left to the title. Pyserini's and FlashRAG's `contents` have no title field: their first
line is the title when all of the file's first records look so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .article import Article, clean_title, id_field, kind, need_text, text_paragraphs, title_field
from .fields import KILT_TITLE_NAMES, PASSAGE_NAMES, FieldNames
from .record_layout import Layout
from .rejects import RecordError

_TITLE_CHARACTERS: Final = 200  # of a line that is taken for a title while a file is looked at
_LONGEST_TITLE: Final = 300  # and later, once it is known that lines are titles
_SENTENCE_MARKS: Final = ".!?;:,。！？"


def record_layout(records: Sequence[Mapping[str, Any]], present: Iterable[str], names: FieldNames) -> Layout | None:
    """How records with the fields `present` are read; None unless there are an id and a text among them.

    `records` are the file's first, and decide what the names leave open.
    """
    present = list(present)
    fitted = names.fitted(present)
    used = fitted.found(present)
    if "id" not in used or "text" not in used or any(name not in present for _, name in names.chosen):
        return None
    if _is_kilt(records, used["text"], fitted, present):
        fitted = fitted.for_kilt()
        return Layout(names=fitted, used=fitted.found(present), kilt=True)
    cut = {used["id"].lower(), used["text"].lower()} & PASSAGE_NAMES
    titled = "title" not in used and used["text"].lower() == "contents" and _have_title_lines(records, used["text"])
    return Layout(names=fitted, used=used, whole=bool(cut), title_line=titled)


def record_article(record: Mapping[str, Any], layout: Layout, place: str) -> Article:
    """An article of one record. Raises RecordError where it is not what `layout` says."""
    if layout.kilt:
        return kilt_article(record, layout.names, place)
    article_id = id_field(record, *layout.names.ids)
    title = title_field(record, *layout.names.titles)
    paragraphs = _paragraphs(record, layout)
    if layout.title_line and not title and len(paragraphs) > 1 and len(paragraphs[0]) <= _LONGEST_TITLE:
        title = clean_title(unquoted(paragraphs.pop(0).strip()))
    elif title and len(paragraphs) > 1 and _has_kilt_title(record) and clean_title(paragraphs[0]) == title:
        del paragraphs[0]
    return Article(article_id, title, paragraphs, place, whole=layout.whole)


def kilt_article(record: Mapping[str, Any], names: FieldNames, place: str) -> Article:
    """An article of KILT's knowledge source: paragraph ids are positions in `text`, the title is paragraph 0.

    `text[0]` is left to the title; should it say something else, it is kept as paragraph 0, so that nothing is lost.
    """
    article_id = id_field(record, *names.ids)
    field = names.texts[0]
    text = record.get(field)
    if not isinstance(text, list) and isinstance(text, Mapping):  # Hugging Face's kilt_wikipedia
        text = text.get("paragraph")
    if text is None:
        raise RecordError("missing_field", f"field '{field}' is missing or null")
    if not isinstance(text, list) or not all(isinstance(p, str) for p in text):
        raise RecordError("wrong_type", f"field '{field}' is not a list of strings")
    if not text:
        raise RecordError("empty_text", "the article has no text")
    heading = clean_title(text[0])
    title = title_field(record, *names.titles) or heading
    if heading in ("", title):
        return Article(article_id, title, need_text(text[1:]), place)
    return Article(article_id, title, need_text(text), place, first_paragraph=0)


def unquoted(value: str) -> str:
    """Undo CSV quoting where a value is quoted properly; a text that merely begins with a quotation mark is kept."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        inner = value[1:-1]
        if '"' not in inner:
            return inner
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return value


def _is_kilt(records: Sequence[Mapping[str, Any]], text: str, names: FieldNames, present: Sequence[str]) -> bool:
    """Whether texts are lists of paragraphs as KILT has them: a list beside one of KILT's own ids."""
    if not set(names.for_kilt().ids) & set(present):
        return False
    values = [record.get(text) for record in records if record.get(text) is not None]
    return bool(values) and isinstance(values[0], list | Mapping)


def _has_kilt_title(record: Mapping[str, Any]) -> bool:
    return any(record.get(name) is not None for name in KILT_TITLE_NAMES)


def _have_title_lines(records: Sequence[Mapping[str, Any]], field: str) -> bool:
    """Whether every text has two lines or more, of which the first is short, and four in five are no sentence."""
    texts = [value for record in records if isinstance(value := record.get(field), str) and value.strip()]
    lines = [[line for line in text.split("\n") if line.strip()] for text in texts]
    if not lines or not all(len(rows) > 1 and len(rows[0]) <= _TITLE_CHARACTERS for rows in lines):
        return False
    return 5 * sum(rows[0].strip()[-1] not in _SENTENCE_MARKS for rows in lines) >= 4 * len(lines)


def _paragraphs(record: Mapping[str, Any], layout: Layout) -> list[str]:
    name = next((n for n in layout.names.texts if record.get(n) is not None), None)
    if name is None:
        wanted = layout.used.get("text", layout.names.texts[0])
        raise RecordError("missing_field", f"field '{wanted}' is missing or null")
    value = record[name]
    if isinstance(value, Mapping):
        value = value.get("paragraph", value)
    if isinstance(value, str):
        return text_paragraphs(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return text_paragraphs(_joined(value))
    if isinstance(value, list) and all(isinstance(p, list) and all(isinstance(s, str) for s in p) for p in value):
        return text_paragraphs("\n".join(map(_joined, value)))
    raise RecordError("wrong_type", f"field '{name}' is {kind(value)}, expected a string or a list of strings")


def _joined(sentences: Sequence[str]) -> str:
    """Sentences as one text, a space between two that have none."""
    text = ""
    for sentence in sentences:
        spaced = not text or text[-1].isspace() or not sentence or sentence[0].isspace()
        text += sentence if spaced else " " + sentence
    return text
