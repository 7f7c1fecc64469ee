"""Which passages codecs are fitted to and which are held out, and the sample of tokens that they are fitted to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...encoders.memory_encoder import MemoryEncoder
from ...progress import Progress
from ...storage.codecs import FitSample
from ...storage.memory import Memory
from ..encoding.codec_fit import SEED, TOKENS_A_PASSAGE, sampled_tokens, spread

HELD_OUT_PASSAGES = 512
"""Passages that the error is measured on; an eighth of a small memory's."""

Positions = npt.NDArray[np.int64]


def held_out(passages: int) -> tuple[Positions, Positions]:
    """(int64 positions held out, all the others) of a memory of at least two passages, both ascending."""
    chosen = spread(passages, min(HELD_OUT_PASSAGES, max(1, passages // 8)), f"{SEED}/held out")
    return chosen, np.delete(np.arange(passages), chosen)


class FitSamples:
    """Samples of tokens of the passages at `positions`, chosen as `glimmer encode` chooses them; each is made once."""

    def __init__(self, encoder: MemoryEncoder, memory: Memory, positions: Positions, progress: Progress) -> None:
        self._encoder, self._memory, self._positions, self._progress = encoder, memory, positions, progress
        self._made: dict[int, FitSample] = {}

    def of(self, most: int) -> FitSample | None:
        """At most so many tokens, in arrays that the caller may overwrite; None for 0."""
        if not most:
            return None
        if most not in self._made:
            each = min(TOKENS_A_PASSAGE, self._memory.window * 3 // 4)
            chosen = spread(len(self._positions), -(-most // each), f"{SEED}/passages")
            passages = self._memory.texts(self._positions[chosen])
            self._made[most] = sampled_tokens(self._encoder, passages, most, self._progress)
        made = self._made[most]
        return FitSample(
            vectors=made.vectors.copy(),
            ids=made.ids.copy(),
            positions=made.positions.copy(),
            embeddings=made.embeddings.copy(),
        )

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest sample that was made; 0 where none was."""
        return max(map(len, self._made.values()), default=0)
