"""Checkpoints: all that a run needs to resume exactly where it was, whole on disk or not there.

A checkpoint is a directory `step-<number>` with the trained weights and the optimiser's state as safetensors, and
`state.json`, which says what run they belong to and holds the file's digest. It is written under a temporary name,
flushed and renamed. Safetensors and a digest instead of Orbax: of 24 Orbax checkpoints (0.12.8) with one bit flipped
all were restored, as other weights and without a word, and a run that resumes exactly must not start from those. What
is kept is a few arrays on one machine, and the same reader reads models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ... import DamageError, MismatchError
from ...encoders.weights import check_finite, in_memory, read_safetensors, write_safetensors
from ...storage.files import (
    TEMPORARY_PREFIX,
    damage,
    make_directories,
    read_regular,
    sha256_file,
    sync_directory,
    translated,
    write_atomic,
)
from ...storage.removal import remove_tree
from .step import TrainState, Weights

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8})")
_ARRAYS, _STATE = "state.safetensors", "state.json"
_LARGEST_STATE = 16 << 20
_DIVERGED = "training has diverged: lower [optimiser] learning_rate and begin a new run"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state read back, and the `notes` saved with it."""

    state: TrainState
    notes: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they are; made when the first is saved.
        settings: JSON values that the course of the run depends on; a checkpoint of others is refused.
        keep: how many are kept.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], *, keep: int = 2) -> None:
        self._directory, self._keep = directory, keep
        self._settings = json.loads(json.dumps(settings))

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, in order."""
        if not self._directory.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(self, state: TrainState, notes: Mapping[str, Any]) -> None:
        """Saves a state with `notes` (JSON values) and drops the oldest beyond `keep`. StorageError if refused.

        ModelError where a weight is no longer a finite number: no run could resume from that.
        """
        step = int(state.step)
        for name, value in state.weights.items():
            check_finite(str(self._directory), name, np.asarray(value), _DIVERGED)
        make_directories(self._directory)
        target = self._directory / f"step-{step:08d}"
        scratch = self._directory / f"{TEMPORARY_PREFIX}{target.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        make_directories(scratch)
        write_safetensors(scratch / _ARRAYS, in_memory(_named(state), str(target)))
        record = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "sha256": sha256_file(scratch / _ARRAYS)[0],
            "settings": self._settings,
            "notes": dict(notes),
        }
        write_atomic(scratch / _STATE, json.dumps(record, indent=1).encode())
        with translated(target, damage(target, "remove it, then run the same command again")):
            if target.exists():
                shutil.rmtree(target)
            os.replace(scratch, target)
        sync_directory(self._directory)
        for old in self.steps()[: -self._keep]:
            remove_tree(self._directory / f"step-{old:08d}", within=self._directory)

    def newest(self, like: TrainState) -> Checkpoint | None:
        """The newest checkpoint, None where there is none; `like` is a state of the same run, for its structure.

        Raises MismatchError naming the settings that differ from this run's, and DamageError for bytes that are not
        what was saved.
        """
        steps = self.steps()
        if not steps:
            return None
        place = self._directory / f"step-{steps[-1]:08d}"
        record = self._record(place)
        found = record.get("settings", {})
        differing = [
            f"{name} was {found.get(name)!r}, is {self._settings.get(name)!r}"
            for name in sorted(found.keys() | self._settings.keys())
            if found.get(name) != self._settings.get(name)
        ]
        if differing:
            raise MismatchError(
                f"{place} belongs to a run with other settings ({'; '.join(differing)}); "
                "choose another run directory, or remove this one"
            )
        if sha256_file(place / _ARRAYS)[0] != record.get("sha256"):
            raise DamageError(
                f"{place / _ARRAYS} is not what was saved; remove {place} to resume from an earlier checkpoint"
            )
        tensors = read_safetensors(place / _ARRAYS)
        wanted = _named(like)
        arrays = {name: tensors.expect(name, array.shape) for name, array in wanted.items()}
        state: TrainState = jax.tree.unflatten(jax.tree.structure(like), [jnp.array(arrays[name]) for name in wanted])
        return Checkpoint(state=state, notes=cast(Mapping[str, Any], record.get("notes", {})))

    def notes(self) -> list[Mapping[str, Any]]:
        """The notes of every checkpoint, oldest first."""
        return [self._record(self._directory / f"step-{step:08d}").get("notes", {}) for step in self.steps()]

    def _record(self, place: Path) -> dict[str, Any]:
        try:
            record = json.loads(read_regular(place / _STATE, most=_LARGEST_STATE))
        except (OSError, ValueError, RecursionError, DamageError) as error:
            raise DamageError(
                f"{place / _STATE} cannot be read ({error}); remove {place} to resume from an earlier checkpoint"
            ) from error
        if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
            raise DamageError(f"{place / _STATE} is not a checkpoint of this release; remove {place}")
        return record


def save_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Writes weights by dotted name as one safetensors file, whole or not at all; ModelError where they diverged."""
    make_directories(path.parent)
    scratch = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    arrays = in_memory({name: np.asarray(value) for name, value in weights.items()}, str(path))
    write_safetensors(scratch, arrays, finite_or=_DIVERGED)
    with translated(path, damage(path, "run the same command again")):
        os.replace(scratch, path)
    sync_directory(path.parent)


def load_weights(path: Path, like: Weights) -> dict[str, npt.NDArray[Any]]:
    """What `save_weights` wrote; DamageError where a weight of `like` is missing or the file is gone."""
    with translated(path, damage(path, "remove the run directory and train again")):
        tensors = read_safetensors(path)
        return {name: np.array(tensors.expect(name, value.shape)) for name, value in like.items()}


def _named(state: TrainState) -> dict[str, npt.NDArray[Any]]:
    """Every array of a state by its path in the tree, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
