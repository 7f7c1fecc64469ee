"""`--codec-tables`: a memory is made with the tables of another; those of another codec or encoder are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from changing import payload
from click.testing import CliRunner

from glimmer import DamageError, MismatchError, UsageError
from glimmer.encoders.models import load_model
from glimmer.encoders.precision import PrecisionChoice
from glimmer.pipelines.capacity.dry_run import dry_run
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding.encoding_job import Encoding
from glimmer.pipelines.encoding.given_tables import chosen_codec
from glimmer.pipelines.encoding.shard_graph import ShardWork, check_sight
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.refresh import refresh
from glimmer.storage.codecs import spec_text
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

CODEC = "pq:bytes=6"
TABLES = "codec/tables.safetensors"


@pytest.fixture(scope="module")
def home(
    tiny_model: Callable[..., Path], tiny_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two corpora, three encoders, and memories of two codecs."""
    home = tmp_path_factory.mktemp("tables")
    layers = {"memory_layers": 1, "live_a": 1, "live_b": 1, "window": 48, "with_decoder": False}
    tiny_model(home / "model", **layers)
    tiny_model(home / "other", seed=1, **layers)
    tiny_model(home / "wider", width=64, vocabulary=300, **layers)
    tiny_corpus(home / "corpus.jsonl", 60)
    lines = (home / "corpus.jsonl").read_text().splitlines()
    changed = lines[0].replace('"text": "', '"text": "New words. ')
    (home / "newer.jsonl").write_text("\n".join([*lines[9:], changed]) + "\n")
    made(home, "encoded", codec=CODEC)
    made(home, "plain")
    return home


def made(home: Path, name: str, corpus: str = "corpus.jsonl", **arguments: Any) -> Any:
    settings = {"model": str(home / "model"), **arguments}
    return encode(sources=[str(home / corpus)], memory=home / name, **settings)


def test_a_rebuilt_memory_has_the_bytes_of_the_refreshed_one(home: Path) -> None:
    refreshed = Path(shutil.copytree(home / "encoded", home / "refreshed"))
    refresh(sources=[str(home / "newer.jsonl")], memory=refreshed)
    result = made(home, "rebuilt", "newer.jsonl", codec=CODEC, codec_tables=refreshed)
    assert "fit" not in result.seconds
    assert payload(home / "rebuilt") == payload(refreshed)
    assert (home / "rebuilt" / TABLES).read_bytes() == (refreshed / TABLES).read_bytes()
    assert verify(home / "rebuilt").sound
    made(home, "fitted anew", "newer.jsonl", codec=CODEC)
    assert payload(home / "fitted anew") != payload(refreshed)
    identity, manifest = Memory.open(home / "rebuilt").identity, Memory.open(home / "rebuilt").manifest
    assert manifest.details["codec_tables"] == {
        "from": str(refreshed / TABLES),
        "tables_sha256": identity.tables_sha256,
    }
    assert "codec_fit" not in manifest.details


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_precision_is_that_of_the_tables_memory_unless_one_is_given(home: Path, precision: PrecisionChoice) -> None:
    first, second = f"first {precision}", f"second {precision}"
    made(home, first, codec=CODEC, precision=precision)
    made(home, second, codec_tables=home / first)
    assert Memory.open(home / second).identity.encoder.precision == precision
    assert payload(home / second) == payload(home / first)
    given: PrecisionChoice = "float32" if precision == "bfloat16" else "bfloat16"
    made(home, f"third {precision}", codec_tables=home / first, precision=given)
    assert Memory.open(home / f"third {precision}").identity.encoder.precision == given


def test_the_file_alone_with_its_memory_json_is_enough_and_names_the_codec(home: Path, tmp_path: Path) -> None:
    """Beside it, as tables are handed on without their memory, or one directory above, as in a memory."""
    shutil.copy(home / "encoded" / TABLES, tmp_path / "some.safetensors")
    shutil.copy(home / "encoded" / "memory.json", tmp_path / "memory.json")
    places: list[str | Path] = [str(tmp_path / "some.safetensors"), home / "encoded" / TABLES]
    loaded, identity = load_model(str(home / "model")), Memory.open(home / "encoded").identity
    for place in places:
        spec, tables = chosen_codec(None, place, loaded)
        assert tables is not None
        assert (spec.to_json(), tables.sha256) == (identity.codec, identity.tables_sha256)
    made(home, "of a file", codec_tables=places[0])
    assert payload(home / "of a file") == payload(home / "encoded")


def test_the_same_command_finds_its_work_and_other_tables_make_another_job(home: Path) -> None:
    first = made(home, "again", codec_tables=home / "encoded")
    assert made(home, "again", codec_tables=home / "encoded" / TABLES).nothing_to_do
    with pytest.raises(UsageError, match="made from these sources with other settings"):
        made(home, "again", codec=CODEC)
    made(home, "others", "newer.jsonl", codec=CODEC)
    with pytest.raises(MismatchError, match=r"is a memory with codec tables '[0-9a-f]{12}', not '[0-9a-f]{12}'"):
        made(home, "again", codec_tables=home / "others")
    assert not first.nothing_to_do


