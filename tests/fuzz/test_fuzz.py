"""Whatever comes from outside may be broken or hostile: a clear error, nothing executed, no path left.

Each input starts as a valid file and is bent by hypothesis: bits, bytes and pieces at random, or whole JSON values
exchanged for odd ones. Anything but a GlimmerError is a failure, and so is a file opened outside of what was named.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer import DamageError, GlimmerError, ModelError, UsageError
from glimmer.encoders.importers import import_checkpoint
from glimmer.encoders.models import load_model
from glimmer.encoders.torch_archive import read_torch
from glimmer.pipelines.corpus import read_articles
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.reader.formats.queries import open_queries
from glimmer.storage.catalog import Catalog
from glimmer.storage.identity import Identity
from glimmer.storage.ledger import Ledger
from glimmer.storage.manifest import CHECKSUM_KEY, MANIFEST_KEY
from glimmer.storage.memory import Memory
from glimmer.storage.segment_layout import segment_key
from glimmer.storage.segment_writer import SegmentWriter
from glimmer.storage.verify import verify

EXAMPLES = int(os.environ.get("GLIMMER_FUZZ", "0"))
"""How many examples to try of each; by default a few, always the same."""

QUICK = settings(
    max_examples=EXAMPLES or 40,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ODD: list[Any] = [None, True, -1, 0, 1 << 63, 1e308, "", "\0", "..", "../../../../etc/passwd", "/etc/passwd"]
ODD += ["x" * 5000, [], {}, [[]], {"": {}}, "\ud800", "a\nb"]


@st.composite
def bent_bytes(draw: st.DrawFn, sample: bytes) -> bytes:
    """`sample` after one to four random changes."""
    content = bytearray(sample)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "byte"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[at] = draw(st.sampled_from(b'\x00\xff{}[]",:\n\t0-'))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            content[at:at] = content[at : at + 30]
    return bytes(content)


@st.composite
def bent_json(draw: st.DrawFn, sample: Any) -> Any:
    """`sample` with one to three of its values exchanged, removed, or given a stranger beside them."""
    root = {"root": json.loads(json.dumps(sample))}
    for _ in range(draw(st.integers(1, 3))):
        place: Any = root
        key: Any = "root"
        while isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.booleans()) or place is root:
            place[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif draw(st.booleans()) and isinstance(place, dict):
            place[draw(st.sampled_from(["", "x", "__class__"]))] = place.pop(key)
        else:
            del place[key]
    return root["root"]


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


_WATCHED = {"open", "os.remove", "os.rename", "os.mkdir", "os.listdir", "os.system", "subprocess.Popen", "os.exec"}
_PROGRAMS = ("os.system", "subprocess", "os.exec")
_OPENED: list[str] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event in (
        "open",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.listdir",
        "os.scandir",
        "os.system",
        "subprocess.Popen",
    ):
        _OPENED.append(f"{event} {arguments[0]}" if arguments else event)


@contextmanager
def only_inside(directory: Path) -> Iterator[None]:
    """Fails if anything but a GlimmerError comes out, or the bait beside `directory` was touched, or a program run."""
    if _listen not in _listening:
        sys.addaudithook(_listen)
        _listening.append(_listen)
    _OPENED.clear()
    said = "nothing"
    try:
        yield
    except GlimmerError as error:
        said = str(error)
    assert said.strip(), "an error without words"
    touched = [line for line in _OPENED if "etc/passwd" in line or "bait" in line or line.startswith(_PROGRAMS)]
    assert touched == []


_listening: list[Callable[..., None]] = []

ARTICLE = {"id": "7", "title": "Seven", "text": "One paragraph.\n\nAnother one."}
KILT = {"wikipedia_id": "7", "wikipedia_title": "Seven", "text": ["Seven\n", "Section::::A.\n", "Words.\n"]}
SOURCES: dict[str, bytes] = {
    "wikipedia.jsonl": b"\n".join(dumped(ARTICLE | {"id": str(n)}) for n in range(4)) + b"\n",
    "kilt.jsonl": b"\n".join(dumped(KILT | {"wikipedia_id": str(n)}) for n in range(4)) + b"\n",
    "psgs.tsv": b'id\ttext\ttitle\n1\t"Some ""text"" here"\tOne\n2\tMore text\tTwo\n',
    "collection.tsv": b"0\tA passage.\n1\tAnother passage.\n",
}


def read_all(path: Path) -> None:
    for _ in read_articles([path]):
        pass


@pytest.mark.parametrize("name", SOURCES)
@QUICK
@given(data=st.data())
def test_bent_sources(name: str, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(bent_bytes(SOURCES[name])))
    with only_inside(tmp_path):
        read_all(path)


@pytest.mark.parametrize("record", [ARTICLE, KILT], ids=["wikipedia", "kilt"])
@QUICK
@given(data=st.data())
def test_sources_with_odd_values(record: dict[str, Any], data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(dumped(record) + b"\n" + dumped(data.draw(bent_json(record))) + b"\n")
    with only_inside(tmp_path):
        read_all(path)


@QUICK
@given(data=st.data())
def test_bent_compressed_and_columnar_sources(data: st.DataObject, tmp_path: Path) -> None:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"id": ["1", "2"], "title": ["a", "b"], "text": ["One.", "Two."]}), parquet)
    for name, sample in (
        ("a.jsonl.gz", gzip.compress(SOURCES["wikipedia.jsonl"], mtime=0)),
        ("a.parquet", parquet.getvalue()),
    ):
        path = tmp_path / name
        path.write_bytes(data.draw(bent_bytes(sample)))
        with only_inside(tmp_path):
            read_all(path)


QUERIES: dict[str, Any] = {
    "kilt": {
        "id": "a",
        "input": "who?",
        "output": [{"answer": "x", "provenance": [{"wikipedia_id": "7", "title": "S"}]}],
    },
    "fid": {"id": "a", "question": "who?", "answers": ["x"], "ctxs": [{"id": "1", "title": "T", "text": "x"}]},
    "ids": {"id": "a", "question": "who?", "passage_ids": ["0" * 32]},
}


@pytest.mark.parametrize("kind", QUERIES)
@QUICK
@given(data=st.data())
def test_bent_query_files(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    path, line = tmp_path / "queries.jsonl", dumped(QUERIES[kind]) + b"\n"
    other = line.replace(b'"a"', b'"b"')
    bent = data.draw(
        st.one_of(bent_bytes(line + other), bent_json(QUERIES[kind]).map(lambda v: line + dumped(v) + b"\n"))
    )
    path.write_bytes(bent)
    with only_inside(tmp_path):
        list(open_queries(path))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


def copy_of(model: Path, place: Path) -> Path:
    target = place / "model"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)
    return target


def use(directory: Path) -> None:
    loaded = load_model(directory)
    assert loaded.fingerprint
    loaded.passage_tokens([("Title", "some text")])


@QUICK
@given(data=st.data())
def test_bent_model_configurations(data: st.DataObject, model: Path, tmp_path: Path) -> None:
    directory = copy_of(model, tmp_path)
    sample = (directory / "config.json").read_bytes()
    bent = st.one_of(bent_bytes(sample), bent_json(json.loads(sample)).map(dumped))
    (directory / "config.json").write_bytes(data.draw(bent))
    with only_inside(tmp_path):
        use(directory)


@QUICK
@given(data=st.data())
def test_bent_tokenizers(data: st.DataObject, model: Path, tmp_path: Path) -> None:
    directory = copy_of(model, tmp_path)
    sample = (directory / "tokenizer.json").read_bytes()
    bent = st.one_of(bent_bytes(sample), bent_json(json.loads(sample)).map(dumped))
    (directory / "tokenizer.json").write_bytes(data.draw(bent))
    with only_inside(tmp_path):
        use(directory)


@QUICK
@given(data=st.data())
def test_bent_weight_headers(data: st.DataObject, model: Path, tmp_path: Path) -> None:
    directory = copy_of(model, tmp_path)
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    if data.draw(st.booleans()):
        bent = dumped(data.draw(bent_json(json.loads(header))))
        path.write_bytes(len(bent).to_bytes(8, "little") + bent + content[8 + length :])
    else:
        path.write_bytes(data.draw(bent_bytes(content[: 8 + length])) + content[8 + length :])
    with only_inside(tmp_path):
        use(directory)


@pytest.mark.parametrize("name", ["../bait.json", "/etc/passwd", "a/../../bait.json", "..", ""])
def test_a_tokenizer_file_outside_the_model_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    directory = copy_of(model, tmp_path)
    (tmp_path / "bait.json").write_bytes((directory / "tokenizer.json").read_bytes())
    config = json.loads((directory / "config.json").read_text())
    config["tokenizer"]["file"] = name
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        use(directory)


class Bomb:
    def __init__(self, act: tuple[Any, ...]) -> None:
        self._act = act

    def __reduce__(self) -> tuple[Any, ...]:
        return self._act


def torch_archive(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", bytes(64))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "act",
    [
        (os.system, ("touch bait",)),
        (eval, ("open('bait', 'w')",)),
        (print, ("bait",)),
        (getattr, ("bait", "join")),
        (io.open, ("bait", "w")),
    ],
    ids=["system", "eval", "print", "getattr", "open"],
)
def test_nothing_in_a_pickle_is_executed(
    act: tuple[Any, ...], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = torch_archive(tmp_path / "pytorch_model.bin", pickle.dumps({"weight": Bomb(act)}, protocol))
    with pytest.raises(ModelError):
        read_torch(path)
    assert not (tmp_path / "bait").exists()


def test_a_pickle_that_asks_for_a_huge_memo_is_refused_at_once(tmp_path: Path) -> None:
    """Four bytes that would make Python allot 64 GB."""
    content = b"\x80\x02}r\xff\xff\xff\xff."
    with pytest.raises(ModelError, match="memo index"):
        read_torch(torch_archive(tmp_path / "model.bin", content))


@QUICK
@given(data=st.data())
def test_bent_pickles(data: st.DataObject, tmp_path: Path) -> None:
    real = Path(__file__).resolve().parents[1] / "goldens" / "tiny_t5.bin"
    with zipfile.ZipFile(real) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(name)
    path = torch_archive(tmp_path / "model.bin", data.draw(bent_bytes(content)))
    with only_inside(tmp_path):
        for tensor in read_torch(path).values():
            assert tensor.shape is not None
    path.write_bytes(data.draw(bent_bytes(real.read_bytes()[:3000])) + real.read_bytes()[3000:])
    with only_inside(tmp_path):
        read_torch(path)


@QUICK
@given(data=st.data())
def test_bent_hugging_face_configurations(data: st.DataObject, tmp_path: Path) -> None:
    config = {"model_type": "t5", "d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 2, "vocab_size": 32}
    (tmp_path / "config.json").write_bytes(dumped(data.draw(bent_json(config))))
    with only_inside(tmp_path):
        import_checkpoint(tmp_path)


# A memory that somebody sent us.


@pytest.fixture(scope="module")
def sent(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = kit.memory(tmp_path_factory.mktemp("sent") / "m", 12, 8)
    return path


def look(memory: Path) -> None:
    verify(memory)
    opened = Memory.open(memory)
    opened.texts(range(opened.passages))
    opened.fetch(range(opened.passages))
    opened.history()


@QUICK
@given(data=st.data())
def test_bent_memory_json(data: st.DataObject, kit: Any) -> None:
    sample = kit.identity().to_bytes()
    bent = data.draw(st.one_of(bent_bytes(sample), bent_json(json.loads(sample)).map(dumped)))
    with only_inside(Path("/")):
        Identity.parse(bent)


@QUICK
@given(data=st.data())
def test_bent_ledgers(data: st.DataObject, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "job")
    ledger.write_plan({"rows": 3})
    path = Path(ledger.name) / "plan.json"
    path.write_bytes(data.draw(bent_bytes(path.read_bytes())))
    (Path(ledger.name) / "shards").mkdir(exist_ok=True)
    record = data.draw(st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"00000000 {}", b"\xff"])))
    (Path(ledger.name) / "shards" / "0-1024.json").write_bytes(record)
    with only_inside(tmp_path):
        assert ledger.records() == {}
        assert ledger.progress().shards == 1, "by names alone"
        ledger.read_plan()


@QUICK
@given(data=st.data())
def test_bent_log_entries(data: st.DataObject, sent: Path) -> None:
    """Bytes bent at random, or a manifest forged with a checksum that fits."""
    path = sent / "passages/_delta_log" / f"{2:020d}.json"
    whole = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(bent_bytes(whole)))
        else:
            lines = [json.loads(line) for line in whole.splitlines()]
            info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
            text = json.dumps(data.draw(bent_json(json.loads(info[MANIFEST_KEY]))))
            info[MANIFEST_KEY], info[CHECKSUM_KEY] = text, hashlib.sha256(text.encode()).hexdigest()
            path.write_text("\n".join(map(json.dumps, lines)))
        with only_inside(sent):
            look(sent)
        with only_inside(sent):
            vacuum(memory=sent, dry_run=True)
    finally:
        path.write_bytes(whole)
    assert Catalog(sent).latest_version() == 2


@pytest.mark.parametrize("name", ["..", "../bait", "/etc", "a/b", "", ".tmp-x", "A", "a" * 65, "a\0b", "a\n"])
def test_names_that_leave_their_directory_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamageError):
        segment_key(name, tmp_path)
    with pytest.raises(UsageError):
        SegmentWriter(tmp_path, name)
    with pytest.raises(UsageError):
        Ledger(tmp_path, name)


@pytest.mark.parametrize("path", ["../../bait.parquet", "/etc/passwd", "file:///etc/passwd", "%2e%2e/bait.parquet"])
def test_a_log_that_names_files_elsewhere_is_refused(path: str, sent: Path) -> None:
    entry = sent / "passages/_delta_log" / f"{2:020d}.json"
    whole = entry.read_bytes()
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        for line in lines:
            if "add" in line:
                old = line["add"]["path"]
                line["add"]["path"] = path
        text = "\n".join(map(json.dumps, lines))
        entry.write_text(text)
        with pytest.raises(DamageError):
            Memory.open(sent)
        info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
        info[MANIFEST_KEY] = info[MANIFEST_KEY].replace(old, path)
        info[CHECKSUM_KEY] = hashlib.sha256(info[MANIFEST_KEY].encode()).hexdigest()
        entry.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(DamageError):
            Memory.open(sent)
    finally:
        entry.write_bytes(whole)
