"""Every kind of file of a memory and of a model, bent at random in a process of its own with little memory.

Nothing but a GlimmerError may come out, on one line. Damage that a library would crash over takes the process down, and
so the test, which then names the file and the seed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUNDS = int(os.environ.get("GLIMMER_FUZZ", "0")) or 60

SCRIPT = """
import random, resource, shutil, sys
from pathlib import Path
from glimmer import GlimmerError
from glimmer.encoders.models import load_model
from glimmer.encoders.t5x_checkpoint import read_t5x
from glimmer.encoders.tokenizers import SentencePieceTokenizer
from glimmer.encoders.torch_archive import read_torch
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

def memory(path):
    verify(path)
    opened = Memory.open(path)
    opened.texts(range(opened.passages))
    opened.fetch(range(opened.passages))
    list(opened.passage_table())
    opened.history()

def unchecked(path):
    opened = Memory.open(path, check=False)
    opened.fetch(range(opened.passages))
    opened.texts(range(opened.passages))

def model(path):
    loaded = load_model(path)
    loaded.fingerprint
    loaded.passage_tokens([("Title", "some text")])

def torch(path):
    for name, tensor in read_torch(path / "model.bin").items():
        tensor.sum()

def t5x(path):
    read_t5x(path / "checkpoint")

def ledger(path):
    found = Ledger(path, "job")
    found.records(), found.progress(), found.read_plan()

def bent(content, draw):
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(content)) if content else 0
        kind = draw.randrange(6)
        if kind < 2 and content:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            content[at : at + 8] = draw.choice((b"\\xff" * 8, b"\\0" * 8, (1 << 31).to_bytes(8, "little")))
        elif kind == 3:
            del content[at : at + draw.randrange(1, 64)]
        elif kind == 4:
            content[at:at] = draw.randbytes(draw.randrange(1, 16))
        else:
            del content[at:]
    return bytes(content)

use, root, rounds = globals()[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
use(root)
files = [path for path in sorted(root.rglob("*")) if path.is_file()]
said = silent = 0
for number in range(rounds):
    draw = random.Random(f"{sys.argv[1]} {number}")
    path = draw.choice(files)
    whole = path.read_bytes()
    path.write_bytes(bent(whole, draw))
    print(f"{path.relative_to(root)}, round {number}", file=sys.stderr, flush=True)
    try:
        use(root)
        silent += 1
    except GlimmerError as error:
        assert str(error).strip() and "\\n" not in str(error), repr(str(error))
        said += 1
    path.write_bytes(whole)
print(said, silent)
"""


def fuzz(use: str, root: Path) -> tuple[int, int]:
    """(rounds that ended in an error, rounds that did not) of bending the files below `root`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, use, str(root), str(ROUNDS)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said, silent = map(int, done.stdout.split())
    return said, silent


@pytest.mark.parametrize("use", ["memory", "unchecked"])
def test_bent_memories(use: str, kit: Any, tmp_path: Path) -> None:
    said, silent = fuzz(use, kit.memory(tmp_path / "m", 12, 8))
    assert said > 0
    assert said + silent == ROUNDS


def test_bent_models(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    said, _ = fuzz("model", tiny_model(tmp_path / "model", with_decoder=False))
    assert said > 0


def test_bent_torch_archives(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    shutil.copy(Path(__file__).resolve().parents[1] / "goldens" / "tiny_t5.bin", tmp_path / "t" / "model.bin")
    said, _ = fuzz("torch", tmp_path / "t")
    assert said > ROUNDS // 2, "bytes of a storage are checked by the archive's CRC-32"


def test_bent_t5x_checkpoints(tmp_path: Path) -> None:
    import msgpack
    import numpy as np

    def array(*shape: int) -> msgpack.ExtType:
        data = np.arange(int(np.prod(shape)), dtype="<f4").tobytes()
        return msgpack.ExtType(1, msgpack.packb((shape, "float32", data)))

    halves = {"0": array(4, 2), "1": array(4, 2)}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 8, "1": 2}, "chunks": halves}
    tree = {"target": {"token_embedder": {"embedding": array(4, 2)}, "encoder": {"a": chunked, "b": array(3)}}}
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "checkpoint").write_bytes(msgpack.packb(tree, use_bin_type=True))
    said, _ = fuzz("t5x", tmp_path / "t")
    assert said > 0


def test_bent_ledgers(tmp_path: Path) -> None:
    from glimmer.storage.ledger import Ledger

    ledger = Ledger(tmp_path / "m", "job")
    ledger.write_plan({"rows": 3, "texts": ["a", "b"]})
    said, _ = fuzz("ledger", tmp_path / "m")
    assert said > 0
