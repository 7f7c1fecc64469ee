"""The encode job as a data engineer meets it: a corpus in, a committed memory out, whatever happens on the way."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from changing import payload
from real_data import Wikipedia

from glimmer import ConflictError, InputError, MismatchError, UsageError
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.encoders.models import load_model
from glimmer.pipelines.capacity.dry_run import dry_run
from glimmer.pipelines.corpus.passages import readable, reassemble
from glimmer.pipelines.encode import encode
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory
from glimmer.storage.passage import Passage
from glimmer.storage.verify import verify

CorpusMaker = Callable[[int], Path]
KILL_ARTICLES = 4000
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


@pytest.fixture(scope="module")
def other_model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "other", with_decoder=False, seed=1)


@pytest.fixture(scope="module")
def corpus_of(tiny_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> CorpusMaker:
    """A corpus of so many articles; the same number gives the same file."""
    directory = tmp_path_factory.mktemp("corpora")

    def make(articles: int) -> Path:
        path = directory / f"{articles}.jsonl"
        return path if path.exists() else tiny_corpus(path, articles)

    return make


def glimmer(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does, in a process of its own."""
    code = "from glimmer.pipelines.cli.program import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def articles_of(memory: Memory) -> dict[str, list[Passage]]:
    found: dict[str, list[Passage]] = defaultdict(list)
    for _, passages in memory.scan_texts():
        for passage in passages:
            found[passage.article_id].append(passage)
    return found


def test_a_corpus_becomes_a_verified_memory(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    corpus = corpus_of(120)
    result = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    memory = Memory.open(tmp_path / "m")
    assert (result.version, memory.version, result.nothing_to_do) == (1, 1, False)
    assert memory.articles == result.plan.articles == 120
    assert memory.passages == result.plan.passages
    assert memory.tokens == result.plan.tokens
    assert verify(tmp_path / "m").sound
    assert result.compression == memory.tokens * memory.codec.width * 2 / result.code_bytes_written
    # The ledger of a finished job is gone; what it made is in the history.
    assert not Path(Ledger(tmp_path / "m", result.job).name).exists()


def test_stored_codes_are_what_the_encoder_gives(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    encode(sources=[str(corpus_of(30))], memory=tmp_path / "m", model=str(model), codec="float32")
    memory = Memory.open(tmp_path / "m")
    positions = np.arange(memory.passages)
    codes, lengths = memory.fetch(positions)
    stored = np.asarray(memory.codec.decode(jnp.asarray(codes), np.float32))
    encoder = MemoryEncoder(load_model(model), shapes=memory.identity.shapes, transform=memory.codec.encode)
    tokens = [passage.tokens for passage in memory.texts(positions)]
    for batch in encoder.encode(tokens):
        for index, row, length in zip(batch.indices, batch.outputs, batch.lengths, strict=True):
            assert np.array_equal(codes[index, :length], row[:length])
            assert lengths[index] == length
            assert not stored[index, length:].any()


def test_the_same_command_again_has_nothing_to_do(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    corpus = corpus_of(20)
    first = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "m").rglob("*") if p.is_file()}
    second = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    assert second.nothing_to_do
    assert (second.version, second.plan, second.bytes_written) == (first.version, first.plan, first.bytes_written)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "m").rglob("*") if p.is_file()} == before


