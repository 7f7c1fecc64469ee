"""How a corpus is told: by one table of names, by the user's own, and never by a guess that nobody was told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from glimmer import InputError, UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.corpus import Article, Corpus, format_names, read_articles
from glimmer.pipelines.corpus.fields import FieldNames, parse_fields


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def read(*sources: Path | str, **options: Any) -> list[tuple[str, str, list[str]]]:
    return [(a.article_id, a.title, a.paragraphs) for a in read_articles(sources, **options) if isinstance(a, Article)]


ODD = {"key": "1", "label": "T", "prose": "One.\nTwo.", "id": "not this", "text": "nor this"}
CHOSEN = {"id": "key", "title": "label", "text": "prose"}


def test_fields_are_named_for_every_kind_of_record(tmp_path: Path) -> None:
    expected = [("1", "T", ["One.", "Two."])]
    assert read(lines(tmp_path / "a.jsonl", ODD), fields=CHOSEN) == expected
    pq.write_table(pa.Table.from_pylist([ODD]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", fields=CHOSEN) == expected
    (tmp_path / "a.tsv").write_text("prose\tx\tlabel\tkey\nOne.\t-\tT\t1\n")
    assert read(tmp_path / "a.tsv", fields=CHOSEN) == [("1", "T", ["One."])]
    assert read(lines(tmp_path / "b.jsonl", ODD), fields={"text": "prose"}) == [("not this", "", ["One.", "Two."])]
    upper = {"ID": "1", "Title": "T", "prose": "One."}
    assert read(lines(tmp_path / "u.jsonl", upper), fields={"text": "prose"}) == [("1", "T", ["One."])]
    kilt = {"wikipedia_id": "1", "wikipedia_title": "T", "body": ["T\n", "One.\n"]}
    found = list(read_articles([lines(tmp_path / "k.jsonl", kilt)], fields={"text": "body"}))
    assert [(r.article_id, r.paragraphs, r.first_paragraph) for r in found if isinstance(r, Article)] == [
        ("1", ["One.\n"], 1)
    ]


def test_a_field_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ODD)
    with pytest.raises(InputError, match=r"fields key, label, prose, id, text, and none of them is absent \(--field"):
        read(path, fields={"text": "absent"})
    (tmp_path / "a.tsv").write_text("1\tA text.\tT\n")
    with pytest.raises(InputError, match=r"3 tab-separated columns: 1, A text\., T, and none of them is body"):
        read(tmp_path / "a.tsv", fields={"text": "body"})


def test_a_file_without_a_known_text_says_what_it_has(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"id": "1", "verdict": "x"})
    message = r"fields id, verdict; none is known to hold an article's text: name them with --field id=… --field text=…"
    with pytest.raises(InputError, match=message):
        read(path)
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read(path, format="parquet")
    pq.write_table(pa.table({"id": ["1"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="cannot be read as dpr: its columns are id, text; leave --format out"):
        read(tmp_path / "a.parquet", format="dpr")
    (tmp_path / "a.csv").write_text("id,title,text\n1,T,x\n")
    with pytest.raises(InputError, match="a comma-separated table; write it with tabs"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("options", [["text"], ["text="], ["body=text"], ["id=a", "id=b"], ["=x"]])
def test_malformed_field_options_are_usage_errors(options: list[str]) -> None:
    with pytest.raises(UsageError, match="--field"):
        parse_fields(options)
    assert parse_fields(["id=a", "text=b=c"]) == {"id": "a", "text": "b=c"}


def test_no_name_stands_for_two_roles() -> None:
    names = FieldNames()
    every = [*names.ids, *names.titles, *names.texts]
    assert len(every) == len(set(every))
    assert all(name == name.lower() for name in every)


def test_a_mixture_in_one_source_must_be_asked_for(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"id": "1", "title": "T", "text": "x"})
    (tmp_path / "b.tsv").write_text("2\ty\tU\n")
    with pytest.raises(InputError, match=r"a\.jsonl is json \(.*b\.tsv is dpr \(.*accept the mixture with --mixed"):
        read(tmp_path)
    expected = [("1", "T", ["x"]), ("2", "U", ["y"])]
    assert read(tmp_path, mixed=True) == expected
    assert read(tmp_path / "a.jsonl", tmp_path / "b.tsv") == expected


def test_other_fields_in_the_same_format_are_a_mixture_too(tmp_path: Path) -> None:
    lines(tmp_path / "docs.jsonl", {"docid": "1", "body": "x"})
    lines(tmp_path / "passages.jsonl", {"pid": "2", "passage": "y"})
    with pytest.raises(InputError, match="files of different formats"):
        read(tmp_path)
    lines(tmp_path / "passages.jsonl", {"docid": "2", "title": "a title that the other file has not", "body": "y"})
    assert [found[0] for found in read(tmp_path)] == ["1", "2"]


def test_the_title_may_begin_to_appear_after_the_first_record(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"id": "1", "text": "x"}, {"id": "2", "wikipedia_title": "T", "text": "y"})
    assert read(path) == [("1", "", ["x"]), ("2", "T", ["y"])]


def test_a_corpus_is_described_by_format_and_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    lines(tmp_path / "d" / "1.jsonl", {"pid": "1", "passage": "x"})
    lines(tmp_path / "d" / "2.jsonl", {"pid": "2", "passage": "y"})
    (tmp_path / "c.tsv").write_text("0\tz\n")
    corpus = Corpus([tmp_path / "d", tmp_path / "c.tsv"])
    assert corpus.describe() == [
        f"json: 2 files ({tmp_path}/d/1.jsonl …): id from pid, text from passage; passages are kept whole",
        f"msmarco: {tmp_path}/c.tsv: id from column 1, text from column 2; passages are kept whole",
    ]
    assert json.loads(json.dumps(corpus.to_json()))["files"][2] == {
        "name": f"{tmp_path}/c.tsv",
        "format": "msmarco",
        "fields": {"id": "column 1", "text": "column 2"},
    }


def test_paths_are_understood_as_the_shell_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in here #1" / "x").mkdir(parents=True)
    path = lines(tmp_path / "in here #1" / "ä.jsonl", {"id": "1", "text": "x"})
    monkeypatch.chdir(tmp_path / "in here #1" / "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    first = Corpus([path]).identity()
    for name in ("../ä.jsonl", "~/in here #1/ä.jsonl", path.as_uri(), "../*.jsonl", "~/in here #1/*.jsonl", ".."):
        corpus = Corpus([name])
        assert [r.article_id for r in corpus.read()] == ["1"], name
        assert corpus.identity() == first, name
    (tmp_path / "link.jsonl").symlink_to(path)
    assert Corpus([tmp_path / "link.jsonl"]).identity() == first


def test_encode_takes_the_options_says_what_it_read_and_names_skipped_files(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model(tmp_path / "model", memory_layers=1, live_a=1, live_b=0, with_decoder=False)
    (tmp_path / "d").mkdir()
    lines(tmp_path / "d" / "a.jsonl", ODD, {**ODD, "key": "2"})
    (tmp_path / "d" / "b.jsonl").touch()
    chosen = [part for role, name in CHOSEN.items() for part in ("--field", f"{role}={name}")]
    command = ["encode", str(tmp_path / "d"), "--memory", str(tmp_path / "m"), "--model", str(model), *chosen, "--json"]
    dry = CliRunner().invoke(glimmer, [*command, "--dry-run"], catch_exceptions=False)
    assert json.loads(dry.stdout)["corpus"] == {
        "files": [{"name": f"{tmp_path}/d/a.jsonl", "format": "json", "fields": CHOSEN}],
        "skipped": [{"name": f"{tmp_path}/d/b.jsonl", "reason": "empty"}],
        "left_out": {},
    }
    done = CliRunner().invoke(glimmer, command, catch_exceptions=False)
    assert json.loads(done.stdout)["plan"]["articles"] == 2
    said = " ".join(done.stderr.split())
    assert "id from key, title from label, text from prose" in said
    assert "b.jsonl: empty" in said
    again = CliRunner().invoke(glimmer, command, catch_exceptions=False)
    assert json.loads(again.stdout)["nothing_to_do"]


def test_a_corpus_piped_again_is_the_same_job(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model(tmp_path / "model", memory_layers=1, live_a=1, live_b=0, with_decoder=False)
    content = lines(tmp_path / "a.jsonl", {"id": "1", "title": "T", "text": "x"}).read_bytes()
    command = ["encode", "-", "--memory", str(tmp_path / "m"), "--model", str(model), "--json"]
    first = json.loads(CliRunner().invoke(glimmer, command, input=content, catch_exceptions=False).stdout)
    assert not first["nothing_to_do"]
    assert first["plan"]["articles"] == 1
    again = json.loads(CliRunner().invoke(glimmer, command, input=content, catch_exceptions=False).stdout)
    assert again["nothing_to_do"]
    assert again["job"] == first["job"]
    feed = b'{"id": "2", "title": "U", "text": "y"}\n'
    refresh = ["refresh", "-", "--partial", "--memory", str(tmp_path / "m"), "--json"]
    refreshed = json.loads(CliRunner().invoke(glimmer, refresh, input=feed, catch_exceptions=False).stdout)
    assert refreshed["counts"]["articles_added"] == 1


def test_the_documentation_lists_every_format_and_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "encode.md").read_text()
    names = FieldNames()
    for known in (*format_names(), *names.ids, *names.titles, *names.texts):
        assert f"`{known}`" in page, known
