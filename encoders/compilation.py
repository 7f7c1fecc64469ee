"""Where compiled programs and converted built-in models are kept between runs.

XLA takes about half a second a shape; the persistent cache makes the second job of a day start at once. JAX's own cache
hands whatever bytes it finds to XLA, which runs them: a flipped bit crashed the process or gave other numbers, and
whoever can write the directory runs code as its reader. So the entries lie in a directory that only its owner can
write, each with a digest that is compared before JAX sees the entry; a damaged one is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
from pathlib import Path

_MAGIC = b"glimmer-xla-1\n"
_KEY = re.compile(r"[A-Za-z0-9_.+-]{1,240}")
_LARGEST = 1 << 30
_log = logging.getLogger(__name__)
_installed: dict[Path, CheckedCache] = {}
"""The cache that JAX has from us, by its directory; at most one."""


def cache_directory() -> Path:
    """`GLIMMER_CACHE`, or glimmer's directory under the user's cache (`XDG_CACHE_HOME`, else ~/.cache)."""
    chosen = os.environ.get("GLIMMER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimmer"


def enable_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps XLA executables in `directory` (default: under `cache_directory()`) and returns it.

    A cache is a help and never a need: where the directory cannot be made or written, is a link, belongs to another
    user or can be written by one, nothing is cached, the log says why, and the result is None.
    """
    path = (Path(directory) if directory is not None else cache_directory() / "programs").absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if path not in _installed:
            _install(CheckedCache(path), path)
    except (OSError, ImportError, AttributeError) as error:
        _log.warning("compiled programs are not kept in %s: %s", path, getattr(error, "strerror", None) or error)
        return None
    import jax

    settings: dict[str, object] = {
        "jax_compilation_cache_dir": str(path),
        # All of them: a small one, too, takes several times as long to compile as to read.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    return path


def _install(cache: CheckedCache, path: Path) -> None:
    """Makes JAX use `cache`. It has no public way for that: in a release that does it otherwise, nothing is cached."""
    from jax._src import compilation_cache

    if not callable(compilation_cache.get_file_cache) or not callable(compilation_cache.reset_cache):
        raise ImportError("this release of JAX takes no cache but its own")
    compilation_cache.get_file_cache = lambda _: (cache, str(path))  # type: ignore[assignment, return-value]
    compilation_cache.reset_cache()  # it may have opened another before
    _installed.clear()
    _installed[path] = cache


class CheckedCache:
    """A cache of executables as JAX wants it: a file an entry, each with the SHA-256 of its key and content.

    The directory is opened once, checked, and entries are opened relative to it, so that nobody can exchange it later.
    OSError when it is not a directory that its owner, this process's user, alone can write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._directory)
        if status.st_uid != os.geteuid():
            raise OSError("the directory belongs to another user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError("others can write the directory (chmod go-w it)")
        if not os.access(path, os.W_OK):
            raise OSError("the directory cannot be written")

    def get(self, key: str) -> bytes | None:
        """The entry of `key`; None when there is none, or when it is damaged: it is deleted then."""
        name = _name(key)
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory
            )
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            try:
                stored = file.read() if ours and status.st_size <= _LARGEST else b""
            except OSError:
                return None
        head = len(_MAGIC) + 32
        content = stored[head:]
        if stored[:head] != _MAGIC + _digest(key, content):
            _log.info("a compiled program is damaged and is made again: %s", self._path / name)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
            return None
        return content

    def put(self, key: str, value: bytes) -> None:
        """Writes the entry of `key`, whole or not at all; a full or read-only disk is no error."""
        name = _name(key)
        temporary = f".tmp-{secrets.token_hex(8)}"
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._directory
            )
            with open(descriptor, "wb") as file:
                file.write(_MAGIC + _digest(key, value) + value)
            os.replace(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            _log.info("a compiled program is not kept: %s: %s", self._path / name, error.strerror or error)
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._directory)


def _name(key: str) -> str:
    """A file name for a key; JAX's are a function's name and a hash, which is all that tells them apart."""
    return f"{key}.xla" if _KEY.fullmatch(key) else f"{hashlib.sha256(key.encode()).hexdigest()}.xla"


def _digest(key: str, content: bytes) -> bytes:
    """Of the key too, so that one program does not pass for another."""
    named = key.encode()
    return hashlib.sha256(len(named).to_bytes(8, "little") + named + content).digest()
