"""Build of the distribution `glimmer-memory`: the repository's root is the package `glimmer`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ROOMS = ("pipelines", "encoders", "storage", "reader")
ROOT_MODULES = ("__init__", "__main__", "errors", "progress")
PACKAGES = [
    "glimmer." + ".".join(init.parent.relative_to(ROOT).parts)
    for room in ROOMS
    for init in sorted((ROOT / room).rglob("__init__.py"))
]
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "__init__.py").read_text()).group(1)  # type: ignore[union-attr]


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


setup(
    name="glimmer-memory",
    version=VERSION,
    description="Precomputed memory for retrieval-augmented language models: encode a corpus once, answer from it fast",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"glimmer": "."},
    packages=["glimmer", *PACKAGES],
    package_data={
        "glimmer.pipelines": ["demo_questions.jsonl"],
        "glimmer.pipelines.answering": ["templates/*"],
        "glimmer.encoders": ["builtin/sample/*"],
    },
    cmdclass={"build_py": BuildRooms},
    install_requires=[
        "apache-beam>=2.77,<3",
        "array-record>=0.8",
        "click>=8.1",
        "deltalake>=1.6,<2",
        "flax>=0.12",
        "fsspec>=2025.1",
        "importlib-resources>=6",
        "jax>=0.10",
        "ml-dtypes>=0.5",
        "msgpack>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orjson>=3.11",
        "pyarrow>=25",
        "rich>=14",
        "rouge>=1.0.1",
        "safetensors>=0.6",
        "sentencepiece>=0.2.1",
        "tantivy>=0.27,<0.28",
        "tensorflow-datasets>=4.9.10",
        "tensorstore>=0.1.86",
        "tokenizers>=0.22",
        "zarr>=3.1",
        "zstandard>=0.23",
    ],
    extras_require={
        "cuda": ["jax[cuda13]"],
        "dask": ["apache-beam[dask]"],
        "gcp": ["apache-beam[gcp]", "gcsfs"],
        "s3": ["s3fs"],
        "hub": ["huggingface_hub"],
        "dev": [
            "build",
            "duckdb>=1.4",
            "hypothesis>=6.150",
            "mypy>=1.18",
            "pytest>=9",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "ruff>=0.14",
        ],
    },
    entry_points={"console_scripts": ["glimmer=glimmer.pipelines.cli.program:main"]},
)
