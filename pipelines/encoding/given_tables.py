"""A codec's tables taken from another memory: a memory made again with them has the codes of the one it replaces."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import MismatchError, UsageError
from ...encoders.models import LoadedModel
from ...storage.codecs import (
    CodecSpec,
    Tables,
    codec_from_spec,
    parse_codec,
    parse_spec,
    spec_for_encoder,
    tables_to_bytes,
)
from ...storage.files import sha256_bytes
from ...storage.identity import IDENTITY, Identity, read_identity
from ...storage.memory import TABLES, read_tables
from ...storage.stores import Place, Store, open_store

DEFAULT_CODEC = "int8"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class GivenTables:
    """Tables that were made before.

    Attributes:
        origin: where they were read.
        precision: that of the memory they were made for.
        tables: the codec's arrays; `sha256` is the digest of the file that a memory keeps them in.
    """

    origin: str
    precision: str
    tables: Tables
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """What a commit records of them."""
        return {"from": self.origin, "tables_sha256": self.sha256}


def chosen_codec(
    codec: str | None, codec_tables: Place | None, model: LoadedModel
) -> tuple[CodecSpec, GivenTables | None]:
    """The codec of a new memory of `model`, and its tables where some are given.

    Args:
        codec: as `--codec` takes it; None for that of the tables, or `int8` where none are given.
        codec_tables: a memory, or a file of tables (`*.safetensors`) with its memory.json beside it or one directory
            above, as in a memory. Nothing else of a memory is read.
        model: the encoder.

    Raises UsageError where there are no tables, DamageError for tables that are not what their memory.json records,
    MismatchError naming what differs for tables of another codec or encoder.
    """
    width, vocabulary = model.config.encoder.d_model, model.config.encoder.vocab_size
    if codec_tables is None:
        return parse_codec(codec or DEFAULT_CODEC, width, vocabulary), None
    store, key = _place_of_tables(codec_tables)
    identity = read_identity(store)
    if not identity.tables_sha256:
        what = f"a memory of codec {identity.codec['name']}, which has no tables"
        raise UsageError(what, where=store.location, remedy="name a memory whose codec has some")
    found = parse_spec(identity.codec)
    wanted = parse_codec(codec, width, vocabulary) if codec else spec_for_encoder(found, width, vocabulary)
    origin = store.name(key)
    _check(origin, identity, wanted.to_json(), model)
    tables = read_tables(store, identity, key)
    codec_from_spec(identity.codec, tables)
    return wanted, GivenTables(
        origin=origin,
        precision=identity.encoder.precision,
        tables=tables,
        sha256=sha256_bytes(tables_to_bytes(tables)),
    )


def _place_of_tables(place: Place) -> tuple[Store, str]:
    """The store that has memory.json, and the name of the tables in it."""
    if isinstance(place, Store) or not os.fspath(place).endswith(_SUFFIX):
        return open_store(place), TABLES
    directory, file = _divided(os.fspath(place))
    above, name = _divided(directory)
    beside = open_store(directory)
    if beside.exists(IDENTITY) or not open_store(above).exists(IDENTITY):
        return beside, file
    return open_store(above), f"{name}/{file}"


def _divided(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory or ("/" if path.startswith("/") else "."), name


def _check(origin: str, identity: Identity, wanted: Mapping[str, Any], model: LoadedModel) -> None:
    """MismatchError naming what differs, unless the tables are of the codec `wanted` and of the encoder `model`."""
    found = identity.codec
    compared = [("codec", found["name"], wanted["name"])]
    if found["name"] == wanted["name"]:
        compared += [(key, found[key], wanted[key]) for key in sorted(wanted) if key != "name"]
    compared.append(("encoder fingerprint", identity.encoder.fingerprint[:12], model.fingerprint[:12]))
    differing = [f"{name} {there!r}, not {here!r}" for name, there, here in compared if there != here]
    if differing:
        raise MismatchError(
            f"the tables are of {'; '.join(differing)}",
            where=origin,
            remedy="use that encoder and codec, or let the tables be fitted to the corpus",
        )
