"""Anchors: the reference boxes of a region proposal network, and how well they cover somebody's objects.

A: anchors a cell (sides times ratios), H W: cells of the feature map, G: ground truths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidetect.kernels.iou import as_boxes, iou_matrix

AREAS = (32.0**2, 96.0**2)  # COCO's borders between small, medium and large


@dataclass(frozen=True)
class AnchorGrid:
    """The same A boxes around every cell of a feature map. Faster R-CNN, section 3.1.1; the defaults are its nine.

    stride: image pixels a cell. sides: the square roots of the areas. ratios: height over width.
    """

    stride: int = 16
    sides: tuple[float, ...] = (128.0, 256.0, 512.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if self.stride < 1 or not self.sides or not self.ratios or min(*self.sides, *self.ratios, 1) <= 0:
            raise ValueError(f"AnchorGrid: stride, sides and ratios must be positive, and there must be some: {self}")

    @property
    def num(self) -> int:
        """A, anchors a cell."""
        return len(self.sides) * len(self.ratios)

    def cell(self) -> np.ndarray:
        """(A, 4): the anchors around the point (0, 0), by sides, then by ratios; each has the area side * side."""
        half = [
            (side / ratio**0.5 / 2, side * ratio**0.5 / 2)  # (width, height) / 2
            for side in self.sides
            for ratio in self.ratios
        ]
        return np.array([(-x, -y, x, y) for x, y in half], np.float32)

    def boxes(self, height: int, width: int) -> np.ndarray:
        """(H*W*A, 4) float32: all anchors of a map, by rows, columns, then anchors; centred on the cells' centres."""
        y, x = np.mgrid[:height, :width].astype(np.float32)
        centres = (np.stack([x, y, x, y], axis=2) + 0.5) * self.stride  # (H, W, 4)
        return (centres[:, :, None] + self.cell()).reshape(-1, 4)  # (H, W, A, 4) -> (H*W*A, 4)


def inside_image(boxes: np.ndarray, image_size: tuple[int, int], margin: float = 0.0) -> np.ndarray:
    """(N,) bool: which boxes reach no further than `margin` pixels over the border; image_size: (height, width).

    Faster R-CNN, section 3.3, leaves the others out of its training.
    """
    boxes = as_boxes(boxes)
    height, width = image_size
    low, high = boxes[:, :2] >= -margin, boxes[:, 2:] <= np.array([width + margin, height + margin])
    return low.all(axis=1) & high.all(axis=1)


def best_overlaps(gt_boxes: np.ndarray, image_size: tuple[int, int], grid: AnchorGrid, inside: bool) -> np.ndarray:
    """(G,): the IoU of each ground truth with its best anchor, 0 where there is no anchor.

    image_size: (height, width) as the network sees it. inside: only anchors within the image count.
    """
    height, width = image_size
    anchors = grid.boxes(-(-height // grid.stride), -(-width // grid.stride))
    if inside:
        anchors = anchors[inside_image(anchors, image_size)]
    return iou_matrix(gt_boxes, anchors).max(axis=1, initial=0.0)


def coverage(
    gt_boxes: Sequence[np.ndarray], image_sizes: Sequence[tuple[int, int]], grid: AnchorGrid, inside: bool = True
) -> dict[str, dict[str, float]]:
    """What anchors could find at best in these images: a row for small, medium, large and all objects.

    gt_boxes: one (G, 4) an image, in pixels of the image as the network sees it; image_sizes: (height, width) each.
    inside: count only anchors within the image, as training does.

    A row has `objects`, `mean_iou` of each object's best anchor, and the shares `above_0.5` and `above_0.7`; NaN where
    there are no objects. Raises ValueError for lists of unequal length.
    """
    if len(gt_boxes) != len(image_sizes):
        raise ValueError(f"coverage: {len(gt_boxes)} images' boxes, {len(image_sizes)} image sizes")
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *map(as_boxes, gt_boxes)])
    best = np.concatenate(
        [np.zeros(0), *(best_overlaps(b, size, grid, inside) for b, size in zip(gt_boxes, image_sizes, strict=True))]
    )
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    sizes = np.searchsorted(AREAS, areas, side="right")  # 0 small, 1 medium, 2 large
    rows = {name: best[sizes == i] for i, name in enumerate(("small", "medium", "large"))} | {"all": best}
    return {name: coverage_row(overlaps) for name, overlaps in rows.items()}


def coverage_row(best: np.ndarray) -> dict[str, float]:
    if len(best) == 0:
        return {"objects": 0, "mean_iou": float("nan"), "above_0.5": float("nan"), "above_0.7": float("nan")}
    return {
        "objects": len(best),
        "mean_iou": float(best.mean()),
        "above_0.5": float((best >= 0.5).mean()),
        "above_0.7": float((best >= 0.7).mean()),
    }
