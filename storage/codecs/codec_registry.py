"""The codecs there are, by name: those of this package, of other packages, and what users and files say about them.

A codec is added by one file. In this package the file only has to be here: every module of `glimmer.storage.codecs`
is imported when a codec is first asked for, and calls `register_codec`. Another package names its module in the entry
point group `glimmer.codecs`; it is imported when a command line or a memory names that codec, in workers too:

    [project.entry-points."glimmer.codecs"]
    pq = "my_package.pq"
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import numpy as np

from ... import DamageError, GlimmerError, UsageError
from .codec import (
    MAX_TABLE_BYTES,
    MAX_WIDTH,
    Codec,
    CodecSpec,
    FitSample,
    Parameter,
    Scalar,
    Tables,
    TableShape,
    is_codec_name,
    spec_text,
)

ENTRY_POINTS = "glimmer.codecs"
FIT_SAMPLES = 1 << 16
"""Token representations a codec is fitted to, unless it asks for another number: 256 for each of 256 centroids."""

_RESTORE = "restore the file from a copy of the memory"

Fit = Callable[[FitSample, CodecSpec, int], Codec]
Samples = Callable[[CodecSpec], int]


@dataclass(frozen=True, kw_only=True)
class CodecDefinition:
    """What `register_codec` was told about a codec."""

    name: str
    code_bytes: Callable[[CodecSpec], int]
    load: Callable[[CodecSpec, Tables], Codec]
    parameters: tuple[Parameter, ...]
    tables: Callable[[CodecSpec], Mapping[str, TableShape]]
    fit: Fit | None
    fit_samples: Samples
    make: Callable[[CodecSpec], Codec] | None


_definitions: dict[str, CodecDefinition] = {}


def register_codec(
    name: str,
    *,
    code_bytes: Callable[[CodecSpec], int],
    load: Callable[[CodecSpec, Tables], Codec],
    parameters: Sequence[Parameter] = (),
    tables: Callable[[CodecSpec], Mapping[str, TableShape]] = lambda spec: {},
    fit: Fit | None = None,
    fit_samples: int | Samples = FIT_SAMPLES,
    make: Callable[[CodecSpec], Codec] | None = None,
) -> CodecDefinition:
    """Makes a codec known under `name`.

    Args:
        name: lower-case letters, digits, `_` and `-`, at most 64. It stands in memories, so it means the same for ever.
        code_bytes: bytes a token. Raises UsageError for a width that the parameters do not go with.
        load: the codec of a memory, from its description and tables, whose shapes and dtypes have been checked.
        parameters: what `--codec name:key=value,...` takes.
        tables: name -> shape and dtype of each table; none by default.
        fit: makes the tables of a new memory: `fit(sample, spec, seed)` gets n tokens drawn from the corpus
            (`FitSample`) and returns the codec. n is at most `fit_samples`, less for a small corpus: a UsageError says
            how many it needs. The same arguments SHOULD give the same tables.
        fit_samples: how many tokens `fit` is given at most; a number, or a function of the description.
        make: makes the tables of a new memory from the parameters alone, instead of `fit`.

    Raises UsageError for a name that is taken or impossible, and for tables that nothing makes.
    """
    if not is_codec_name(name):
        raise UsageError(f"codec name {name!r} is not made of lower-case letters, digits, '_' and '-' (at most 64)")
    if name in _definitions:
        raise UsageError(f"codec {name} is registered already; register it under another name")
    if fit is not None and make is not None:
        raise UsageError(f"codec {name}: tables come from `fit` or from `make`, not from both")
    definition = CodecDefinition(
        name=name,
        code_bytes=code_bytes,
        load=load,
        parameters=tuple(parameters),
        tables=tables,
        fit=fit,
        fit_samples=fit_samples if callable(fit_samples) else lambda spec: fit_samples,
        make=make,
    )
    _definitions[name] = definition
    return definition


@functools.cache
def _own() -> None:
    """Imports every module of this package, which registers its codecs."""
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


@contextlib.contextmanager
def codecs_forgotten_afterwards() -> Iterator[None]:
    """What is registered inside the block is forgotten at its end: for tests of a codec."""
    _own()
    before = dict(_definitions)
    try:
        yield
    finally:
        _definitions.clear()
        _definitions.update(before)


@functools.cache
def _others() -> Mapping[str, EntryPoint]:
    """Codecs of other packages, not imported yet. A name of our own, or a second one of a name, is passed over."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        found.setdefault(entry.name, entry)
    return MappingProxyType(found)


def codec_names() -> tuple[str, ...]:
    """Names of all codecs, sorted. Those of other packages are listed without importing them."""
    _own()
    return tuple(sorted({*_definitions, *_others()}))


