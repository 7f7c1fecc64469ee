"""Where compiled programs and converted built-in models are kept between runs.

XLA takes about half a second a shape; the persistent cache makes the second job of a day start at once.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_directory() -> Path:
    """`GLIMMER_CACHE`, or glimmer's directory under the user's cache (`XDG_CACHE_HOME`, else ~/.cache)."""
    chosen = os.environ.get("GLIMMER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimmer"


def enable_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps XLA executables in `directory` (default: under `cache_directory()`) and returns it.

    A cache is a help and never a need: where the directory cannot be made or written, nothing changes and the result
    is None.
    """
    path = Path(directory) if directory is not None else cache_directory() / "compilation"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    settings: dict[str, object] = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    return path
