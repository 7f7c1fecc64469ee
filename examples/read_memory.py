"""Reads a memory without Glimmer: written from docs/format.md alone, with zarr-python, Delta Lake and NumPy.

`python examples/read_memory.py wiki.memory 3` prints the token representations of the first passages, by their ids.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from deltalake import DeltaTable


def representations(memory: Path, count: int) -> Iterator[tuple[str, Any]]:
    """(passage id, float32 [tokens, width]) of the first passages of the newest version."""
    catalog, identity = DeltaTable(str(memory / "passages")), (memory / "memory.json").read_bytes()
    manifest, about = json.loads(catalog.history(1)[0]["glimmer"]), json.loads(identity)
    assert about["format_version"] == manifest["format"] == 1, "written by a newer Glimmer"
    assert manifest["identity_sha256"] == hashlib.sha256(identity).hexdigest(), "memory.json is damaged"
    tables = read_tables(memory / "codec/tables.safetensors", about["tables_sha256"]) if about["tables_sha256"] else {}
    rows = catalog.to_pyarrow_table(columns=["passage_id", "segment", "row", "n_tokens"]).sort_by("passage_id")
    for passage in rows.slice(0, count).to_pylist():
        codes = zarr.open_array(memory / "segments" / passage["segment"] / "codes", mode="r")
        yield passage["passage_id"], decode(about["codec"], tables, codes[passage["row"], : passage["n_tokens"]])


def read_tables(path: Path, digest: str) -> dict[str, Any]:
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest, f"{path} is damaged"
    start = 8 + int.from_bytes(content[:8], "little")
    tables = {}
    for name, about in json.loads(content[8:start]).items():
        first, end = about["data_offsets"]
        dtype = {"F16": "<f2", "F32": "<f4"}[about["dtype"]]
        tables[name] = np.frombuffer(content[start + first : start + end], dtype).reshape(about["shape"])
    return tables


def decode(codec: dict[str, Any], tables: dict[str, Any], codes: Any) -> Any:
    """codes uint8 [tokens, code_bytes] of one passage -> float32 [tokens, width]."""
    if codec["name"] == "int8":
        return codes[:, : codec["width"]].view(np.int8) * codes[:, codec["width"] :].copy().view("<f4")
    assert codec["name"] == "pq", f"codec {codec['name']} is not read here"
    groups = np.arange(len(tables["centroids"]))
    ids = sum(codes[:, k].astype(int) << 8 * k for k in range(codec["bytes"] - len(groups)))
    ids = np.minimum(ids, codec["vocabulary"] - 1)
    token = tables["token_means"][ids].astype(np.float32) * tables["token_scales"][ids, None]
    rest = tables["centroids"][groups, codes[:, -len(groups) :]].reshape(len(codes), -1) @ tables["rotation"].T
    return token + tables["position_means"][np.minimum(np.arange(len(codes)), 255)] + rest


if __name__ == "__main__":
    for passage_id, vectors in representations(Path(sys.argv[1]), int(sys.argv[2])):
        print(passage_id, vectors.shape, vectors[0, :4])
