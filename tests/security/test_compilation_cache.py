"""A compiled program is run only from a directory that its owner alone can write, and only if no bit of it changed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from glimmer.encoders.compilation import CheckedCache, enable_compilation_cache

PROGRAM = """
import sys
import numpy as np, jax, jax.numpy as jnp
from jax._src import monitoring
from glimmer.encoders.compilation import enable_compilation_cache
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
enabled = enable_compilation_cache(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
rng = np.random.default_rng(3)
layers = [rng.normal(size=(32, 32)).astype(np.float32) for _ in range(4)]
@jax.jit
def encode(x):
    for layer in layers:
        x = jax.nn.softmax(jnp.tanh(x @ layer) + x)
    return x
values = np.concatenate([np.asarray(encode(np.ones((n, 32), np.float32))) for n in (1, 2, 4)])
print(values.tobytes().hex(), len(hits), enabled)
"""


def run(directory: Path) -> tuple[str, int, str]:
    """(the numbers a small encoder gives, programs taken from the cache, the directory in use) in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(directory)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    numbers, hits, enabled = done.stdout.split(maxsplit=2)
    return numbers, int(hits), enabled.strip()


def flip(path: Path, chosen: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)


def test_damaged_programs_are_dropped_and_compiled_again(tmp_path: Path) -> None:
    """Every entry with one bit flipped: equal numbers, no crash, and the entries are whole again afterwards."""
    place, chosen = tmp_path / "programs", random.Random(5)
    numbers, hits, _ = run(place)
    entries = sorted(place.iterdir())
    assert (hits, len(entries) >= 3) == (0, True)
    for entry in entries:
        flip(entry, chosen)
    assert run(place)[:2] == (numbers, 0)
    assert run(place)[:2] == (numbers, len(entries))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_flipped_bit_crashes_or_changes_a_number(tmp_path: Path) -> None:
    place, chosen = tmp_path / "programs", random.Random(7)
    numbers, _, _ = run(place)
    for _ in range(20):
        for entry in sorted(place.iterdir()):
            flip(entry, chosen)
        assert run(place)[0] == numbers


def test_an_entry_is_given_out_only_whole_and_under_its_own_key(tmp_path: Path) -> None:
    place, chosen = tmp_path / "programs", random.Random(11)
    place.mkdir(mode=0o700)
    cache, value = CheckedCache(place), bytes(chosen.randrange(256) for _ in range(3000))
    cache.put("jit_f-00", value)
    (entry,) = place.iterdir()
    whole = entry.read_bytes()
    assert cache.get("jit_f-00") == value
    assert cache.get("jit_f-01") is None
    for bent in (whole[:-1], whole + b"\0", whole[:20], b"", value):
        entry.write_bytes(bent)
        assert cache.get("jit_f-00") is None
        assert not entry.exists(), "a damaged entry is deleted"
    for _ in range(500):
        entry.write_bytes(whole)
        flip(entry, chosen)
        assert cache.get("jit_f-00") is None
    entry.write_bytes(whole)
    entry.rename(place / entry.name.replace("00", "01"))
    assert cache.get("jit_f-01") is None, "another program's bytes"


def test_an_entry_that_is_a_link_or_a_pipe_is_none(tmp_path: Path) -> None:
    place = tmp_path / "programs"
    place.mkdir(mode=0o700)
    cache = CheckedCache(place)
    cache.put("k", b"program")
    (entry,) = place.iterdir()
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert cache.get("k") is None
    entry.unlink(missing_ok=True)
    os.mkfifo(entry)
    assert cache.get("k") is None


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for mode in (0o770, 0o702, 0o777):
        theirs.chmod(mode)
        assert enable_compilation_cache(theirs) is None
    assert "others can write" in caplog.text
    theirs.chmod(0o700)
    (tmp_path / "link").symlink_to(theirs)
    assert enable_compilation_cache(tmp_path / "link") is None
    (tmp_path / "file").write_text("")
    assert enable_compilation_cache(tmp_path / "file") is None
    assert enable_compilation_cache(tmp_path / "file" / "below") is None
    assert list(theirs.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_not_used(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 12345, 12345)
    assert enable_compilation_cache(theirs) is None


def test_a_new_directory_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = tmp_path / "cache" / "programs"
        assert enable_compilation_cache(place) == place
        CheckedCache(place).put("k", b"program")
    finally:
        os.umask(before)
        enable_compilation_cache()
    assert place.stat().st_mode & 0o777 == 0o700
    assert [entry.stat().st_mode & 0o777 for entry in place.iterdir()] == [0o600]