def test_a_job_under_way_keeps_the_tables_it_began_with(home: Path) -> None:
    with pytest.raises(UsageError, match="Nowhere"):
        made(home, "under way", codec_tables=home / "encoded", engine=Engine(runner="NowhereRunner"))
    with pytest.raises(MismatchError, match="has other tables for its codec; end that job first"):
        made(home, "under way", "newer.jsonl", codec=CODEC)
    made(home, "under way", codec_tables=home / "encoded")
    assert payload(home / "under way") == payload(home / "encoded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codec": "int8"}, r"the tables are of codec 'pq', not 'int8'; use that encoder and codec"),
        ({"codec": "pq:bytes=7"}, r"the tables are of bytes 6, not 7"),
        ({"model": "other"}, r"the tables are of encoder fingerprint '[0-9a-f]{12}', not '[0-9a-f]{12}'"),
        ({"model": "wider", "codec": CODEC}, r"of vocabulary 256, not 300; width 32, not 64; encoder fingerprint"),
        ({"model": "wider"}, r"of vocabulary 256, not 300; width 32, not 64; encoder fingerprint"),
    ],
    ids=["codec", "parameter", "encoder", "width and vocabulary", "width, without a codec"],
)
def test_tables_of_another_codec_or_encoder_are_refused_by_name(
    home: Path, tmp_path: Path, arguments: dict[str, str], message: str
) -> None:
    settings: dict[str, Any] = {"model": "model", "codec_tables": home / "encoded", **arguments}
    settings["model"] = str(home / settings["model"])
    with pytest.raises(MismatchError, match=message) as refused:
        encode(sources=[str(home / "corpus.jsonl")], memory=tmp_path / "m", **settings)
    assert str(home / "encoded" / TABLES) in str(refused.value)
    with pytest.raises(MismatchError, match=message):
        dry_run(sources=[str(home / "corpus.jsonl")], **settings)
    assert not (tmp_path / "m").exists()


def test_places_without_sound_tables_are_refused(home: Path, tmp_path: Path) -> None:
    def refused(given: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            made(home, "refused", codec_tables=given)
        assert not (home / "refused").exists()

    refused(home / "plain", UsageError, "a memory of codec int8, which has no tables")
    refused(tmp_path, UsageError, "no memory here")
    refused(tmp_path / "lone.safetensors", UsageError, r"memory\.json is missing")
    damaged = Path(shutil.copytree(home / "encoded", tmp_path / "damaged"))
    content = bytearray((damaged / TABLES).read_bytes())
    content[-1] ^= 1
    (damaged / TABLES).write_bytes(content)
    refused(damaged, DamageError, "not the file that memory.json records")
    (damaged / TABLES).unlink()
    refused(damaged, DamageError, r"tables\.safetensors")


def test_the_tables_of_one_memory_are_refused_in_another(home: Path, tmp_path: Path) -> None:
    """By a reader, by verify and by the workers of a job, although their shapes agree."""
    made(home, "fitted to others", "newer.jsonl", codec=CODEC)
    mixed = Path(shutil.copytree(home / "encoded", tmp_path / "mixed"))
    shutil.copy(home / "fitted to others" / TABLES, mixed / TABLES)
    with pytest.raises(DamageError, match=r"codec/tables\.safetensors: not the file that memory\.json records"):
        Memory.open(mixed)
    assert [damage.path for damage in verify(mixed).damages] == [TABLES]
    with pytest.raises(DamageError, match=r"not the file that memory\.json records"):
        refresh(sources=[str(home / "newer.jsonl")], memory=mixed)
    identity = Memory.open(home / "encoded").identity
    with pytest.raises(MismatchError, match="was made by another encoder"):
        Encoding.checked(load_model(str(home / "other")), identity, home / "encoded")
    work = ShardWork(
        memory=str(home / "encoded"),
        job_id="job",
        segment="segment",
        model=str(home / "model"),
        fingerprint=identity.encoder.fingerprint,
        codec=spec_text(identity.codec),
        tables_sha256=Memory.open(home / "fitted to others").identity.tables_sha256,
        precision="bfloat16",
        shapes=identity.shapes,
        rows=1,
        parts=None,
        window=48,
    )
    with pytest.raises(
        MismatchError,
        match=r"the codec pq:\S+ with tables \w{12}… there, .* started with pq:\S+ with tables \w{12}…",
    ):
        check_sight(work)


def test_the_command_takes_them(home: Path) -> None:
    command = ["encode", str(home / "corpus.jsonl"), "--model", str(home / "model"), "--json"]
    tables = ["--codec-tables", str(home / "encoded")]
    ran = CliRunner().invoke(glimmer, [*command, "--memory", str(home / "commanded"), *tables])
    assert ran.exit_code == 0, ran.output
    assert payload(home / "commanded") == payload(home / "encoded")
    dry = json.loads(CliRunner().invoke(glimmer, [*command, "--memory", "x", *tables, "--dry-run"]).stdout)
    assert dry["most_bytes"] - dry["text_bytes"] == 6 * dry["plan"]["tokens"]
    usage = CliRunner().invoke(glimmer, ["encode", "--help"]).output
    assert "--codec-tables FILE|MEMORY" in usage
    assert "that of --codec-tables, or int8" in " ".join(usage.split())
