"""Boxes as bare arrays: sizes, the three notations, clipping, flipping, squares, and checking.

N: boxes, P: landmark points of a face. A box is a row x1, y1, x2, y2 in pixels, continuous: pixel column c
covers c to c + 1, an image of width W spans 0 to W, and a box's width is x2 - x1 (no "+ 1"). Functions keep
float64, turn everything else into float32, accept (0, 4), and never change their argument.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.iou import as_boxes

NOSE = 2  # of the five points: left eye, right eye, nose, left mouth corner, right mouth corner


def area(boxes: np.ndarray) -> np.ndarray:
    """Area of each box: (N, 4) -> (N,). A box turned inside out has area 0."""
    boxes = as_boxes(boxes)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def xyxy_to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to centre x, centre y, width, height: (N, 4) -> (N, 4)."""
    boxes = as_boxes(boxes)
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Centre x, centre y, width, height to corners: (N, 4) -> (N, 4)."""
    boxes = as_boxes(boxes)
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to left, top, width, height (as COCO and WIDER FACE write boxes): (N, 4) -> (N, 4)."""
    boxes = as_boxes(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Left, top, width, height to corners: (N, 4) -> (N, 4)."""
    boxes = as_boxes(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def clip_to_image(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Boxes cut at the border of an image of (height, width).

    A box wholly outside is left without area on the border: drop it with `valid_boxes`.
    """
    height, width = image_size
    boxes = as_boxes(boxes)
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def to_square(boxes: np.ndarray) -> np.ndarray:
    """The square of the same centre whose side is the longer side of the box (it may leave the image)."""
    centred = xyxy_to_cxcywh(boxes)
    centred[:, 2:] = np.maximum(centred[:, 2:3], centred[:, 3:])
    return cxcywh_to_xyxy(centred)


def flip_horizontal(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes in the mirrored image of the given width: x1, x2 -> width - x2, width - x1."""
    boxes = as_boxes(boxes)
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def landmarks_to_square(landmarks: np.ndarray, nose: int = NOSE, scale: float = 4.0) -> np.ndarray:
    """Square face boxes with the nose at the centre, from landmarks of which some may be missing.

    FaceCraft, section 6.1, annotates faces so but does not give its formula; this one is ours:

        centre = the nose;   side = scale * root mean square distance of the other points from the centre

    The mean over whatever points are left changes little when some are missing, since eyes and mouth
    corners are about as far from the nose. With `scale` 4 the square of a frontal face reaches from chin to
    forehead. Where the nose is missing, the mean of the other points stands in: for a frontal face with
    both eyes and both mouth corners that is the nose to within a hundredth of the side, with fewer points
    it is biased towards them.

    landmarks: (N, P, 2) as x, y, NaN in either for a missing point; nose: its index among the P points.
    Returns (N, 4). The square moves and grows with the points exactly as they do. Raises ValueError naming
    the face of which fewer than two distinct points are left (a position without a size).
    """
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 3 or landmarks.shape[2] != 2:
        raise ValueError(f"landmarks must have shape (N, P, 2) as x, y, got {landmarks.shape}")
    if not 0 <= nose < landmarks.shape[1]:
        raise ValueError(f"nose must be one of the {landmarks.shape[1]} points, got index {nose}")
    dtype = np.float64 if landmarks.dtype == np.float64 else np.float32
    squares = np.zeros((len(landmarks), 4), np.float64)
    for i, points in enumerate(landmarks.astype(np.float64)):
        present = np.isfinite(points).all(axis=1)
        others = np.delete(points, nose, axis=0)[np.delete(present, nose)]
        if present[nose]:
            centre = points[nose]
        else:
            centre = others.mean(axis=0) if len(others) else np.full(2, np.nan)
        spread = np.sqrt(((others - centre) ** 2).sum(axis=1).mean()) if len(others) else 0.0
        if not spread > 0:
            raise ValueError(
                f"landmarks[{i}]: {int(present.sum())} of {len(points)} points are given; a square needs at "
                "least two distinct ones"
            )
        half = scale * spread / 2
        squares[i] = *(centre - half), *(centre + half)
    return squares.astype(dtype)


def valid_boxes(boxes: np.ndarray) -> np.ndarray:
    """Which boxes are finite and have width and height: (N, 4) -> bool (N,)."""
    boxes = as_boxes(boxes)
    return np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def check_boxes(boxes: np.ndarray, name: str, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """The boxes as floats (N, 4), once they are known to be fit for training.

    name: the record they come from, such as a file and line; it opens the error message.
    image_size: (height, width); when given, a box that lies wholly outside the image is an error too (one
        that sticks out is not).
    Raises ValueError naming the record, the row and the numbers. A bad box is the usual reason why a loss
    becomes NaN thousands of steps later, so it is worth stopping for at once.
    """
    boxes = as_boxes(boxes, name)
    bad = ~valid_boxes(boxes)
    if bad.any():
        row = int(np.argmax(bad))
        problem = "is not finite" if not np.isfinite(boxes[row]).all() else "needs x1 < x2 and y1 < y2"
        count = f"{int(bad.sum())} bad of {len(bad)}"
        raise ValueError(f"{name}: box {row} {boxes[row].tolist()} {problem} ({count})")
    if image_size is not None:
        outside = ~valid_boxes(clip_to_image(boxes, image_size))
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{name}: box {row} {boxes[row].tolist()} lies outside the image, whose (height, width) is "
                f"{tuple(image_size)}"
            )
    return boxes
