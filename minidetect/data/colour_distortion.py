"""The colour changes of SSD and its successors: four of them, each in half of the pictures.

EXTD, section 3.4, "color distortions", with S3FD's settings. Brightness comes first, then saturation and hue, and
contrast before or after those two, by chance.

    brightness   colours times 1 +- 0.125
    contrast     away from, or towards, the picture's mean grey, times 1 +- 0.5
    saturation   away from, or towards, each pixel's own grey, times 1 +- 0.5
    hue          turned by up to 18 of 255, 25 degrees, with saturation and value (HSV) as they were

Left out: anything for batches. The kernels are not parallel, so that they may run beside a training (transforms.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidetect.data.transforms import GRAY_WEIGHTS
from minidetect.kernels.dispatch import kernel


@dataclass(frozen=True)
class ColourDistortion:
    """How far, and how often: each of the four happens with this probability. hue: in turns of the colour circle."""

    probability: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18 / 255


NO_DISTORTION = ColourDistortion(probability=0.0)


def distort_colours(
    image: np.ndarray, rng: np.random.Generator, distortion: ColourDistortion = ColourDistortion()
) -> np.ndarray:
    """One (H, W, 3) uint8 image in other colours; raises ValueError for another shape or dtype."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    happens = rng.random(4) < distortion.probability
    brightness, contrast, saturation = (
        1 + rng.uniform(-reach, reach) for reach in (distortion.brightness, distortion.contrast, distortion.saturation)
    )
    hue, contrast_first = rng.uniform(-distortion.hue, distortion.hue), rng.random() < 0.5
    out = image.astype(np.float32)
    if happens[0]:
        out = clipped(out * np.float32(brightness))
    if happens[1] and contrast_first:
        out = changed_contrast(out, contrast)
    if happens[2]:
        grey = grey_of(out)[:, :, None]
        out = clipped(grey + np.float32(saturation) * (out - grey))
    if happens[3]:
        turn_hue(out, np.float32(6 * hue))
    if happens[1] and not contrast_first:
        out = changed_contrast(out, contrast)
    return (out + np.float32(0.5)).astype(np.uint8)


def changed_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) float32 with distances from the mean grey multiplied."""
    grey = grey_of(pixels).mean()
    return clipped(grey + np.float32(factor) * (pixels - grey))


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 -> (H, W), how bright each pixel looks."""
    return pixels @ np.array(GRAY_WEIGHTS, np.float32)


def clipped(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, 0, 255)


@kernel
def turn_hue(pixels, sextants):
    """Turn each colour of (H, W, 3) float32 on the HSV circle, which has six sextants, in place."""
    for i in range(pixels.shape[0]):
        for j in range(pixels.shape[1]):
            r, g, b = pixels[i, j, 0], pixels[i, j, 1], pixels[i, j, 2]
            high, low = max(r, g, b), min(r, g, b)
            spread = high - low
            if spread <= 0:
                continue  # grey has no hue
            if high == r:
                at = (g - b) / spread
            elif high == g:
                at = 2 + (b - r) / spread
            else:
                at = 4 + (r - g) / spread
            at = (at + sextants) % 6
            for c in range(3):  # each channel is a plateau two sextants wide with slopes of one sextant
                away = abs((at - 2 * c + 3) % 6 - 3)  # from the channel's own pure colour, 0 to 3
                pixels[i, j, c] = low + spread * min(max(2 - away, 0.0), 1.0)
