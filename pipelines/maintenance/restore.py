"""Restoring shards of a segment: codes from the stored tokens, lengths and texts from whatever else knows them.

A row's text comes from its own shard if it passes its checksum, else from another version that still holds the
passage. Its codes come from the shard if they can be read, else the memory encoder makes them again from the stored
tokens. A file is put back only if it then has the recorded SHA-256; where it cannot, `Restored` has the rows that live,
for a new segment, and says which are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from ... import DamageError, GlimmerError, UsageError
from ...encoders.compilation import enable_compilation_cache
from ...encoders.memory_encoder import MemoryEncoder
from ...encoders.models import load_model
from ...storage.healing import RemadeShard
from ...storage.memory import Memory
from ...storage.passage import SHARD_ROWS, Passage
from ...storage.segment_layout import ShardRecord, codes_name, lengths_name, text_name
from ...storage.segment_reader import SegmentReader
from ...storage.text_shards import text_shard
from ...storage.verify import CODES_KIND, LENGTHS_KIND, TEXT_KIND
from ..encoding.encoding_job import Encoding
from ..encoding.finite_codes import refuse_non_finite

Codes = npt.NDArray[np.uint8]


class Reencoder:
    """The memory encoder, loaded and checked against the memory's fingerprint when it is first needed."""

    def __init__(self, memory: Memory, model: str | None) -> None:
        self._memory, self._model = memory, model
        self._encoder: MemoryEncoder | None = None

    def encode(self, passages: Sequence[Passage]) -> Codes:
        """uint8 [n, window, code_bytes]: codes of `passages` from their stored tokens, zero beyond each length."""
        if self._encoder is None:
            self._encoder = self._load()
        shape = (len(passages), self._memory.window, self._memory.codec.code_bytes)
        codes = np.zeros(shape, np.uint8)
        names = [passage.passage_id for passage in passages]
        for batch in self._encoder.encode([passage.tokens for passage in passages]):
            refuse_non_finite(self._memory.codec, batch, names)
            for row, index in enumerate(batch.indices.tolist()):
                length = len(passages[index].tokens)
                codes[index, :length] = batch.outputs[row, :length]
        return codes

    def _load(self) -> MemoryEncoder:
        identity = self._memory.identity
        name = self._model if self._model is not None else identity.encoder.source
        try:
            loaded = load_model(name)
        except UsageError as error:
            if self._model is not None:
                raise
            raise UsageError(
                f"{self._memory.location} was made by the encoder {identity.encoder.name} from {name}, which is not "
                "there any more; give it with --model"
            ) from error
        enable_compilation_cache()
        encoding = Encoding.checked(loaded, identity, self._memory.location)
        return MemoryEncoder(
            encoding.model,
            precision=cast(Literal["bfloat16", "float32"], identity.encoder.precision),
            shapes=identity.shapes,
            transform=self._memory.codec.encode,
        )


