"""Our errors on their way home through a Beam runner that hands on nothing but a message's text."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import apache_beam as beam

from ... import GlimmerError
from ... import errors as kinds

_MARK: Final = re.compile(r"glimmer-error<([A-Za-z0-9+/=]+)>")


class CarriedError(Exception):
    """Raised in a worker in the place of one of our errors; its text holds the whole of it."""


class WithCarriedErrors(beam.DoFn):
    """The step `step`, whose errors can be found in whatever text a runner makes of them."""

    def __init__(self, step: beam.DoFn) -> None:
        self._step = step

    def setup(self) -> None:
        with _carrying():
            self._step.setup()

    def start_bundle(self) -> None:
        with _carrying():
            self._step.start_bundle()

    def process(self, element: Any) -> Iterator[None]:
        with _carrying():
            for _ in self._step.process(element) or ():
                pass
        return iter(())

    def finish_bundle(self) -> None:
        with _carrying():
            self._step.finish_bundle()

    def teardown(self) -> None:
        self._step.teardown()


@contextlib.contextmanager
def _carrying() -> Iterator[None]:
    try:
        yield
    except GlimmerError as error:
        parts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        text = base64.b64encode(json.dumps(parts).encode()).decode()
        raise CarriedError(f"{error} glimmer-error<{text}>") from error


def error_in(text: str) -> GlimmerError | None:
    """The error that `text` carries: of its own kind if that is public, else of one above it; None if there is none."""
    found = _MARK.search(text)
    if found is None:
        return None
    try:
        parts = json.loads(base64.b64decode(found.group(1)))
        kind = getattr(kinds, str(parts["kind"]), GlimmerError)
        if not (isinstance(kind, type) and issubclass(kind, GlimmerError)):
            kind = GlimmerError
        return kind(str(parts["what"]), where=parts["where"], remedy=parts["remedy"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None
