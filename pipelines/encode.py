"""The encode job: from sources to a committed memory. Plan, encode, commit; each stage can be resumed.

    plan     sources -> articles -> passages, one text shard for each 1,024, straight into the new segment
    fit      only for codecs with fitted tables: a sample of tokens -> the tables, kept for the life of the memory
    encode   a Beam graph over shards: tokens -> batches -> codec -> one Zarr shard, an entry in the ledger
    commit   every shard is there: one catalog commit, version 1

Until the commit no reader sees anything. The job's id follows from its sources and settings, so the same command goes
on after a crash and says so when there is nothing left to do.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import GlimmerError, UsageError
from ..encoders.memory_encoder import default_shapes
from ..encoders.models import LoadedModel, load_model
from ..progress import Progress, Quiet
from ..storage.catalog import Catalog
from ..storage.codecs import CodecSpec, parse_codec
from ..storage.files import TEMPORARY_PREFIX
from ..storage.identity import EncoderIdentity, Identity, PassageSettings
from ..storage.ledger import JOBS, Ledger
from ..storage.manifest import Manifest
from ..storage.memory import Memory, commit
from ..storage.paths import local_path
from ..storage.removal import remove_tree
from ..storage.segment_layout import SEGMENTS
from ..storage.segment_writer import SegmentWriter
from .corpus import Corpus
from .corpus.passages import DEFAULT_WORDS
from .corpus.plan import PlanSummary, plan
from .encoding.codec_fit import codec_tables
from .encoding.encoding_job import (
    Encoding,
    check_identity,
    encode_segment,
    identified,
    job_id,
    plan_listener,
    planned_rows,
    segment_id,
    sources_sha256,
    timed,
)
from .engines import Engine


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """What an encode job made, or found done.

    Attributes:
        memory, version, job: where, which version, by which job.
        nothing_to_do: the same job had been committed before.
        plan: counts of articles, passages, tokens and rejected records.
        bytes_written: the segment's bytes: codes, lengths and text.
        code_bytes_written: of these, the codes.
        compression: bytes of the same tokens as plain bfloat16, over `code_bytes_written`.
        resumed: passages that an earlier, interrupted run had encoded.
        rejects: the dead-letter file, None when nothing was rejected.
        seconds: wall time of each stage, in seconds; empty when there was nothing to do.
    """

    memory: Path
    version: int
    job: str
    nothing_to_do: bool
    plan: PlanSummary
    bytes_written: int
    code_bytes_written: int
    compression: float
    rejects: Path | None
    resumed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        record = asdict(self) | {"memory": str(self.memory), "rejects": self.rejects and str(self.rejects)}
        return record | {"plan": {k: v for k, v in self.plan.to_json().items() if k != "lengths"}}


def encode(
    *,
    sources: Sequence[str],
    memory: str | Path,
    model: str,
    codec: str = "int8",
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    passage_words: int = DEFAULT_WORDS,
    precision: str = "bfloat16",
    strict: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encodes `sources` into a new memory, or resumes an interrupted job.

    Args:
        sources: paths, directories, globs, fsspec URLs, `-` or `tfds:` names.
        memory: the directory to make.
        model: a model directory or a built-in name.
        codec: how token representations are stored, as `name` or `name:key=value,...`: `float32`, `bfloat16`, `int8`,
            or another registered codec.
        format: the sources' format; None tells it from their content.
        fields: role (`id`, `title`, `text`) -> the field that holds it; None takes the known names.
        mixed: files of one source may have different formats.
        passage_words: words aimed at in a passage.
        precision: of the encoder's products, `bfloat16` or `float32`.
        strict: stop at the first record that cannot be used instead of setting it aside.
        engine: where the Beam graph runs; None runs it in this process.
        progress: hears how the job goes.

    Raises InputError for sources that cannot be used, UsageError for a memory that holds something else already,
    MismatchError for a memory of another encoder or other settings, ConflictError while another process runs the same
    job, StorageError when the file system refuses. Nothing is committed then; what was encoded is kept for a next try.
    """
    progress = progress or Quiet()
    directory = local_path(memory)
    loaded = load_model(model)
    stored_as = parse_codec(codec, loaded.config.encoder.d_model)
    identity = _identity(loaded, model, stored_as, passage_words=passage_words, precision=precision)
    corpus = Corpus(sources, format=format, fields=fields, mixed=mixed)
    depends_on = {
        "sources": identified(corpus, progress),
        "format": format,
        "strict": strict,
        "fingerprint": loaded.fingerprint,
        "precision": precision,
        "passages": asdict(identity.passages),
        "codec": dict(identity.codec),
        "shapes": identity.shapes,
    }
    if fields:
        depends_on["fields"] = dict(fields)
    job = job_id("encode", depends_on)
    rejects = directory / JOBS / f"{job}.rejected.jsonl"
    content = sources_sha256(corpus)
    done = _check_memory(directory, identity, job, sources, content)
    if done is not None:
        return _result(directory, done, stored_as, rejects, nothing_to_do=True, seconds={})

    seconds: dict[str, float] = {}
    ledger = Ledger(directory, job)
    with ledger.lock(), _fresh_directories_undone(directory, job):
        done = _check_memory(directory, identity, job, sources, content)  # another process may have ended it meanwhile
        if done is not None:
            ledger.clear()
            return _result(directory, done, stored_as, rejects, nothing_to_do=True, seconds={})
        planned = ledger.read_plan()
        if planned is None:
            # Of a plan that was interrupted, or whose ledger is gone.
            remove_tree(directory / SEGMENTS / segment_id(job), within=directory)
            for line in corpus.describe():
                progress.say(line)
            with timed(seconds, "plan"):
                progress.stage("plan", total=None, unit="passages")
                summary = plan(
                    sources=corpus,
                    tokenise=loaded.passage_tokens,
                    window=identity.passages.window,
                    writer=SegmentWriter(directory, segment_id(job)),
                    passage_words=passage_words,
                    strict=strict,
                    rejects_path=rejects,
                    progress=plan_listener(progress),
                )
                progress.done()
                corpus.check_unchanged()
                ledger.write_plan(summary.to_json())
            for line in corpus.notes():
                progress.say(line)
        else:
            summary = PlanSummary.from_json(planned)
            progress.say(f"resuming job {job}: {ledger.progress().rows:,} of {summary.passages:,} passages done")
        tables, fit = codec_tables(
            spec=stored_as,
            model=loaded,
            identity=identity,
            text=SegmentWriter(directory, segment_id(job)),
            rows=summary.passages,
            ledger=ledger,
            progress=progress,
            seconds=seconds,
        )
        created = Memory.create(directory, identity, tables)
        resumed = ledger.progress().rows
        with timed(seconds, "encode"):
            sealed = encode_segment(
                memory=directory,
                job=job,
                encoding=Encoding.checked(loaded, created.identity, directory),
                rows=summary.passages,
                code_bytes=created.codec.code_bytes,
                engine=engine or Engine(),
                progress=progress,
            )
        with timed(seconds, "commit"):
            records = ledger.records().values()
            manifest = commit(
                directory,
                base=0,
                job=job,
                operation="encode",
                add=planned_rows(SegmentWriter(directory, segment_id(job)), summary.shards),
                segments=[sealed],
                details={
                    "plan": summary.to_json(),
                    "bytes_written": sealed.bytes,
                    "code_bytes_written": sum(record.codes_bytes for record in records),
                    "sources": [str(source) for source in sources],
                    "sources_sha256": content,
                    **({"codec_fit": fit} if fit else {}),
                },
            )
        ledger.clear()
    return _result(directory, manifest, stored_as, rejects, nothing_to_do=False, seconds=seconds, resumed=resumed)


