"""A refresh that dies: the old version or the new one is there, never a third, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from changing import payload, texts, write

from glimmer import DamageError
from glimmer.pipelines.encode import encode
from glimmer.pipelines.refresh import refresh
from glimmer.progress import Quiet
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify


def run_and_die(memory: Path, source: Path, at: str) -> subprocess.CompletedProcess[str]:
    """`glimmer refresh` in a process that ends without a word where `at` says."""
    code = f"""
        import os, sys
        from glimmer.pipelines.refreshing import refresh_job as job
        from glimmer.storage import version_indexes as index, ledger, catalog
        die = lambda *args, **kwargs: os._exit(137)
        {at}
        sys.argv = ["glimmer", "refresh", {str(source)!r}, "--memory", {str(memory)!r}]
        from glimmer.pipelines.cli.program import main
        main()
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=300
    )


CRASHES = {
    "in the plan": "ledger.Ledger.write_plan = die",
    "after the plan": "job.encode_segment = die",
    "in the encode stage": "ledger.Ledger.record = die",
    "before the commit": "catalog.Catalog._publish = die",
    "after the commit": "index._Preparation.install = die",
    "before the ledger is cleared": "ledger.Ledger.clear = die",
}


RARER = ("in the plan", "after the plan", "after the commit")


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=pytest.mark.slow if moment in RARER else ()) for moment in CRASHES]
)
def test_a_crash_leaves_the_old_version_or_the_new_and_is_mended_by_the_same_command(
    moment: str, memory: Path, corpus: dict[str, list[str]], model: Path
) -> None:
    old = payload(memory)
    corpus["a3"][1] = "Another second paragraph."
    source = write(memory.parent / "next.jsonl", corpus)
    died = run_and_die(memory, source, CRASHES[moment])
    assert died.returncode == 137, died.stderr
    committed = moment in ("after the commit", "before the ledger is cleared")
    assert Memory.open(memory).version == 1 + committed
    said: list[str] = []

    class Listener(Quiet):
        def say(self, line: str) -> None:
            if line.startswith("resuming job"):
                said.append(line)

    again = refresh(sources=[str(source)], memory=memory, progress=Listener())
    assert (again.version, again.nothing_changed) == (2, committed)
    # What was planned is not planned again.
    assert bool(said) == (moment in ("after the plan", "in the encode stage", "before the commit"))
    assert ("plan" not in again.seconds) == bool(said)
    encode(sources=[str(source)], memory=memory.parent / "fresh", model=str(model))
    assert payload(memory) == payload(memory.parent / "fresh") != old
    assert verify(memory).sound
    assert not list((memory / "jobs").iterdir())


@pytest.mark.slow
def test_killed_at_any_moment_a_refresh_ends_in_one_version_or_the_other(model: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, start-up to commit; then the same command makes what a rebuild makes."""
    corpus = texts(4000)
    encode(sources=[str(write(tmp_path / "first.jsonl", corpus))], memory=tmp_path / "m", model=str(model))
    dice, kills = random.Random(11), 0
    command = [sys.executable, "-c", "from glimmer.pipelines.cli.program import main; main()", "refresh"]
    lasts = 0.0
    for turn in range(5):
        for name in dice.sample(sorted(corpus), 1500):
            corpus[name][dice.randrange(3)] = f"Edited in turn {turn}: {name} " + "vensha " * 40 + "."
        source = write(tmp_path / f"{turn}.jsonl", corpus)
        arguments = [*command, str(source), "--memory", str(tmp_path / "m")]
        version = Memory.open(tmp_path / "m").version
        old = payload(tmp_path / "m")
        encode(sources=[str(source)], memory=tmp_path / f"fresh{turn}", model=str(model))
        new = payload(tmp_path / f"fresh{turn}")
        for _ in range(3 if turn else 0):
            process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(dice.uniform(0.2, 0.9) * lasts)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
            found = Memory.open(tmp_path / "m")
            assert payload(tmp_path / "m") == (old if found.version == version else new)
        begun = time.monotonic()
        subprocess.run(arguments, check=True, capture_output=True)
        lasts = lasts or time.monotonic() - begun
        assert Memory.open(tmp_path / "m").version == version + 1
        assert payload(tmp_path / "m") == new
        assert verify(tmp_path / "m").sound
    assert kills >= 5, "the kills came too late to test anything"


def test_a_damaged_plan_is_told_from_a_sound_one(memory: Path, corpus: dict[str, list[str]]) -> None:
    corpus["a1"][0] = "Changed."
    source = write(memory.parent / "next.jsonl", corpus)
    run_and_die(memory, source, CRASHES["in the encode stage"])
    [saved] = memory.glob("jobs/*/changes.safetensors")
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(DamageError, match=r"delete .* and run the command again"):
        refresh(sources=[str(source)], memory=memory)
