"""Proposals that do not look at the image: windows on a regular grid, and random boxes. What is better than these?

Fast R-CNN, section 5.5, trains with such dense boxes beside selective search's; OverFeat (R-CNN, section 4.6) takes
its regions from a grid alone.

Letters: N boxes; S sides, A ratios.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDES = tuple(32 * 2 ** (i / 2) for i in range(9))  # 32 to 512
RATIOS = (0.5, 1.0, 2.0)


def sliding_windows(
    image_size: tuple[int, int],
    sides: Sequence[float] = SIDES,
    ratios: Sequence[float] = RATIOS,
    step: float = 0.25,
) -> np.ndarray:
    """Windows of every size at regular places, all of them inside the image: (N, 4) float32, by sides, then ratios.

    image_size: (height, width). sides: the square roots of the areas, in pixels; ratios: height over width.
    step: from one window to the next, as a share of its width and of its height; the rows and columns are spread out
        so that the first and the last touch the image's borders. Windows larger than the image are left out.

    Raises ValueError for a side, a ratio or a step that is not positive.
    """
    if min([step, *sides, *ratios], default=1) <= 0:
        raise ValueError(f"sliding_windows: sides, ratios and step must be positive, got {sides}, {ratios}, {step}")
    found = [np.zeros((0, 4), np.float32)]
    for side in sides:
        for ratio in ratios:
            height, width = side * ratio**0.5, side / ratio**0.5
            rows, columns = places(image_size[0], height, step), places(image_size[1], width, step)
            top, left = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
            found.append(np.stack([left, top, left + width, top + height], axis=1).astype(np.float32))
    return np.concatenate(found)


def places(length: float, window: float, step: float) -> np.ndarray:
    """Where windows begin along an axis: from 0 to length - window, at most `step` windows apart."""
    if window > length:
        return np.zeros(0)
    return np.linspace(0, length - window, 1 + int(np.ceil((length - window) / (step * window) - 1e-9)))


def random_boxes(
    image_size: tuple[int, int], num: int, rng: np.random.Generator, min_side: float = 20, most_ratio: float = 3.0
) -> np.ndarray:
    """`num` boxes inside an image of (height, width): (num, 4) float32.

    The square root of the area is uniform from `min_side` to that of the whole image, the logarithm of the ratio of
    height to width uniform from 1 / most_ratio to most_ratio (a side that is longer than the image is cut to it), the
    place uniform. Raises ValueError for a negative number, or an image that is smaller than min_side.
    """
    height, width = image_size
    if num < 0 or not 0 < min_side <= min(height, width) or most_ratio < 1:
        raise ValueError(
            f"random_boxes: num {num} must be at least 0, most_ratio {most_ratio} at least 1, and min_side {min_side} "
            f"from above 0 to the image's shorter side, {min(height, width)}"
        )
    side = rng.uniform(min_side, (height * width) ** 0.5, num)
    root = np.exp(rng.uniform(-np.log(most_ratio), np.log(most_ratio), num) / 2)
    sides = np.stack([np.minimum(side / root, width), np.minimum(side * root, height)], axis=1)  # (N, 2) x, y
    corner = rng.random((num, 2)) * (np.array([width, height]) - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