def _identity(loaded: LoadedModel, name: str, codec: CodecSpec, *, passage_words: int, precision: str) -> Identity:
    config = loaded.config
    return Identity(
        encoder=EncoderIdentity(
            name=Path(name).name or name,
            source=str(Path(name).resolve()) if Path(name).is_dir() else name,  # a built-in's name holds anywhere
            fingerprint=loaded.fingerprint,
            family=config.encoder.family,
            d_model=config.encoder.d_model,
            memory_layers=config.memory_layers,
            precision=precision,
        ),
        passages=PassageSettings(words=passage_words, template=config.passage_template, window=config.window),
        codec=codec.to_json(),
        shapes=default_shapes(config.window),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _check_memory(
    directory: Path, identity: Identity, job: str, sources: Sequence[str], content: str
) -> Manifest | None:
    """The commit of this very job if it is in the history; None if the job may run; an error if it may not."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: is a file; --memory names a directory")
    if not Catalog(directory).exists:
        strangers = [path.name for path in directory.iterdir()] if directory.is_dir() else []
        strangers = [name for name in strangers if not name.startswith(TEMPORARY_PREFIX)]  # a killed process's
        if set(strangers) - {"segments", "jobs", "memory.json", "codec", "passages", "indexes"}:
            raise UsageError(f"{directory}: holds other files ({strangers[0]} …); name a new or empty directory")
        return None
    found = Memory.open(directory, check=False)
    for manifest in found.history():
        if manifest.job == job:
            return manifest
    check_identity(identity, found.identity, directory)
    if found.version:
        raise UsageError(
            f"{directory} holds version {found.version} already, {_made_from(found, content)}; to bring it "
            f"up to date run `glimmer refresh {' '.join(map(str, sources))} --memory {directory}`, or name another "
            f"directory"
        )
    return None


def _made_from(found: Memory, content: str) -> str:
    """What the encode job that made `found` had for sources, compared with sources of the digest `content`."""
    made = next((manifest for manifest in found.history() if manifest.operation == "encode"), None)
    recorded = None if made is None else made.details.get("sources_sha256")
    if recorded is None:
        return "made by a release that did not record its sources' content, perhaps from these"
    return "made from these sources with other settings" if recorded == content else "made from other sources"


@contextlib.contextmanager
def _fresh_directories_undone(directory: Path, job: str) -> Iterator[None]:
    """Removes what a refused plan left behind, so that a mistyped source does not leave a memory that is none.

    A plan that finished is kept whatever happens later: the next try resumes from it.
    """
    try:
        yield
    except GlimmerError:
        ledger = Ledger(directory, job)
        if not Catalog(directory).exists and not (ledger.directory / "plan.json").exists():
            ledger.clear()
            remove_tree(directory / SEGMENTS / segment_id(job), within=directory)
            for path in (directory / SEGMENTS, directory / JOBS, directory):
                with contextlib.suppress(OSError):  # not empty, or never made
                    path.rmdir()
        raise


def _result(
    directory: Path,
    manifest: Manifest,
    codec: CodecSpec,
    rejects: Path,
    *,
    nothing_to_do: bool,
    seconds: dict[str, float],
    resumed: int = 0,
) -> EncodeResult:
    summary = PlanSummary.from_json(manifest.details["plan"])
    written = int(manifest.details["code_bytes_written"])
    return EncodeResult(
        memory=directory,
        version=manifest.version,
        job=manifest.job,
        nothing_to_do=nothing_to_do,
        plan=summary,
        bytes_written=int(manifest.details["bytes_written"]),
        code_bytes_written=written,
        compression=summary.tokens * codec.width * 2 / written,
        rejects=rejects if rejects.exists() else None,
        resumed=resumed,
        seconds=seconds,
    )
