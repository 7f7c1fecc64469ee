"""First-stage retrieval: BM25 over the passages of one version of a memory.

A tantivy index is built per version (fast enough that keeping one up to date is not worth its differences from a
rebuilt one), written to a temporary directory and renamed, with a manifest of what it is an index of, so that it is
whole or absent and never stale. Passages are known by position: their ordinal in the order of passage ids, the same
ordinal the memory counts by. Equal scores are ordered by position, so a rebuilt index gives the same candidates.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tantivy

from .. import DamageError, MismatchError, StorageError, UsageError

MANIFEST = "glimmer-index.json"
FORMAT_VERSION = 1
TOKENIZER = "en_stem"
FIELDS = ("title", "text")

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


def build_index(
    directory: Path,
    passages: Iterable[tuple[str, str, str]],
    manifest: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
    *,
    heap_bytes: int = _HEAP_BYTES,
) -> None:
    """Builds an index and puts it in place at once, instead of any that was there.

    Args:
        directory: where it goes; parents are made.
        passages: (passage id, title, text) in ascending order of passage id; read once, as a stream.
        manifest: what it is an index of (memory identity, version, digest), as JSON values, for `Bm25Index.open`.
        progress: called now and then with the number of passages indexed.
        heap_bytes: memory for building, at least 15 MB; it changes how the index is laid out, not what it finds.

    Raises:
        UsageError: the passages are not in ascending order of passage id.
        StorageError: the index cannot be written.
    """
    temporary = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.mkdir(parents=True)
        count, digest = _write(temporary, passages, progress, heap_bytes)
        files = {
            path.name: path.stat().st_size for path in sorted(temporary.iterdir()) if not path.name.startswith(".")
        }
        content = {
            "format": "glimmer-bm25",
            "format_version": FORMAT_VERSION,
            "tokenizer": TOKENIZER,
            "passages": count,
            "passages_digest": digest,
            "files": {name: {"bytes": size, "sha256": _sha256(temporary / name)} for name, size in files.items()},
            "of": dict(manifest),
        }
        (temporary / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _force_to_disk(path)
        _put_in_place(temporary, directory)
    except OSError as error:
        raise StorageError(f"the index {directory} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    directory: Path, passages: Iterable[tuple[str, str, str]], progress: Callable[[int], None] | None, heap_bytes: int
) -> tuple[int, str]:
    builder = tantivy.SchemaBuilder()
    for name in FIELDS:
        builder.add_text_field(name, stored=False, tokenizer_name=TOKENIZER, index_option="freq")
    builder.add_unsigned_field("position", stored=False, fast=True)
    index = tantivy.Index(builder.build(), str(directory), reuse=False)
    # One thread: passages then stand in the index as they come, in equal segments whenever the content is equal.
    writer = index.writer(heap_bytes, 1)
    ids = hashlib.blake2b(digest_size=16)
    count, previous = 0, ""
    try:
        for passage_id, title, text in passages:
            if passage_id <= previous:
                raise UsageError(f"passages must come in ascending order of id: {passage_id!r} after {previous!r}")
            previous = passage_id
            ids.update(passage_id.encode() + b"\n")
            document = tantivy.Document()
            document.add_text("title", title)
            document.add_text("text", text)
            document.add_unsigned("position", count)
            writer.add_document(document)
            count += 1
            if progress is not None and count % _PROGRESS_EVERY == 0:
                progress(count)
        writer.commit()
        writer.wait_merging_threads()
    except ValueError as error:  # how tantivy reports a failed write
        raise StorageError(f"the index {directory} cannot be written: {_short(error)}") from error
    except BaseException:
        # Its threads must have let go of the directory before it is removed.
        writer.rollback()
        writer.wait_merging_threads()
        raise
    if progress is not None:
        progress(count)
    return count, ids.hexdigest()


def _put_in_place(temporary: Path, directory: Path) -> None:
    """Renames; an index that was there, stale or another process's, makes way."""
    old = temporary.with_suffix(".old")
    for attempt in range(10):
        try:
            if directory.exists():
                directory.rename(old)
                shutil.rmtree(old, ignore_errors=True)
            temporary.rename(directory)
            break
        except OSError:
            # Another process moved its own in or out in between; anything else persists and is raised.
            if attempt == 9:
                raise
    _force_to_disk(directory.parent)