def test_other_tools_read_what_was_written(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    encode(sources=[str(corpus_of(60))], memory=tmp_path / "m", model=str(model))
    memory = Memory.open(tmp_path / "m")
    [segment] = memory.segments
    group = zarr.open_group(tmp_path / "m" / "segments" / segment, mode="r")
    positions = np.arange(memory.passages)
    codes, lengths = memory.fetch(positions)
    _, rows = memory.rows(positions)
    assert np.array_equal(np.asarray(group["codes"])[rows], codes)
    assert np.array_equal(np.asarray(group["lengths"])[rows], lengths)
    files = [str(tmp_path / "m" / "passages" / file.name) for file in memory.manifest.files]
    [(count, tokens, articles)] = duckdb.execute(
        "select count(*), sum(n_tokens), count(distinct article_id) from read_parquet(?)", [files]
    ).fetchall()
    assert (count, tokens, articles) == (memory.passages, memory.tokens, memory.articles)


def test_kilt_markup_is_kept_out_of_the_text_and_paragraph_ids_stay(model: Path, tmp_path: Path) -> None:
    source = FIXTURES / "kilt_markup.jsonl"
    encode(sources=[str(source)], memory=tmp_path / "m", model=str(model))
    found = articles_of(Memory.open(tmp_path / "m"))
    for line in source.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        body = {i: readable(text) for i, text in enumerate(record["text"]) if i and readable(text)}
        back = {i: text for i, text in reassemble(found[record["wikipedia_id"]]).items() if i}
        assert back == body
        assert not any("::::" in passage.text for passage in found[record["wikipedia_id"]])


@pytest.mark.slow
def test_nothing_of_real_wikipedia_is_lost(model: Path, wikipedia: Wikipedia, tmp_path: Path) -> None:
    """Every article and paragraph id of real articles is accounted for; passages re-assemble to the source."""
    source = wikipedia.source
    result = encode(sources=[str(source)], memory=tmp_path / "m", model=str(model))
    assert (result.plan.articles, result.plan.paragraphs) == (wikipedia.articles, wikipedia.paragraphs)
    assert sum(result.plan.rejected.values()) == 0
    found = articles_of(Memory.open(tmp_path / "m"))
    paragraphs = 0
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            body = {i: readable(text) for i, text in enumerate(record["text"]) if i}
            assert reassemble(found.pop(record["wikipedia_id"])) == body
            paragraphs += len(body)
    assert (paragraphs, found) == (wikipedia.paragraphs, {})


@pytest.fixture(scope="module")
def whole(model: Path, corpus_of: CorpusMaker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A memory encoded without interruption by the command, and the seconds that took, start-up included."""
    target = tmp_path_factory.mktemp("whole") / "m"
    begun = time.monotonic()
    done = glimmer("encode", corpus_of(KILL_ARTICLES), "--model", model, "--memory", target)
    assert done.returncode == 0, done.stderr
    return target, time.monotonic() - begun


def killed(command: Sequence[object], when: Callable[[], bool]) -> bool:
    """Starts `glimmer` and sends it SIGKILL as soon as `when` holds; False if it had ended by then."""
    code = "from glimmer.pipelines.cli.program import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not when():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def assert_finished_as(whole: Path, target: Path, command: Sequence[object]) -> None:
    """The same command again makes of `target` what an uninterrupted run makes: one version, equal bytes, sound."""
    last = glimmer(*command)
    assert last.returncode == 0, last.stderr
    assert Memory.open(target).version == 1
    assert payload(target) == payload(whole)
    assert verify(target).sound


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(4))
def test_killed_at_any_moment_the_same_command_finishes_the_job(
    trial: int, whole: tuple[Path, float], model: Path, corpus_of: CorpusMaker, tmp_path: Path
) -> None:
    """kill -9 at three random moments one after another, in each of four trials."""
    dice = random.Random(trial)
    command = ("encode", corpus_of(KILL_ARTICLES), "--model", model, "--memory", tmp_path / "m")
    for _ in range(3):
        deadline = time.monotonic() + dice.uniform(0.1, 0.4) * whole[1]
        assert killed(command, lambda deadline=deadline: time.monotonic() >= deadline)  # type: ignore[misc]
    assert_finished_as(whole[0], tmp_path / "m", command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mark",
    ["jobs/*/plan.json", "jobs/*/shards/*.json", "segments/*/digests.arrow", "passages/_delta_log/*1.json"],
    ids=["after the plan", "after the first shard", "sealed, not committed", "committed, ledger not cleared"],
)
def test_killed_between_two_stages_the_same_command_finishes_the_job(
    mark: str, whole: tuple[Path, float], model: Path, corpus_of: CorpusMaker, tmp_path: Path
) -> None:
    command = ("encode", corpus_of(KILL_ARTICLES), "--model", model, "--memory", tmp_path / "m")
    killed(command, lambda: any((tmp_path / "m").glob(mark)))
    assert_finished_as(whole[0], tmp_path / "m", command)


def test_two_processes_cannot_run_one_job(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    corpus = corpus_of(20)
    done = encode(sources=[str(corpus)], memory=tmp_path / "first", model=str(model))
    with Ledger(tmp_path / "m", done.job).lock():
        refused = glimmer("encode", corpus, "--model", model, "--memory", tmp_path / "m")
    assert refused.returncode == 1
    assert "is being run by process" in refused.stderr
    with Ledger(tmp_path / "m", done.job).lock(), pytest.raises(ConflictError):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))


def test_a_memory_that_holds_something_else_is_refused(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    encode(sources=[str(corpus_of(20))], memory=tmp_path / "m", model=str(model))
    with pytest.raises(UsageError, match="glimmer refresh"):
        encode(sources=[str(corpus_of(21))], memory=tmp_path / "m", model=str(model))
    with pytest.raises(MismatchError, match="codec"):
        encode(sources=[str(corpus_of(20))], memory=tmp_path / "m", model=str(model), codec="bfloat16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("keep me")
    with pytest.raises(UsageError, match=r"letters\.txt"):
        encode(sources=[str(corpus_of(20))], memory=tmp_path / "mine", model=str(model))


def test_a_memory_of_another_encoder_is_refused(
    model: Path, other_model: Path, corpus_of: CorpusMaker, tmp_path: Path
) -> None:
    corpus = corpus_of(20)
    encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    with pytest.raises(MismatchError, match="fingerprint"):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(other_model))


BAD_LINES: Sequence[tuple[bytes, str]] = (
    (b'{"id": "x1", "title": "T", "text": "cut of', "broken_json"),
    (b'{"id": "x2", "title": "T", "text": "caf\xe9"}', "not_utf8"),
    (b'{"id": "x3", "title": "T"}', "missing_field"),
    (b'{"id": "x4", "title": "T", "text": "  "}', "empty_text"),
    (b'{"id": "a0", "title": "T", "text": "an id for the second time"}', "duplicate_id"),
)


def test_bad_records_go_to_a_dead_letter_file_with_file_and_line(model: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    good = b'{"id": "a0", "title": "Good", "text": "A good article stands first."}'
    corpus.write_bytes(b"\n".join([good, *(line for line, _ in BAD_LINES)]) + b"\n")
    result = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    assert result.plan.articles == 1
    assert result.plan.rejected == {reason: 1 for _, reason in BAD_LINES}
    assert result.rejects is not None
    letters = [json.loads(line) for line in Path(result.rejects).read_text(encoding="utf-8").splitlines()]
    assert [(letter["place"], letter["reason"]) for letter in letters] == [
        (f"{corpus}:{number}", reason) for number, (_, reason) in enumerate(BAD_LINES, 2)
    ]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES[:4], ids=[reason for _, reason in BAD_LINES[:4]])
def test_strict_refuses_the_first_bad_record_and_leaves_nothing(
    line: bytes, reason: str, model: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(b'{"id": "a0", "title": "Good", "text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=rf"corpus\.jsonl:2.*{reason}"):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), strict=True)
    assert not (tmp_path / "m").exists()


def _truncated(path: Path) -> None:
    record = json.dumps({"id": "a", "title": "T", "text": "word " * 5000}).encode()
    path.write_bytes(gzip.compress(record + b"\n")[:-20])


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("empty.jsonl", lambda path: path.write_bytes(b""), "empty"),
        ("cut.jsonl.gz", _truncated, "truncated"),
        ("picture.jsonl", lambda path: path.write_bytes(bytes(range(256)) * 40), "binary"),
        ("absent.jsonl", lambda path: None, "no such"),
    ],
    ids=["empty file", "truncated gz", "binary file", "no file"],
)
def test_a_file_that_cannot_be_read_is_one_line_and_leaves_nothing(
    name: str, make: Callable[[Path], object], says: str, model: Path, tmp_path: Path
) -> None:
    make(tmp_path / name)
    refused = glimmer("encode", tmp_path / name, "--model", model, "--memory", tmp_path / "m")
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("glimmer: error:")]
    assert name in line
    assert says in line.lower()
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "m").exists()


def test_a_paragraph_of_ten_megabytes_is_cut_and_encoded(model: Path, tmp_path: Path) -> None:
    words = " ".join(f"word{i % 50}" for i in range(140_000))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "long", "title": "Long", "text": words}) + "\n")
    result = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    assert result.plan.articles == 1
    found = articles_of(Memory.open(tmp_path / "m"))
    assert reassemble(found["long"]) == {1: words}


def _mounted(tmp_path: Path, mount: str, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Runs `glimmer` where `tmp_path`/small is a mount of its own; skips where namespaces are not allowed."""
    (tmp_path / "small").mkdir()
    probe = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*probe, "mount", "-t", "tmpfs", "t", tmp_path / "small"], check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("user namespaces with mounts are not allowed here")
    script = f'{mount} && exec "$0" -c "from glimmer.pipelines.cli.program import main; main()" "$@"'
    command = [*probe, "sh", "-c", script, sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_full_disk_ends_the_job_in_one_line(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    small = tmp_path / "small"
    arguments = ("encode", corpus_of(2000), "--model", model, "--memory", small / "m")
    refused = _mounted(tmp_path, f"mount -t tmpfs -o size=2m tmpfs {small}", arguments)
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("glimmer: error:")]
    assert "space" in line
    assert "Traceback" not in refused.stderr


def test_a_read_only_directory_ends_the_job_in_one_line(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    small = tmp_path / "small"
    arguments = ("encode", corpus_of(20), "--model", model, "--memory", small / "m")
    refused = _mounted(tmp_path, f"mount -t tmpfs -o ro tmpfs {small}", arguments)
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("glimmer: error:")]
    assert "read-only" in line.lower()


def test_a_dry_run_counts_the_same_and_writes_nothing(model: Path, corpus_of: CorpusMaker, tmp_path: Path) -> None:
    corpus = corpus_of(150)
    expected = dry_run(sources=[str(corpus)], model=str(model))
    result = encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model))
    assert (expected.plan.articles, expected.plan.passages, expected.plan.tokens) == (
        result.plan.articles,
        result.plan.passages,
        result.plan.tokens,
    )
    assert expected.flops < expected.padded_flops
    assert result.bytes_written < expected.most_bytes
    assert {path.name for path in tmp_path.iterdir()} == {"m"}
