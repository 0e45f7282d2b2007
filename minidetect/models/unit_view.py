"""What a unit of the network looks for: the regions that excite it most. R-CNN, section 3.1.

"The idea is to single out a particular unit in the network and use it as if it were an object detector in its own
right." A unit of pool5 is one channel at one cell; it sees only part of a crop, its receptive field. The paper ranks
about ten million held-out regions and shows the best 16; drawing them is left to the caller.

Letters: N regions kept, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.detection.boxes import valid_boxes
from minidetect.kernels.nms import nms
from minidetect.models.rcnn import RCNN


class ReceptiveField(NamedTuple):
    """Output i of a stack of layers sees input pixels [start + i * stride, start + i * stride + size)."""

    size: int
    stride: int
    start: int


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> ReceptiveField:
    """The receptive field of a stack along one axis; layers: kernel, stride and padding of each convolution or pool."""
    size, stride, start = 1, 1, 0
    for kernel, step, padding in layers:
        start -= padding * stride
        size += (kernel - 1) * stride
        stride *= step
    return ReceptiveField(size, stride, start)


class UnitView(NamedTuple):
    """The regions that excite a unit most, the best first.

    image: (N,) int64; boxes: (N, 4) float32; activations: (N,) float32; crops: (N, 3, S, S) float32, normalised.
    field: (4,) float32, the part of a crop that the unit sees, x1, y1, x2, y2 in pixels of the crop.
    """

    image: np.ndarray
    boxes: np.ndarray
    activations: np.ndarray
    crops: np.ndarray
    field: np.ndarray


def view_units(
    model: RCNN, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray], units: Sequence[int], top: int = 16,
    nms_threshold: float = 0.3,
) -> list[UnitView]:
    """For each of several units of pool5, the `top` regions by activation, after suppression within each image.

    images: (3, H, W) normalised; proposals: (N, 4) an image. units: columns of pool5, see `unit_of`. Fewer than `top`
    where there are fewer regions that excite the unit at all.
    """
    size = model.net.sizes["pool5"]
    if any(not 0 <= unit < size for unit in units):
        raise ValueError(f"view_units: units must be in 0 to {size - 1}, got {list(units)}")
    found: list[list[tuple[float, int, np.ndarray]]] = [[] for _ in units]
    for i, (image, boxes) in enumerate(zip(images, proposals, strict=True)):
        boxes = boxes[valid_boxes(boxes)]
        pool5 = model.features(image, boxes, "pool5")
        for unit, regions in zip(units, found, strict=True):
            excited = np.flatnonzero(pool5[:, unit] > 0)
            kept = excited[nms(boxes[excited], pool5[excited, unit], nms_threshold)[:top]]
            regions += [(float(pool5[n, unit]), i, boxes[n]) for n in kept]
            regions.sort(key=lambda region: -region[0])
            del regions[top:]
    return [_view(model, images, unit, regions) for unit, regions in zip(units, found, strict=True)]


def _view(model: RCNN, images: Sequence[np.ndarray], unit: int, regions: list) -> UnitView:
    crops = [model.crops(images[i], box[None])[0] for _, i, box in regions]
    return UnitView(
        np.array([i for _, i, _ in regions], np.int64),
        np.array([box for *_, box in regions], np.float32).reshape(-1, 4),
        np.array([activation for activation, *_ in regions], np.float32),
        np.array(crops, np.float32).reshape(-1, 3, model.net.side, model.net.side),
        unit_field(model, unit),
    )


def unit_of(model: RCNN, channel: int, row: int, column: int) -> int:
    """The column of the pool5 features that holds one channel at one cell."""
    return int(np.ravel_multi_index((channel, row, column), model.net.pool5_shape))


def unit_field(model: RCNN, unit: int) -> np.ndarray:
    """The part of a crop that a unit of pool5 sees: (4,) float32, cut at the crop's border."""
    net = model.net
    _, row, column = np.unravel_index(unit, net.pool5_shape)
    field = receptive_field(net.backbone.geometry + [(net.pool, net.pool, 0)])
    x1, y1 = (field.start + int(place) * field.stride for place in (column, row))
    return np.clip(np.array([x1, y1, x1 + field.size, y1 + field.size], np.float32), 0, net.side)
