"""How large a network sees an image.

Fast R-CNN, section 2.4: the short side gets s pixels, the long one at most so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.detection.boxes import area
from minidetect.kernels.patches import image_planes
from minidetect.kernels.resize import resize_image

CANONICAL_AREA = 224.0**2  # of the crops that the paper's backbones were trained on


class ImageScale(NamedTuple):
    """short_side: s, 600 in the papers; longest: what the long side may have, 1000 there."""

    short_side: int = 600
    longest: int = 1000

    def factor(self, size: tuple[int, int]) -> float:
        """Pixels of the network's image per pixel of an image of (height, width)."""
        return min(self.short_side / min(size), self.longest / max(size))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """image (H, W, 3) uint8 -> the same, larger or smaller."""
        factor = self.factor(image.shape[:2])
        size = tuple(max(1, round(side * factor)) for side in image.shape[:2])
        return image if size == image.shape[:2] else resize_image(image, size)


def box_factors(old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """(4,) float32: what boxes x1, y1, x2, y2 of an image of shape `old` are multiplied by where it has shape `new`.

    old, new: (height, width, ...); the two axes differ by rounding.
    """
    return np.tile(np.array(new[1::-1]) / old[1::-1], 2).astype(np.float32)


def normalise(image: np.ndarray, mean_colour: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 around zero: the mean colour is taken away, 64 levels become 1."""
    return image_planes(image, mean_colour, 1 / 64)


def assign_scales(
    boxes: np.ndarray, factors: Sequence[float], canonical_area: float = CANONICAL_AREA
) -> np.ndarray:
    """(R,) int64: at which of several scales a region's area is nearest to 224 x 224. Fast R-CNN, section 2.4.

    boxes: (R, 4) in pixels of the original image; factors: pixels of each scaled image per original pixel.
    canonical_area: in square pixels of the scaled image, of the objects that a network of one's own knows best. Of two
    scales that are equally near, the first is taken.
    """
    return np.abs(area(boxes)[:, None] * np.square(factors) - canonical_area).argmin(axis=1)
