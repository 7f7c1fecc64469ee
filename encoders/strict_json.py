"""JSON files that come from outside, read strictly: every key is known, of its type and in its range, or it is named.

A model that loads with a misread number computes wrong memory without any other sign, so nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from .. import ModelError
from .model_files import read_plain, understood

_LARGEST = 1 << 31


class Section:
    """One JSON object being read strictly: every key must be taken exactly once, with its type and range checked.

    `name` is the object's path in the file ("" for the whole file) and `where` the file, both for errors.
    """

    def __init__(self, value: object, name: str, where: str) -> None:
        self.name, self.where = name, where
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            self.fail("must be a JSON object")
        self._left: dict[str, object] = dict(value)

    def fail(self, problem: str, key: str | None = None) -> NoReturn:
        """Raises ModelError naming the key (with its section) and the file."""
        path = ".".join(part for part in (self.name, key) if part)
        raise ModelError(f"{path or 'the file'} {problem}", where=self.where)

    def take(self, key: str) -> object:
        """The value of `key`, whatever it is."""
        if key not in self._left:
            self.fail("is missing", key)
        return self._left.pop(key)

    def integer(self, key: str, *, least: int = 1, most: int = _LARGEST, default: int | None = None) -> int:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(f"must be an integer, not {value!r:.40}", key)
        if not least <= value <= most:
            self.fail(f"must be between {least} and {most}, not {value!r:.40}", key)
        return value

    def number(self, key: str, *, above: float, most: float, default: float | None = None) -> float:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.fail(f"must be a number, not {value!r:.40}", key)
        if not above < value <= most:
            self.fail(f"must be above {above} and at most {most}, not {value!r:.40}", key)
        return float(value)

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, bool):
            self.fail(f"must be true or false, not {value!r:.40}", key)
        return value

    def text(self, key: str, *, among: tuple[str, ...] = ()) -> str:
        """A string, one of `among` where that is given."""
        value = self.take(key)
        if not isinstance(value, str):
            self.fail(f"must be a string, not {value!r:.40}", key)
        if among and value not in among:
            self.fail(f"must be one of {', '.join(among)}, not {value!r:.40}", key)
        return value

    def mapping_or_none(self, key: str, *, optional: bool = False) -> Mapping[str, Any] | None:
        """A JSON object as it is, or None for null; an `optional` key that is absent is None too."""
        value = None if optional and key not in self._left else self.take(key)
        if value is not None and not isinstance(value, Mapping):
            self.fail(f"must be a JSON object or null, not {value!r:.40}", key)
        return value

    def end(self) -> None:
        """Refuses keys that nobody took."""
        if self._left:
            self.fail("is not a known key", sorted(self._left)[0])


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: ValueError where an object has a key twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key occurs twice")
    return record


def read_json(path: Path, most: int = 4 << 20) -> object:
    """A JSON file's value; ModelError when it is absent, larger than `most` bytes, not UTF-8 or not JSON.

    Repeated keys are no JSON here.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file; is this a model directory?")
    content = read_plain(path, most)
    with understood(path, "not valid JSON"):  # RecursionError and numbers of 5,000 digits among its errors
        return cast(object, json.loads(content.decode("utf-8"), object_pairs_hook=unique_keys))
