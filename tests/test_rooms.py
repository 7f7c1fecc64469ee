"""The rooms: imports point one way and never in a circle; a module is one idea of bounded size under its own name."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "encoders": {"encoders"},
    "storage": {"storage"},
    "reader": {"reader", "encoders", "storage"},
    "pipelines": {"pipelines", "reader", "encoders", "storage"},
}
# Folders that must not know of the folders beside them.
BELOW = {
    "reader/formats": {"reader/serving", "reader/training", "reader"},
    "pipelines/corpus": {"pipelines", "pipelines/cli", "pipelines/encoding", "pipelines/refreshing"},
    "pipelines/encoding": {"pipelines/cli", "pipelines/refreshing", "pipelines/maintenance", "pipelines/answering"},
    "pipelines/planning": {
        "pipelines/cli",
        "pipelines/encoding",
        "pipelines/refreshing",
        "pipelines/maintenance",
        "pipelines/answering",
    },
    "pipelines/maintenance": {"pipelines/cli"},
    "reader/serving": {"reader/training"},
}
MOST_LINES = 450
MOST_JOBS = 13


def _modules() -> dict[str, Path]:
    found = {}
    for room in ALLOWED:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _statements(tree: ast.Module, *, at_import: bool) -> Iterator[ast.ImportFrom | ast.Import]:
    """Import statements; with `at_import` only those that run when the module is imported."""
    if not at_import:
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
        return
    left: list[ast.stmt] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            left += node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            left += node.body


def _imported(name: str, *, at_import: bool = False) -> set[str]:
    """The modules of the four rooms that `name` imports, dotted as in MODULES."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_import=at_import):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + (
                    (node.module or "").split(".") if node.module else []
                )
            elif (node.module or "").split(".")[0] == "glimmer":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            targets = [".".join([*base, alias.name]) for alias in node.names] + [".".join(base)]
        else:
            targets = [alias.name.removeprefix("glimmer.") for alias in node.names if alias.name.startswith("glimmer.")]
        found |= {target for target in targets if target in MODULES and target != name}
    return found - set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    offenders = {
        name: extra
        for name in MODULES
        if name.split(".")[0] == room
        and (extra := {each for each in _imported(name) if each.split(".")[0] not in ALLOWED[room]})
    }
    assert offenders == {}


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_knows_nothing_of_those_above_it(folder: str) -> None:
    def folder_of(name: str) -> str:
        return MODULES[name].parent.relative_to(ROOT).as_posix()

    offenders = {
        name: extra
        for name in MODULES
        if folder_of(name) == folder and (extra := {n for n in _imported(name) if folder_of(n) in BELOW[folder]})
    }
    assert offenders == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {name: _imported(name, at_import=True) for name in MODULES}
    left = set(imports)
    while removable := {name for name in left if not imports[name] & left}:
        left -= removable
    assert left == set(), "these import each other, or are imported by those that do"


def test_two_modules_have_one_name_only_where_one_is_the_others_command() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        if path.name != "__init__.py" and not name.startswith("pipelines.cli.commands."):
            places[path.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("room", ALLOWED)
def test_no_module_grows_too_long(room: str) -> None:
    lines = Counter(
        {
            name: len(path.read_text(encoding="utf-8").splitlines())
            for name, path in MODULES.items()
            if name.split(".")[0] == room
        }
    )
    assert {name: number for name, number in lines.items() if number > MOST_LINES} == {}


def test_the_top_of_pipelines_is_a_list_of_the_jobs() -> None:
    jobs = {path.name for path in (ROOT / "pipelines").glob("*.py")} - {"__init__.py"}
    assert len(jobs) <= MOST_JOBS, sorted(jobs)


# Calls that touch files. In the modules named below, but for the exceptions, a file would be one of a memory.
FILE_CALLS = frozenset(
    {
        "open",
        "mmap",
        "memmap",
        "flock",
        "iterdir",
        "glob",
        "rglob",
        "scandir",
        "listdir",
        "rmtree",
        "unlink",
        "rmdir",
        "mkdir",
        "rename",
        "makedirs",
        "touch",
        "read_bytes",
        "write_bytes",
        "link",
        "symlink_to",
        "copyfile",
        "truncate",
        "fsync",
        "chmod",
    }
)
RENAMING_CALLS = frozenset({"os.rename", "os.replace"})
LOCAL_FILES = frozenset(
    {
        "write_atomic",
        "read_regular",
        "open_regular",
        "sha256_file",
        "make_directories",
        "sync_directory",
        "remove_tree",
        "remove_file",
        "refuse_links",
    }
)
FILE_MODULES = {
    "storage.files": "the local store's reading and writing",
    "storage.locks": "locks",
    "storage.removal": "the local store's deletion",
    "storage.stores.local": "the local store",
    "storage.stores.local_directories": "directories that tantivy reads",
    "storage.stores.sealed": "directories that tantivy reads",
    "storage.inputs": "people's own files",
    "storage.outputs": "people's own files",
    "storage.temporary": "temporary files",
    "storage.catalog_log": "a temporary copy of the log, for Delta Lake",
}
OF_A_MEMORY = ("storage.", "reader.serving.", "pipelines.maintenance.", "pipelines.refreshing.", "pipelines.encoding.")
JOBS = ("pipelines.jobs", "pipelines.encode", "pipelines.refresh")


def _file_access(path: Path) -> set[str]:
    """Calls that touch files by themselves, and what is imported from `files` for that."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            of_a_class = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value)[:1].isupper()
            of_a_library = call.startswith(("ts.", "tantivy.", "cls."))
            if call in RENAMING_CALLS or (call.split(".")[-1] in FILE_CALLS and not of_a_class and not of_a_library):
                found.add(call)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in {"files", "removal"}:
            found |= {alias.name for alias in node.names} & LOCAL_FILES
    return found


def test_only_the_local_store_and_locks_touch_the_files_of_a_memory() -> None:
    offenders = {
        name: access
        for name, path in MODULES.items()
        if (name.startswith(OF_A_MEMORY) or name in JOBS) and name not in FILE_MODULES
        if (access := _file_access(path))
    }
    assert offenders == {}
    assert FILE_MODULES.keys() <= MODULES.keys()
    assert "mmap.mmap" in _file_access(MODULES["storage.stores.local"]), "the test sees what it looks for"