class Bm25Index:
    """An index opened for searching; safe to use from several threads.

    Attributes:
        directory: where it is.
        count: passages in it.
        digest: hex digest of their ids in order.
    """

    def __init__(self, directory: Path, content: Mapping[str, Any]) -> None:
        self.directory = directory
        self.count = int(content["passages"])
        self.digest = str(content["passages_digest"])
        self._files: Mapping[str, Mapping[str, Any]] = content["files"]
        try:
            index = tantivy.Index.open(str(directory))
            self._schema = index.schema
            self._searcher = index.searcher()
        except (OSError, ValueError) as error:
            raise DamageError(
                f"the index {directory} cannot be opened ({_short(error)}); remove it to have it rebuilt"
            ) from error
        if self._searcher.num_docs != self.count:
            raise DamageError(
                f"the index {directory} has {self._searcher.num_docs} passages, its manifest says {self.count};"
                " remove it to have it rebuilt"
            )
        self._analyzer = _analyzer()

    @classmethod
    def open(cls, directory: Path, manifest: Mapping[str, Any]) -> Self:
        """Opens the index if it is whole and is of `manifest`.

        Raises:
            MismatchError: there is none, it is of something else, or of another format: build it.
            DamageError: files are missing or of the wrong size; remove it and build it.
        """
        try:
            content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise MismatchError(f"there is no index at {directory}; build it with glimmer index") from None
        except OSError as error:
            raise StorageError(f"the index {directory} cannot be read: {error.strerror}") from error
        except ValueError:
            raise DamageError(f"{directory / MANIFEST} is damaged; remove {directory} to have it rebuilt") from None
        if not isinstance(content, dict):
            raise DamageError(f"{directory / MANIFEST} is damaged; remove {directory} to have it rebuilt")
        if (content.get("format"), content.get("format_version")) != ("glimmer-bm25", FORMAT_VERSION):
            raise MismatchError(f"the index {directory} is of another format; build it anew with glimmer index")
        if content["of"] != json.loads(json.dumps(dict(manifest))):
            raise MismatchError(f"the index {directory} is of another memory or version; build it with glimmer index")
        for name, expected in content["files"].items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != expected["bytes"]:
                raise DamageError(f"{path} is missing or cut off; remove {directory} to have it rebuilt")
        return cls(directory, content)

    def verify(self) -> list[str]:
        """Reads every file; the names of those whose bytes are not what was written."""
        return [name for name, expected in self._files.items() if _sha256(self.directory / name) != expected["sha256"]]

    def search(self, questions: Sequence[str], k: int) -> list[Hits]:
        """The k best passages of each question by BM25 over title and text.

        A question is a bag of words, whatever signs it contains; a question without an indexed word finds nothing.

        Raises:
            UsageError: k is not positive.
            DamageError: the index cannot be read.
        """
        if k < 1:
            raise UsageError(f"k must be positive, not {k}")
        try:
            return [self._search(question, k) for question in questions]
        except (OSError, ValueError) as error:
            raise DamageError(
                f"the index {self.directory} cannot be searched ({_short(error)}); remove it to have it rebuilt"
            ) from error

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
        order = np.lexsort((positions, -scores))[:k]
        return Hits(positions=positions[order], scores=scores[order].astype(np.float32))

    def _query(self, question: str) -> Any:
        # Terms are built one by one from the analyzer's output, so nothing in a question is read as query syntax.
        words = Counter(self._analyzer.analyze(question.encode("utf-8", "replace").decode("utf-8")))
        clauses = []
        for word, times in words.items():
            for name in FIELDS:
                clause = tantivy.Query.term_query(self._schema, name, word, "freq")
                if times > 1:
                    clause = tantivy.Query.boost_query(clause, float(times))
                clauses.append((tantivy.Occur.Should, clause))
        return tantivy.Query.boolean_query(clauses) if clauses else tantivy.Query.empty_query()


def _analyzer() -> Any:
    """The steps of tantivy's `en_stem`, which it does not let be called by name."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (tantivy.Filter.remove_long(40), tantivy.Filter.lowercase(), tantivy.Filter.stemmer("english")):
        builder = builder.filter(step)
    return builder.build()


def _short(error: Exception) -> str:
    """The beginning of an error that may quote whole files."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:120]}…"


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
