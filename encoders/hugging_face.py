"""What checkpoints of any family share: a Hugging Face directory's files, and tensors under new names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import ModelError
from .strict_json import Section, read_json
from .torch_archive import read_torch
from .weights import LazyTensor, Tensors, read_safetensors, read_sharded


def model_type(source: Path) -> str | None:
    """The `model_type` of a directory's config.json; None where there is no such file, or it does not say.

    ModelError where the file is not JSON.
    """
    path = source / "config.json"
    config = read_json(path) if source.is_dir() and path.exists() else None
    found = config.get("model_type") if isinstance(config, Mapping) else None
    return found if isinstance(found, str) else None


def directory_tensors(directory: Path) -> Tensors:
    """The weights of a directory: safetensors where it has them, else PyTorch's, whole or in parts."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch)):
        if (directory / name).exists():
            return read(directory / name)
        if (directory / f"{name}.index.json").exists():
            return read_sharded(directory, f"{name}.index.json", read)
    raise ModelError(f"{directory}: no weights (model.safetensors or pytorch_model.bin, or an index of their parts)")


def tokenizer_file(directory: Path, given: Path | None, name: str) -> Path:
    """`given`, or `name` in `directory`; ModelError when it is not there."""
    path = given if given is not None else directory / name
    if not path.is_file():
        raise ModelError(f"{path}: no such file; the tokenizer is needed (give --tokenizer FILE if it lies elsewhere)")
    return path


class HuggingFaceConfig(Section):
    """A directory's config.json: only the keys that matter are taken, an absent one has the library's default."""

    def __init__(self, directory: Path, defaults: Mapping[str, object]) -> None:
        value = read_json(directory / "config.json")
        merged = dict(defaults) | dict(value) if isinstance(value, Mapping) else value
        super().__init__(merged, "", f"{directory}/config.json")


class RenamedTensors:
    """Collects a checkpoint's tensors under new names, each checked to have the shape that the module expects."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.origin = tensors.origin
        self.entries: dict[str, LazyTensor] = {}

    def find(self, *names: str) -> LazyTensor:
        """The first of several old names that exists; ModelError names the first of them when none does."""
        for name in names:
            if name in self._tensors.entries:
                return self._tensors.entries[name]
        return self._tensors.lazy(names[0])

    def take(self, new: str, shape: tuple[int, ...], *names: str, transpose: bool = False) -> None:
        """Keeps the first of `names` that exists, transposed on demand, as `new`; ModelError for another shape."""
        entry = self.find(*names)
        if transpose and len(entry.shape) == 2:
            entry = entry.transposed()
        if entry.shape != shape:
            raise ModelError(f"{self.origin}: {names[0]} makes {new} {list(entry.shape)}; expected {list(shape)}")
        self.entries[new] = entry

    def matrix(self, name: str) -> tuple[int, int]:
        """Rows and columns of a tensor that must be two-dimensional."""
        shape = self.find(name).shape
        if len(shape) != 2:
            raise ModelError(f"{self.origin}: {name} is {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def result(self) -> Tensors:
        """What was taken."""
        return Tensors(self.entries, self.origin)
