"""TensorFlow Datasets as a source, without TensorFlow.

`tfds:wikipedia/20230601.en` reads a dataset prepared on this machine, `tfds:/path/to/dataset` one from its directory,
`tfds:NAME?split=train` one split of it (all splits, in name order, otherwise). Datasets must be stored as
array_record or Parquet, which TFDS reads by position; examples come in stored order. A feature `text` is needed;
`title` and `id` are used where they are there, and an example without id is named by its split and position.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import InputError
from .article import Record, known_id
from .content_identity import content_identities
from .fields import FieldNames
from .listing import SAVED_STATE
from .record_layout import Layout
from .records import record_article
from .rejects import RecordError, Rejection, snippet
from .source_file import SourceFile

PREFIX = "tfds:"
TFDS = "tfds"
_FIELDS = FieldNames(ids=("id",), titles=("title",), texts=("text",))
_CHUNK = 64


def is_dataset_directory(path: str) -> bool:
    """Whether a local directory is a prepared TFDS dataset; Hugging Face writes a `dataset_info.json` as well."""
    directory = Path(path).expanduser()
    return (
        (directory / "dataset_info.json").is_file()
        and not (directory / SAVED_STATE).exists()
        and not any(directory.glob("*.arrow"))
    )


def read_tfds(source: str, advance: Callable[[float], None], *, names: FieldNames | None = None) -> Iterator[Record]:
    """Articles of the dataset `source` (with or without "tfds:"); `advance` is told the share read so far.

    `names` has the features that the user chose for id, title and text.

    Raises InputError when the dataset is not prepared, has no text, or is stored in a format that needs TensorFlow.
    """
    name, split = _parts(source)
    builder = _builder(name)
    features = set(builder.info.features or ())
    layout = Layout(names=names if names is not None and names.chosen else _FIELDS)
    chosen = dict(layout.names.chosen)
    for name in {"text": "text", **chosen}.values():
        if name not in features:
            raise InputError(f"{source}: the dataset has no feature '{name}' (found: {', '.join(sorted(features))})")
    splits = [split] if split else sorted(builder.info.splits)
    total = sum(_size(builder, s, source) for s in splits)
    done = 0
    for part in splits:
        examples = _data_source(builder, part, source)
        for start in range(0, len(examples), _CHUNK):
            positions = list(range(start, min(start + _CHUNK, len(examples))))
            for position, example in zip(positions, _fetch(examples, positions, source), strict=True):
                yield _parse(example, layout, f"{part}-{position}", f"{source}:{part}:{position}")
            done += len(positions)
            advance(done / total)


def tfds_bytes(source: str) -> int:
    """Bytes of all splits of a dataset, as it was prepared."""
    return int(_builder(_parts(source)[0]).info.dataset_size)


def tfds_identity(source: str) -> dict[str, Any]:
    """The content identity of a dataset: its name, the split asked for, and the content of its files.

    The files of a dataset that is prepared in a store elsewhere are not read: its directory and sizes stand for them.
    """
    name, split = _parts(source)
    info = _builder(name).info
    identity: dict[str, Any] = {
        "kind": "tfds",
        "name": info.full_name,
        "split": split,
        "examples": {k: int(v.num_examples) for k, v in sorted(info.splits.items())},
    }
    directory = Path(str(info.data_dir))
    if not directory.is_dir():
        return identity | {"directory": str(info.data_dir), "bytes": int(info.dataset_size)}
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    files = [SourceFile(str(path), path.stat().st_size, path.stat().st_mtime_ns, path=path) for path in paths]
    names = [path.relative_to(directory).as_posix() for path in paths]
    return identity | {"files": dict(zip(names, content_identities(files), strict=True))}


def _parts(source: str) -> tuple[str, str]:
    name, _, query = source.removeprefix(PREFIX).partition("?")
    key, _, split = query.partition("=")
    if not name or (query and (key != "split" or not split)):
        raise InputError(f"{source}: expected tfds:NAME, tfds:/DIRECTORY or tfds:NAME?split=SPLIT")
    return name, split


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.text.wikipedia  # registers it, no more: TFDS finds others by itself
    except ImportError as error:
        raise InputError(f"tfds:{name}: {error}; install tensorflow-datasets and importlib_resources") from error
    try:
        if "://" in name or name.startswith((".", "~", os.sep)) or is_dataset_directory(name):
            return tfds.builder_from_directory(os.path.expanduser(name))
        builder = tfds.builder(name, try_gcs=False)
    except Exception as error:  # TFDS raises many kinds here, from KeyError to its own registry errors
        raise InputError(f"tfds:{name}: {_first_line(error)}; give a dataset's name or its directory") from error
    if not Path(str(builder.data_path)).is_dir():
        raise InputError(
            f"tfds:{name}: the dataset is not on this machine (looked in {builder.data_path}); "
            f"prepare it with `tfds build --file_format=array_record`, or set TFDS_DATA_DIR"
        )
    return builder


def _data_source(builder: Any, split: str, source: str) -> Any:
    try:
        return builder.as_data_source(split=split)
    except Exception as error:  # a file format that needs TensorFlow, missing shards, an unknown split
        raise InputError(
            f"{source}: split {split} cannot be read: {_first_line(error)}; array_record and parquet datasets can"
        ) from error


def _size(builder: Any, split: str, source: str) -> int:
    try:
        return int(builder.info.splits[split].num_examples)
    except (KeyError, ValueError) as error:
        found = ", ".join(sorted(builder.info.splits))
        raise InputError(f"{source}: no split {split} (found: {found})") from error


def _fetch(examples: Any, positions: list[int], source: str) -> list[Mapping[str, Any]]:
    try:
        return list(examples.__getitems__(positions))
    except Exception as error:  # whatever the storage format's own library raises for damaged bytes
        place = f"{source}: examples {positions[0]}-{positions[-1]}"
        raise InputError(f"{place} cannot be read: {_first_line(error)}; prepare the dataset again") from error


def _parse(example: Mapping[str, Any], layout: Layout, fallback_id: str, place: str) -> Record:
    names = layout.names
    article_id = ""
    try:
        record = {k: _plain(k, example[k]) for k in names.ids if k in example} or {names.ids[0]: fallback_id}
        article_id = known_id(record, names.ids)
        record |= {k: _plain(k, v) for k, v in example.items() if k in names.titles or k in names.texts}
        return record_article(record, layout, place)
    except RecordError as error:
        return Rejection(place, error.reason, error.detail, snippet(str(dict(example))), article_id)


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecordError("not_utf8", f"field '{name}' is not valid UTF-8 at byte {error.start}") from error
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
