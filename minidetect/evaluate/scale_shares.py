"""How the anchors that a detector learns from are spread over scales: Group Sampling's Fig. 2, without any training.

    boxes of an image --layout, matching--> objects and background of each scale --sampler--> those learned from

The paper normalises by all samples together, so that the eight shares of a detector sum to 1.

Letters: S scales.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from minidetect.detection.anchor_layout import AnchorLayout
from minidetect.detection.group_sampler import Sampler
from minidetect.detection.structures import Target
from minidetect.models.layout_loss import label_anchors


@dataclass(frozen=True)
class ScaleShares:
    """Counts over all images, (S,) int64 each.

    scales: in pixels; objects, background: anchors that are matched, or far from every object; sampled_objects,
    sampled_background: those that a sampler takes. object_counts: how many objects are nearest to each scale.
    """

    scales: tuple[int, ...]
    objects: np.ndarray
    background: np.ndarray
    sampled_objects: np.ndarray
    sampled_background: np.ndarray
    object_counts: np.ndarray

    def shares(self, sampled: bool = True) -> np.ndarray:
        """(2, S): objects and background as shares of all samples, or of all anchors that are not ignored."""
        counts = [self.sampled_objects, self.sampled_background] if sampled else [self.objects, self.background]
        total = np.sum(counts)
        return np.array(counts) / total if total else np.zeros((2, len(self.scales)))


def scale_shares(
    layout: AnchorLayout, images: Iterable[tuple[tuple[int, int], Target]], sampler: Sampler, rng: np.random.Generator
) -> ScaleShares:
    """Count over images, each (height, width) and target. The sampler is asked for each image by itself.

    Every anchor has the same loss, but for a random thousandth that decides ties: samplers of hard examples choose as
    if nothing had been learned.
    """
    num = len(layout.scales)
    counts = np.zeros((5, num), np.int64)
    for size, target in images:
        groups = layout.groups(size)
        labels = label_anchors(layout.anchors(size), [target]).labels
        counts[0] += np.bincount(groups[labels > 0], minlength=num)
        counts[1] += np.bincount(groups[labels == 0], minlength=num)
        for sample in sampler(labels, groups, 1 + 1e-3 * rng.random(len(labels)), rng):
            counts[2] += np.bincount(groups[sample.pos_idx], minlength=num)
            counts[3] += np.bincount(groups[sample.neg_idx], minlength=num)
        sides = np.sqrt((target.boxes[:, 2:] - target.boxes[:, :2]).prod(axis=1))
        nearest = np.abs(np.log2(sides[:, None] / np.array(layout.scales))).argmin(axis=1)
        counts[4] += np.bincount(nearest, minlength=num)
    return ScaleShares(layout.scales, *counts)
