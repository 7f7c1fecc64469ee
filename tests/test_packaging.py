"""The wheel holds the package `glimmer` and nothing else, and works from a directory that is not the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipelines", "encoders", "storage", "reader")
ROOT_MODULES = ("__init__.py", "__main__.py", "errors.py", "progress.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", *ROOT_MODULES):
        shutil.copy(ROOT / name, checkout / name)
    # What commonly lies about in a checkout and must not get in.
    (checkout / "conftest.py").write_text("raise SystemExit('never packaged')\n")
    (checkout / "build" / "lib" / "glimmer").mkdir(parents=True)
    (checkout / "build" / "lib" / "glimmer" / "stale.py").write_text("raise SystemExit('never packaged')\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=checkout,
        check=True,
    )
    [built] = (checkout / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_four_rooms_and_no_stray_file(wheel: Path) -> None:
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    tops = {n.split("/")[0] for n in names}
    assert tops == {"glimmer"}
    assert {n for n in names if n.count("/") == 1} == {f"glimmer/{name}" for name in ROOT_MODULES}
    assert {n.split("/")[1] for n in names if n.count("/") > 1} == set(ROOMS)
    for room in ROOMS:
        expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / room).rglob("*.py")}
        assert {
            n.removeprefix("glimmer/") for n in names if n.startswith(f"glimmer/{room}/") and n.endswith(".py")
        } == expected


def test_the_installed_command_runs_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import glimmer; "
        "from glimmer.pipelines.cli.program import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("glimmer, version ")