def _definition(name: str) -> CodecDefinition | None:
    """The codec registered as `name`; None if there is none. UsageError where its package cannot be imported."""
    _own()
    if name not in _definitions and (entry := _others().get(name)) is not None:
        try:
            entry.load()
        except GlimmerError:
            raise
        except Exception as error:
            what = f"cannot be imported from {entry.value} ({type(error).__name__}: {error})"
            raise UsageError(what, where=f"codec {name}", remedy="upgrade or uninstall its package") from error
        if name not in _definitions:
            what = f"{entry.value} does not register it"
            raise UsageError(what, where=f"codec {name}", remedy="upgrade or uninstall its package")
    return _definitions.get(name)


# From a command line.


def parse_codec_text(text: str) -> tuple[str, dict[str, Scalar]]:
    """Name and parameters of `name` or `name:key=value,...`, defaults filled in but for derived ones.

    Raises UsageError.
    """
    name, colon, rest = text.partition(":")
    definition = _definition(name)
    if definition is None:
        raise UsageError(f"unknown codec {name!r}", remedy=f"choose one of {', '.join(codec_names())}")
    where = f"codec {name}"
    known = {parameter.name: parameter for parameter in definition.parameters}
    given: dict[str, Scalar] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if key not in known or not equals:
            raise UsageError(f"{item!r} is not one of its parameters", where=where, remedy=_taken(definition))
        if key in given:
            raise UsageError(f"{key} is given twice", where=where, remedy="give it once")
        try:
            given[key] = known[key].parse(value)
        except ValueError as error:
            raise UsageError(str(error), where=where) from error
    for parameter in definition.parameters:
        if parameter.name not in given and parameter.derive is None:
            if parameter.default is None:
                raise UsageError(f"{parameter.name} must be given", where=where, remedy=_taken(definition))
            given[parameter.name] = parameter.default
    return name, given


def _taken(definition: CodecDefinition) -> str:
    """What parameters a codec takes, for a message."""
    listed = [
        f"{each.name}= ({each.expected}" + ("" if each.default is None else f", default {each.default}") + ")"
        for each in definition.parameters
        if not each.fixed
    ]
    return f"it takes {', '.join(listed)}" if listed else "it takes none"


def parse_codec(text: str, width: int, vocabulary: int = 0) -> CodecSpec:
    """The codec that `--codec` names, for representations of `width` numbers of `vocabulary` different tokens.

    Raises UsageError naming what is unknown and what there is, or for parameters that do not go with the encoder.
    """
    name, parameters = parse_codec_text(text)
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
        raise UsageError(f"a codec's width must be between 1 and {MAX_WIDTH}, not {width!r}")
    for parameter in _definitions[name].parameters:
        if parameter.derive is None:
            continue
        try:
            derived = parameter.check(parameter.derive(width, vocabulary))
            if parameter.fixed and parameters.get(parameter.name, derived) != derived:
                raise ValueError(f"{parameter.name} is {parameters[parameter.name]}, the encoder's is {derived}")
        except ValueError as error:
            raise UsageError(str(error), where=f"codec {name}") from error
        parameters.setdefault(parameter.name, derived)
    spec = CodecSpec(name, width, MappingProxyType(parameters))
    code_bytes(spec)
    return spec


def spec_for_encoder(spec: CodecSpec, width: int, vocabulary: int) -> CodecSpec:
    """`spec` for another encoder: parameters that may be given are kept, those that follow from the encoder do.

    Raises UsageError where the parameters do not go with the encoder.
    """
    kept = {each.name: spec[each.name] for each in _known(spec).parameters if not each.fixed}
    return parse_codec(spec_text({"name": spec.name, **kept}), width, vocabulary)


# From memory.json.


def parse_spec(record: Mapping[str, Any]) -> CodecSpec:
    """The codec that `codec` of memory.json describes.

    Raises ValueError naming the key for a description that this version cannot have written.
    """
    name, width = record.get("name"), record.get("width")
    definition = _definition(name) if isinstance(name, str) else None
    if definition is None:
        raise ValueError(
            f"codec.name is {name!r:.80}, expected one of {', '.join(codec_names())}, or another after installing the "
            "package it comes from"
        )
    keys = {"name", "width", *(parameter.name for parameter in definition.parameters)}
    if set(record) != keys:
        raise ValueError(f"codec has the keys {sorted(record)[:9]}, expected {sorted(keys)}")
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
        raise ValueError(f"codec.width is {width!r:.80}, expected an integer from 1 to {MAX_WIDTH}")
    try:
        values = {parameter.name: parameter.check(record[parameter.name]) for parameter in definition.parameters}
        spec = CodecSpec(definition.name, width, MappingProxyType(values))
        code_bytes(spec)
    except (ValueError, UsageError) as error:
        raise ValueError(f"codec.{error}") from error
    return spec


