"""A codec with learned tables through a memory's whole life, added by one file and known to nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from changing import payload
from safetensors.numpy import load_file

from glimmer import MismatchError, UsageError
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding.codec_fit import spread
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.refresh import refresh
from glimmer.storage.codecs import TableShape, codecs_forgotten_afterwards, register_codec
from glimmer.storage.files import TEMPORARY_PREFIX
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

ROOT = Path(__file__).resolve().parents[2]
CODEC_FILE = ROOT / "tests" / "support" / "product_quantiser.py"
CODEC = "test-pq:bytes=8,centroids=12"
TABLES = "codec/tables.safetensors"
SEVERAL = Engine(options=["--direct_running_mode=multi_processing", "--direct_num_workers=2"])


@pytest.fixture(scope="module", autouse=True)
def quantiser() -> Iterator[None]:
    """The codec's file, imported in this process as any program would import it; forgotten after this module."""
    spec = importlib.util.spec_from_file_location("product_quantiser", CODEC_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, codecs_forgotten_afterwards():
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield


def product_quantiser() -> Any:
    return sys.modules["product_quantiser"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", memory_layers=1, live_a=1, live_b=1, window=48)


@pytest.fixture(scope="module")
def corpus(tiny_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpora") / "corpus.jsonl", 700)


@pytest.fixture(scope="module")
def encoded(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    memory = tmp_path_factory.mktemp("encoded") / "m"
    encode(sources=[str(corpus)], memory=memory, model=str(model), codec=CODEC)
    return memory


@pytest.fixture
def memory(encoded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoded, tmp_path / "m"))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This source tree with one file more; a directory for PYTHONPATH."""
    place = tmp_path_factory.mktemp("site")

    def link(original: Path, target: Path, opened: set[Path]) -> None:
        """`target` holds what `original` holds, through links; directories in `opened` are directories of their own."""
        target.mkdir()
        for path in original.iterdir():
            if path in opened:
                link(path, target / path.name, opened)
            elif path.name != "__pycache__":
                (target / path.name).symlink_to(path)

    link(ROOT, place / "glimmer", {ROOT / "storage", ROOT / "storage" / "codecs"})
    shutil.copy(CODEC_FILE, place / "glimmer" / "storage" / "codecs" / CODEC_FILE.name)
    return place


def started(path: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts the command with `path` on PYTHONPATH."""
    return subprocess.Popen(
        [sys.executable, "-m", "glimmer", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        cwd=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def glimmer(path: Path, *arguments: object) -> str:
    """Standard output of the command, which succeeds."""
    process = started(path, *arguments)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def stored(memory: Path) -> dict[str, bytes]:
    """Path -> content of all tables and segments; temporary names are a killed process's leftovers, never content."""
    files = [path for part in ("codec", "segments") for path in (memory / part).rglob("*") if path.is_file()]
    kept = [path for path in files if not path.name.startswith(TEMPORARY_PREFIX)]
    return {str(path.relative_to(memory)): path.read_bytes() for path in kept}


def test_the_tables_are_in_the_memory_and_its_record_has_the_parameters(encoded: Path) -> None:
    opened = Memory.open(encoded)
    assert opened.identity.codec == {"name": "test-pq", "width": 32, "bytes": 8, "centroids": 12}
    assert {name: table.shape for name, table in load_file(encoded / TABLES).items()} == {"centroids": (8, 12, 4)}
    assert opened.codec.code_bytes == 8
    assert verify(encoded).sound
    assert opened.manifest.details["codec_fit"] == {
        "passages": 56,
        "samples": 1994,
        "seed": 0,
        "tables_sha256": opened.identity.tables_sha256,
    }


def test_the_codes_are_those_of_the_nearest_centroids(encoded: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    """Against a float32 memory of the same corpus: the tables were fitted to it, and to what `encode` is given."""
    encode(sources=[str(corpus)], memory=tmp_path / "exact", model=str(model), codec="float32")
    exact, quantised = Memory.open(tmp_path / "exact"), Memory.open(encoded)
    positions = np.arange(0, exact.passages, 5)
    codes, lengths = exact.fetch(positions)
    live = np.arange(exact.window) < lengths[:, None]
    truth = np.asarray(exact.codec.decode(jnp.asarray(codes), np.float32))[live]
    codes, _ = quantised.fetch(positions)
    back = np.asarray(quantised.codec.decode(jnp.asarray(codes), np.float32))[live]
    parts = truth.reshape(len(truth), 8, 1, 4)
    nearest = np.square(parts - load_file(encoded / TABLES)["centroids"]).sum(-1).argmin(-1)
    assert np.mean(codes[live] == nearest) > 0.999  # bfloat16 and float32 sums may disagree about a tie
    assert np.square(back - truth).mean() < 0.6 * truth.var()


def test_two_memories_of_one_corpus_are_equal_whatever_the_engine(
    encoded: Path, model: Path, corpus: Path, tmp_path: Path, installation: Path
) -> None:
    """Several worker processes, each of which finds the codec and reads the memory's tables by itself."""
    options = [argument for option in SEVERAL.options for argument in ("--runner-option", option)]
    target = tmp_path / "m"
    loaded = tmp_path / "loaded"
    process = started(
        installation,
        *("encode", corpus, "--memory", target, "--model", model, "--codec", CODEC, *options),
        LOADED_BY=str(loaded),
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert stored(target) == stored(encoded)
    assert set(loaded.read_text().split()) - {str(process.pid)}


def test_refresh_and_compact_keep_the_tables_and_answer_reads_them(
    memory: Path, corpus: Path, model: Path, tmp_path: Path, tiny_questions: Callable[..., Path]
) -> None:
    tables, before = (memory / TABLES).read_bytes(), payload(memory)
    lines = corpus.read_text().splitlines()
    newer = tmp_path / "newer.jsonl"
    newer.write_text("\n".join([*lines[60:], lines[0].replace('"text": "', '"text": "New words. ')]) + "\n")
    refreshed = refresh(sources=[str(newer)], memory=memory)
    assert refreshed.version == 2
    assert len(Memory.open(memory).segments) == 2
    compact(memory=memory, dead_share=0.01)
    assert Memory.open(memory).version == 3
    assert (memory / TABLES).read_bytes() == tables
    assert verify(memory).sound
    after = payload(memory)
    assert len(after.keys() & before.keys()) > 1000
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    output = tmp_path / "answers.jsonl"
    answer_file(
        queries=tiny_questions(tmp_path / "questions.jsonl", 4),
        memory=memory,
        model=model,
        output=output,
        candidates=6,
        select=3,
        max_answer_tokens=4,
    )
    answers = [json.loads(line)["output"][0]["answer"] for line in output.read_text().splitlines()]
    assert len(answers) == 4
    assert all(answers)


def test_damaged_codes_are_made_again_with_the_memorys_own_tables(memory: Path) -> None:
    before = stored(memory)
    shard = next((memory / "segments").glob("*/codes/c.0.0.0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert [damage.kind for damage in verify(memory).damages] == ["codes"]
    result = repair(memory=memory)
    assert result.sound
    assert result.recoded > 0
    assert stored(memory) == before


def test_damaged_tables_are_found_by_their_digest_and_a_flipped_bit_is_turned_back(memory: Path) -> None:
    before = stored(memory)
    path = memory / TABLES
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    [damage] = verify(memory).damages
    assert (damage.kind, damage.path) == ("codec", TABLES)
    assert repair(memory=memory).repaired.keys() == {TABLES}
    assert stored(memory) == before
    content[-40:] = bytes(40)
    path.write_bytes(content)
    [remaining] = repair(memory=memory).remaining
    assert remaining.path == TABLES
    assert "copy" in remaining.remedy
    path.unlink()
    [damage] = verify(memory).damages
    assert damage.path == TABLES


@pytest.mark.slow
@pytest.mark.parametrize(
    "mark",
    [
        "segments/*/text/0.arrow",
        "jobs/*/plan.json",
        "paused",
        "jobs/*/fit.json",
        "memory.json",
        "jobs/*/shards/*.json",
    ],
    ids=["in the plan", "in the sample", "in the fit", "after the fit", "memory created", "in the encode stage"],
)
def test_killed_at_any_stage_the_same_command_ends_with_the_same_bytes(
    mark: str, encoded: Path, model: Path, corpus: Path, tmp_path: Path, installation: Path
) -> None:
    target = tmp_path / "m"
    command = ("encode", corpus, "--memory", target, "--model", model, "--codec", CODEC)
    paused = {"PAUSE_IN_FIT": str(tmp_path / "m" / "paused")} if mark == "paused" else {}
    process = started(installation, *command, **paused)
    while process.poll() is None and not any(target.glob(mark)):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (target / "paused").unlink(missing_ok=True)
    kept = list(target.glob("jobs/*/tables.safetensors"))
    output = json.loads(glimmer(installation, *command, "--json"))
    assert ("fit" in output["seconds"]) == (not kept)
    assert stored(target) == stored(encoded)
    assert Memory.open(target).version == 1
    assert verify(target).sound


def test_a_codec_is_added_by_one_file(installation: Path, encoded: Path, corpus: Path, model: Path) -> None:
    """The whole command line knows it: help, wrong parameters, estimate, dry run, inspect."""
    assert "test-pq" in glimmer(installation, "encode", "--help")
    shown = json.loads(glimmer(installation, "inspect", encoded, "--json"))
    assert (shown["codec"], shown["code_bytes"]) == (CODEC, 8)
    assert f"{CODEC}, 8 bytes a token" in glimmer(installation, "inspect", encoded)
    sizes = [
        json.loads(glimmer(installation, "estimate", "--codec", name, "--json"))["offline"]["code_bytes"]
        for name in ("test-pq:bytes=96", "bfloat16")
    ]
    assert sizes[1] / sizes[0] == pytest.approx(2 * 768 / 96, rel=0.01)
    arguments = ("encode", corpus, "--memory", "x", "--model", model, "--codec")
    dry = json.loads(glimmer(installation, *arguments, CODEC, "--dry-run", "--json"))
    assert dry["most_bytes"] - dry["text_bytes"] == 8 * dry["plan"]["tokens"]
    refused = started(installation, *arguments, "test-pq:byte=8")
    _, errors = refused.communicate()
    assert refused.returncode == 2
    assert "bytes= (an integer from 1 to 1024, default 8)" in errors


def test_another_package_brings_a_codec_by_an_entry_point(encoded: Path, tmp_path: Path) -> None:
    """Without one a memory of that codec is refused, with what to do."""
    process = started(ROOT.parent, "inspect", encoded)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "codec.name is 'test-pq'" in errors
    assert "installing the package" in errors
    shutil.copy(CODEC_FILE, tmp_path / "quantisers.py")
    information = tmp_path / "quantisers-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: quantisers\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[glimmer.codecs]\ntest-pq = quantisers\nbroken-pq = absent\n")
    path = f"{tmp_path}{os.pathsep}{ROOT.parent}"
    code = "import sys; from glimmer.pipelines.cli.program import main; main()"
    run: Any = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert CODEC in run("inspect", encoded).stdout
    refused = run("estimate", "--codec", "broken-pq")
    assert refused.returncode == 2
    assert "codec broken-pq: cannot be imported from absent" in refused.stderr


def test_a_corpus_too_small_to_fit_says_so_and_leaves_the_plan(model: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "title": "A", "text": "Few words."}) + "\n")
    with pytest.raises(UsageError, match="needs 200 tokens"):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), codec="test-pq:centroids=200")
    assert not (tmp_path / "m" / "memory.json").exists()


def test_a_job_that_failed_after_the_fit_resumes_with_its_tables_and_no_other_job_takes_them(
    encoded: Path, model: Path, corpus: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"memory": tmp_path / "m", "model": str(model), "codec": CODEC}
    with pytest.raises(UsageError, match="Nowhere"):
        encode(sources=[str(corpus)], **arguments, engine=Engine(runner="NowhereRunner"))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(corpus.read_text().splitlines(keepends=True)[:300]))
    with pytest.raises(MismatchError, match="has other tables for its codec"):
        encode(sources=[str(other)], **arguments)
    assert "fit" not in encode(sources=[str(corpus)], **arguments).seconds
    assert stored(encoded).items() <= stored(tmp_path / "m").items()  # beside the text that the other job planned


def test_tables_that_follow_from_the_parameters_need_no_fit(model: Path, corpus: Path, tmp_path: Path) -> None:
    with codecs_forgotten_afterwards():
        register_codec(
            "test-made",
            code_bytes=lambda spec: 4,
            tables=lambda spec: {"centroids": TableShape((4, 16, 8), np.float32)},
            load=lambda spec, tables: product_quantiser().ProductQuantiser(spec, tables["centroids"]),
            make=lambda spec: product_quantiser().ProductQuantiser(
                spec, np.random.default_rng(spec.width).normal(size=(4, 16, 8)).astype(np.float32)
            ),
        )
        result = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), codec="test-made")
        opened = Memory.open(tmp_path / "m")
        assert "fit" not in result.seconds
        assert "codec_fit" not in opened.manifest.details
        expected = np.random.default_rng(32).normal(size=(4, 16, 8)).astype(np.float32)
        assert np.array_equal(opened.codec.tables()["centroids"], expected)
        assert verify(tmp_path / "m").sound


def test_other_parameters_are_another_codec(memory: Path, model: Path, corpus: Path) -> None:
    with pytest.raises(MismatchError, match="'test-pq:bytes=8,centroids=12', not 'test-pq:bytes=4,centroids=12'"):
        encode(sources=[str(corpus)], memory=memory, model=str(model), codec="test-pq:bytes=4,centroids=12")


@pytest.mark.parametrize(("total", "most"), [(1, 1), (5, 9), (9, 5), (1000, 7), (10**9, 100)])
def test_a_spread_sample_is_ascending_distinct_and_even(total: int, most: int) -> None:
    chosen = spread(total, most, "seed")
    assert len(chosen) == min(total, most)
    assert (np.diff(chosen) > 0).all()
    edges = [number * total // len(chosen) for number in range(len(chosen) + 1)]
    assert all(first <= at < end for first, at, end in zip(edges, chosen, edges[1:], strict=False))
    assert np.array_equal(chosen, spread(total, most, "seed"))
    assert total < 1000 or not np.array_equal(chosen, spread(total, most, "another"))
