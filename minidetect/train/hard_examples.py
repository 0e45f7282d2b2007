"""The Hard Example Proposal Network: samples that the nets of today find hard, proposed while training goes on.

Multi-output cascade, section 2.4 and its third figure. Two parts:

    propose   regularly run the cascade, as far as it is trained, over photos, and sort what it lets through by its
              overlap with the faces: below 0.3 negatives, above 0.7 positives, part faces between
    choose    of a batch's samples those of largest loss, task by task; the others count nothing

The paper describes the choice twice. Its figure keeps the top 70 % of the data: `multi_output_losses(keep=0.7)`.
Its text keeps the N largest losses, N the size of the batch, and fills up with random transforms of hard examples
where there are too few: `top_n`. Both are here; train/multi_output.py trains with the first.

N: samples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from minidetect.detection.hard_examples import hardest
from minidetect.models.cascade_pipeline import Pipeline
from minidetect.train.patches import Found, Photo, mine
from minidetect.train.typed_batches import TypedBatch, transformed

NEGATIVE_BELOW, POSITIVE_FROM = 0.3, 0.7  # IoU with a face's square, section 2.4


def propose(
    pipeline: Pipeline, photos: Sequence[Photo], stages: int, thresholds: tuple[float, float, float],
    rng: np.random.Generator, per_photo: int, min_face: float = 20.0,
) -> Found:
    """What the first `stages` stages let through at these thresholds, sorted by IoU; at most `per_photo` negatives.

    pipeline: is not changed; it works as `thorough`, without the second look. Its local NMS stays.
    """
    open_minded = pipeline.thorough()
    open_minded.thresholds = thresholds
    return mine(
        open_minded, photos, stages, rng, per_photo, positives_per_photo=20, parts_per_photo=20,
        min_iou=POSITIVE_FROM, negative_iou=NEGATIVE_BELOW, min_face=min_face,
    )


def top_n(
    candidates: TypedBatch, losses: np.ndarray, counts: Mapping[int, int], rng: np.random.Generator
) -> TypedBatch:
    """Of each type the `counts` samples of largest loss, and random transforms of those where there are fewer.

    losses: (N,), of the candidates. Types without a candidate are left out.
    """
    chosen = [candidates.rows(np.zeros(0, np.int64))]
    for kind, count in counts.items():
        rows = np.flatnonzero(candidates.types == kind)
        rows = rows[hardest(losses[rows], count)]
        if len(rows) == 0:
            continue
        chosen.append(candidates.rows(rows))
        missing = count - len(rows)
        if missing:
            chosen.append(transformed(candidates.rows(rng.choice(rows, missing)), rng))
    return TypedBatch.join(chosen)
