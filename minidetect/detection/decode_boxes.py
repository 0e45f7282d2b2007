"""Deltas to boxes inside the graph: what `BoxCoder.decode` and `clip_to_image` do, with a gradient for the deltas.

Needed wherever a loss looks at the box and not at its deltas: RoI warping (models/roi_warped.py), losses of the IoU.

Letters: N boxes.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.detection.box_coder import LOG_SCALE_LIMIT, BoxCoder
from minidetect.detection.boxes import clip_to_image


class DecodeBoxes(Function):
    """With xa the middle of the anchor, wa its width, and t = delta * std + mean:

        x1 = xa + tx wa - w / 2,   x2 = xa + tx wa + w / 2,   w = wa exp(tw);   y1, y2 alike
    """

    def __init__(self, anchors: np.ndarray, coder: BoxCoder, image_size: tuple[int, int] | None) -> None:
        self.anchors, self.coder, self.image_size = anchors, coder, image_size

    def forward(self, deltas):
        decoded = self.coder.decode(self.anchors, deltas)
        boxes = decoded if self.image_size is None else clip_to_image(decoded, self.image_size)
        grows = deltas * np.array(self.coder.std, deltas.dtype) + np.array(self.coder.mean, deltas.dtype)
        self.moves = boxes == decoded  # (N, 4): a corner on the border stays there
        self.sizes = decoded[:, 2:] - decoded[:, :2]  # (N, 2)
        self.is_free = grows[:, 2:] < LOG_SCALE_LIMIT  # (N, 2)
        return boxes

    def backward(self, gy):
        """A shift moves both corners by the anchor's side; growing by dtw moves each by half the box's side times dtw.

        dx1/dtx = dx2/dtx = wa,   dx1/dtw = -w / 2,   dx2/dtw = w / 2,   each times the coder's std
        """
        gy = np.where(self.moves, gy, 0)
        low, high = gy[:, :2], gy[:, 2:]
        shift = (low + high) * (self.anchors[:, 2:] - self.anchors[:, :2])
        growth = np.where(self.is_free, (high - low) * self.sizes / 2, 0)
        return (np.concatenate([shift, growth], axis=1) * np.array(self.coder.std, gy.dtype),)


def decode_boxes(
    deltas: Tensor, anchors: np.ndarray, image_size: tuple[int, int] | None, coder: BoxCoder | None = None
) -> Tensor:
    """deltas (N, 4), anchors (N, 4) -> boxes (N, 4) x1, y1, x2, y2, clipped to an image of (height, width).

    image_size: None to leave them as they are. The anchors are constants. Raises ValueError for unequal lengths.
    """
    return DecodeBoxes(anchors.astype(deltas.data.dtype, copy=False), coder or BoxCoder(), image_size)(deltas)
