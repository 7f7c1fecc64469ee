"""A prediction file grows line by line and a second run continues it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glimmer import ConflictError, InputError, MismatchError, StorageError
from glimmer.reader.formats.kilt import Provenance, read_guess
from glimmer.reader.formats.predictions import PredictionWriter

IDS = [f"q{n}" for n in range(10)]
PAGE = [Provenance(wikipedia_id="1", title="One", score=2.5)]


def answer(path: Path, count: int, **options: object) -> PredictionWriter:
    with PredictionWriter(path, iter(IDS), **options) as writer:  # type: ignore[arg-type]
        for id in IDS[writer.completed : writer.completed + count]:
            writer.write(id=id, answer=f"answer to {id}", provenance=PAGE)
    return writer


def test_a_second_run_continues_after_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "out.jsonl"
    assert answer(path, 4).completed == 0
    second = answer(path, 20)
    assert (second.completed, second.written) == (4, 6)
    assert answer(path, 20).written == 0
    assert [record.id for record in read_guess(path)] == IDS


@pytest.mark.parametrize("cut", [1, 2, 9, 40])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert answer(path, 1).completed == 2
    assert path.read_bytes() == whole


def test_blocks_of_zeros_after_a_crash_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    assert answer(path, 0).completed == 3
    assert path.read_bytes() == whole


def test_a_line_is_there_as_soon_as_it_is_written_even_if_the_job_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from glimmer.reader.formats.predictions import PredictionWriter\n"
        "writer = PredictionWriter(Path(sys.argv[1]), iter([]))\n"
        "for n in range(5): writer.write(id=f'q{n}', answer='x', provenance=[])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [record.id for record in read_guess(path)] == IDS[:5]


@pytest.mark.parametrize(
    "content",
    [
        b"a line of something else\n",
        b"no line end",
        b'{"id": "q0", "input": "?", "output": [{"answer": "gold"}]}\n',
        b'{"id": "q0", "question": "?"}\n',
        b'{"id": "q0", "output": []}\n',
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes, restart: bool) -> None:
    path = tmp_path / "precious.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="choose another output"):
        answer(path, 1, restart=restart)
    assert path.read_bytes() == content


def test_predictions_of_other_queries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, 3)
    with pytest.raises(MismatchError, match=r"out.jsonl:2: the prediction is of 'q1' but the query there is 'other'"):
        PredictionWriter(path, iter(["q0", "other"]))
    with pytest.raises(MismatchError, match="more predictions than queries"):
        PredictionWriter(path, iter(["q0"]))
    assert len(read_guess(path)) == 3


def test_predictions_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, 3, settings={"select": 10, "model": "m"})
    assert answer(path, 1, settings={"select": 10, "model": "m"}).completed == 3
    with pytest.raises(MismatchError, match=r"other settings \(select; select was 10, is 5\)"):
        answer(path, 1, settings={"select": 5, "model": "m"})
    assert answer(path, 2, settings={"select": 5}, restart=True).completed == 0
    assert json.loads((tmp_path / "out.jsonl.settings.json").read_text()) == {"select": 5}
    assert len(read_guess(path)) == 2


def test_two_jobs_do_not_write_one_file(tmp_path: Path) -> None:
    with (
        PredictionWriter(tmp_path / "out", iter(IDS)),
        pytest.raises(ConflictError, match="another job is writing"),
    ):
        PredictionWriter(tmp_path / "out", iter(IDS))


def test_a_place_that_cannot_be_written_is_told_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        PredictionWriter(tmp_path / "file" / "out", iter(IDS))
    with pytest.raises(StorageError, match="cannot be written"):
        PredictionWriter(tmp_path, iter(IDS))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_with_what_is_safe(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out", iter(IDS))
    writer.write(id="q0", answer="x", provenance=[])
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._handle.fileno())
    os.close(full)
    with pytest.raises(StorageError, match="after 1 predictions, which are safe"):
        writer.write(id="q1", answer="x", provenance=[])
    assert [record.id for record in read_guess(tmp_path / "out")] == ["q0"]