class OtherVersions:
    """Passages as other versions of the memory still hold them; versions that cannot be opened are passed over."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._opened: list[Memory] | None = None

    def find(self, passage_id: str) -> Passage | None:
        """The passage from any other segment, its checksum checked; None if no version has it there."""
        for other in self._versions():
            try:
                at = other.locate([passage_id], missing="skip")
                if at[0] >= 0:
                    return other.texts(at)[0]
            except GlimmerError:
                continue
        return None

    def _versions(self) -> list[Memory]:
        if self._opened is None:
            self._opened, known = [], set(self._memory.segments)
            for version in range(self._memory.catalog.latest_version(), -1, -1):
                try:
                    found = self._memory.catalog.read_manifest(version)
                    if set(found.segments) - known:
                        self._opened.append(Memory.open(self._memory.store, version, check=False))
                        known |= set(found.segments)
                except GlimmerError:
                    continue
        return self._opened


@dataclass
class Restored:
    """What became of one shard.

    Attributes:
        segment, shard: which.
        put_back: names of the files that are again what was written.
        not_back: kinds of damage ("codes", "lengths", "text") that could not be put back.
        rows: live rows that could be restored though their shard could not; `passages` and `codes` are theirs.
        lost: live row -> passage id, of rows whose text is lost, and with it what to encode.
        recoded: rows of the shard that were encoded again.
    """

    segment: str
    shard: int
    put_back: list[str] = field(default_factory=list)
    not_back: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    codes: Codes | None = None
    lost: dict[int, str] = field(default_factory=dict)
    recoded: int = 0


class ShardRestorer:
    """Restores one damaged shard of `reader`; `kinds` says which of its files are damaged."""

    def __init__(
        self,
        memory: Memory,
        reader: SegmentReader,
        shard: int,
        kinds: set[str],
        live: dict[int, str],
        encoder: Reencoder,
        others: OtherVersions,
    ) -> None:
        self._memory, self._reader, self._shard, self._kinds = memory, reader, shard, kinds
        self._live, self._encoder, self._others = live, encoder, others
        self._first, self._count = shard * SHARD_ROWS, reader.shape.shard_rows(shard)
        self._record: ShardRecord = reader.records[shard]
        self._result = Restored(reader.segment, shard)

    def run(self) -> Restored:
        """Puts back what it can; raises ModelError, MismatchError or UsageError if an encoder is needed and not had."""
        passages = self._passages()
        remade = RemadeShard(self._reader, self._shard)
        if TEXT_KIND in self._kinds:
            self._text(remade, passages)
        if LENGTHS_KIND in self._kinds:
            self._lengths(remade, passages)
        if CODES_KIND not in self._kinds and not self._result.not_back:
            return self._result
        codes, readable = self._codes(remade, passages)
        result = self._result
        for row, name in sorted(self._live.items()):
            passage = passages[row - self._first]
            if passage is None:
                result.lost[row] = name
            elif result.not_back and readable[row - self._first]:
                result.rows.append(row)
                result.passages.append(passage)
        result.codes = codes[np.array(result.rows, np.int64) - self._first]
        return result

    def _passages(self) -> list[Passage | None]:
        found: list[Passage | None] = [None] * self._count
        try:
            text = self._reader.open_text(self._shard)
        except DamageError:
            text = None
        for at in range(self._count):
            name = self._live.get(self._first + at)
            passage = None
            if text is not None:
                try:
                    passage = text.passage(at)
                except DamageError:
                    passage = None
            if passage is not None and name is not None and passage.passage_id != name:
                passage = None  # whole, but of another shard
            found[at] = passage if passage is not None or name is None else self._others.find(name)
        return found

    def _text(self, remade: RemadeShard, passages: Sequence[Passage | None]) -> None:
        whole = [passage for passage in passages if passage is not None]
        name, wanted = text_name(self._shard), self._record.text_sha256
        back = len(whole) == self._count and remade.put_back(name, text_shard(whole), wanted)
        self._note(name, TEXT_KIND, back)

    def _lengths(self, remade: RemadeShard, passages: Sequence[Passage | None]) -> None:
        back = remade.put_back_lengths(self._known_lengths(passages), self._record.lengths_sha256)
        self._note(lengths_name(self._shard), LENGTHS_KIND, back)

    def _known_lengths(self, passages: Sequence[Passage | None]) -> npt.NDArray[np.int32]:
        lengths = np.zeros(self._count, np.int32)
        stands = self._live_lengths()
        for at, passage in enumerate(passages):
            lengths[at] = len(passage.tokens) if passage is not None else stands.get(self._first + at, 0)
        return lengths

    def _live_lengths(self) -> dict[int, int]:
        names = sorted(self._live.items())
        counts = self._memory.token_counts(self._memory.locate([name for _, name in names]))
        return {row: int(count) for (row, _), count in zip(names, counts, strict=True)}

    def _codes(self, remade: RemadeShard, passages: Sequence[Passage | None]) -> tuple[Codes, npt.NDArray[np.bool_]]:
        """All codes of the shard as far as they can be had, bool [rows] of which can; the file put back if need be."""
        codes, readable = self._read_codes()
        missing = [at for at in range(self._count) if not readable[at]]
        self._encode(codes, readable, passages, missing)
        if CODES_KIND in self._kinds:
            wanted = self._record.codes_sha256
            back = remade.put_back_codes(codes, wanted)
            if not back:
                # Every chunk passed its checksum and yet the whole differs: trust none of them.
                again = [at for at in range(self._count) if passages[at] is not None and at not in set(missing)]
                self._encode(codes, readable, passages, again)
                back = remade.put_back_codes(codes, wanted)
            self._note(codes_name(self._shard), CODES_KIND, back)
        return codes, readable

    def _read_codes(self) -> tuple[Codes, npt.NDArray[np.bool_]]:
        rows = np.arange(self._first, self._first + self._count)
        try:
            return self._reader.codes(rows), np.ones(self._count, np.bool_)
        except DamageError:
            shape = self._reader.shape
            codes = np.zeros((self._count, shape.window, shape.code_bytes), np.uint8)
            readable = np.zeros(self._count, np.bool_)
        for at in range(self._count):
            try:
                codes[at] = self._reader.codes(rows[at : at + 1])[0]
                readable[at] = True
            except DamageError:
                continue
        return codes, readable

    def _encode(
        self,
        codes: Codes,
        readable: npt.NDArray[np.bool_],
        passages: Sequence[Passage | None],
        rows: Sequence[int],
    ) -> None:
        todo = [(at, passage) for at in rows if (passage := passages[at]) is not None]
        if todo:
            where = [at for at, _ in todo]
            codes[where] = self._encoder.encode([passage for _, passage in todo])
            readable[where] = True
            self._result.recoded += len(todo)

    def _note(self, name: str, kind: str, back: bool) -> None:
        if back:
            self._result.put_back.append(name)
        else:
            self._result.not_back.append(kind)


def with_places(memory: Memory, passages: Sequence[Passage]) -> list[Passage]:
    """`passages` with where they stand in their articles by the catalog of `memory`."""
    if not passages:
        return []
    places = memory.provenance(memory.locate([passage.passage_id for passage in passages])).tolist()
    return [
        replace(p, start_paragraph_id=a, start_character=b, end_paragraph_id=c, end_character=d)
        for p, (a, b, c, d) in zip(passages, places, strict=True)
    ]