def codec_from_spec(record: Mapping[str, Any], tables: Tables) -> Codec:
    """The codec that `codec` of memory.json describes, with the arrays of `codec/tables.safetensors`.

    Raises DamageError when the description is not one this version could have written, or the tables are not its own.
    """
    try:
        spec = parse_spec(record)
    except ValueError as error:
        raise DamageError(str(error), where="memory.json", remedy=_RESTORE) from error
    try:
        _check_tables(spec, tables)
    except ValueError as error:
        raise DamageError(str(error), where="codec/tables.safetensors", remedy=_RESTORE) from error
    return _known(spec).load(spec, tables)


# What follows from a description.


def _known(spec: CodecSpec) -> CodecDefinition:
    definition = _definition(spec.name)
    assert definition is not None, f"{spec} was not made by this registry"
    return definition


def code_bytes(spec: CodecSpec) -> int:
    """Bytes a token; UsageError where the codec does not go with the width."""
    return _known(spec).code_bytes(spec)


def table_shapes(spec: CodecSpec) -> dict[str, TableShape]:
    """Name -> shape and dtype of the codec's tables."""
    return dict(_known(spec).tables(spec))


def fit_samples(spec: CodecSpec) -> int:
    """How many token representations the codec is fitted to at most; 0 for one that needs no fit."""
    definition = _known(spec)
    return 0 if definition.fit is None else definition.fit_samples(spec)


def new_codec(spec: CodecSpec) -> Codec:
    """The codec of a new memory, for a codec that needs no fit: its tables, if it has some, follow from `spec`.

    Raises UsageError for a codec that has to be fitted to representations.
    """
    definition = _known(spec)
    if definition.fit is not None:
        what = "its tables are fitted to a corpus"
        raise UsageError(what, where=f"codec {spec}", remedy="let `glimmer encode` make them, with a memory")
    made = definition.load(spec, {}) if definition.make is None else definition.make(spec)
    return _checked(spec, made)


def fit_codec(spec: CodecSpec, sample: FitSample, seed: int) -> Codec:
    """The codec fitted to `sample`.

    Raises what the codec's `fit` raises, and UsageError where it returns another codec than it was asked for.
    """
    definition = _known(spec)
    assert definition.fit is not None, f"{spec} needs no fit"
    return _checked(spec, definition.fit(sample, spec, seed))


def codec_with_zero_tables(spec: CodecSpec) -> Codec:
    """A codec of the same shapes and costs as one of `spec`, whose tables mean nothing: for timing."""
    tables = {name: np.zeros(each.shape, each.dtype) for name, each in table_shapes(spec).items()}
    return _known(spec).load(spec, tables)


def codec_from_tables(spec: CodecSpec, tables: Tables) -> Codec:
    """The codec of `spec` with tables that were made before; raises ValueError unless they are of its shapes."""
    _check_tables(spec, tables)
    return _known(spec).load(spec, tables)


def make_codec(text: str, width: int) -> Codec:
    """The codec that `--codec text` names, for representations of `width` numbers, if it needs no fit."""
    return new_codec(parse_codec(text, width))


def _checked(spec: CodecSpec, made: Codec) -> Codec:
    """`made`, if it can be written to a memory and read back; UsageError names what its author has to mend."""
    try:
        if made.spec() != spec.to_json() or made.code_bytes != code_bytes(spec):
            raise ValueError(f"it describes itself as {made.spec()}, {made.code_bytes} bytes a token")
        _check_tables(spec, made.tables())
        if (size := sum(table.nbytes for table in made.tables().values())) > MAX_TABLE_BYTES:
            raise ValueError(f"its tables have {size} bytes, more than a memory can keep ({MAX_TABLE_BYTES})")
    except ValueError as error:
        remedy = "this is a mistake in the codec: tell whoever wrote it"
        raise UsageError(f"cannot be used: {error}", where=f"codec {spec}", remedy=remedy) from error
    return made


def _check_tables(spec: CodecSpec, tables: Tables) -> None:
    """ValueError unless `tables` are those that the codec has."""
    shapes = table_shapes(spec)
    if set(tables) != set(shapes):
        raise ValueError(f"tables {sorted(tables)[:9]}, but codec {spec.name} needs {sorted(shapes)}")
    for name, table in tables.items():
        shapes[name].check(name, table)
