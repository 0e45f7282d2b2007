"""Square training crops of photos with faces: where to cut, and what stays true of the crop.

EXTD, section 3.4 ("random crop"; "the conventional setting from S3FD"), with the two ways to choose a square window
that its published code has:

    anchor sampling   a face is drawn, and a size that it shall have in the crop, around that of an anchor not more than
                      one step larger than itself: so large faces become small ones often, which are what there are too
                      few of (half of the crops). Tang et al., "PyramidBox" (2018), section 3.3
    random square     a square with a side of 0.3 to 1 times the image's shorter side, anywhere

and Group Sampling's (its section 5), which leaves the sizes of faces as they are, but for a factor that is drawn for
the whole image:

    scale jitter      the image is resized by 0.25 n, n from 1 to 8, and a part of it cut out, here mostly around a face

The window may reach over the image's border, where it is filled with the mean colour. Then it is resized.

What is otherwise in the published code: colours are changed before the crop; faces under 36 square pixels are dropped,
here those with a shorter side under 6 become ignore regions; one of five of Pillow's filters resizes, here one of three
ways; of five random squares, one as large as the image allows, one is chosen; and it has two rules for the size wanted,
of which this is the one with a limit for the largest anchor.

Letters: G faces, S side of a crop in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minidetect.data.colour_distortion import ColourDistortion, distort_colours
from minidetect.data.transforms import FILL, flip_example
from minidetect.detection.structures import Target
from minidetect.kernels.resize import crop_resize, resize_image

LARGEST_WINDOW = 4096  # pixels a side
INTERPOLATIONS = ("area", "bilinear", "nearest")


class Window(NamedTuple):
    """A square of whole pixels of an image: left, top, side. It may reach outside."""

    left: int
    top: int
    side: int


@dataclass(frozen=True)
class CropSettings:
    """How a training crop is made. The defaults are the published code's.

    size: S. sides: of the anchors, which faces are sampled towards; those of S and more are not used.
    anchor_sampling: the share of crops made so. jitter: factors of scale jitter, which then takes the place of both
    ways; around_face: the share of those crops that are cut where a face is.
    flip, vertical_flip: shares of mirrored crops; EXTD names vertical flips, too, but its published code has none.
    min_face: a face with a shorter side below, in pixels of the crop, is an ignore region.
    """

    size: int = 640
    sides: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    anchor_sampling: float = 0.5
    jitter: tuple[float, ...] = ()
    around_face: float = 0.75
    flip: float = 0.5
    vertical_flip: float = 0.0
    min_face: float = 6.0
    colours: ColourDistortion = ColourDistortion()


def training_crop(
    image: np.ndarray, target: Target, rng: np.random.Generator, settings: CropSettings = CropSettings()
) -> tuple[np.ndarray, Target]:
    """A crop (S, S, 3) uint8 of an image (H, W, 3) uint8, and its target in the crop's pixels. EXTD, section 3.4."""
    size = image.shape[:2]
    if settings.jitter:
        window = jittered_window(target.boxes, size, settings.size, rng, settings.jitter, settings.around_face)
    elif len(target.boxes) and rng.random() < settings.anchor_sampling:
        window = anchor_sampled_window(target.boxes, size, settings.size, rng, settings.sides)
    else:
        window = random_square(size, rng)
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    crop = cut_window(image, window, settings.size, interpolation)
    target = target_in_window(target, window, settings.size, settings.min_face)
    crop = distort_colours(crop, rng, settings.colours)
    if rng.random() < settings.flip:
        crop, target = flip_example(crop, target)
    if rng.random() < settings.vertical_flip:
        crop, target = upside_down(crop, target)
    return crop, target


def anchor_sampled_window(
    boxes: np.ndarray, image_size: tuple[int, int], size: int, rng: np.random.Generator, sides: Sequence[int]
) -> Window:
    """A window in which one of the faces (G, 4) gets a size near that of an anchor. PyramidBox, section 3.3.

    The face's size s is the root of its area. Of the anchors' sides up to the first that is larger than s one is drawn
    evenly, and the size wanted from half of it to twice it (and no more than twice s, for the largest of them). The
    window holds the face, or lies within it if it is smaller.
    Raises ValueError for no face, or one without area.
    """
    if len(boxes) == 0:
        raise ValueError("anchor sampling needs a face to draw")
    x1, y1, x2, y2 = (float(v) for v in boxes[rng.integers(len(boxes))])
    width, height = x2 - x1, y2 - y1
    if not (width > 0 and height > 0):
        raise ValueError(f"anchor sampling needs faces with width and height, got {[x1, y1, x2, y2]}")
    face = (width * height) ** 0.5
    usable = [side for side in sides if side < size] or [size]
    last = min(int(np.searchsorted(usable, face, side="right")), len(usable) - 1)
    chosen = int(rng.integers(last + 1))
    high = 2.0 * usable[chosen] if chosen < last else min(2.0 * usable[chosen], 2 * face)
    low = min(usable[chosen] / 2, high)
    side = max(1, round(size * face / rng.uniform(low, high)))
    return Window(_start(x1, width, side, image_size[1], rng), _start(y1, height, side, image_size[0], rng), side)


