"""The slow twin of R-CNN's warps: every output pixel by itself, its stretch of the image as a list of shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def warp_box(
    image: np.ndarray, source: Sequence[float], visible: Sequence[float], side: int, mean: Sequence[float]
) -> np.ndarray:
    """image (H, W, 3) and two rectangles -> pixels less mean (3, side, side), 0 where nothing is to be seen."""
    out = np.zeros((3, side, side))
    height, width = image.shape[:2]
    for i in range(side):
        down = shares(source[1], source[3], visible[1], visible[3], i, side, height)
        for j in range(side):
            across = shares(source[0], source[2], visible[0], visible[2], j, side, width)
            if down is not None and across is not None:
                blend = (image * np.outer(down, across)[:, :, None]).sum(axis=(0, 1))
                out[:, i, j] = blend - np.asarray(mean)
    return out


def shares(
    low: float, high: float, visible_low: float, visible_high: float, k: int, side: int, length: int
) -> np.ndarray | None:
    """The share of each of `length` pixels in output k of `side`, or None if its middle is not to be seen."""
    step = (high - low) / side
    middle = low + (k + 0.5) * step
    if not (max(visible_low, 0) <= middle <= min(visible_high, length)):
        return None
    if step < 1:  # bilinear: 1 on a pixel's centre, falling to 0 at the next ones'
        at = min(max(middle, 0.5), length - 0.5)
        return np.array([max(0.0, 1 - abs(pixel + 0.5 - at)) for pixel in range(length)])
    covered = [max(0.0, min(middle + step / 2, p + 1) - max(middle - step / 2, p)) for p in range(length)]
    return np.array(covered) / sum(covered)
