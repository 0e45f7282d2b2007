"""From a box of any shape to the square input of a network: the transformations of R-CNN, appendix A.

    "original"         (A) at its own scale, in the middle of the input; what does not fit is cut off
    "square_context"   (B) the tightest square around the box, with all that it shows
    "square"           (C) the same square, but around the box there is nothing
    "warp"             (D) width and height each by its own factor, so that the box fills the input: R-CNN's choice

`padding` p asks for p pixels of the image around the box, counted in the input: the box itself is then fitted into
the middle side - 2 p pixels. The paper takes p = 16 of 227 and finds it 3 to 5 points of mAP better than 0. What is
missing, because it is outside of the image or not to be shown, is the mean colour, which is 0 after subtraction.

Figure 7 of the paper shows (A) beside the others only for comparison; as an input it is our reading.

Letters: N boxes, S the input's side, H W size of the image.
"""

from __future__ import annotations

import numpy as np

from minidetect.detection.boxes import check_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh
from minidetect.kernels.warp import warp_boxes

MODES = ("original", "square_context", "square", "warp")
CONTEXT = 16 / 227  # the paper's padding as a share of the input's side


def warp(
    image: np.ndarray, boxes: np.ndarray, side: int, mode: str = "warp", padding: float = 0.0,
    mean: float | tuple[float, float, float] | np.ndarray = 0.0, scale: float = 1.0,
) -> np.ndarray:
    """Cut boxes out of an image, ready for a network: (N, 3, side, side) float32, (pixel - mean) * scale.

    image: (H, W, 3) uint8 or float. boxes: (N, 4) in its pixels, may reach outside. mode, padding: see above.
    mean: a colour, or one number for all three. Raises ValueError for boxes without area (leave them out with
    `valid_boxes`) or with NaN, an image of another shape, an unknown mode, or padding that leaves no room.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"warp: image must be (H, W, 3) and not empty, got shape {image.shape}")
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    sources, visible = warp_sources(boxes, side, mode, padding)
    return warp_boxes(image.transpose(2, 0, 1), sources, visible, side, np.broadcast_to(mean, 3), scale)


def warp_sources(
    boxes: np.ndarray, side: int, mode: str = "warp", padding: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which part of the image is spread over the input, and which part of it is to be seen: (N, 4) float64 each."""
    if mode not in MODES:
        raise ValueError(f"warp: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if side < 1 or not 0 <= 2 * padding < side:
        raise ValueError(f"warp needs side at least 1 and padding in [0, side / 2), got {side} and {padding}")
    boxes = check_boxes(boxes, "warp").astype(np.float64)
    inner = side - 2 * padding  # pixels of the input that the box may fill
    source = xyxy_to_cxcywh(boxes)
    size = source[:, 2:]
    if mode == "original":
        visible = grown(boxes, padding)
        size = np.full_like(size, side)
    elif mode == "warp":
        size = size * side / inner
    else:
        longer = size.max(axis=1, keepdims=True)  # (N, 1)
        size = np.repeat(longer, 2, axis=1) * side / inner
        visible = grown(boxes, padding * longer / inner)
    sources = cxcywh_to_xyxy(np.concatenate([source[:, :2], size], axis=1))
    return sources, visible if mode in ("original", "square") else sources


def grown(boxes: np.ndarray, by: float | np.ndarray) -> np.ndarray:
    """Boxes (N, 4) with every side moved outwards; by: a number, or (N, 1)."""
    return boxes + by * np.array([-1.0, -1.0, 1.0, 1.0])
