"""How questions are answered, decided: what a caller left open is settled by the model and the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ... import UsageError
from ...encoders.models import LoadedModel
from ..formats.queries import LONG_QUESTIONS, LongQuestions
from ..generation import GenerationConfig
from ..grounded import decodes_grounded
from .answer_defaults import DEFAULT_ANSWER_TOKENS, DEFAULT_CANDIDATES, DEFAULT_SELECT, Precision
from .device_stages import check_answers, default_rows


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How questions are answered. Equal options give equal answers; `rows` changes rounding alone.

    Attributes:
        candidates: passages read of each query (m). A reader that does not re-rank reads `select`.
        select: passages kept for the decoder (k).
        generation: how answers are decoded.
        precision: of matrix products; accumulation is float32.
        rows: queries in a batch (B).
        long_questions: what is done with questions that the reader cannot take whole.
        no_answer_below: answers of a lower probability are withheld; 0 gives every answer.
    """

    candidates: int
    select: int
    generation: GenerationConfig
    precision: Precision
    rows: int
    long_questions: LongQuestions
    no_answer_below: float = 0.0

    @classmethod
    def resolved(
        cls,
        model: LoadedModel,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        select: int | None = None,
        beams: int = 1,
        max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        length_penalty: float = 1.0,
        grounded: bool | None = None,
        precision: Precision = "bfloat16",
        batch_size: int | None = None,
        long_questions: LongQuestions = "auto",
        no_answer_below: float = 0.0,
    ) -> AnswerOptions:
        """Options with what the caller left open decided by the model and the device.

        `select` None is `DEFAULT_SELECT`, or all candidates where they are fewer; `grounded` None is whether the
        model's tokenizer loses upper case (`grounded.decodes_grounded`); `batch_size` None suits the device.

        Raises UsageError for numbers that contradict each other, ModelError for a model that cannot answer,
        MismatchError for one that cannot answer grounded.
        """
        select = min(DEFAULT_SELECT, candidates) if select is None else select
        if not 1 <= select <= candidates:
            raise UsageError(f"select ({select}) must lie between 1 and candidates ({candidates})")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {batch_size}")
        if not 0 <= no_answer_below <= 1:
            raise UsageError(f"no_answer_below is a probability, 0 to 1, not {no_answer_below}")
        if long_questions not in LONG_QUESTIONS:
            known = ", ".join(LONG_QUESTIONS)
            raise UsageError(f"no way {long_questions!r} to treat long questions; there are: {known}")
        if precision not in get_args(Precision):
            raise UsageError(f"no precision {precision!r}; there are: {', '.join(get_args(Precision))}")
        config = check_answers(model, grounded=bool(grounded))
        return cls(
            candidates=candidates if config.scores else select,
            select=select,
            generation=GenerationConfig(
                beams=beams,
                max_new_tokens=max_answer_tokens,
                length_penalty=length_penalty,
                grounded=decodes_grounded(config, model.tokenizer) if grounded is None else grounded,
            ),
            precision=precision,
            rows=batch_size or default_rows(),
            long_questions=long_questions,
            no_answer_below=no_answer_below,
        )
