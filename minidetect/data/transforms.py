"""Random changes to training pictures: mirror, colours, crop, and boxes that are a little off.

All randomness comes from the `rng` that is passed in, and no function changes its arguments. Images are
(H, W, 3) uint8; batches of patches (N, H, W, 3) uint8. Boxes (G, 4) float32 and landmarks (G, 5, 2) in
pixels of the image; a missing landmark is NaN and stays so.

The colour kernel is compiled but not parallel, so that it may run in a thread beside the training, whose
own kernels hold Numba's thread pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidetect.detection.structures import Target
from minidetect.kernels.dispatch import kernel

MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)  # left and right eye, and mouth corner, change names in a mirror
GRAY_WEIGHTS = (0.299, 0.587, 0.114)
FILL = (124, 117, 104)  # about the mean colour of photographs


@dataclass(frozen=True)
class ColourJitter:
    """How far colours may move. Each picture draws its own values, uniformly.

    brightness: added, up to +- this share of the range (0.15: up to 38 of 255).
    contrast: factor in 1 +- this, around mid grey. saturation: factor in 1 +- this.
    gamma: exponent in exp(+- this). gray: share of pictures that lose their colour.
    """

    brightness: float = 0.15
    contrast: float = 0.25
    saturation: float = 0.3
    gamma: float = 0.25
    gray: float = 0.1


NO_JITTER = ColourJitter(0.0, 0.0, 0.0, 0.0, 0.0)
DEFAULT_JITTER = ColourJitter()


# ------------------------------------------------------------------------------------------ mirror


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """(G, 4) boxes in the mirrored image of this width: x1, x2 -> width - x2, width - x1."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped


def flip_landmarks(landmarks: np.ndarray, width: float) -> np.ndarray:
    """(G, 5, 2) landmarks in the mirrored image; the left eye becomes the right one, and so on.

    Raises ValueError for another number of points than five, whose pairs nobody knows.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(f"landmarks must be (G, 5, 2), got {landmarks.shape}")
    flipped = landmarks[:, MIRRORED_LANDMARKS].copy()
    flipped[:, :, 0] = width - flipped[:, :, 0]
    return flipped


def flip_deltas(deltas: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """(N, 4) box offsets (dx, dy, dw, dh), with dx negated where `flipped` (N,) bool says so."""
    out = deltas.copy()
    out[flipped, 0] *= -1
    return out


def flip_example(image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """The mirror image and what is true of it."""
    width = image.shape[1]
    landmarks = None if target.landmarks is None else flip_landmarks(target.landmarks, width)
    mirrored = Target(
        flip_boxes(target.boxes, width), target.labels, flip_boxes(target.ignore, width), landmarks
    )
    return np.ascontiguousarray(image[:, ::-1]), mirrored


# ----------------------------------------------------------------------------------------- colours


def jitter_colours(
    image: np.ndarray, rng: np.random.Generator, jitter: ColourJitter = DEFAULT_JITTER
) -> np.ndarray:
    """One (H, W, 3) uint8 image with its brightness, contrast, saturation and gamma moved."""
    return _recoloured(image[None], rng, jitter, np.zeros(1, bool))[0]


def augment_patches(
    patches: np.ndarray, rng: np.random.Generator, flip: float = 0.5, jitter: ColourJitter = DEFAULT_JITTER
) -> tuple[np.ndarray, np.ndarray]:
    """A batch (N, H, W, 3) uint8 in which each patch is recoloured on its own, and mirrored or not.

    flip: share of patches to mirror. Returns the new batch and which were mirrored, (N,) bool, for their
    boxes (`flip_deltas`) and landmarks (`flip_landmarks`) to follow.
    """
    flipped = rng.random(len(patches)) < flip
    return _recoloured(patches, rng, jitter, flipped), flipped


def _recoloured(
    patches: np.ndarray, rng: np.random.Generator, jitter: ColourJitter, flipped: np.ndarray
) -> np.ndarray:
    if patches.ndim != 4 or patches.shape[3] != 3 or patches.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 with a last axis of 3 (RGB), got {patches.dtype} {patches.shape[1:]}"
        )
    curves, saturation = _draw_curves(len(patches), rng, jitter)
    out = np.empty(patches.shape, np.uint8)
    _recolour(patches, curves, saturation, flipped, out)
    return out


def _draw_curves(
    num: int, rng: np.random.Generator, jitter: ColourJitter
) -> tuple[np.ndarray, np.ndarray]:
    """For each picture, what each of the 256 values becomes (N, 256) float32, and its saturation (N,)."""
    gamma = np.exp(rng.uniform(-jitter.gamma, jitter.gamma, (num, 1)))
    contrast = 1 + rng.uniform(-jitter.contrast, jitter.contrast, (num, 1))
    brightness = rng.uniform(-jitter.brightness, jitter.brightness, (num, 1))
    saturation = 1 + rng.uniform(-jitter.saturation, jitter.saturation, num)
    saturation[rng.random(num) < jitter.gray] = 0.0
    values = np.linspace(0, 1, 256) ** gamma  # (N, 256)
    curves = 255 * ((values - 0.5) * contrast + 0.5 + brightness)
    return curves.astype(np.float32), saturation.astype(np.float32)


@kernel
def _recolour(patches, curves, saturation, flipped, out):
    """out (N, H, W, 3) uint8: each value through its picture's curve, then towards or away from grey."""
    num, height, width, _ = patches.shape
    for n in range(num):
        curve, strength = curves[n], saturation[n]
        for y in range(height):
            for x in range(width):
                red = curve[patches[n, y, x, 0]]
                green = curve[patches[n, y, x, 1]]
                blue = curve[patches[n, y, x, 2]]
                gray = GRAY_WEIGHTS[0] * red + GRAY_WEIGHTS[1] * green + GRAY_WEIGHTS[2] * blue
                to = width - 1 - x if flipped[n] else x
                out[n, y, to, 0] = min(max(gray + strength * (red - gray) + 0.5, 0.0), 255.0)
                out[n, y, to, 1] = min(max(gray + strength * (green - gray) + 0.5, 0.0), 255.0)
                out[n, y, to, 2] = min(max(gray + strength * (blue - gray) + 0.5, 0.0), 255.0)


