"""Where predictions go: a file that is resumed, or a stream that is written as the answers come.

Everything about resuming (the settings beside the file, the lock, the lines that are there) needs a file. For a stream
the job therefore keeps a temporary file, and each line is copied to the stream when the file has it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...storage.outputs import is_stream, writing
from ...storage.paths import local_path
from ...storage.temporary import temporary_directory


@dataclass(frozen=True)
class PredictionTarget:
    """The prediction file of a job, `path`, and the stream to copy its lines to, if the output is one."""

    path: Path
    stream: BinaryIO | None

    def copy_all(self) -> None:
        """Copies the whole file to the stream, for a job that wrote the file in one piece."""
        if self.stream is not None:
            with self.path.open("rb") as predictions:
                shutil.copyfileobj(predictions, self.stream, 1 << 20)


@contextlib.contextmanager
def prediction_target(output: str | os.PathLike[str]) -> Iterator[PredictionTarget]:
    """The file to write predictions to; `-`, FIFOs and devices get a temporary one that is gone when the block ends."""
    if not is_stream(output):
        yield PredictionTarget(Path(os.path.realpath(local_path(output))), None)  # a link stays, its file is replaced
        return
    with temporary_directory("glimmer-predictions-") as directory, writing(output) as stream:
        yield PredictionTarget(directory / "predictions.jsonl", stream)
