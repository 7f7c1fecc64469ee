"""A memory is read with the encoder that made it, which is known by its fingerprint, not by its name."""

from __future__ import annotations

import os

from .. import MismatchError
from ..encoders.models import LoadedModel
from ..storage.identity import Identity


def check_encoder(model: LoadedModel, identity: Identity, where: str | os.PathLike[str]) -> None:
    """MismatchError unless the memory at `where` was made by the lower layers of `model`."""
    if model.fingerprint != identity.encoder.fingerprint:
        raise MismatchError(
            f"{where} was made by another encoder ({identity.encoder.name}, fingerprint "
            f"{identity.encoder.fingerprint[:12]}…) than {model.path} ({model.fingerprint[:12]}…); "
            f"use --model {identity.encoder.source}, or another --memory"
        )