# -------------------------------------------------------------------------------------------- crop


def random_crop(
    image: np.ndarray,
    target: Target,
    size: tuple[int, int],
    rng: np.random.Generator,
    min_visible: float = 0.5,
) -> tuple[np.ndarray, Target]:
    """A window of `size` (height, width) that shows at least one of the boxes, if there are any.

    One box is drawn, and the window is placed at random among the places that hold all of it (or, where
    it is too big, as much of it as fits). See `crop_example` for what becomes of the others.
    """
    low, high = np.zeros(2), np.maximum(np.array(image.shape[1::-1]) - np.array(size[::-1]), 0).astype(float)
    if len(target.boxes):
        x1, y1, x2, y2 = target.boxes[rng.integers(len(target.boxes))].astype(float)
        first = np.array([x2, y2]) - np.array(size[::-1])  # the window's corner that just holds the box
        last = np.array([x1, y1])
        first, last = np.minimum(first, last), np.maximum(first, last)
        low, high = np.clip(np.ceil(first), low, high), np.clip(np.floor(last), low, high)
    left, top = (int(rng.integers(int(a), max(int(a), int(b)) + 1)) for a, b in zip(low, high, strict=True))
    return crop_example(image, target, (top, left), size, min_visible)


def crop_example(
    image: np.ndarray,
    target: Target,
    corner: tuple[int, int],
    size: tuple[int, int],
    min_visible: float = 0.5,
) -> tuple[np.ndarray, Target]:
    """The window of `size` (height, width) whose first pixel is at `corner` (top, left) of the image.

    Where the window reaches over the image's right or lower edge it is filled with a mean colour. Boxes
    are clipped to it: one that shows at least `min_visible` of its area stays a ground truth, one that
    shows less becomes an ignore region, one outside is dropped. Landmarks move along, in or out of view.

    Raises ValueError for a corner left of or above the image, or a window without pixels.
    """
    (top, left), (height, width) = corner, size
    if top < 0 or left < 0 or height < 1 or width < 1:
        raise ValueError(f"a crop needs a corner >= (0, 0) and a size >= (1, 1), got {corner} and {size}")
    window = image[top : top + height, left : left + width]
    out = np.empty((height, width, 3), np.uint8)
    out[...] = FILL
    out[: window.shape[0], : window.shape[1]] = window
    boxes, visible = _clip_to(target.boxes, top, left, window.shape)
    ignore, ignore_visible = _clip_to(target.ignore, top, left, window.shape)
    keep = (visible >= min_visible) & (visible > 0)
    landmarks = None
    if target.landmarks is not None:
        landmarks = target.landmarks[keep] - np.array([left, top], target.landmarks.dtype)
    partly = boxes[~keep & (visible > 0)]
    new_ignore = np.concatenate([ignore[ignore_visible > 0], partly]).astype(np.float32)
    return out, Target(boxes[keep], target.labels[keep], new_ignore, landmarks)


def _clip_to(
    boxes: np.ndarray, top: int, left: int, window: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) in the window's pixels, clipped to it, and the share of each that is left (G,)."""
    height, width = window[:2]
    moved = boxes - np.array([left, top, left, top], boxes.dtype)
    clipped = np.clip(moved, 0, np.array([width, height, width, height], boxes.dtype))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left_over = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    return clipped, left_over / np.maximum(area, 1e-9)


# ------------------------------------------------------------------------------------------- boxes


def jitter_boxes(
    boxes: np.ndarray, rng: np.random.Generator, shift: float = 0.1, scale: float = 0.2
) -> np.ndarray:
    """(N, 4) boxes moved and resized a little, keeping their proportions.

    shift: the centre moves by up to this share of the width and height. scale: the size is multiplied by
    a factor between 1 / (1 + scale) and 1 + scale, log-uniform. Boxes of positive size stay so.
    """
    if shift < 0 or scale < 0:
        raise ValueError(f"shift and scale must not be negative, got {shift} and {scale}")
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2 + rng.uniform(-shift, shift, size.shape) * size
    reach = np.log1p(scale)
    half = size / 2 * np.exp(rng.uniform(-reach, reach, (len(boxes), 1)))
    return np.concatenate([centre - half, centre + half], axis=1).astype(boxes.dtype)
