"""What answering reads of a memory: lengths, codes and texts of passages by position, and the codec of the codes.

`storage.memory.Memory` is one. The benchmark of codecs puts the same passages in another codec's codes in its place.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...storage.codecs import Codec
from ...storage.passage import Passage


class PassageSource(Protocol):
    """Passages by position, as `storage.memory.Memory` gives them; its methods say more."""

    @property
    def window(self) -> int:
        """Tokens of the longest passage there may be."""

    @property
    def codec(self) -> Codec:
        """Decodes what `fetch` returns."""

    def token_counts(self, positions: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each passage."""

    def fetch(
        self, positions: npt.ArrayLike, out: npt.NDArray[np.uint8] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """(codes uint8 [n, window, code_bytes], zero beyond a passage's length, and lengths int32 [n])."""

    def texts(self, positions: npt.ArrayLike) -> list[Passage]:
        """The passages themselves, in the order of `positions`."""
