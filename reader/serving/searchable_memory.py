"""`glimmer.Memory`: one version of a memory to look passages up in, to search, and to take vectors from.

It puts together what the rooms below keep apart: the snapshot in `storage`, the first-stage index, the codec's decoder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, overload

import numpy as np
import numpy.typing as npt

from ... import PassageNotFoundError, UsageError
from ...progress import Progress
from ...storage.memory import Memory as MemorySnapshot
from ...storage.passage import Passage, is_passage_id
from ...storage.stores import Place
from .candidates import retrieval_question
from .retrieval_index import open_index
from .scored_passage import ScoredPassage
from .token_frequencies import TokenFrequencies, open_token_frequencies

if TYPE_CHECKING:
    from .retrieval import Bm25Index

_IDS_AT_ONCE: Final = 4096
_DECODED_AT_ONCE: Final = 16  # passages; one compiled shape, whatever is asked for

Vectors = npt.NDArray[np.float32]


class Memory(Mapping[str, Passage]):
    """One version of a memory, open for reading: a mapping from passage id to `Passage`.

    It goes on showing the version that it was opened at while jobs commit newer ones. Whatever it returns has passed
    its checksums; a damaged passage raises `DamageError`. Safe to use from several threads. `open_memory` makes one.

    Examples:
        >>> memory = glimmer.open_memory("wiki.memory")
        >>> len(memory), memory.version
        (7, 1)
        >>> best, *others = memory.search("who painted the ceiling of the Sistine chapel")
        >>> memory[best.passage_id].title
        'Sistine Chapel ceiling'
    """

    def __init__(self, snapshot: MemorySnapshot, *, progress: Progress | None = None) -> None:
        self._snapshot: MemorySnapshot | None = snapshot
        self._progress = progress
        self._described = (
            f"<glimmer.Memory {str(snapshot.location)!r}, version {snapshot.version}: {snapshot.passages:,} passages, "
            f"{snapshot.tokens:,} tokens of width {snapshot.codec.width} from {snapshot.identity.encoder.name!r}, "
            f"codec {snapshot.codec.name!r}>"
        )
        self._lock = threading.Lock()
        self._opened_index: Bm25Index | None = None
        self._frequencies: TokenFrequencies | None = None

    # What it is.

    @property
    def snapshot(self) -> MemorySnapshot:
        """The storage-level snapshot, for code that needs positions, codes or the catalog; UsageError once closed."""
        if self._snapshot is None:
            raise UsageError(f"{self._described[:-1]} (closed)>: open the memory again with glimmer.open_memory")
        return self._snapshot

    @property
    def path(self) -> str:
        """The memory's directory."""
        return str(self.snapshot.location)

    @property
    def version(self) -> int:
        """The version that is shown."""
        return self.snapshot.version

    @property
    def tokens(self) -> int:
        """Tokens of all passages together."""
        return self.snapshot.tokens

    @property
    def width(self) -> int:
        """Dimensions of a token's vector."""
        return self.snapshot.codec.width

    @property
    def codec(self) -> str:
        """How vectors are stored, such as `"int8"`."""
        return self.snapshot.codec.name

    @property
    def encoder(self) -> str:
        """Name of the model whose lower layers made the memory."""
        return self.snapshot.identity.encoder.name

    def __repr__(self) -> str:
        return self._described if self._snapshot is not None else f"{self._described[:-1]} (closed)>"

    # A mapping.

    def __len__(self) -> int:
        return self.snapshot.passages

    def __iter__(self) -> Iterator[str]:
        """Passage ids in ascending order."""
        snapshot = self.snapshot
        for start in range(0, snapshot.passages, _IDS_AT_ONCE):
            yield from snapshot.ids(np.arange(start, min(start + _IDS_AT_ONCE, snapshot.passages)))

    def __contains__(self, passage_id: object) -> bool:
        if not isinstance(passage_id, str) or not is_passage_id(passage_id):
            return False
        return int(self.snapshot.locate([passage_id], missing="skip")[0]) >= 0

    def __getitem__(self, passage_id: str) -> Passage:
        """The passage of that id; `PassageNotFoundError` (a `KeyError` too) where this version has none."""
        return self.passages([passage_id])[0]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # Reading.

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of several ids at once, in their order; faster than one by one.

        Raises:
            PassageNotFoundError: this version has no passage of one of the ids.
        """
        return self.snapshot.texts(self.positions(ids))

    @overload  # a string is a sequence of strings too, which the first of the two takes
    def search(  # type: ignore[overload-overlap]
        self, question: str, k: int = 5
    ) -> list[ScoredPassage]: ...

    @overload
    def search(self, question: Sequence[str], k: int = 5) -> list[list[ScoredPassage]]: ...

    def search(self, question: str | Sequence[str], k: int = 5) -> list[ScoredPassage] | list[list[ScoredPassage]]:
        """The `k` best passages for a question by BM25 over titles and texts, best first.

        The index is opened at the first search, and built first where the version has none yet.

        Args:
            question: a question, or several.
            k: most passages of each; fewer come back where fewer share a word with the question.

        Returns:
            A list of `ScoredPassage`; of several questions a list of such lists.

        Raises:
            UsageError: `k` is not positive, or the memory is empty.

        Examples:
            >>> memory.search("who painted the ceiling of the Sistine chapel", k=1)
            [ScoredPassage('Sistine Chapel ceiling', 'The Sistine Chapel ceiling was ...', ..., score=11.55)]
        """
        questions = [question] if isinstance(question, str) else list(question)
        hits = self.first_stage().search([retrieval_question(each) for each in questions], k)
        found = [ScoredPassage.scored(self.snapshot.texts(each.positions), each.scores.tolist()) for each in hits]
        return found[0] if isinstance(question, str) else found

    @overload
    def vectors(self, passages: Passage | str) -> Vectors: ...  # type: ignore[overload-overlap]

    @overload
    def vectors(self, passages: Sequence[Passage | str]) -> list[Vectors]: ...

    def vectors(self, passages: Passage | str | Sequence[Passage | str]) -> Vectors | list[Vectors]:
        """The stored token vectors of passages, decoded.

        Args:
            passages: a passage or a passage id, or a sequence of them.

        Returns:
            float32 [tokens, width]; of a sequence a list of such arrays. Row i belongs to `passage.tokens[i]`.

        Raises:
            PassageNotFoundError: this version has no such passage.

        Examples:
            >>> memory.vectors(best).shape
            (50, 384)
        """
        if isinstance(passages, str | Passage):
            return self.vectors([passages])[0]
        snapshot, found = self.snapshot, list[Vectors]()
        positions = self.positions([each if isinstance(each, str) else each.passage_id for each in passages])
        codes = np.zeros((_DECODED_AT_ONCE, snapshot.window, snapshot.codec.code_bytes), np.uint8)
        for start in range(0, len(positions), _DECODED_AT_ONCE):
            part = positions[start : start + _DECODED_AT_ONCE]
            _, lengths = snapshot.fetch(part, out=codes[: len(part)])
            decoded = np.asarray(self._decode(codes))
            found += [decoded[row, :length].copy() for row, length in enumerate(lengths.tolist())]
        return found

    def positions(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [n]: places of passages in this version, counted in the order of ids.

        Raises:
            PassageNotFoundError: this version has no passage of one of the ids.
        """
        snapshot = self.snapshot
        known = [each for each in ids if isinstance(each, str) and is_passage_id(each)]
        found = dict(zip(known, snapshot.locate(known, missing="skip").tolist(), strict=True)) if known else {}
        for each in ids:
            if found.get(each, -1) < 0:
                raise PassageNotFoundError(
                    f"there is no passage {each!r}", where=f"version {snapshot.version} of {snapshot.location}"
                )
        return np.array([found[each] for each in ids], np.int64)

    # The first stage.

    def build_index(self, *, language: str | None = None, rebuild: bool = False) -> None:
        """Builds the first-stage index of this version, unless it has one.

        Args:
            language: of the stemmer ("german", …, or "none"); an index of another language is built anew. None keeps
                that of the index that is there, or of an earlier version's, else English.
            rebuild: build it whatever is there.
        """
        with self._lock:
            self._opened_index = open_index(self.snapshot, progress=self._progress, rebuild=rebuild, language=language)

    def first_stage(self) -> Bm25Index:
        """The opened first-stage index, built first where there is none."""
        with self._lock:
            if self._opened_index is None:
                self._opened_index = open_index(self.snapshot, progress=self._progress)
            return self._opened_index

    def token_frequencies(self) -> TokenFrequencies:
        """How many passages have each token, counted first where that was not done yet; late interaction needs it."""
        with self._lock:
            if self._frequencies is None:
                self._frequencies = open_token_frequencies(self.snapshot, progress=self._progress)
            return self._frequencies

    @cached_property
    def _decode(self) -> Any:
        """Codes uint8 [n, window, code_bytes] -> float32 [n, window, width], compiled."""
        import jax  # only who asks for vectors needs it
        import jax.numpy as jnp

        codec = self.snapshot.codec
        return jax.jit(lambda codes: codec.decode(codes, jnp.float32))

    # Letting go.

    def close(self) -> None:
        """Lets go of the memory's files. What was returned before stays usable; this object does not."""
        self._snapshot = self._opened_index = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_memory(
    path: Place,
    *,
    version: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> Memory:
    """Opens a memory for looking up, searching and reading vectors.

    Args:
        path: the memory's directory, or the store that holds it.
        version: which version; None is the newest.
        check: compare the sizes of all its files with what was committed. Checksums are compared whatever this is.
        progress: called while an index is built.

    Raises:
        UsageError: there is no memory at `path`, or no such version, or it was vacuumed.
        DamageError: something is not as it was committed; `glimmer.repair` mends it.
        MismatchError: a newer Glimmer wrote it.

    Examples:
        >>> memory = glimmer.open_memory("wiki.memory")
        >>> memory
        <glimmer.Memory '...wiki.memory', version 1: 7 passages, ...>
    """
    return Memory(MemorySnapshot.open(path, version, check=check), progress=progress)
