"""Commands that only look at a memory start without JAX: a codec imports it when it is traced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STORAGE = Path(__file__).resolve().parents[2] / "storage"


def test_storage_does_not_import_jax() -> None:
    names = [
        "glimmer.storage." + ".".join(path.relative_to(STORAGE).with_suffix("").parts)
        for path in sorted(STORAGE.rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = (
        "import importlib, sys; "
        "[importlib.import_module(name) for name in sys.argv[1:]]; "
        "from glimmer.storage.codecs import codec_names, codec_with_zero_tables, parse_codec; "
        "[codec_with_zero_tables(parse_codec(name, 64, 100)).code_bytes for name in codec_names()]; "
        "print([name for name in ('jax', 'jaxlib', 'flax', 'apache_beam') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
