"""Glimmer precomputes the memory of a retrieval-augmented language model and answers from it.

    import glimmer

    memory = glimmer.open_memory("wiki.memory")
    reader = glimmer.open_reader("sample", memory)
    answer = reader.answer("who painted the ceiling of the Sistine chapel")
    print(answer.text, answer.quote, sep="\\n")

Everything public is a name of this package, loaded when it is first used: `import glimmer` itself imports neither NumPy
nor JAX nor Beam. What a command does is a function of the same name with keyword arguments (`glimmer answer` is
`answer_file`); errors derive from `GlimmerError`.

Inside are four rooms: `pipelines` (the jobs people launch), `reader` (query time), `encoders` (token ids to
representations) and `storage` (memory on disk). Imports point one way: pipelines -> reader -> encoders, storage. What
is not a name of this package may change without notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .errors import (
    ConflictError,
    DamageError,
    GlimmerError,
    InputError,
    MismatchError,
    ModelError,
    PassageNotFoundError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from .encoders.model_config import ModelConfig
    from .encoders.model_directory import save_model
    from .encoders.models import LoadedModel, load_model
    from .pipelines.answer import AnswerResult, answer_file
    from .pipelines.capacity.estimate import Estimate, estimate
    from .pipelines.cli.terminal import TerminalProgress
    from .pipelines.codec_bench.answer_comparison import PairedScore
    from .pipelines.codec_bench.bench_codecs import bench_codecs
    from .pipelines.codec_bench.figures import CodecBench, CodecFigures
    from .pipelines.convert import ConvertResult, convert
    from .pipelines.encode import EncodeResult, encode
    from .pipelines.engines import Engine
    from .pipelines.evaluate import evaluate
    from .pipelines.maintenance.compact import CompactResult, compact
    from .pipelines.maintenance.diff import VersionDiff, diff
    from .pipelines.maintenance.export import ExportResult, export
    from .pipelines.maintenance.history import VersionEntry, history
    from .pipelines.maintenance.repair import repair
    from .pipelines.maintenance.repair_report import RepairResult
    from .pipelines.maintenance.rollback import RollbackResult, rollback
    from .pipelines.maintenance.vacuum import VacuumResult, vacuum
    from .pipelines.maintenance.verification import verify
    from .pipelines.outlines import OutlinesResult, outline_questions
    from .pipelines.refresh import RefreshPlan, RefreshResult, refresh, refresh_dry_run
    from .pipelines.tasks import TasksResult, make_tasks
    from .pipelines.train import train
    from .pipelines.training.result import TrainResult
    from .progress import Progress
    from .reader.formats.evaluation import Evaluation, TaskScores
    from .reader.serving.question_answering import Answer, Reader, open_reader
    from .reader.serving.quotes import Quote
    from .reader.serving.scored_passage import ScoredPassage
    from .reader.serving.searchable_memory import Memory, open_memory
    from .reader.training.settings import TrainConfig
    from .storage.passage import Passage
    from .storage.verify import Damage, VerifyReport

_MODULES = {
    "encoders.model_config": ("ModelConfig",),
    "encoders.model_directory": ("save_model",),
    "encoders.models": ("LoadedModel", "load_model"),
    "pipelines.answer": ("AnswerResult", "answer_file"),
    "pipelines.capacity.estimate": ("Estimate", "estimate"),
    "pipelines.cli.terminal": ("TerminalProgress",),
    "pipelines.codec_bench.answer_comparison": ("PairedScore",),
    "pipelines.codec_bench.bench_codecs": ("bench_codecs",),
    "pipelines.codec_bench.figures": ("CodecBench", "CodecFigures"),
    "pipelines.convert": ("ConvertResult", "convert"),
    "pipelines.encode": ("EncodeResult", "encode"),
    "pipelines.engines": ("Engine",),
    "pipelines.evaluate": ("evaluate",),
    "pipelines.maintenance.compact": ("CompactResult", "compact"),
    "pipelines.maintenance.diff": ("VersionDiff", "diff"),
    "pipelines.maintenance.export": ("ExportResult", "export"),
    "pipelines.maintenance.history": ("VersionEntry", "history"),
    "pipelines.maintenance.repair": ("repair",),
    "pipelines.maintenance.repair_report": ("RepairResult",),
    "pipelines.maintenance.rollback": ("RollbackResult", "rollback"),
    "pipelines.maintenance.vacuum": ("VacuumResult", "vacuum"),
    "pipelines.maintenance.verification": ("verify",),
    "pipelines.outlines": ("OutlinesResult", "outline_questions"),
    "pipelines.refresh": ("RefreshPlan", "RefreshResult", "refresh", "refresh_dry_run"),
    "pipelines.tasks": ("TasksResult", "make_tasks"),
    "pipelines.train": ("train",),
    "pipelines.training.result": ("TrainResult",),
    "progress": ("Progress",),
    "reader.formats.evaluation": ("Evaluation", "TaskScores"),
    "reader.serving.question_answering": ("Answer", "Reader", "open_reader"),
    "reader.serving.quotes": ("Quote",),
    "reader.serving.scored_passage": ("ScoredPassage",),
    "reader.serving.searchable_memory": ("Memory", "open_memory"),
    "reader.training.settings": ("TrainConfig",),
    "storage.passage": ("Passage",),
    "storage.verify": ("Damage", "VerifyReport"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "AnswerResult",
    "CodecBench",
    "CodecFigures",
    "CompactResult",
    "ConflictError",
    "ConvertResult",
    "Damage",
    "DamageError",
    "EncodeResult",
    "Engine",
    "Estimate",
    "Evaluation",
    "ExportResult",
    "GlimmerError",
    "InputError",
    "LoadedModel",
    "Memory",
    "MismatchError",
    "ModelConfig",
    "ModelError",
    "OutlinesResult",
    "PairedScore",
    "Passage",
    "PassageNotFoundError",
    "Progress",
    "Quote",
    "Reader",
    "RefreshPlan",
    "RefreshResult",
    "RepairResult",
    "RollbackResult",
    "ScoredPassage",
    "StorageError",
    "TaskScores",
    "TasksResult",
    "TerminalProgress",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "VacuumResult",
    "VerifyReport",
    "VersionDiff",
    "VersionEntry",
    "__version__",
    "answer_file",
    "bench_codecs",
    "compact",
    "convert",
    "diff",
    "encode",
    "estimate",
    "evaluate",
    "export",
    "history",
    "load_model",
    "make_tasks",
    "open_memory",
    "open_reader",
    "outline_questions",
    "refresh",
    "refresh_dry_run",
    "repair",
    "rollback",
    "save_model",
    "train",
    "vacuum",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
