"""The encode job: from sources to a committed memory. Plan, encode, commit; each stage can be resumed.

    plan     ranges of the sources -> articles -> passages, each range a part in the job's directory
    fit      only for codecs with fitted tables, unless tables are given: a sample of tokens -> the tables, kept for the
             life of the memory
    encode   a Beam graph over shards of 1,024 passages: parts -> one text shard; tokens -> batches -> codec -> one Zarr
             shard; an entry in the ledger
    commit   every shard is there: one catalog commit, version 1

Until the commit no reader sees anything. The job's id follows from the content of its sources and its settings, so the
same command resumes an interrupted job, and says so when there is nothing left to do (`jobs`).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from .. import UsageError
from ..encoders.memory_encoder import default_shapes
from ..encoders.models import LoadedModel, load_model
from ..encoders.precision import PrecisionChoice, chosen_precision
from ..progress import Progress, Quiet
from ..storage.catalog import Catalog
from ..storage.codecs import CodecSpec
from ..storage.files import TEMPORARY_PREFIX
from ..storage.identity import EncoderIdentity, Identity, PassageSettings, read_identity
from ..storage.manifest import Manifest
from ..storage.memory import Memory
from ..storage.stores import Place, Store, open_store
from .corpus import Corpus
from .corpus.listing import Sources, source_names
from .corpus.passages import DEFAULT_WORDS
from .corpus.ranges import RANGE_BYTES
from .encoding.codec_fit import fitted_tables
from .encoding.encoding_job import Encoding, check_identity, encode_segment, planned_rows
from .encoding.given_tables import chosen_codec
from .engines import Engine
from .engines.worker_rates import WorkerRate
from .jobs import Job, canonical_sha256
from .planning.plan_stage import PlanPlace, identify_sources, plan_corpus
from .planning.plan_summary import PlanSummary
from .planning.planned_text import PartRows, PlannedText

_OWN: Final = frozenset({"segments", "jobs", "memory.json", "codec", "passages", "indexes"})


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
        workers: what each worker process encoded; empty where one process did it all.
    """

    memory: Path | str
    version: int
    job: str
    nothing_to_do: bool
    plan: PlanSummary
    bytes_written: int
    code_bytes_written: int
    compression: float
    rejects: Path | str | None
    resumed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    workers: list[WorkerRate] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        record = asdict(self) | {"memory": str(self.memory), "rejects": self.rejects and str(self.rejects)}
        return record | {"plan": {k: v for k, v in self.plan.to_json().items() if k != "lengths"}}


