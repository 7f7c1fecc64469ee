"""A model with the window of a memory."""

from __future__ import annotations

from dataclasses import replace

from ...encoders.models import LoadedModel


def with_window(model: LoadedModel, window: int) -> LoadedModel:
    """`model` with the window of a memory, which decides how titles are cut; the fingerprint does not cover it."""
    return model if model.config.window == window else replace(model, config=replace(model.config, window=window))
