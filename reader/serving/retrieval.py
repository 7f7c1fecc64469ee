"""First-stage retrieval: BM25 over the passages of one version of a memory.

A tantivy index is built per version (fast enough that keeping one up to date is not worth its differences from a
rebuilt one), written to a temporary directory and renamed, with a manifest of what it is an index of and of the SHA-256
of every file, so that it is whole or absent, never stale and never damaged. Passages are known by position: their
ordinal in the order of passage ids, the same ordinal the memory counts by. Equal scores are ordered by position, so a
rebuilt index gives the same candidates.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import tantivy

from ... import DamageError, GlimmerError, MismatchError, StorageError, UsageError
from ...storage.files import storage_error, translated
from ...storage.stores.local_directories import (
    ATTEMPTS,
    is_being_replaced,
    linked,
    new_beside,
    pause,
    put_in_place,
    remove_hidden,
    share,
)
from ...storage.stores.sealed import damaged_files, read_seal, seal, stamps
from ...storage.version_indexes import FIRST_STAGE_MANIFEST
from .analysis import (
    DEFAULT_LANGUAGE,
    LANGUAGES,
    character_analyzer,
    characters_and_pairs,
    check_language,
    is_plain,
    one_form,
    question_pairs,
    word_analyzer,
)

MANIFEST: Final = FIRST_STAGE_MANIFEST
FORMAT: Final = "glimmer-bm25"
FORMAT_VERSION: Final = 2
WORDS: Final = ("title", "text")
CHARACTERS: Final = ("title_characters", "text_characters")
"""Fields: the words of title and text, and the characters of their parts in scripts without spaces."""

_WORDS_TOKENIZER, _CHARACTERS_TOKENIZER = "glimmer-words", "glimmer-characters"
_K1, _B = 1.2, 0.75  # tantivy's BM25
_HEAP_BYTES = 1_000_000_000  # an upper bound; one segment of up to about a million passages fits
_PROGRESS_EVERY = 1_000
_SPARE = 16  # hits fetched beyond k, to see ties at the cut
_SCORE_DECIMALS = 4  # scores closer than this are ties: float32 sums differ in the last bits with the layout


@dataclass(frozen=True, slots=True)
class Hits:
    """What a question found, best first.

    Attributes:
        positions: int64 [n], ordinals of the passages in the order of passage ids; n is less than k where fewer match.
        scores: float32 [n], BM25, falling; equal scores stand by position.
    """

    positions: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Written:
    """What an index holds: passages, the digest of their ids, and how many have characters in each such field."""

    passages: int
    digest: str
    with_characters: tuple[int, ...]


def build_index(
    directory: Path,
    passages: Iterable[tuple[str, str, str]],
    manifest: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
    *,
    language: str = DEFAULT_LANGUAGE,
    heap_bytes: int = _HEAP_BYTES,
) -> None:
    """Builds an index and puts it in place at once, instead of any that was there.

    If another process puts a whole one of the same in place meanwhile, that one stays.

    Args:
        directory: where it goes; parents are made.
        passages: (passage id, title, text) in ascending order of passage id; read once, as a stream.
        manifest: what it is an index of (memory identity, version, digest), as JSON values, for `Bm25Index.open`.
        progress: called now and then with the number of passages indexed.
        language: whose stemmer reduces words, one of `analysis.LANGUAGES`; "none" for none.
        heap_bytes: memory for building, at least 15 MB; it changes how the index is laid out, not what it finds.

    Raises:
        UsageError: the passages are not in ascending order of passage id, or there is no such language.
        StorageError: the index cannot be written.
    """
    check_language(language)
    with _put_there(directory, manifest, language) as temporary:
        written = _write(temporary, passages, progress, language, heap_bytes)
        remove_hidden(temporary)
        seal(temporary, MANIFEST, _content(written, language, manifest))


def share_index(index: Bm25Index, directory: Path, manifest: Mapping[str, Any]) -> None:
    """Puts an index with the same files at `directory`, as the index of `manifest`, which must hold the same passages.

    Raises StorageError.
    """
    with _put_there(directory, manifest, index.language) as temporary:
        share(index.directory, index.files, temporary)
        seal(temporary, MANIFEST, _content(index.written, index.language, manifest))


def _content(written: Written, language: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "language": language,
        "passages": written.passages,
        "passages_digest": written.digest,
        "with_characters": dict(zip(CHARACTERS, written.with_characters, strict=True)),
        "of": dict(manifest),
    }


@contextmanager
def _put_there(directory: Path, manifest: Mapping[str, Any], language: str) -> Iterator[Path]:
    """A new directory, put in the place of `directory` when the block ends well, unless another process was first."""
    try:
        begun = _stamps(directory)
        with new_beside(directory) as temporary:
            yield temporary
            if _stamps(directory) != begun:
                try:
                    Bm25Index.open(directory, manifest, language=language)
                    return
                except GlimmerError:
                    pass  # another's, and not what is wanted: ours takes its place
            put_in_place(temporary, directory)
    except OSError as error:
        raise storage_error(directory, error) or StorageError(
            f"the index {directory} cannot be written: {error.strerror or error}"
        ) from error


def _stamps(directory: Path) -> list[tuple[int, int, int]]:
    """What tells whether an index was replaced; empty where there is none."""
    try:
        return stamps(directory, [MANIFEST])
    except OSError:
        return []


def passages_digest(ids: Iterable[str]) -> str:
    """Hex digest of passage ids in ascending order: two memories with equal ones hold the same passages."""
    digest = hashlib.blake2b(digest_size=16)
    for passage_id in ids:
        digest.update(passage_id.encode() + b"\n")
    return digest.hexdigest()


def _write(
    directory: Path,
    passages: Iterable[tuple[str, str, str]],
    progress: Callable[[int], None] | None,
    language: str,
    heap_bytes: int,
) -> Written:
    builder = tantivy.SchemaBuilder()
    for name in WORDS:
        builder.add_text_field(name, stored=False, tokenizer_name=_WORDS_TOKENIZER, index_option="freq")
    for name in CHARACTERS:
        builder.add_text_field(name, stored=False, tokenizer_name=_CHARACTERS_TOKENIZER, index_option="freq")
    builder.add_unsigned_field("position", stored=False, fast=True)
    index = tantivy.Index(builder.build(), str(directory), reuse=False)
    index.register_tokenizer(_WORDS_TOKENIZER, word_analyzer(language))
    index.register_tokenizer(_CHARACTERS_TOKENIZER, character_analyzer())
    # One thread: passages then stand in the index as they come, in equal segments whenever the content is equal.
    writer = index.writer(heap_bytes, 1)
    ids = hashlib.blake2b(digest_size=16)
    count, previous, with_characters = 0, "", [0 for _ in CHARACTERS]
    try:
        for passage_id, title, text in passages:
            if passage_id <= previous:
                raise UsageError(f"passages must come in ascending order of id: {passage_id!r} after {previous!r}")
            previous = passage_id
            ids.update(passage_id.encode() + b"\n")
            document = tantivy.Document()
            for number, part in enumerate((title, text)):
                if not is_plain(part):
                    part = one_form(part)
                    if characters := characters_and_pairs(part):
                        document.add_text(CHARACTERS[number], characters)
                        with_characters[number] += 1
                document.add_text(WORDS[number], part)
            document.add_unsigned("position", count)
            writer.add_document(document)
            count += 1
            if progress is not None and count % _PROGRESS_EVERY == 0:
                progress(count)
        writer.commit()
        writer.wait_merging_threads()
    except ValueError as error:  # how tantivy reports a failed write
        raise StorageError(f"the index {directory} cannot be written: {_short(error)}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of tantivy's Rust code, whose threads are gone then
            raise StorageError(f"the index {directory} cannot be written: {_short(error)}") from error
        # Its threads must have let go of the directory before it is removed.
        writer.rollback()
        writer.wait_merging_threads()
        raise
    if progress is not None:
        progress(count)
    return Written(count, ids.hexdigest(), tuple(with_characters))


class Bm25Index:
    """An index opened for searching; safe to use from several threads.

    What was opened stays as it was, whatever becomes of the directory.

    Attributes:
        directory: where it is.
        count: passages in it.
        digest: hex digest of their ids in order, `passages_digest`.
        language: whose stemmer it was built with, or "none".
        written: these, and what else its manifest says of the passages.
        files: names of its files, without the manifest.
    """

    def __init__(self, directory: Path, content: Mapping[str, Any]) -> None:
        self.directory = directory
        self.written = Written(
            content["passages"], content["passages_digest"], tuple(content["with_characters"][n] for n in CHARACTERS)
        )
        self.count = self.written.passages
        self.digest = self.written.digest
        self.language = str(content["language"])
        self._files: Mapping[str, Mapping[str, Any]] = content["files"]
        self.files = tuple(self._files)
        with self._translated("opened"), linked(directory, self.files) as seen:
            index = tantivy.Index.open(str(seen))
            self._schema = index.schema
            self._searcher = index.searcher()
            documents = self._searcher.num_docs
        if documents != self.count:
            raise _damage(directory, f"has {documents} passages, its manifest says {self.count}")
        self._analyzer = word_analyzer(self.language)
        self._weights = [_weight(self.count, number) for number in self.written.with_characters]

    @classmethod
    def open(cls, directory: Path, manifest: Mapping[str, Any], *, language: str | None = None) -> Self:
        """Opens the index if it is whole, is of `manifest`, and in `language` if one is given.

        Every file is compared with its recorded SHA-256, once a process. Nothing is written in `directory`. An index
        that another process replaces meanwhile is opened as it is then.

        Raises:
            MismatchError: there is none, it is of something else, of another language or format: build it.
            DamageError: something in it is not what was written; remove it and build it.
            StorageError: it cannot be read.
        """
        for attempt in range(ATTEMPTS):
            before = _stamps(directory)
            try:
                return cls._open(directory, manifest, language, before)
            except (MismatchError, DamageError, StorageError):
                after = _stamps(directory)
                replaced = after != before if before or after else is_being_replaced(directory)
                if not replaced or attempt == ATTEMPTS - 1:
                    raise
            pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _open(
        cls, directory: Path, manifest: Mapping[str, Any], language: str | None, before: list[tuple[int, int, int]]
    ) -> Self:
        try:
            try:
                content = read_seal(directory / MANIFEST)
            except DamageError as error:
                raise _damage(directory, f"{MANIFEST}: {error.what}") from None
            if content is None or content.get("format_version") != FORMAT_VERSION or content.get("format") != FORMAT:
                raise MismatchError(f"the index {directory} is of another format; build it anew with glimmer index")
            _check_content(directory, content)
            if content["of"] != dict(manifest):
                raise MismatchError(
                    f"the index {directory} is of another memory or version; build it with glimmer index"
                )
            if language not in (None, content["language"]):
                raise MismatchError(
                    f"the index {directory} is of language {content['language']}; build it with glimmer index"
                )
            for name, problem in damaged_files(directory, content["files"]).items():
                raise _damage(directory, f"{name} {problem}")
            opened = cls(directory, content)
            if _stamps(directory) != before:  # what was compared may not be what was opened
                raise _damage(directory, "was replaced while it was opened")
            return opened
        except (FileNotFoundError, NotADirectoryError):
            raise MismatchError(f"there is no index at {directory}; build it with glimmer index") from None
        except OSError as error:
            raise StorageError(f"the index {directory} cannot be read: {error.strerror}") from error

    def verify(self) -> list[str]:
        """Reads every file again; the names of those whose bytes are not what was written."""
        return list(damaged_files(self.directory, self._files, afresh=True))

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """tantivy's errors, and the panics of its Rust code, as ours."""
        with translated(self.directory, lambda text: _damage(self.directory, f"cannot be {what} ({text[:120]})")):
            yield

    def search(self, questions: Sequence[str], k: int) -> list[Hits]:
        """The k best passages of each question by BM25 over title and text.

        A question is a bag of words, whatever signs it contains; a question without an indexed word finds nothing.

        Raises:
            UsageError: k is not positive.
            DamageError: the index cannot be read.
        """
        if k < 1:
            raise UsageError(f"k must be positive, not {k}")
        with self._translated("searched"):
            return [self._search(question, k) for question in questions]

    def _search(self, question: str, k: int) -> Hits:
        query = self._query(question)
        limit = k + _SPARE
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            scores = np.round(np.array([score for score, _ in hits], np.float64), _SCORE_DECIMALS)
            # Ties that reach beyond what was fetched would be cut by the index's own order: fetch them all.
            if len(hits) < limit or scores[-1] < scores[k - 1]:
                break
            limit *= 4
        addresses = [address for _, address in hits]
        positions = np.array(self._searcher.fast_field_values("position", addresses), np.int64)
        if positions.size and not 0 <= positions.min() <= positions.max() < self.count:
            raise _damage(self.directory, f"has a passage beyond its {self.count}")
        order = np.lexsort((positions, -scores))[:k]
        return Hits(positions=positions[order], scores=scores[order].astype(np.float32))

    def _query(self, question: str) -> Any:
        # Terms are built one by one from the analyzer's output, so nothing in a question is read as query syntax.
        text = one_form(question.encode("utf-8", "replace").decode("utf-8"))
        clauses = [
            clause
            for word, times in Counter(self._analyzer.analyze(text)).items()
            for name in WORDS
            for clause in self._clause(name, word, float(times))
        ]
        clauses += [
            clause
            for pair, times in Counter(question_pairs(text)).items()
            for name, weight in zip(CHARACTERS, self._weights, strict=True)
            for clause in self._clause(name, pair, times * weight)
        ]
        return tantivy.Query.boolean_query(clauses) if clauses else tantivy.Query.empty_query()

    def _clause(self, field: str, term: str, weight: float) -> Iterator[tuple[Any, Any]]:
        if weight:
            clause = tantivy.Query.term_query(self._schema, field, term, "freq")
            yield tantivy.Occur.Should, tantivy.Query.boost_query(clause, weight) if weight != 1 else clause


