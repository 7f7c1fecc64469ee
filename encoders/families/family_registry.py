"""Families by name: those of this package, those registered in this process, those that plug-ins bring.

A module is imported when a model of its family is met. Entry points are looked up only where a name is none of ours, or
where all families are asked.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ... import ModelError
from ..strict_json import Section
from .encoder_family import EncoderConfig, EncoderFamily, TokenizerSpec

if TYPE_CHECKING:
    from ..tokenizers import Tokenizer

ENTRY_POINTS = "glimmer.encoder_families"
"""The entry point group of plug-ins: `name = "module:FAMILY"`, an `EncoderFamily` of that name."""
_BUILT_IN = ("bert", "t5")
"""Modules of this package, named as the family is, with a `FAMILY`."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_log = logging.getLogger(__name__)
_families: dict[str, EncoderFamily] = {}


def register_family(family: EncoderFamily) -> None:
    """Makes `family` known in this process; ValueError where its name is malformed or another family has it."""
    if not _NAME.fullmatch(family.name):
        raise ValueError(f"a family's name is lower-case letters, digits, _ and -, not {family.name!r:.80}")
    if family.name in _BUILT_IN or _families.get(family.name, family) is not family:
        raise ValueError(f"there is an encoder family {family.name} already")
    _families[family.name] = family


def family_names() -> list[str]:
    """All names, sorted; nothing is imported."""
    return sorted({*_BUILT_IN, *_families, *_plug_ins()})


def find_family(name: str) -> EncoderFamily:
    """The family of that name; ModelError says which there are, or why its plug-in fails."""
    if name in _families:
        return _families[name]
    if name in _BUILT_IN:
        family = importlib.import_module(f".{name}", __package__).FAMILY
    elif (plug_in := _plug_ins().get(name)) is not None:
        family = _load(plug_in)
    else:
        raise ModelError(f"no encoder family {name!r:.80}; known: {', '.join(family_names())}")
    return _families.setdefault(name, family)


def all_families() -> Iterator[EncoderFamily]:
    """Every family: those of this package, those registered, then plug-ins, each imported when its turn comes.

    A plug-in that cannot be imported is passed over with a warning in the log.
    """
    for name in dict.fromkeys((*_BUILT_IN, *sorted(_families))):
        yield find_family(name)
    for name in sorted(_plug_ins().keys() - _families.keys()):
        try:
            family = find_family(name)
        except ModelError as error:
            _log.warning("%s", error)
            continue
        yield family


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(entry: EntryPoint) -> EncoderFamily:
    try:
        family = entry.load()
    except Exception as error:  # whatever somebody else's module raises when it is imported
        what = f"{entry.value} cannot be loaded ({type(error).__name__}: {error})"
        remedy = "upgrade or uninstall its package"
        raise ModelError(what, where=f"encoder family {entry.name}", remedy=remedy) from error
    if not isinstance(family, EncoderFamily) or family.name != entry.name:
        raise ModelError(f"{entry.value} is no EncoderFamily of that name", where=f"encoder family {entry.name}")
    return family


def read_encoder_config(value: object, where: str = "config.json") -> EncoderConfig:
    """Parses what `EncoderConfig.to_json` wrote. `where` names the file in errors (ModelError)."""
    section = Section(value, "encoder", where)
    name = section.text("family")
    if name not in _families and name not in _BUILT_IN and name not in _plug_ins():
        section.fail(f"must be one of {', '.join(family_names())}, not {name!r:.40}", "family")
    config = find_family(name).config.take(section)
    section.end()
    return config


def find_tokenizer(kind: str) -> Callable[[Path], Tokenizer] | None:
    """What opens the file of a tokenizer of that kind; None where no family brings it."""
    return next((family.tokenizers[kind] for family in all_families() if kind in family.tokenizers), None)


def read_tokenizer_spec(value: object, where: str = "config.json") -> TokenizerSpec:
    """Parses the section `tokenizer` of a config.json. ModelError names the key and the file (`where`)."""
    section = Section(value, "tokenizer", where)
    kind, file = section.text("kind"), section.text("file")
    if find_tokenizer(kind) is None:
        kinds = sorted({kind for family in all_families() for kind in family.tokenizers})
        section.fail(f"must be one of {', '.join(kinds)}, not {kind!r:.40}", "kind")
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        section.fail(f"must be a path inside the model directory, not {file!r:.80}", "file")
    section.end()
    return TokenizerSpec(kind=kind, file=file)


def load_tokenizer(directory: Path, spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer of a model directory. ModelError when its file is absent, damaged or lies outside the directory."""
    path = directory / spec.file
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ModelError(f"{directory}/config.json: tokenizer.file points outside the model directory")
    open_file = find_tokenizer(spec.kind)
    if open_file is None:
        raise ModelError(
            f"{directory}/config.json: tokenizer.kind is {spec.kind!r:.40}, which no encoder family brings"
        )
    return open_file(path)
