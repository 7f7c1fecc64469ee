"""What is distributed: a wheel with the package `glimmer` and nothing else, and a source distribution that builds it.

And what an editable install puts before Python, editors and type checkers: the checkout as it is at any moment.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipelines", "encoders", "storage", "reader")
ROOT_FILES = ("__init__.py", "__main__.py", "errors.py", "progress.py", "py.typed")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with what commonly lies about in one and must not get in."""
    checkout = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "constraints.txt", "README.md", "LICENSE", *ROOT_FILES):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "conftest.py").write_text("raise SystemExit('never packaged')\n")
    (checkout / "build" / "lib" / "glimmer").mkdir(parents=True)
    (checkout / "build" / "lib" / "glimmer" / "stale.py").write_text("raise SystemExit('never packaged')\n")
    return checkout


@pytest.fixture(scope="module")
def distributions(checkout: Path) -> Path:
    """The directory with a source distribution and a wheel that was built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [built] = distributions.glob("*.whl")
    return built


def test_the_wheel_holds_the_four_rooms_and_no_stray_file(wheel: Path) -> None:
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    tops = {n.split("/")[0] for n in names}
    assert tops == {"glimmer"}
    assert {n for n in names if n.count("/") == 1} == {f"glimmer/{name}" for name in ROOT_FILES}
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


def test_the_source_distribution_holds_the_package_and_its_licence(distributions: Path) -> None:
    [archive] = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt", *ROOT_FILES} <= names
    assert {f"{room}/__init__.py" for room in ROOMS} <= names
    assert not {name for name in names if name.startswith(("build/", "conftest.py"))}


def test_the_metadata_says_what_a_package_index_shows(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    [found] = importlib.metadata.distributions(path=[str(tmp_path)])
    metadata = found.metadata
    assert metadata["Name"] == "glimmer-memory"
    assert f'__version__ = "{found.version}"' in (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert metadata["License-Expression"] == "Apache-2.0"
    addresses = {line.split(",")[0] for line in metadata.get_all("Project-URL") or ()}
    assert addresses >= {"Source", "Documentation", "Issues"}
    assert {point.name for point in found.entry_points} >= {"glimmer"}
    assert "Programming Language :: Python :: 3.13" in (metadata.get_all("Classifier") or ())


def test_an_editable_install_shows_new_and_renamed_files_at_once(checkout: Path, tmp_path: Path) -> None:
    checkout = shutil.copytree(checkout, tmp_path / "checkout", ignore=shutil.ignore_patterns("dist"))
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, "--editable", str(checkout)], check=True)
    (checkout / "reader" / "newcomer.py").write_text("name = 'new'\n")
    (checkout / "storage" / "paths.py").rename(checkout / "storage" / "renamed_paths.py")
    look = (
        f"import site; site.addsitedir({str(site)!r}); "
        "import importlib.util as u; import glimmer.reader.newcomer as n; from pathlib import Path; "
        "print(n.name, u.find_spec('glimmer.storage.renamed_paths') is not None, u.find_spec('glimmer.storage.paths'), "
        "Path(n.__file__).resolve())"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", look], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["new", "True", "None", str((checkout / "reader" / "newcomer.py").resolve())]
