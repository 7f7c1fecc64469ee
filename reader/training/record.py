"""`training.json` of a trained model: which run made it, so that the same command finds it done.

The file is part of the model directory, which appears whole or not at all. A run that was interrupted after its output
had appeared is therefore known to have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

FILE: Final = "training.json"
_LARGEST: Final = 1 << 24


def training_record(settings: Mapping[str, Any], steps: int, result: Mapping[str, Any]) -> bytes:
    """The file's content: the run's settings, the steps it was to take, and its result, as JSON values."""
    return orjson.dumps({"settings": settings, "steps": steps, "result": result}, option=orjson.OPT_INDENT_2)


def recorded_result(output: Path, settings: Mapping[str, Any], steps: int) -> dict[str, Any] | None:
    """The result of the run that made the model at `output`, if it was a run of these settings and steps; else None."""
    path = output / FILE
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        record = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None  # not the record of any run: the caller treats the output as somebody else's
    wanted = orjson.loads(training_record(settings, steps, {}))
    if not isinstance(record, dict) or any(record.get(key) != wanted[key] for key in ("settings", "steps")):
        return None
    result = record.get("result")
    return result if isinstance(result, dict) else None