def encode(
    *,
    sources: Sources,
    memory: Place,
    model: str,
    codec: str | None = None,
    codec_tables: Place | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    passage_words: int = DEFAULT_WORDS,
    precision: PrecisionChoice = "auto",
    strict: bool = False,
    engine: Engine | None = None,
    range_bytes: int = RANGE_BYTES,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encodes `sources` into a new memory, or resumes an interrupted job.

    Args:
        sources: one or several of: paths, directories, globs, fsspec URLs, `-`, `tfds:` names.
        memory: the directory to make.
        model: a model directory or a built-in name.
        codec: how token representations are stored, as `name` or `name:key=value,...`: `float32`, `bfloat16`, `int8`,
            or another registered codec. None for that of `codec_tables`, or `int8`.
        codec_tables: a memory, or a file `tables.safetensors` with its memory.json beside it or one directory above:
            the codec's tables are taken from there instead of being fitted to `sources`, so that a memory made again
            has the codes of the one it replaces.
        format: the sources' format; None tells it from their content.
        fields: role (`id`, `title`, `text`) -> the field that holds it; None takes the known names.
        mixed: files of one source may have different formats.
        passage_words: words aimed at in a passage.
        precision: matmul precision, `bfloat16` or `float32`; accumulation is float32. `auto` is that of the memory if
            it is there already, else that of `codec_tables`, else bfloat16 where this machine has instructions for it.
            `memory.json` records it, and every later job of the memory follows that.
        strict: stop at the first record that cannot be used instead of setting it aside.
        engine: where the Beam graph runs; None runs it in this process.
        range_bytes: sources are planned in ranges of about so many bytes, which share the engine's workers. The memory
            is the same whatever it is.
        progress: progress callback.

    Raises:
        InputError: sources that cannot be used.
        UsageError: the memory holds something else already.
        MismatchError: a memory of another encoder or other settings; tables of another encoder or codec.
        DamageError: tables that are not what their memory.json records.
        ConflictError: another process runs the same job.
        StorageError: the file system refuses.

    Nothing is committed then; what was encoded is kept for a next try.

    Examples:
        >>> glimmer.encode(sources=["corpus.jsonl"], memory="wiki.memory", model="sample").version
        1
    """
    progress, engine, sources = progress or Quiet(), engine or Engine(), source_names(sources)
    store = open_store(memory)
    loaded = load_model(model)
    stored_as, given = chosen_codec(codec, codec_tables, loaded)
    recorded, of_what = None if given is None else given.precision, "of the codec's tables"
    if Catalog(store).exists:
        recorded, of_what = read_identity(store).encoder.precision, "as the memory records"
    decided = chosen_precision(precision, recorded=recorded)
    if precision == "auto":
        progress.say(f"precision: {decided}, {of_what if recorded else 'by this machine'}")
    identity = _identity(loaded, model, stored_as, passage_words=passage_words, precision=decided)
    if given is not None:
        identity = replace(identity, tables_sha256=given.sha256)
    corpus = Corpus(sources, format=format, fields=fields, mixed=mixed)
    found = _existing(store, identity)
    depends_on = {
        "sources": identify_sources(corpus, progress),
        "format": format,
        "strict": strict,
        "fingerprint": loaded.fingerprint,
        "precision": decided,
        "passages": asdict(identity.passages),
        "codec": dict(identity.codec),
        "shapes": identity.shapes,
    }
    if fields:
        depends_on["fields"] = dict(fields)
    if given is not None:
        depends_on["codec_tables"] = given.sha256
    content = canonical_sha256(corpus.identity())
    job = Job(store, "encode", depends_on, base=0, progress=progress)
    if found is not None and found.version and job.committed() is None:
        raise _made_before(found, content, sources)

    def make_plan() -> dict[str, Any]:
        with job.timed("plan"), job.reject_file() as rejects:
            place = PlanPlace(store=store, job_key=job.ledger.key, engine=engine, range_bytes=range_bytes)
            planned = plan_corpus(
                corpus,
                model=loaded,
                passages=identity.passages,
                strict=strict,
                progress=progress,
                place=place,
                rejects=rejects,
            )
        summary = planned.summary
        return {
            "rows": summary.passages,
            "plan": summary.to_json(),
            "text": planned.text.to_json(),
        }

    def work() -> Manifest:
        planned = job.plan(make_plan)
        parts = PartRows.from_json(planned.get("text"))
        text = job.segment if parts is None else PlannedText(store, parts)
        if given is not None:
            tables, origin = given.tables, {"codec_tables": given.to_json()}
        else:
            tables, fit = fitted_tables(
                job, spec=stored_as, model=loaded, identity=identity, rows=planned["rows"], text=text
            )
            origin = {"codec_fit": fit} if fit else {}
        created = Memory.create(store, identity, tables)
        sealed = encode_segment(
            job,
            encoding=Encoding.checked(loaded, created.identity, store.location),
            rows=planned["rows"],
            parts=parts,
            code_bytes=created.codec.code_bytes,
            engine=engine,
        )
        return job.commit(
            add=planned_rows(job.segment, PlanSummary.from_json(planned["plan"]).shards),
            segment=sealed,
            details={
                "plan": planned["plan"],
                "bytes_written": sealed.bytes,
                "code_bytes_written": job.code_bytes_written,
                "sources": [str(source) for source in sources],
                "sources_sha256": content,
                **origin,
            },
        )

    manifest = job.run(work)
    summary = PlanSummary.from_json(manifest.details["plan"])
    code_bytes = int(manifest.details["code_bytes_written"])
    return EncodeResult(
        memory=store.location,
        version=manifest.version,
        job=job.name,
        nothing_to_do=job.nothing_to_do,
        plan=summary,
        bytes_written=int(manifest.details["bytes_written"]),
        code_bytes_written=code_bytes,
        compression=summary.tokens * stored_as.width * 2 / code_bytes,
        rejects=job.rejects,
        resumed=job.resumed,
        seconds=job.seconds,
        workers=job.workers,
    )


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


def _existing(store: Store, identity: Identity) -> Memory | None:
    """The memory that is there already, of the same settings; None where there is room for one.

    Raises UsageError where something else is there, MismatchError for a memory of other settings.
    """
    directory, there = store.location, store.stat("")
    if there is not None and there.kind != "directory":
        raise UsageError("is a file; --memory names a directory", where=directory)
    if Catalog(store).exists:
        found = Memory.open(store, check=False)
        check_identity(identity, found.identity, directory)
        return found
    # What begins so is a killed process's.
    unexpected_files = [name for name in store.names() if name not in _OWN and not name.startswith(TEMPORARY_PREFIX)]
    if unexpected_files:
        raise UsageError(
            f"holds other files ({unexpected_files[0]} …)", where=directory, remedy="name a new or empty directory"
        )
    return None


def _made_before(found: Memory, content: str, sources: Sequence[str]) -> UsageError:
    """Why a memory that another job made is not encoded again; `content` is the digest of the sources now given."""
    made = next((manifest for manifest in found.history() if manifest.operation == "encode"), None)
    recorded = None if made is None else made.details.get("sources_sha256")
    if recorded is None:
        made_of = "made by a release that did not record its sources' content, perhaps from these"
    elif recorded == content:
        made_of = "made from these sources with other settings"
    else:
        made_of = "made from other sources"
    return UsageError(
        f"{found.location} holds version {found.version} already, {made_of}; to bring it up to date run "
        f"`glimmer refresh {' '.join(map(str, sources))} --memory {found.location}`, or name another directory"
    )
