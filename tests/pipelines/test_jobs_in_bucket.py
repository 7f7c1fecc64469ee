"""Jobs on a memory in a bucket: every kind, several processes at once, and a server that is killed."""

from __future__ import annotations

import datetime
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from changing import payload
from object_servers import BUCKET, SeaweedServer, binary, environment

import glimmer
from glimmer import UsageError
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.pipelines.refresh import refresh
from glimmer.reader.serving.retrieval_index import find_index, open_index
from glimmer.storage.memory import Memory
from glimmer.storage.stores import Store, open_store
from glimmer.storage.stores.object_store import ObjectStore
from glimmer.storage.verify import verify

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(glimmer.__file__).parents[1]), *sys.path])}


def segment_files(place: str | Path) -> dict[str, bytes]:
    """Key -> bytes of all that jobs wrote into segments."""
    store = open_store(place)
    return {entry.key: store.read(entry.key) for entry in store.walk("segments") if entry.kind == "file"}


@pytest.fixture
def model(tiny_model: Callable[..., Path], tmp_path: Path) -> str:
    return str(tiny_model(tmp_path / "model", memory_layers=2, live_a=1, live_b=1))


@pytest.fixture
def corpus(tiny_corpus: Callable[..., Path], tmp_path: Path) -> Callable[[int], list[str]]:
    """A corpus of so many articles; a larger one begins with those of a smaller."""
    lines = tiny_corpus(tmp_path / "all.jsonl", 60).read_text().splitlines()

    def of(articles: int) -> list[str]:
        path = tmp_path / f"corpus-{articles}.jsonl"
        path.write_text("\n".join(lines[:articles]) + "\n")
        return [str(path)]

    return of


