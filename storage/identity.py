"""memory.json: what a memory is, fixed when it is created. Which encoder, which passages, which codec, which shapes.

The file comes from outside whenever a memory is copied or downloaded, so nothing in it is believed before it has been
checked: unknown or missing keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .. import DamageError, GlimmerError, MismatchError, UsageError
from .codecs import code_bytes, parse_spec, table_shapes
from .files import sha256_bytes, translated
from .manifest import is_time
from .segment_layout import is_sha256
from .stores import Place, open_store

IDENTITY = "memory.json"
FORMAT_VERSION = 1
_MAX_BYTES = 1 << 20
_MAX_TEXT = 4096
_MAX_WINDOW = (1 << 16) - 1
_MAX_PASSAGE_BYTES = 1 << 28
"""Bytes of one passage's codes, window × code bytes, at most."""
_MAX_SCALAR = 1 << 53
_FAMILY = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """Where representations come from.

    Attributes:
        name: what the user called it: a built-in name or the model directory's name.
        source: where the weights came from, for people.
        fingerprint: SHA-256 (hex) of everything that decides a passage's representation; see `encoders.fingerprint`.
        family: the encoder family's name; encoders know what it stands for.
        d_model: width of a representation.
        memory_layers: how many layers the memory encoder runs.
        precision: "bfloat16" or "float32".
    """

    name: str
    source: str
    fingerprint: str
    family: str
    d_model: int
    memory_layers: int
    precision: str


