"""The benchmark of codecs: what each costs and loses on a memory's own corpus, with one's own reader and questions.

The passages that the questions need are encoded once, without compression. Each codec is then fitted to a sample of the
memory's passages, and the questions are answered with its codes in the memory's place, by the code that answers from
memories. Nothing is written to the memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from ... import UsageError
from ...encoders.builtin_models import name_for_others
from ...encoders.compilation import enable_compilation_cache
from ...encoders.memory_encoder import MemoryEncoder
from ...encoders.models import load_model
from ...encoders.precision import Precision
from ...progress import Progress, Quiet, busy
from ...reader.encoder_match import check_encoder
from ...reader.formats.queries import LongQuestions, open_queries
from ...reader.serving.answer_defaults import DEFAULT_ANSWER_TOKENS, DEFAULT_CANDIDATES
from ...reader.serving.answer_options import AnswerOptions
from ...reader.serving.retrieval_index import check_passages
from ...storage import outputs
from ...storage.memory import Memory
from .answer_comparison import ScoredAnswers
from .contenders import contenders
from .figures import CodecBench, CodecFigures
from .passage_choice import FitSamples, held_out
from .question_set import QuestionSet
from .rate_plot import rate_plot
from .recoded_passages import RecodedPassages, codec_rates
from .representations import encoded_passages, encoder_rate


def bench_codecs(
    *,
    memory: str | os.PathLike[str],
    model: str | os.PathLike[str],
    queries: str | os.PathLike[str] | None = None,
    codecs: Sequence[str] = (),
    peers: Sequence[str] = (),
    limit: int | None = None,
    plot: str | os.PathLike[str] | None = None,
    candidates: int = DEFAULT_CANDIDATES,
    select: int | None = None,
    memory_version: int | None = None,
    beams: int = 1,
    batch_size: int | None = None,
    max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
    length_penalty: float = 1.0,
    grounded: bool | None = None,
    precision: Precision = "bfloat16",
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    long_questions: LongQuestions = "auto",
    stdin: BinaryIO | None = None,
    progress: Progress | None = None,
) -> CodecBench:
    """Compares codecs on a memory's passages: bytes, error, speed, and what answers lose.

    Args:
        memory: the memory's directory; only its texts are read, its own codec does not matter.
        model: the model directory whose lower layers made the memory; with a decoder, where there are questions.
        queries: a query file as `answer_file` takes it, best with gold answers. None compares without answering.
        codecs: as `encode` takes them, such as "pq:bytes=48"; none compares int8 and pq at 16, 32 and 64 times less
            than bfloat16.
        peers: methods of others, which memories cannot have: "colbertv2:bits=1", "colbertv2:bits=2".
        limit: only the first so many questions.
        plot: an SVG image to write, or "-": exact match, or the error where there is none, against bytes a token.
        candidates, select, beams, batch_size, max_answer_tokens, length_penalty, grounded, precision, long_questions:
            how questions are answered, as in `answer_file`.
        memory_version: the version whose passages are taken; None is the newest.
        format, fields: how the query file is read, as in `answer_file`.
        stdin: what "-" reads; None is standard input.
        progress: progress callback.

    Returns:
        A row for each codec, `bfloat16` first: the others' answers are compared with its, question by question.

    Raises:
        InputError: bad queries, or passages they bring that the memory lacks.
        UsageError: an unknown codec, numbers that contradict each other, a memory of a single passage.
        ModelError: the model cannot answer.
        MismatchError: a memory of another encoder.
        StorageError: no room for uncompressed representations (4 bytes a number, in `TMPDIR`), or for the plot.

    Examples:
        >>> found = glimmer.bench_codecs(memory="wiki.memory", model="sample", codecs=["int8"])
        >>> [(row.codec, row.code_bytes) for row in found.codecs]
        [('bfloat16', 768), ('int8', 388)]
    """
    progress = progress or Quiet()
    if limit is not None and limit < 1:
        raise UsageError(f"at least 1 question has to be asked, not {limit}")
    if plot is not None:
        read = {"the query file": queries, "the memory": memory, "the model": model if Path(model).is_dir() else None}
        outputs.check_output(plot, "--plot", read)
    loaded = load_model(model)
    opened = Memory.open(memory, memory_version)
    check_passages(opened)
    check_encoder(loaded, opened.identity, opened.location)
    if opened.passages < 2:
        raise UsageError("a memory of one passage has none to hold out from fitting", where=opened.location)
    config = loaded.config.encoder
    compared = contenders(codecs, peers, width=config.d_model, vocabulary=config.vocab_size, tokens=opened.tokens)
    enable_compilation_cache()
    questions: QuestionSet | None = None
    options: AnswerOptions | None = None
    if queries is not None:
        options = AnswerOptions.resolved(
            loaded,
            candidates=candidates,
            select=select,
            beams=beams,
            max_answer_tokens=max_answer_tokens,
            length_penalty=length_penalty,
            grounded=grounded,
            precision=precision,
            batch_size=batch_size,
            long_questions=long_questions,
        )
        progress.stage("check", total=None, unit="queries")
        asked = open_queries(
            os.fspath(queries),
            format=format,
            fields=fields,
            long_questions=long_questions,
            stdin=stdin,
            progress=progress.at,
        )
        progress.say(asked.description)
        progress.done()
        questions = QuestionSet(asked, limit, model=loaded, memory=opened, options=options, progress=progress)

    tested, fitted = held_out(opened.passages)
    needed = tested if questions is None else np.union1d(tested, questions.positions)
    encoder = MemoryEncoder(
        loaded,
        precision=opened.identity.encoder.precision,
        shapes=opened.identity.shapes,
        transform=_as_float32,
    )
    samples = FitSamples(encoder, opened, fitted, progress)
    rows: list[CodecFigures] = []
    whole: ScoredAnswers | None = None
    with encoded_passages(encoder, opened, needed, progress) as representations:
        with busy("timing the memory layers"):
            rate = encoder_rate(encoder, opened, tested)
        for number, contender in enumerate(compared):
            label = f"{contender.text} ({number + 1} of {len(compared)})"
            sample = samples.of(contender.samples)
            begun = time.perf_counter()
            if sample is not None:
                progress.stage(f"fit {label}", total=None, unit="tokens", start=len(sample))
            codec = contender.fit(sample)
            fit_seconds = time.perf_counter() - begun
            if sample is not None:
                progress.done()
            progress.stage(f"code {label}", total=len(needed), unit="passages")
            passages = RecodedPassages(opened, representations, codec, progress=progress)
            encode_rate, decode_rate = codec_rates(codec, representations, jnp.dtype(precision))
            row = CodecFigures(
                codec=contender.text,
                peer=contender.peer,
                code_bytes=codec.code_bytes,
                compression=2 * config.d_model / codec.code_bytes,
                table_bytes=sum(table.nbytes for table in codec.tables().values()),
                relative_mse=passages.relative_error(tested),
                encode_tokens_per_second=encode_rate,
                decode_tokens_per_second=decode_rate,
                fit_seconds=fit_seconds,
            )
            progress.done()
            if questions is not None:
                begun = time.perf_counter()
                answers = questions.answers(passages, label)
                whole = whole or answers
                row = replace(row, **answers.compared(whole), answer_seconds=time.perf_counter() - begun)
            rows.append(row)
            progress.say(row.summary())
    found = CodecBench(
        memory=str(opened.location),
        version=opened.version,
        model=name_for_others(loaded.path),
        codecs=tuple(rows),
        queries=0 if whole is None else len(whole.texts),
        scored=0 if whole is None else whole.with_gold,
        passages=len(needed),
        held_out_passages=len(tested),
        held_out_tokens=int(opened.token_counts(tested).sum()),
        fit_tokens=samples.most_tokens,
        encoder_tokens_per_second=rate,
        settings={} if options is None else options.settings(),
        plot=None if plot is None else Path(plot),
    )
    if plot is not None:
        with outputs.writing(plot, "--plot") as file:
            file.write(rate_plot(found).encode())
    return found


def _as_float32(hidden: jax.Array, ids: jax.Array) -> jax.Array:
    return hidden.astype(jnp.float32)