def test_every_job_runs_in_a_bucket_with_equal_bytes(
    new_bucket_place: Callable[[], str],
    model: str,
    corpus: Callable[[int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, local = new_bucket_place(), tmp_path / "local"
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))
    assert encode(sources=corpus(40), memory=place, model=model).version == 1
    assert encode(sources=corpus(40), memory=place, model=model).nothing_to_do
    encode(sources=corpus(40), memory=local, model=model)
    assert segment_files(place) == segment_files(local)
    assert refresh(sources=corpus(50), memory=place, index=True).version == 2
    assert refresh(sources=corpus(30), memory=place, remove_absent=True, max_removed=1.0).version == 3
    assert compact(memory=place, dead_share=0).version == 4
    assert rollback(memory=place, to=1).version == 5
    assert payload(place) == payload(local)
    store = open_store(place)
    store.delete("segments/{}/codes/c.0.0.0".format(*Memory.open(place).segments))
    assert repair(memory=place, model=model).sound
    with pytest.raises(UsageError, match="at least 24 hours old"):
        vacuum(memory=place, older_than=datetime.timedelta(hours=23))
    assert vacuum(memory=place, older_than=datetime.timedelta(hours=24)).paths == ()
    monkeypatch.setattr(ObjectStore, "least_vacuum_age", datetime.timedelta(0))
    assert vacuum(memory=place, older_than=datetime.timedelta(0), keep_versions=1).segments >= 1
    with pytest.raises(UsageError, match="was vacuumed"):
        Memory.open(place, 3)
    assert verify(place).sound
    assert payload(place) == payload(local)


def test_commands_take_a_bucket(
    new_bucket_place: Callable[[], str],
    model: str,
    corpus: Callable[[int], list[str]],
    tiny_questions: Callable[..., Path],
    tmp_path: Path,
) -> None:
    place, local = new_bucket_place(), str(tmp_path / "local")
    questions = str(tiny_questions(tmp_path / "questions.jsonl", 5))
    printed: dict[str, list[str]] = {}
    for memory in (place, local):
        name, outputs = ("local" if memory == local else "bucket"), []
        run = functools.partial(_glimmer, tmp_path / f"cache-{name}")
        run("encode", *corpus(40), "--memory", memory, "--model", model)
        run("refresh", *corpus(50), "--memory", memory)
        answers, passages = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-passages.jsonl"
        run("answer", questions, "--memory", memory, "--model", model, "--output", str(answers))
        run("export", memory, "--output", str(passages))
        # Segments are ordered by their ids, which follow from when a memory was made.
        exported = sorted(map(json.loads, passages.read_text().splitlines()), key=lambda each: each["passage_id"])
        outputs += [answers.read_text(), json.dumps(exported), run("diff", memory, "1", "2", "--json")]
        outputs += [run("search", memory, exported[3]["text"], "--json")]
        found = json.loads(run("inspect", memory, "--json"))
        outputs += [json.dumps([found[key] for key in ("version", "passages", "articles", "tokens")])]
        run("verify", memory)
        run("history", memory)
        run("index", memory)
        printed[name] = [text.replace(memory, "MEMORY") for text in outputs]
    assert printed["bucket"] == printed["local"]


def test_an_index_is_built_once_for_all_machines(
    new_bucket_place: Callable[[], str],
    model: str,
    corpus: Callable[[int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = new_bucket_place()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    encode(sources=corpus(40), memory=place, model=model)
    built = open_index(Memory.open(place), language="german")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    memory = Memory.open(place)
    found = find_index(memory)
    assert found is not None
    assert (found.language, found.count) == ("german", built.count)
    assert str(found.directory).startswith(str(tmp_path / "other"))
    store = open_store(place)
    key = next(e.key for e in store.entries("indexes/1/bm25") if e.name.endswith(".store"))
    store.put(key, b"damaged" + store.read(key)[7:])
    [damage] = verify(place).damages
    assert key in str(damage)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    assert find_index(Memory.open(place)) is None, "what is damaged on its way is not used"
    assert repair(memory=place, model=model).sound
    assert refresh(sources=corpus(50), memory=place).version == 2
    assert store.exists("indexes/2/bm25/glimmer-index.json"), "the next version has one as well"


def _glimmer(cache: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "glimmer", *arguments],
        env={**ENVIRONMENT, "GLIMMER_CACHE": str(cache), **_aws()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


COMMITTER = """
import sys
from kit import Kit
from glimmer import ConflictError
from glimmer.storage.catalog import Catalog
place, number = sys.argv[1], int(sys.argv[2])
kit, done = Kit(), 0
while done < 10:
    base = Catalog(place).latest_version()
    passages = [kit.passage(1000 * number + 10 * done + n) for n in range(5)]
    try:
        version = kit.add(place, passages, job=f"p{number}-{done}-{base}", base=base).version
        print(version, *(passage.passage_id for passage in passages))
        done += 1
    except ConflictError:
        pass
"""


@pytest.mark.parametrize("kind", ["local", "bucket"])
def test_four_processes_with_ten_commits_each_lose_none(
    kind: str, new_bucket_place: Callable[[], str], kit: Any, tmp_path: Path
) -> None:
    place = new_bucket_place() if kind == "bucket" else str(tmp_path / "memory")
    kit.memory(place, 5)
    script = tmp_path / "committer.py"
    script.write_text(COMMITTER)
    command = [sys.executable, str(script), place]
    processes = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True, env={**ENVIRONMENT, **_aws()})
        for number in range(1, 5)
    ]
    reported = [line.split() for process in processes for line in process.communicate(timeout=300)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(int(version) for version, *_ in reported) == list(range(2, 42))
    memory = Memory.open(place)
    assert (memory.version, memory.passages) == (41, 5 + 40 * 5)
    assert (memory.locate([name for _, *names in reported for name in names]) >= 0).all()
    assert verify(place).sound


def test_two_processes_that_run_one_job_end_well_or_with_a_conflict(
    new_bucket_place: Callable[[], str], model: str, corpus: Callable[[int], list[str]], tmp_path: Path
) -> None:
    place = new_bucket_place()
    command = [sys.executable, "-m", "glimmer", "encode", *corpus(60), "--memory", place, "--model", model]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pair = [subprocess.Popen(command, env={**ENVIRONMENT, **_aws()}, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in pair]
    codes = [process.returncode for process in pair]
    assert 0 in codes
    for code, (_, errors) in zip(codes, said, strict=True):
        assert code == 0 or "the job is being run by process" in errors
    encode(sources=corpus(60), memory=tmp_path / "local", model=model)
    assert Memory.open(place).version == 1
    assert segment_files(place) == segment_files(tmp_path / "local")


KILLED_AT = [float(text) for text in os.environ.get("GLIMMER_TEST_KILL_AT", "0.2 1.5").split()]


@pytest.mark.skipif(binary(SeaweedServer.program) is None, reason="SeaweedFS (`weed`) is not installed")
@pytest.mark.parametrize("after", KILLED_AT)
@pytest.mark.parametrize("job", ["encode", "refresh"])
def test_a_server_that_is_killed_during_a_job_and_started_again_loses_nothing(
    job: str,
    after: float,
    model: str,
    corpus: Callable[[int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = SeaweedServer(tmp_path / "server")
    server.start()
    try:
        for name, value in environment(server.url).items():
            monkeypatch.setenv(name, value)
        place, local = f"s3://{BUCKET}/killed/memory", tmp_path / "local"

        def run(memory: str | Path) -> int:
            if job == "encode":
                return encode(sources=corpus(60), memory=memory, model=model).version
            return refresh(sources=corpus(60), memory=memory).version

        if job == "refresh":
            for memory in (place, local):
                encode(sources=corpus(40), memory=memory, model=model)
        made = run(local)  # which compiles, so that the other is quick
        began = threading.Event()
        original = Store.refuse_links

        def first_step(store: Store) -> None:
            began.set()
            original(store)

        monkeypatch.setattr(ObjectStore, "refuse_links", first_step)

        def kill() -> None:
            began.wait(60)
            time.sleep(after)
            server.kill()
            time.sleep(1)
            server.start()

        killing = threading.Thread(target=kill)
        killing.start()
        assert run(place) == made
        killing.join()
        assert run(place) == made, "there is nothing left to do"
        assert Memory.open(place).version == made
        assert verify(place).sound
        assert payload(place) == payload(local)
        if job == "encode":  # a refresh names its segment by when its memory was made
            assert segment_files(place) == segment_files(local)
        else:
            assert sorted(segment_files(place).values()) == sorted(segment_files(local).values())
    finally:
        server.kill()
