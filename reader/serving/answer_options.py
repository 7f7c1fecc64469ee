"""How questions are answered, decided: what a caller left open is settled by the model and the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ... import UsageError
from ...encoders.models import LoadedModel
from ...encoders.precision import Precision, PrecisionChoice, chosen_precision
from ..config import LateInteractionConfig
from ..formats.queries import LONG_QUESTIONS, LongQuestions
from ..generation import GenerationConfig
from ..grounded import decodes_grounded
from .answer_defaults import DEFAULT_ANSWER_TOKENS, DEFAULT_CANDIDATES, DEFAULT_SELECT
from .device_stages import check_answers, default_rows


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How questions are answered. Equal options give equal answers; `rows` changes rounding alone.

    Attributes:
        retrieve: passages that the first stage retrieves for each query. Where they are more than `candidates`, late
            interaction over the stored memory chooses.
        candidates: passages read of each query (m). A reader that does not re-rank reads `select`.
        retrieval_weight: what the first stage's score counts in that choice (`LateInteractionConfig`).
        select: passages kept for the decoder (k).
        generation: how answers are decoded.
        precision: of matrix products; accumulation is float32.
        rows: queries in a batch (B).
        long_questions: what is done with questions that the reader cannot take whole.
        no_answer_below: answers of a lower probability are withheld; 0 gives every answer.
    """

    retrieve: int
    candidates: int
    retrieval_weight: float
    select: int
    generation: GenerationConfig
    precision: Precision
    rows: int
    long_questions: LongQuestions
    no_answer_below: float = 0.0

    @property
    def late_interaction(self) -> bool:
        """Whether candidates are chosen by late interaction."""
        return self.retrieve > self.candidates

    def settings(self) -> dict[str, Any]:
        """What answers depend on, by name, as JSON values.

        Not the batch size: it may be lowered to resume after running out of memory. Late interaction and withheld
        answers are named only where they are used.
        """
        generation = self.generation
        return {
            "candidates": self.candidates,
            **({"retrieve": self.retrieve} if self.late_interaction else {}),
            "select": self.select,
            "beams": generation.beams,
            "max_answer_tokens": generation.max_new_tokens,
            "length_penalty": generation.length_penalty,
            "grounded": generation.grounded,
            "precision": self.precision,
            **({"no_answer_below": self.no_answer_below} if self.no_answer_below else {}),
        }

    @classmethod
    def resolved(
        cls,
        model: LoadedModel,
        *,
        retrieve: int | None = None,
        candidates: int | None = None,
        select: int | None = None,
        beams: int = 1,
        max_answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        length_penalty: float = 1.0,
        grounded: bool | None = None,
        precision: PrecisionChoice = "auto",
        batch_size: int | None = None,
        long_questions: LongQuestions = "auto",
        no_answer_below: float = 0.0,
    ) -> AnswerOptions:
        """Options with what the caller left open decided by the model and the device.

        `retrieve` and `candidates` None are what the model's section `late_interaction` says, if it is enabled, else
        `DEFAULT_CANDIDATES`; `select` None is `DEFAULT_SELECT`, or all candidates where they are fewer; `grounded` None
        is whether the model's tokenizer loses upper case (`grounded.decodes_grounded`); `batch_size` None and
        `precision` "auto" suit the device.

        Raises UsageError for numbers that contradict each other, ModelError for a model that cannot answer,
        MismatchError for one that cannot answer grounded.
        """
        config = check_answers(model, grounded=bool(grounded))
        late = config.late_interaction or LateInteractionConfig(enabled=False)
        if candidates is None:
            candidates = max(late.candidates, select or 1) if late.enabled else DEFAULT_CANDIDATES
            candidates = candidates if retrieve is None else min(candidates, retrieve)
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
        if retrieve is not None and retrieve < candidates:
            raise UsageError(f"retrieve ({retrieve}) must not be less than candidates ({candidates})")
        if retrieve is None:
            retrieve = max(late.retrieve, candidates) if late.enabled else candidates if config.scores else select
        return cls(
            retrieve=retrieve,
            candidates=candidates if config.scores else select,
            retrieval_weight=late.retrieval_weight,
            select=select,
            generation=GenerationConfig(
                beams=beams,
                max_new_tokens=max_answer_tokens,
                length_penalty=length_penalty,
                grounded=decodes_grounded(config, model.tokenizer) if grounded is None else grounded,
            ),
            precision=chosen_precision(precision),
            rows=batch_size or default_rows(),
            long_questions=long_questions,
            no_answer_below=no_answer_below,
        )
