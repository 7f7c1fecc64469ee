"""The evaluation job: a prediction file scored against gold with KILT's metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from ..reader.formats.evaluation import RANKS, Evaluation, score_files


def evaluate(
    *,
    gold: str | os.PathLike[str],
    predictions: str | os.PathLike[str],
    ranks: Sequence[int] = RANKS,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
) -> Evaluation:
    """Scores predictions with KILT's metrics, as KILT's own scorer does.

    Args:
        gold: a query file of any format with answers or provenance, or a directory with a KILT file for each task.
        predictions: what `answer_file` writes, or KILT's own retrieval: a file, or a directory with files of the same
            names as in `gold`. One of the two may be "-", standard input.
        ranks: the k of recall@k and the other ranked metrics.
        format: the format of `gold`; None tells it from the content.
        fields: names of its fields that are not known: "question", "id", "answers" -> key or column.
        stdin: what "-" reads; None is standard input.

    Returns:
        The metrics, each in [0, 1], over all questions and by task.

    Raises:
        InputError: a file is malformed, or a gold question has no prediction.
        UsageError: the paths do not fit each other, or a rank is not positive.
        StorageError: a file cannot be read.

    Examples:
        >>> glimmer.evaluate(gold="questions.jsonl", predictions="predictions.jsonl").metrics["em"]
        0.5
    """
    return score_files(gold=gold, guess=predictions, ranks=ranks, format=format, fields=fields, stdin=stdin)
