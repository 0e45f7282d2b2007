"""Which proposals are learned from: balanced sampling, and the sliding windows of an image pyramid.

N: proposals or windows. Randomness comes only from the generator that the caller passes in.
"""

from __future__ import annotations

import math

import numpy as np


def sample_balanced(
    is_positive: np.ndarray,
    is_negative: np.ndarray,
    num: int,
    positive_fraction: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `num` of N proposals without replacement, at most `positive_fraction` of them positive.

    Where positives are too few, negatives fill the batch (Fast R-CNN, section 2.3: 0.25; Faster R-CNN,
    section 3.1.3: 0.5; FaceCraft's first stage: 0.05). Where negatives are too few the batch is smaller:
    positives never fill it, so the fraction of them among the *asked* number is kept.

    is_positive, is_negative: bool (N,); a proposal that is neither is ignored.
    Returns two ascending int64 index arrays, `pos_idx` and `neg_idx`.
    Raises ValueError for unequal lengths, a proposal that is both, num < 0 or a fraction outside [0, 1].
    """
    is_positive, is_negative = np.asarray(is_positive, bool), np.asarray(is_negative, bool)
    if is_positive.ndim != 1 or is_positive.shape != is_negative.shape:
        raise ValueError(
            "sample_balanced: is_positive and is_negative must both have shape (N,), got "
            f"{is_positive.shape} and {is_negative.shape}"
        )
    if (is_positive & is_negative).any():
        row = int(np.argmax(is_positive & is_negative))
        raise ValueError(f"sample_balanced: proposal {row} is marked positive and negative at once")
    if num < 0 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            "sample_balanced: needs num >= 0 and a positive_fraction in [0, 1], got "
            f"{num} and {positive_fraction}"
        )
    most_positives = math.floor(num * positive_fraction + 0.5)
    pos_idx = _draw(np.flatnonzero(is_positive), most_positives, rng)
    neg_idx = _draw(np.flatnonzero(is_negative), num - len(pos_idx), rng)
    return pos_idx, neg_idx


def _draw(candidates: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(candidates) > most:
        candidates = np.sort(rng.choice(candidates, most, replace=False))
    return candidates.astype(np.int64, copy=False)


def pyramid_scales(levels_per_octave: int = 5, octaves: int = 5, max_upscale: float = 1.0) -> list[float]:
    """Factors by which an image pyramid resizes its image, the largest first.

    The factors are 2 ** (-level / levels_per_octave), from the largest that does not exceed `max_upscale`
    down to 2 ** -octaves; 1 is always among them when max_upscale >= 1.

    FaceCraft, section 4.2, gives its pyramid an interval of 5 and a smallest level of 1 / 2**5. An interval
    is five levels an octave in deformable part models, but could also mean five octaves of one level each.
    The default takes the first reading, down to the smallest level the paper states: 26 levels from 1 to
    1/32. `levels_per_octave=1` is the other reading, six levels.
    """
    if levels_per_octave < 1 or octaves < 0 or max_upscale <= 0:
        raise ValueError(
            "a pyramid needs levels_per_octave >= 1, octaves >= 0 and max_upscale > 0, got "
            f"{levels_per_octave}, {octaves}, {max_upscale}"
        )
    # 1e-9: log2 of an exact power such as 2 ** 0.2 may come out a hair below it
    first = -math.floor(levels_per_octave * math.log2(max_upscale) + 1e-9)
    return [2.0 ** (-level / levels_per_octave) for level in range(first, levels_per_octave * octaves + 1)]


def sliding_windows(
    image_size: tuple[int, int],
    window: int,
    stride: int,
    levels_per_octave: int = 5,
    octaves: int = 5,
    max_upscale: float = 1.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Square windows of every level of an image pyramid, in coordinates of the image. FaceCraft, section 4.2.

    On each level a window of `window` pixels moves by `stride` pixels (FaceCraft: 12 and 8), both of the
    level, so on a level of half the size it covers 24 pixels of the image and moves by 16. All windows lie
    inside the image; a strip narrower than the stride may stay uncovered at the right and lower edge.

    image_size: (height, width). levels_per_octave, octaves, max_upscale: see `pyramid_scales`.
    rng: shifts the grid of each level by a random part of the stride, so that training does not see the
        same windows in every epoch; None starts it at the upper left corner.

    Returns float32 (N, 4): largest level first, then by rows. (0, 4) for an image smaller than the window.
    """
    height, width = image_size
    if window < 1 or stride < 1:
        raise ValueError(f"sliding_windows: window and stride must be at least 1, got {window}, {stride}")
    levels = [np.zeros((0, 4))]
    for scale in pyramid_scales(levels_per_octave, octaves, max_upscale):
        x1 = _window_starts(width * scale, window, stride, rng) / scale
        y1 = _window_starts(height * scale, window, stride, rng) / scale
        y1, x1 = (grid.ravel() for grid in np.meshgrid(y1, x1, indexing="ij"))
        side = window / scale
        levels.append(np.stack([x1, y1, x1 + side, y1 + side], axis=1))
    return np.concatenate(levels).astype(np.float32)


def _window_starts(length: float, window: int, stride: int, rng: np.random.Generator | None) -> np.ndarray:
    """Where windows start along one axis of a level that is `length` pixels long (not a whole number)."""
    room = length - window + 1e-6  # a window of exactly the level's length fits, rounding or not
    if room < 0:
        return np.zeros(0)
    phase = 0.0 if rng is None else rng.uniform(0, min(stride, room))
    return np.arange(phase, room, stride, dtype=np.float64)