def _weight(passages: int, having: int) -> float:
    """Of a field that only `having` of the passages have, so that a term counts as if all others were not there.

    BM25 compares a field's length with the mean over all passages. Where few have the field that is near zero, and the
    field seems endless: a term found once in a field of the usual length is given back the score it would have.
    """
    return (1 + _K1 * (1 - _B + _B * passages / having)) / (1 + _K1) if having else 0.0


def _check_content(directory: Path, content: Mapping[str, Any]) -> None:
    """DamageError unless a manifest, whose digest is right, has what a manifest has: somebody may have made it up."""
    count, digest = content.get("passages"), content.get("passages_digest")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0 or not isinstance(digest, str):
        raise _damage(directory, "has a malformed manifest")
    having = content.get("with_characters")
    if not isinstance(having, dict) or not all(isinstance(having.get(name), int) for name in CHARACTERS):
        raise _damage(directory, "has a malformed manifest")
    if content.get("language") not in LANGUAGES or not isinstance(content.get("of"), dict):
        raise _damage(directory, "has a malformed manifest")


def _damage(directory: Path, what: str) -> DamageError:
    return DamageError(f"the index {directory} is damaged: {what}", remedy="remove it to have it rebuilt")


def _short(error: BaseException) -> str:
    """The beginning of an error that may quote whole files."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:120]}…"
