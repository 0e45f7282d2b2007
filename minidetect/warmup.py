"""Compile ahead of time: what `minidetect warmup` does once, so that no later process has to.

Kernels are compiled at their first call with a type of arrays, so each is called: on noise that every stage
takes for faces, and for the training on a batch of noise.
"""

from __future__ import annotations

import numpy as np

from minidetect.api import Detector, load


def warm_up(training: bool = False) -> Detector:
    """Call all kernels of detection, and of training on request. Returns the detector that was used."""
    detector = load("facecraft")
    warm_up_detection(detector)
    if training:
        warm_up_training()
    return detector


def warm_up_detection(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    before, detector.pipeline.thresholds = detector.pipeline.thresholds, (0.0, 0.0, 0.0)  # nothing is sorted out
    try:
        detector.detect([image])
    finally:
        detector.pipeline.thresholds = before


def warm_up_training(batch: int = 8) -> None:
    """One training step of the joint cascade, and the matching of windows with faces."""
    from minidetect.detection.matcher import match, overlaps_ignore
    from minidetect.models.facecraft import JointCascade
    from minidetect.train.loop import train_step
    from minidetect.train.patches import BatchSource, Pool

    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 20, 20], [10, 0, 40, 20]], np.float32)
    match(boxes, boxes[:1], 0.7, 0.5)
    overlaps_ignore(boxes, boxes[:1])
    patches = rng.integers(0, 256, (batch, 48, 48, 3), dtype=np.uint8)
    pool = Pool(patches, np.zeros((batch, 4), np.float32), np.ones(batch, np.float32))
    source = BatchSource(pool, [(pool, 1.0)], batch, 0.5)
    cascade = JointCascade(rng, gates=(0.0, 0.0))  # all rows reach the last branch

    def losses(rng: np.random.Generator) -> dict:
        patches, labels, deltas = source.draw(rng)
        return cascade.losses(cascade.normalise(patches), labels, [deltas] * 3, rng)

    cascade.train()
    train_step(cascade, losses, rng, 5.0, 0, check_nan=False)
