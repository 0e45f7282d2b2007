"""Selective search: a few hundred to a few thousand boxes that are likely to hold an object of whatever kind.

Uijlings, van de Sande, Gevers and Smeulders, "Selective Search for Object Recognition", IJCV 2013, in its fast mode,
which R-CNN (section 2.1) and Fast R-CNN take their proposals from.

    image -> HSV, Lab -> graph segmentation with k = 50, 100 -> grouping by two similarities -> 8 lists of boxes
                         kernels/segmentation.py                kernels/grouping.py
    -> pseudo-random order, without boxes below 20 pixels, each box once

Objects are regions of some scale, but nobody knows which: so every region of every hierarchy, from the smallest to
the whole image, is a proposal. And nobody knows what holds an object together: so several hierarchies are made,
which look at different things.

What R-CNN does not print (the values of k, sigma, the smallest side, the two similarities) is that of its published
code. Left out: the quality mode (80 hierarchies: more colour spaces, values of k and similarities), of which any part
can be had by the arguments.

Letters: H, W the height and width of the image, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.detection.image_scale import ImageScale, box_factors
from minidetect.kernels.grouping import colour_bins, describe_regions, group_regions, texture_bins
from minidetect.kernels.resize import resize_image
from minidetect.kernels.segmentation import pixel_graph, segment_graph


def selective_search(
    image: np.ndarray,
    rng: np.random.Generator | None = None,
    most: int | None = None,
    width: int | None = None,
    spaces: Sequence[str] = ("hsv", "lab"),
    ks: Sequence[float] = (50, 100),
    with_colour: Sequence[bool] = (True, False),
    sigma: float = 0.8,
    min_side: float = 20,
) -> np.ndarray:
    """Proposals for one image, the likeliest first: (N, 4) float32 in pixels of the image. "Fast mode" by default.

    image: (H, W, 3) uint8, RGB.
    rng: for the order, which is random in part (`priorities`); None: the same order every time.
    most: at most so many boxes; None: all.
    width: resize the image to so many columns before the search, since k and min_side are in pixels: the larger the
        image, the more regions. R-CNN takes 500 for ILSVRC (section 4.2); None: search the image as it is.
    spaces, ks, with_colour: one hierarchy for every combination. spaces: of "hsv", "lab", "rgb"; ks: of the
        segmentation, which is also the smallest region in pixels; with_colour: whether the similarity has colour in
        it beside texture, size and fill.
    sigma: smoothing before the segmentation. min_side: boxes narrower or lower are left out. Both in searched pixels.

    Raises ValueError for an image of another kind, a setting out of range, an unknown colour space.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 with pixels, got {image.shape} {image.dtype}")
    if width is not None and width < 1 or most is not None and most < 0:
        raise ValueError(f"selective_search: width must be at least 1 and most at least 0, got {width} and {most}")
    full_height, full_width = image.shape[:2]
    if width is not None:
        image = resize_image(image, (max(1, round(full_height * width / full_width)), width))
    rng = np.random.default_rng(0) if rng is None else rng
    lists = hierarchies(image, spaces, ks, with_colour, sigma)
    boxes = np.concatenate([np.zeros((0, 4), np.int32), *lists])
    order = np.argsort(np.concatenate([np.zeros(0), *(priorities(len(part), rng) for part in lists)]), kind="stable")
    boxes = without_doubles(boxes[order])
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)][:most]
    scale = np.array([full_width / image.shape[1], full_height / image.shape[0]] * 2)
    return (boxes * scale).astype(np.float32)


def search_at_scale(image: np.ndarray, scale: ImageScale, most: int | None = None) -> np.ndarray:
    """Proposals (N, 4) in pixels of the image, searched for in the image as a network of this scale sees it.

    So a photo of 4000 x 3000 pixels costs no more than any other, and k and the smallest side mean the same in all.
    The same order every time; image, most: see `selective_search`.
    """
    resized = scale.resize(image)
    return selective_search(resized, most=most) * box_factors(resized.shape, image.shape)


def hierarchies(
    image: np.ndarray, spaces: Sequence[str], ks: Sequence[float], with_colour: Sequence[bool], sigma: float
) -> list[np.ndarray]:
    """The boxes of each hierarchy, small regions first and the whole image last."""
    lists = []
    for space in spaces:
        if space not in SPACES:
            raise ValueError(f"colour space {space!r} is none of {', '.join(SPACES)}")
        colours = SPACES[space](image)
        graph, colour, texture = pixel_graph(colours, sigma), colour_bins(colours), texture_bins(colours)
        for k in ks:
            regions = describe_regions(segment_graph(graph, k, min_size=int(k)), colour, texture)
            lists += [group_regions(regions, look_at_colour).boxes for look_at_colour in with_colour]
    return lists


def priorities(num: int, rng: np.random.Generator) -> np.ndarray:
    """The places of a hierarchy's `num` boxes in the common order, the lowest first.

    The whole image has rank 1, the merge before it rank 2, and so on; each rank is multiplied with a random number
    below 1, or else the large boxes of all hierarchies would come first. Selective search, section 4.
    """
    return np.arange(num, 0, -1) * rng.random(num)


def without_doubles(boxes: np.ndarray) -> np.ndarray:
    """Each box once, where it comes first: (N, 4) -> (at most N, 4)."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]


# ------------------------------------------------------------------ colour spaces


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """Hue (red 0, green 85, blue 170; 0 for grey), saturation and value: (H, W, 3) uint8 -> (H, W, 3) uint8."""
    r, g, b = (image[:, :, c].astype(np.float32) for c in range(3))
    value, lowest = image.max(axis=2).astype(np.float32), image.min(axis=2).astype(np.float32)
    spread = value - lowest
    divisor = np.maximum(spread, 1)  # whole numbers: it is 0 or at least 1
    hue = np.where(value == r, (g - b) / divisor, np.where(value == g, (b - r) / divisor + 2, (r - g) / divisor + 4))
    hue = np.where(spread == 0, 0, hue) / 6 % 1  # of a turn
    return as_bytes(np.stack([hue * 255, spread / np.maximum(value, 1) * 255, value], axis=2))


# sRGB's primaries in CIE XYZ, each row divided by that of white (0.9505, 1, 1.089: daylight, D65).
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
TO_XYZ = (TO_XYZ / TO_XYZ.sum(axis=1, keepdims=True)).astype(np.float32)


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b*, in which distances are about as large as they look: (H, W, 3) uint8, sRGB -> (H, W, 3) uint8.

    L* of 0 to 100 becomes 0 to 255; a* (green to red) and b* (blue to yellow) are moved up by 128.
    """
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = linear[image] @ TO_XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * ((29 / 6) ** 2 / 3) + 4 / 29)
    x, y, z = (f[:, :, c] for c in range(3))
    return as_bytes(np.stack([(116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128], axis=2))


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)  # rounded


SPACES = {"hsv": rgb_to_hsv, "lab": rgb_to_lab, "rgb": np.asarray}
