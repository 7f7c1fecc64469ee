"""Other people's checkpoints as Glimmer's tensors: the family that recognises a file or directory imports it."""

from __future__ import annotations

from pathlib import Path

from .. import ModelError, UsageError
from .families.encoder_family import ImportedCheckpoint
from .families.family_registry import all_families
from .hugging_face import model_type


def import_checkpoint(source: Path, *, tokenizer: Path | None = None) -> ImportedCheckpoint:
    """Reads somebody else's checkpoint; `tokenizer` is its file where that does not lie in `source`.

    ModelError names the file and what is wrong, or says what the known families take; UsageError when there is nothing
    at `source`, or the tokenizer is missing.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such directory or file")
    for family in all_families():
        if family.recognises(source):
            return family.import_checkpoint(source, tokenizer)
    kind = model_type(source)
    found = (
        f"{source}: no checkpoint of a known family"
        if kind is None
        else f"{source}/config.json: model_type is {kind!r}"
    )
    raise ModelError(f"{found}; supported: {'; '.join(family.checkpoints for family in all_families())}")