def jittered_window(
    boxes: np.ndarray, image_size: tuple[int, int], size: int, rng: np.random.Generator, factors: Sequence[float],
    around_face: float = 0.75,
) -> Window:
    """A window that becomes a crop of `size` pixels by one of `factors`. Group Sampling, section 5.

    The paper cuts up to 1,200 pixels a side, nearly whole images. Small crops of photos are mostly background, so a
    share `around_face` of them holds one of the faces (G, 4) (or lies within it); the others lie anywhere.
    Raises ValueError for no factor, or one that is not above 0.
    """
    if not factors or not min(factors) > 0:
        raise ValueError(f"factors of scale jitter must be above 0, got {tuple(factors)}")
    factor = float(factors[rng.integers(len(factors))])
    side = max(1, round(size / factor))
    begin, length = (0.0, 0.0), tuple(map(float, image_size[::-1]))
    if len(boxes) and rng.random() < around_face:
        x1, y1, x2, y2 = (float(v) for v in boxes[rng.integers(len(boxes))])
        begin, length = (x1, y1), (x2 - x1, y2 - y1)
    limits = image_size[::-1]
    return Window(*(_start(begin[k], length[k], side, limits[k], rng) for k in (0, 1)), side)


def _start(begin: float, length: float, side: int, limit: int, rng: np.random.Generator) -> int:
    """Where a window of `side` pixels starts on an axis: it holds [begin, begin + length), or the whole image."""
    ends = (begin + length - side, begin) if side < limit else (limit - side, 0.0)
    return int(np.floor(rng.uniform(min(ends), max(ends))))


def random_square(image_size: tuple[int, int], rng: np.random.Generator, low: float = 0.3) -> Window:
    """A square inside an image of (height, width), its side at least `low` of the shorter side."""
    height, width = image_size
    side = max(1, round(min(height, width) * rng.uniform(low, 1)))
    return Window(int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side)


def cut_window(image: np.ndarray, window: Window, size: int, interpolation: str = "area") -> np.ndarray:
    """The window of an image (H, W, 3) uint8, resized to (size, size, 3) uint8; outside there is the mean colour.

    interpolation: "area" averages when shrinking (`resize_image`), "bilinear" skips pixels instead (`crop_resize`, as
    OpenCV's default does), "nearest" takes one pixel. Only the first equals what tests do; a network that has seen all
    three depends less on how a photo was made smaller. Raises ValueError for another.
    """
    image, window = small_enough(image, window)
    left, top, side = window
    height, width = image.shape[:2]
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[...] = FILL
    if x1 < x2 and y1 < y2:
        pixels[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    if interpolation == "area":
        return resize_image(pixels, (size, size))
    if interpolation == "bilinear":
        whole = np.array([[0, 0, side, side]], np.float32)
        return (crop_resize(pixels, whole, size)[0] + np.float32(0.5)).astype(np.uint8)
    if interpolation == "nearest":
        at = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
        return pixels[at[:, None], at]
    raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")


def small_enough(image: np.ndarray, window: Window) -> tuple[np.ndarray, Window]:
    """The image made smaller, and the window with it, where the window has more than LARGEST_WINDOW pixels a side.

    A large face that shall become tiny needs a window many times as large as the photo.
    """
    if window.side <= LARGEST_WINDOW:
        return image, window
    factor = LARGEST_WINDOW / window.side
    size = tuple(max(1, round(n * factor)) for n in image.shape[:2])
    place = Window(round(window.left * factor), round(window.top * factor), LARGEST_WINDOW)
    return resize_image(image, size), place


def target_in_window(target: Target, window: Window, size: int, min_face: float = 6.0) -> Target:
    """A target in pixels of the crop. A face counts if its centre is inside, as in SSD; its box is clipped.

    A face with its centre outside, or a shorter side below `min_face` pixels of the crop, becomes an ignore region if
    any of it is visible: it is no background. Landmarks are dropped.
    """
    boxes, ignore = (to_crop(part, window, size) for part in (target.boxes, target.ignore))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    is_inside = ((centres >= 0) & (centres <= size)).all(axis=1)
    boxes, ignore = (np.clip(part, 0, size) for part in (boxes, ignore))
    side = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)
    keep = is_inside & (side >= min_face) & (side > 0)
    unclear = np.concatenate([ignore, boxes[~keep]])
    visible = (unclear[:, 2:] > unclear[:, :2]).all(axis=1)
    return Target(boxes[keep], target.labels[keep], unclear[visible])


def to_crop(boxes: np.ndarray, window: Window, size: int) -> np.ndarray:
    """(G, 4) in pixels of the image -> in pixels of the crop."""
    corner = np.array([window.left, window.top] * 2, np.float32)
    return (boxes - corner) * np.float32(size / window.side)


def upside_down(image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """The image with its rows in the other order and what is true of it. Landmarks are dropped."""
    turned, swap = np.ascontiguousarray(image[::-1]), [0, 3, 2, 1]
    signs = np.array([1, -1, 1, -1], np.float32)
    height = np.array([0, image.shape[0]] * 2, np.float32)
    boxes, ignore = (part[:, swap] * signs + height for part in (target.boxes, target.ignore))
    return turned, Target(boxes, target.labels, ignore)
