"""What `pyproject.toml` cannot say: the repository's root is the package `glimmer`, whatever the checkout is called."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent
ROOMS = ("pipelines", "encoders", "storage", "reader")
ROOT_MODULES = ("__init__", "__main__", "errors", "progress", "wording")
PACKAGES = [
    "glimmer." + ".".join(init.parent.relative_to(ROOT).parts)
    for room in ROOMS
    for init in sorted((ROOT / room).rglob("__init__.py"))
]


class BuildRooms(build_py):
    """Keeps stray files out of the wheel: of the root only ROOT_MODULES, and nothing of an earlier build."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "glimmer", ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        if package == "glimmer":
            modules = [m for m in modules if m[1] in ROOT_MODULES]
        return modules


class LinkRooms(editable_wheel):
    """Editable install of `.editable/glimmer`, a directory of links to the rooms and the root's modules.

    Setuptools' own editable installs fit this layout badly: its import hook is invisible to editors and type checkers,
    and its strict mode links file by file, so that new and renamed files are missing until the next installation. A
    link for each room is an ordinary directory on `sys.path` to everybody, and always shows what the checkout holds.
    """

    def finalize_options(self) -> None:
        tree = ROOT / ".editable"
        shutil.rmtree(tree, ignore_errors=True)
        package = tree / "glimmer"
        package.mkdir(parents=True)
        for name in (*ROOMS, "py.typed", *(f"{module}.py" for module in ROOT_MODULES)):
            (package / name).symlink_to(Path("..", "..", name))
        self.distribution.package_dir = {"": tree.name}
        super().finalize_options()


setup(
    package_dir={"glimmer": "."},
    packages=["glimmer", *PACKAGES],
    package_data={
        "glimmer": ["py.typed"],
        "glimmer.pipelines": ["demo_questions.jsonl"],
        "glimmer.pipelines.answering": ["templates/*"],
        "glimmer.encoders": ["builtin/sample/*"],
    },
    include_package_data=False,  # MANIFEST.in names much more of the root than the package
    cmdclass={"build_py": BuildRooms, "editable_wheel": LinkRooms},
)
