"""An answering job killed at any moment and started again ends with the very file of a job that was never killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glimmer.pipelines.encode import encode

pytestmark = pytest.mark.slow

QUESTIONS = 400
KILLS = 6


def command(home: Path, output: Path) -> list[str]:
    entry = [sys.executable, "-c", "from glimmer.pipelines.cli.program import main; main()", "answer"]
    paths = ["--memory", str(home / "memory"), "--model", str(home / "model"), "--output", str(output)]
    sizes = ["--candidates", "12", "--select", "4", "--batch-size", "4", "--max-answer-tokens", "8"]
    return [*entry, str(home / "questions.jsonl"), *paths, *sizes]


def test_killed_at_random_moments_it_ends_with_the_same_file(
    tmp_path: Path,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> None:
    model = tiny_model(tmp_path / "model", window=48)
    corpus = tiny_corpus(tmp_path / "c.jsonl", 60)
    encode(sources=[str(corpus)], memory=tmp_path / "memory", model=str(model), passage_words=16)
    tiny_questions(tmp_path / "questions.jsonl", QUESTIONS)
    subprocess.run(command(tmp_path, tmp_path / "whole.jsonl"), check=True, capture_output=True)

    draw = random.Random(0)
    output = tmp_path / "out.jsonl"
    lengths = []
    for _ in range(KILLS):
        with subprocess.Popen(
            command(tmp_path, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            before = output.stat().st_size if output.exists() else 0
            # Killed soon after it has begun to write, at a moment that no line of code chooses.
            while process.poll() is None and not (output.exists() and output.stat().st_size > before):
                time.sleep(0.01)
            time.sleep(draw.random() * 0.5)
            process.send_signal(signal.SIGKILL)
        content = output.read_bytes()
        whole = [json.loads(line) for line in content.splitlines() if line.endswith(b"}]}]}")]
        assert len(content) >= before, "nothing that was answered is lost"
        lengths.append(len(whole))
    assert lengths[0] < QUESTIONS, "killed before its end at least once"
    assert lengths == sorted(lengths)
    finished = subprocess.run(command(tmp_path, output), check=True, capture_output=True, text=True)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "were there already" in finished.stdout or "nothing to do" in finished.stdout