@dataclass(frozen=True, kw_only=True)
class PassageSettings:
    """How articles became passages: words aimed at, template put around them, the encoder's window in tokens.

    `options` keeps whatever else the planner needs to cut the next corpus in the same way; scalars only.
    """

    words: int
    template: str
    window: int
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All of memory.json.

    Attributes:
        encoder, passages: see there. codec: the codec's `spec()`. tables_sha256: SHA-256 of
        `codec/tables.safetensors`, "" if the codec has no tables; `Memory.create` fills it in. shapes: the compiled
        (rows, length) pairs, ascending by length; the last length is the window. created: UTC, ISO 8601 with a Z.
    """

    encoder: EncoderIdentity
    passages: PassageSettings
    codec: Mapping[str, Any]
    shapes: tuple[tuple[int, int], ...]
    created: str
    tables_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def agrees_with(self, other: Identity) -> bool:
        """Whether two identities say the same, apart from when they were created."""
        return replace(self, created=other.created).to_bytes() == other.to_bytes()

    @classmethod
    def parse(cls, content: bytes, path: str = IDENTITY) -> Identity:
        """The identity in `content`; `path` is for messages.

        Raises DamageError naming the key that is wrong, MismatchError if a newer Glimmer wrote the file.
        """
        if len(content) > _MAX_BYTES:
            raise DamageError(
                f"{path}: has {len(content)} bytes, more than memory.json ever has; restore it from a copy"
            )
        with translated(path, _damaged(path)):
            record = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
            _Checker(path, record).whole()
        return cls(
            encoder=EncoderIdentity(**record["encoder"]),
            passages=PassageSettings(**record["passages"]),
            codec=record["codec"],
            shapes=tuple((rows, length) for rows, length in record["shapes"]),
            created=record["created"],
            tables_sha256=record["tables_sha256"],
            format_version=record["format_version"],
        )


def _damaged(path: str) -> Callable[[str], GlimmerError]:
    return lambda text: DamageError(text, where=path, remedy="restore the file from a copy of the memory")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Checker:
    """Checks a parsed memory.json key by key; every failure is a ValueError that names the key."""

    def __init__(self, path: str, record: Any) -> None:
        self._path, self._record = path, record

    def whole(self) -> None:
        record = self._record
        if isinstance(record, dict):
            version = record.get("format_version")
            if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
                raise MismatchError(
                    f"{self._path}: format_version {version!r:.20} was written by a newer Glimmer (this one knows "
                    f"{FORMAT_VERSION}); upgrade Glimmer"
                )
        self._keys(record, set(Identity.__dataclass_fields__), "the file")
        if record["format_version"] != FORMAT_VERSION or isinstance(record["format_version"], bool):
            self._wrong("format_version", record["format_version"])
        self._encoder(record["encoder"])
        self._passages(record["passages"])
        self._codec(record["codec"], record["tables_sha256"], record["passages"]["window"])
        if record["codec"]["width"] != record["encoder"]["d_model"]:
            self._wrong("codec.width", record["codec"]["width"], f"encoder.d_model ({record['encoder']['d_model']})")
        self._shapes(record["shapes"], record["passages"]["window"])
        created = record["created"]
        if not isinstance(created, str) or _TIME.fullmatch(created) is None or not is_time(created):
            self._wrong("created", created)

    def _encoder(self, record: Any) -> None:
        self._keys(record, set(EncoderIdentity.__dataclass_fields__), "encoder")
        for key in ("name", "source"):
            self._text(f"encoder.{key}", record[key])
        if not is_sha256(record["fingerprint"]):
            self._wrong("encoder.fingerprint", record["fingerprint"])
        if not isinstance(record["family"], str) or _FAMILY.fullmatch(record["family"]) is None:
            self._wrong("encoder.family", record["family"], "lower-case letters, digits, _ and -")
        self._integer("encoder.d_model", record["d_model"], 1, 1 << 16)
        self._integer("encoder.memory_layers", record["memory_layers"], 0, 1024)
        self._one_of("encoder.precision", record["precision"], ("bfloat16", "float32"))

    def _passages(self, record: Any) -> None:
        self._keys(record, set(PassageSettings.__dataclass_fields__), "passages")
        self._integer("passages.words", record["words"], 1, 1 << 20)
        self._text("passages.template", record["template"])
        self._integer("passages.window", record["window"], 1, _MAX_WINDOW)
        options = record["options"]
        if not isinstance(options, dict) or len(options) > 64:
            self._wrong("passages.options", options)
        for key, value in options.items():
            if not isinstance(value, (str, int, float, bool)) or (isinstance(value, str) and len(value) > _MAX_TEXT):
                self._wrong(f"passages.options.{key:.80}", value)
            if isinstance(value, (int, float)) and not abs(value) <= _MAX_SCALAR:  # NaN is not
                self._wrong(f"passages.options.{key:.80}", value, f"a number up to {_MAX_SCALAR}")

    def _codec(self, record: Any, tables_sha256: Any, window: int) -> None:
        if not isinstance(record, dict):
            self._wrong("codec", record)
        spec = parse_spec(record)
        size = code_bytes(spec)
        if window * size > _MAX_PASSAGE_BYTES:
            raise ValueError(
                f"a window of {window} tokens of {size} bytes each is more than a passage may have "
                f"({_MAX_PASSAGE_BYTES} bytes)"
            )
        if not (is_sha256(tables_sha256) if table_shapes(spec) else tables_sha256 == ""):
            self._wrong("tables_sha256", tables_sha256, "that of the codec's tables, or '' if it has none")

    def _shapes(self, shapes: Any, window: int) -> None:
        if not isinstance(shapes, list) or not 1 <= len(shapes) <= 64:
            self._wrong("shapes", shapes)
        previous = 0
        for number, shape in enumerate(shapes):
            if not isinstance(shape, list) or len(shape) != 2:
                self._wrong(f"shapes[{number}]", shape)
            self._integer(f"shapes[{number}][0]", shape[0], 1, 1 << 16)
            self._integer(f"shapes[{number}][1]", shape[1], previous + 1, window)
            previous = shape[1]
        if previous != window:
            self._wrong("shapes", shapes)

    def _keys(self, record: Any, keys: set[str], what: str) -> None:
        if not isinstance(record, dict):
            self._wrong(what, record)
        if set(record) != keys:
            raise ValueError(
                f"{what}: missing keys {sorted(keys - set(record))}, unknown keys {sorted(set(record) - keys)[:5]}"
            )

    def _text(self, key: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
            self._wrong(key, value)
        value.encode()  # a lone surrogate is a UnicodeEncodeError, a ValueError

    def _integer(self, key: str, value: Any, low: int, high: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._wrong(key, value, f"an integer from {low} to {high}")

    def _one_of(self, key: str, value: Any, choices: tuple[str, ...]) -> None:
        if not isinstance(value, str) or value not in choices:
            self._wrong(key, value, f"one of {', '.join(choices)}")

    def _wrong(self, key: str, value: Any, expected: str = "") -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        raise ValueError(f"key {key} is {shown}" + (f", expected {expected}" if expected else ""))


def read_identity(memory: Place, sha256: str | None = None) -> Identity:
    """The identity of the memory at `memory`, whose bytes must have the SHA-256 `sha256` where one is given.

    Raises UsageError if there is no memory there, DamageError or MismatchError as `Identity.parse`.
    """
    store = open_store(memory)
    path = store.name(IDENTITY)
    with translated(path, _damaged(path)):
        try:
            content = store.read(IDENTITY, most=_MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            if store.names("passages/_delta_log"):
                raise DamageError(
                    "the file is missing", where=path, remedy="restore it from a copy of the memory"
                ) from None
            raise UsageError(
                f"{store.location}: no memory here (memory.json is missing); `glimmer encode` makes one"
            ) from None
    identity = Identity.parse(content, path)
    if sha256 is not None and sha256_bytes(content) != sha256:
        raise DamageError(
            "not the file that the commit records", where=path, remedy="restore it from a copy of the memory"
        )
    return identity


def write_identity(memory: Place, identity: Identity) -> str:
    """Writes memory.json once and returns its SHA-256; an equal file that is there already is kept.

    Raises MismatchError if another identity is there, UsageError if `identity` itself could not be read back.
    """
    store, content = open_store(memory), identity.to_bytes()
    try:
        Identity.parse(content, store.name(IDENTITY))
    except DamageError as error:
        raise UsageError(f"cannot write {error}") from error
    if not store.exists(IDENTITY) and store.put_if_absent(IDENTITY, content):
        return sha256_bytes(content)
    present = read_identity(store)
    if not present.agrees_with(identity):
        raise MismatchError(
            f"{store.location}: {_difference(present, identity)}; use the same settings or another directory"
        )
    return sha256_bytes(store.read(IDENTITY, most=_MAX_BYTES))


def _difference(present: Identity, wanted: Identity) -> str:
    old, new = json.loads(present.to_bytes()), json.loads(wanted.to_bytes())
    for key in old:
        if key == "created" or old[key] == new[key]:
            continue
        if key == "tables_sha256" and old["codec"] == new["codec"]:
            return "another job, which has not ended, has other tables for its codec; end that job first"
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            inner = next(k for k in sorted({*old[key], *new[key]}) if old[key].get(k) != new[key].get(k))
            return f"the memory has {key}.{inner} {old[key].get(inner)!r}, this job {new[key].get(inner)!r}"
        return f"the memory has {key} {old[key]!r}, this job {new[key]!r}"
    return "the memory has another identity"
