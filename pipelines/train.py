"""The training job: task files and a memory in, a fine-tuned model directory out, continued after a crash.

`train` checks settings, files and whether model and memory belong together before it begins. It builds examples from
the task files with BM25's candidates, runs `reader.training` over them, evaluates by answering the dev file the way
`glimmer answer` does, and writes a model directory that `glimmer answer` reads. All that a run needs to
resume is in its run directory: the same command continues it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from .. import ConflictError, ModelError, UsageError
from ..encoders.compilation import enable_compilation_cache
from ..encoders.model_config import ModelConfig
from ..encoders.model_directory import model_card, save_model
from ..encoders.models import LoadedModel, load_model
from ..encoders.weights import check_finite
from ..progress import Progress, Quiet
from ..reader.config import DecoderConfig, ReaderConfig
from ..reader.formats.queries import QueryFile, open_queries
from ..reader.model import Reader
from ..reader.serving.candidates import CandidateFinder
from ..reader.serving.prefetch import prefetched
from ..reader.serving.retrieval_index import open_index
from ..reader.training.batches import BatchSource
from ..reader.training.examples import Example, ExampleSettings, TaskCounts, load_examples
from ..reader.training.log import Scores, plot_log
from ..reader.training.losses import Questions
from ..reader.training.mixture import CYCLE, Mixture
from ..reader.training.optimiser import is_live_output, make_optimiser, trainable_names
from ..reader.training.record import FILE as RECORD
from ..reader.training.record import recorded_result, training_record
from ..reader.training.settings import TrainConfig
from ..reader.training.step import TrainStep
from ..reader.training.trainer import LOG, PLOT, Finished, run_steps
from ..storage.files import make_directories, sha256_file
from ..storage.locks import held
from ..storage.memory import Memory
from ..storage.paths import local_path
from ..wording import counted
from .answer import answer_file
from .answering.quality import AnswerQuality
from .encoding.encoding_job import Encoding
from .training.result import TrainResult

_AHEAD = 2  # batches made before the device asks for them


def train(*, config: TrainConfig, progress: Progress | None = None) -> TrainResult:
    """Trains a reader, or resumes an interrupted run of the same settings.

    Args:
        config: the whole run; see `TrainConfig`.
        progress: progress callback.

    Raises, before any step:
        UsageError: settings that contradict each other, or an output that exists.
        InputError: malformed task files.
        ModelError: a model that cannot be trained.
        MismatchError: a memory of another encoder, or checkpoints of other settings.
        ConflictError: another process trains in the same run directory.

    Later a UsageError says that training diverges, a StorageError that nothing can be written; the same command then
    resumes.

    Examples:
        >>> glimmer.train(config=glimmer.TrainConfig.from_toml("train.toml")).best  # doctest: +SKIP
    """
    progress = progress or Quiet()
    enable_compilation_cache()
    output, run = local_path(config.output), local_path(config.run)
    in_use = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if in_use and not (output / RECORD).is_file():
        raise _output_in_use(output)
    progress.stage("check", total=None, unit="queries")
    # A question beyond the file's limit is shortened; one of too many tokens is left out and counted with the examples.
    files = [open_queries(task.file, long_questions="auto") for task in config.tasks]
    dev = None if config.evaluation is None else open_queries(config.evaluation.file, long_questions="auto")
    for queries in (*files, *(() if dev is None else (dev,))):
        if not queries.with_gold:
            raise UsageError(f"{queries.name} has no gold answers; training needs KILT records with their output")
    memory = Memory.open(config.memory, config.memory_version)
    loaded = load_model(config.model)
    settings = _settings(config, files, dev, memory, loaded)
    if in_use:
        done = recorded_result(output, settings, config.steps)
        if done is None:
            raise _output_in_use(output)
        plot_log(run / LOG, run / PLOT)
        progress.done()
        return TrainResult.from_json(done, output=output, log=run / LOG)
    model = Encoding.checked(loaded, memory.identity, memory.location).model
    model_config, tensors = _start(loaded, config)
    reader = Reader(
        ReaderConfig.from_model(model_config, str(loaded.path)), dtype=jnp.dtype(config.optimiser.precision)
    )
    candidates = config.data.candidates if reader.config.scores else config.data.select
    _check_shapes(config, reader.config, memory)
    progress.done()
    with _locked(run):
        tasks, counts = _examples(config, files, model, memory, candidates, reader.config.decoder.eos_id, progress)
        mixture = Mixture([len(task) for task in tasks], [task.rate for task in config.tasks], config.seed)
        shares = {task.name: share / CYCLE for task, share in zip(config.tasks, mixture.shares, strict=True)}
        source = BatchSource(
            tasks,
            mixture,
            memory,
            shape=(config.optimiser.accumulate, config.optimiser.batch),
            candidates=candidates,
            most=(config.data.question_tokens, config.data.answer_tokens),
            pad=(model.tokenizer.pad_id, reader.config.decoder.pad_id),
            passage_tokens=config.data.passage_tokens,
            as_tokens=config.train == "everything",
            with_words=reader.config.decoder.copy_width > 0,
            seed=config.seed,
        )
        step = TrainStep(
            reader,
            tensors,
            trainable_names(reader.config, reader.shapes(), config.train),
            make_optimiser(
                config.schedule(),
                name=config.optimiser.name,
                encoder_rate=config.optimiser.encoder_rate,
                scale_by_parameter=config.optimiser.scale_by_parameter,
            ),
            select=config.data.select,
            settings=config.losses,
            dropout_rate=config.optimiser.dropout,
            seed=config.seed,
            decode=None if config.train == "everything" else memory.codec.decode,
        )

        def batches(first: int) -> AbstractContextManager[Iterator[Questions]]:
            return prefetched(source.batches(first), ahead=_AHEAD)

        evaluator = None if dev is None else Evaluator(config, dev, memory, model_config, tensors, loaded)
        progress.stage("train", total=config.steps, unit="steps")
        listener = progress

        def heard(number: int, words: str) -> None:
            listener.at(number)
            if "EM" in words:
                listener.say(words)

        finished = run_steps(
            step,
            batches,
            config=config,
            settings=settings,
            evaluate=evaluator,
            on_step=heard,
        )
        progress.done()
        result = TrainResult(
            output=output,
            log=run / LOG,
            steps=finished.steps,
            resumed=finished.began,
            tasks=counts,
            shares=shares,
            best_step=finished.history.best_step,
            best=finished.history.best,
            stopped_early=finished.history.stopped,
        )
        card = _card(model_config, config, counts, shares, finished)
        record = training_record(settings, config.steps, result.to_json())
        _save(output, model_config, {**tensors, **finished.weights}, loaded, card, record)
        plot_log(run / LOG, run / PLOT)
    return result


def _output_in_use(output: Path) -> UsageError:
    return UsageError(f"{output} exists and is not what this run made; remove it or choose another output")


class Evaluator:
    """Scores weights on the dev file by answering it, from a model directory made for that and removed after."""

    def __init__(
        self,
        config: TrainConfig,
        dev: QueryFile,
        memory: Memory,
        model: ModelConfig,
        tensors: Mapping[str, npt.NDArray[Any]],
        loaded: LoadedModel,
    ) -> None:
        assert config.evaluation is not None
        self._config, self._evaluation = config, config.evaluation
        self._dev, self._memory, self._model = dev, memory, model
        self._tensors, self._loaded = tensors, loaded
        self._quality = AnswerQuality(memory, dev)

    def __call__(self, weights: Mapping[str, Any]) -> Scores:
        place = Path(self._config.run) / "evaluation"
        shutil.rmtree(place, ignore_errors=True)
        make_directories(place)
        trained = {name: np.asarray(value) for name, value in weights.items()}
        _save(place / "model", self._model, {**self._tensors, **trained}, self._loaded, "For an evaluation.\n")
        predictions = place / "predictions.jsonl"
        answer_file(
            queries=self._dev.path,
            memory=self._memory.location,
            memory_version=self._memory.version,
            model=place / "model",
            output=predictions,
            candidates=self._evaluation.candidates,
            select=self._evaluation.select,
            max_answer_tokens=self._evaluation.max_answer_tokens,
            grounded=self._evaluation.grounded,
            candidates_from="retrieval",
            precision=self._config.optimiser.precision,
        )
        scores = self._quality(predictions)
        shutil.rmtree(place)
        return scores


def _start(loaded: LoadedModel, run: TrainConfig) -> tuple[ModelConfig, dict[str, npt.NDArray[Any]]]:
    """The model to begin with and all of its reader's weights, with a fresh decoder where one is asked for.

    A re-ranker that the model does not hold is drawn anew as well.
    """
    config, where, fresh = loaded.config, f"{loaded.path}/config.json", run.decoder
    other: Mapping[str, npt.NDArray[Any]] = {}
    if run.decoder_from is not None:
        given = load_model(run.decoder_from)
        config = replace(config, decoder=given.config.decoder)
        other = {name: given.tensors[name] for name in given.tensors if name.startswith("decoder.")}
    if fresh is None:
        if config.decoder is None:
            raise ModelError(f"{where}: this model has no decoder; add a [decoder] section to train one from scratch")
    elif config.decoder is not None:
        raise UsageError(f"{where}: this model has a decoder; leave the [decoder] section out")
    else:
        tokenizer = loaded.tokenizer
        decoder = DecoderConfig(
            vocab_size=config.encoder.vocab_size,
            d_model=config.encoder.d_model,
            d_ff=fresh.d_ff,
            num_heads=fresh.num_heads,
            d_kv=fresh.d_kv,
            num_layers=fresh.layers,
            kv_heads=fresh.kv_heads,
            shared_embedding=True,
            tied_head=fresh.tied_head,
            copy_width=fresh.copy_width,
            copy_by_score=fresh.copy_by_score,
            copy_continuation_bias=fresh.copy_continuation_bias,
            start_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            embedding_scale=round(float(np.std(loaded.tensors["encoder.embedding"].astype(np.float32))) ** -1, 4),
        )
        # Through the parser, which knows what each number may be.
        config = replace(config, decoder=DecoderConfig.from_json(decoder.to_json(), "[decoder]").to_json())
    if run.reranker is not None:
        config = replace(config, reranker=run.reranker.to_json())
    reader = Reader(ReaderConfig.from_model(config, where))
    held = {name: loaded.tensors[name] for name in loaded.tensors if not (other and name.startswith("decoder."))}
    held |= other
    tensors = {name: held[name] for name in reader.shapes() if name in held}
    for name in tensors if run.live_scale != 1 else ():
        if is_live_output(name, config):
            tensors[name] = (run.live_scale * tensors[name].astype(np.float32)).astype(tensors[name].dtype)
    anew = fresh is not None or loaded.config.decoder is None
    missing = [name for name in reader.shapes() if name not in tensors and (anew or name.startswith("reranker."))]
    if missing:
        drawn = reader.tensors(reader.init(run.seed))
        tensors |= {name: drawn[name] for name in missing}
    reader.params(tensors, where=str(loaded.path))  # names what is missing or of another shape
    for name, array in tensors.items():
        check_finite(str(loaded.path), name, array, "no training mends that: get the model again, or take another")
    return config, tensors


def _check_shapes(config: TrainConfig, reader: ReaderConfig, memory: Memory) -> None:
    room = reader.encoder.max_positions
    if room is not None and config.data.question_tokens + memory.window > room:
        raise UsageError(
            f"question_tokens ({config.data.question_tokens}) and passages of {memory.window} tokens do not fit the "
            f"encoder's {room} positions: lower [data] question_tokens to {room - memory.window}"
        )
    devices = jax.local_device_count()
    if config.optimiser.batch % devices:
        raise UsageError(f"[optimiser] batch ({config.optimiser.batch}) must be a multiple of the {devices} devices")


def _examples(
    config: TrainConfig,
    files: Sequence[QueryFile],
    model: LoadedModel,
    memory: Memory,
    candidates: int,
    eos_id: int,
    progress: Progress,
) -> tuple[list[list[Example]], dict[str, TaskCounts]]:
    index = open_index(memory, progress=progress)
    finder = CandidateFinder(limit=max(candidates, config.data.pool), index=index, provided=None)
    settings = ExampleSettings(
        candidates=max(candidates, config.data.pool),
        passage_tokens=config.data.passage_tokens,
        question_tokens=config.data.question_tokens,
        answer_tokens=config.data.answer_tokens,
        gold=config.data.gold,
        irrelevant_weight=config.data.irrelevant_weight,
        eos_id=eos_id,
    )
    progress.stage("examples", total=len(files), unit="tasks")
    tasks: list[list[Example]] = []
    counts: dict[str, TaskCounts] = {}
    for task, queries in zip(config.tasks, files, strict=True):
        examples, count = load_examples(queries, model, memory, finder, settings)
        tasks.append(examples)
        counts[task.name] = count
        progress.at(len(tasks))
        progress.say(
            f"{task.name}: {count.used:,} of {counted(count.questions, 'question')} to train on, "
            f"{count.irrelevant:,} irrelevant"
        )
    progress.done()
    return tasks, counts


def _settings(
    config: TrainConfig, files: Sequence[QueryFile], dev: QueryFile | None, memory: Memory, loaded: LoadedModel
) -> dict[str, Any]:
    """What the history of a run depends on: everything but how long it is, where it lies, what it keeps."""
    kept = asdict(config)
    for name in ("model", "memory", "run", "output", "steps", "tasks", "evaluation", "checkpoints", "memory_version"):
        del kept[name]
    if config.decoder_from is not None:
        kept["decoder_from"] = load_model(config.decoder_from).digests
    evaluation = None
    if dev is not None and config.evaluation is not None:
        evaluation = {**asdict(config.evaluation), "file": sha256_file(dev.path)[0]}
        del evaluation["patience"]
    return {
        **kept,
        "evaluation": evaluation,
        "tasks": [
            [task.name, task.rate, sha256_file(queries.path)[0]]
            for task, queries in zip(config.tasks, files, strict=True)
        ],
        "model": loaded.digests,
        "memory": memory.manifest.identity_sha256,
        "memory_version": memory.version,
        "content": memory.manifest.content_sha256,
    }


def _save(
    directory: Path,
    config: ModelConfig,
    tensors: Mapping[str, npt.NDArray[Any]],
    loaded: LoadedModel,
    card: str,
    record: bytes | None = None,
) -> None:
    """Weights that were not trained are written as they were read, so the memory still fits."""
    file = config.tokenizer.file
    diverged = "training has diverged: lower [optimiser] learning_rate and begin a new run"
    files: dict[str, Path | bytes] = {file: loaded.path / file} | ({} if record is None else {RECORD: record})
    save_model(directory, config, tensors, files, card, finite_or=diverged)


def _card(
    model: ModelConfig,
    config: TrainConfig,
    counts: Mapping[str, TaskCounts],
    shares: Mapping[str, float],
    finished: Finished,
) -> str:
    history = finished.history
    lines = [
        model_card(model),
        "## Training",
        "",
        f"{finished.steps:,} steps of {config.optimiser.batch * config.optimiser.accumulate} questions, "
        f"{config.data.candidates} candidates each, {config.data.select} of them read by the decoder; trained: "
        f"{config.train}. {config.optimiser.name.capitalize()}, learning rate "
        f"{config.optimiser.learning_rate:g}, dropout {config.optimiser.dropout:g}, distillation weight "
        f"{config.losses.distillation_weight:g}, seed {config.seed}.",
        "",
        "| task | share of draws | questions | trained on | irrelevant |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {shares[name]:.3f} | {count.questions:,} | {count.used:,} | {count.irrelevant:,} |"
            for name, count in counts.items()
        ),
        "",
    ]
    if history.best is not None and config.evaluation is not None:
        best = history.best
        lines += [
            f"On {Path(config.evaluation.file).name}, candidates from BM25 (m = {config.evaluation.candidates}, "
            f"k = {config.evaluation.select}), after step {history.best_step:,}, whose weights these are: "
            f"EM {best['em']:.3f}, F1 {best['f1']:.3f}, recall@1 {best['recall1_before']:.3f} before and "
            f"{best['recall1_after']:.3f} after re-ranking.",
            "",
        ]
    lines += ["The whole configuration:", "", "```json", json.dumps(asdict(config), indent=1), "```", ""]
    return "\n".join(lines)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Keeps a second process out of the run directory."""
    make_directories(run)
    with held(
        run / "lock",
        busy=lambda holder: ConflictError(f"{run}: {holder} trains here; wait for it, or choose another run"),
    ):
        yield
