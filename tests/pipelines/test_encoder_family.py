"""An encoder family that another package brings in one module: converted, encoded, searched and answered from.

Its entry point alone tells Glimmer of it; no module of the package is changed or knows its name.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toy_family

from glimmer import ModelError
from glimmer.encoders.families import family_registry
from glimmer.encoders.families.family_registry import family_names, find_family, register_family
from glimmer.encoders.models import load_model
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.convert import convert
from glimmer.pipelines.encode import encode
from glimmer.reader.config import DecoderConfig, ReaderConfig
from glimmer.reader.model import Reader
from glimmer.reader.serving.searchable_memory import open_memory
from glimmer.storage.memory import Memory


@pytest.fixture
def forgotten_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_registry, "_families", {})


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_afterwards: None) -> None:
    """An installed package of toys: one entry point that works, one that does not."""
    information = tmp_path / "site" / "toys-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    lines = ["[glimmer.encoder_families]", "toy = toy_family:FAMILY", "broken = absent:FAMILY", "other = json:dumps"]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy checkpoint of random weights that knows the words of the made-up corpus."""
    words = set(tiny_corpus(tmp_path / "corpus.jsonl", 40).read_text().lower().split())
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "words.txt").write_text("\n".join(sorted(words)))
    vocabulary = toy_family.WordTokenizer(directory / "words.txt").vocab_size
    config = toy_family.ToyConfig(
        vocab_size=vocabulary,
        d_model=32,
        d_ff=32,
        num_heads=1,
        d_kv=32,
        num_layers=4,
        layer_norm_eps=1e-6,
        decay=0.98,
    )
    decoder = DecoderConfig(vocab_size=vocabulary, d_model=32, d_ff=32, num_heads=2, kv_heads=2, d_kv=16, num_layers=1)
    monkeypatch.setitem(family_registry._families, "toy", toy_family.FAMILY)  # the reader below needs to know it
    reader = Reader(ReaderConfig(encoder=config, memory_layers=2, live_a_layers=1, live_b_layers=1, decoder=decoder))
    tensors = reader.tensors(reader.init(0))
    monkeypatch.delitem(family_registry._families, "toy")
    return toy_family.write_checkpoint(directory, config, decoder.to_json(), tensors)


def test_a_family_in_one_module_goes_through_all_jobs(
    checkpoint: Path, tmp_path: Path, plug_in: None, tiny_questions: Callable[..., Path]
) -> None:
    converted = convert(source=checkpoint, output=tmp_path / "reader", live_proportion="1/2", rerank_proportion="1/2")
    model = load_model(converted.output)
    assert (model.config.encoder.family, model.config.tokenizer.kind) == ("toy", "words")
    assert model.config.passage_template == "{title} | {text}"
    assert model.tokenizer.decode(model.question_tokens(["kalo"])[0]) == "kalo"

    encode(
        sources=[str(tmp_path / "corpus.jsonl")],
        memory=tmp_path / "memory",
        model=str(converted.output),
        codec="float32",
        precision="float32",
    )
    stored = Memory.open(tmp_path / "memory")
    assert stored.identity.encoder.family == "toy"
    memory = open_memory(tmp_path / "memory")
    best = memory.search(next(iter(memory.values())).title, k=3)
    assert best
    (vectors,) = memory.vectors(best[:1])
    encoder = model.encoder("float32", slice(0, 2))
    tokens = jnp.asarray(model.passage_tokens([(best[0].title, best[0].text)])[0])[None]
    hidden = encoder.run(encoder.embed(tokens), encoder.context(tokens >= 0), 0, 2)
    np.testing.assert_allclose(vectors, np.asarray(hidden[0]), atol=1e-5)

    result = answer_file(
        queries=tiny_questions(tmp_path / "questions.jsonl", 6),
        memory=tmp_path / "memory",
        model=converted.output,
        output=tmp_path / "answers.jsonl",
        candidates=8,
        select=2,
        max_answer_tokens=4,
    )
    assert result.output is not None
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"q{number}" for number in range(6)]
    assert all(line["output"][0]["provenance"] for line in lines)


def test_the_fingerprint_knows_the_parameters_of_a_family(checkpoint: Path, tmp_path: Path, plug_in: None) -> None:
    """What the last norm holds does not change a memory of the lower layers; the embedding does."""

    def fingerprint(name: str, changed: str | None) -> str:
        arrays = dict(np.load(checkpoint / "toy.npz"))
        if changed:
            arrays[changed] = arrays[changed] + 1
        copy = tmp_path / f"{name}-source"
        copy.mkdir()
        for file in ("toy.json", "words.txt"):
            (copy / file).write_bytes((checkpoint / file).read_bytes())
        np.savez(copy / "toy.npz", **arrays)
        output = convert(source=copy, output=tmp_path / name, live_proportion="1/2", rerank_proportion="1/2").output
        return load_model(output).fingerprint

    same = fingerprint("same", None)
    assert fingerprint("norm", "norm") == fingerprint("live", "own3") == same
    assert len({same, fingerprint("table", "table"), fingerprint("lower", "out1")}) == 3


def test_without_its_package_a_model_says_which_families_there_are(
    checkpoint: Path, tmp_path: Path, forgotten_afterwards: None
) -> None:
    register_family(toy_family.FAMILY)
    model = convert(source=checkpoint, output=tmp_path / "m", live_proportion="1/2", rerank_proportion="1/2").output
    del family_registry._families["toy"]
    with pytest.raises(ModelError, match=r"encoder\.family must be one of bert, t5, not 'toy'"):
        load_model(model)
    with pytest.raises(ModelError, match="no checkpoint of a known family; supported: BERT"):
        convert(source=checkpoint, output=tmp_path / "n")


def test_a_plug_in_that_fails_is_named_and_hinders_no_other(plug_in: None, forgotten_afterwards: None) -> None:
    assert family_names() == ["bert", "broken", "other", "t5", "toy"]
    assert find_family("toy").name == "toy"
    with pytest.raises(ModelError, match="encoder family broken: absent:FAMILY cannot be loaded"):
        find_family("broken")
    with pytest.raises(ModelError, match="encoder family other: json:dumps is no EncoderFamily of that name"):
        find_family("other")
    with pytest.raises(ModelError, match="no encoder family 'gpt'; known: bert, broken"):
        find_family("gpt")


@pytest.mark.parametrize("name", ["t5", "BERT", "", "a/b", "x" * 65])
def test_a_name_that_is_taken_or_malformed_is_refused(name: str, forgotten_afterwards: None) -> None:
    kind = type("Renamed", (toy_family.ToyFamily,), {"name": name})
    with pytest.raises(ValueError, match="family"):
        register_family(kind())


def test_no_module_but_the_familys_own_asks_for_a_familys_name() -> None:
    root = Path(family_registry.__file__).parents[2]
    asking = {
        path.relative_to(root).as_posix()
        for room in ("encoders", "reader", "storage", "pipelines")
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ("t5", "bert")
    }
    assert asking == {"encoders/families/bert.py", "encoders/families/t5.py", "encoders/families/family_registry.py"}
