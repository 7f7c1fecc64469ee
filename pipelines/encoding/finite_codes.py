"""A representation that is not finite is refused where its codec cannot keep it, by the id of its passage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import InputError
from ...encoders.memory_encoder import EncodedBatch
from ...storage.codecs import Codec, RefusesNonFinite


def refuse_non_finite(codec: Codec, batch: EncodedBatch, passages: Sequence[str]) -> None:
    """InputError naming the first passage of a batch of codes that says it had a NaN or an infinity.

    `passages` are the ids of all passages that the batch's indices count.
    """
    if not isinstance(codec, RefusesNonFinite):
        return
    refused = np.flatnonzero(codec.refused(batch.outputs).any(axis=-1))
    if len(refused):
        raise not_finite(passages[batch.indices[refused[0]]], f"codec {codec.name} cannot keep")


def not_finite(passage: str, which: str) -> InputError:
    """The error for a passage whose representation holds a NaN or an infinity, `which` …"""
    return InputError(
        f"the encoder gives a NaN or an infinity, which {which}",
        where=f"passage {passage}",
        remedy="check the model's weights, or try --precision float32",
    )
