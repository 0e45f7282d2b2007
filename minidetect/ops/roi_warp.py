"""RoI warping, differentiable in the feature map and in the boxes; the loops are in kernels/roi_warp.py.

Faster R-CNN, section 3.2, calls for a pooling layer that is differentiable with respect to the box coordinates, for
training that is joint without approximation, and points to bilinear warping.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.device import is_on_gpu
from minidetect.kernels.roi_warp import roi_warp_backward_boxes, roi_warp_backward_map, roi_warp_forward


class RoIWarp(Function):
    """The value of the map at PH x PW points of each box."""

    def __init__(self, image: np.ndarray, size: tuple[int, int], scale: float) -> None:
        self.image, self.size, self.scale = image, size, scale

    def forward(self, x, boxes):
        if is_on_gpu(x) or is_on_gpu(boxes):
            raise TypeError("roi_warp, and roi_align with it, has no kernel for the GPU")
        check_roi_warp(x.shape, boxes, self.image)
        self.x, self.boxes = x, boxes
        return roi_warp_forward(x, boxes, self.image, self.size, self.scale)

    def backward(self, gy):
        """To the map by the weights of the blend; to the corners by the slope of the map under each point."""
        inputs = gy, self.x, self.boxes, self.image, self.scale
        gx = roi_warp_backward_map(*inputs) if self.needs[0] else None
        return gx, roi_warp_backward_boxes(*inputs) if self.needs[1] else None


def check_roi_warp(x_shape: tuple[int, ...], boxes: np.ndarray, image: np.ndarray) -> None:
    if len(x_shape) != 4 or 0 in x_shape[2:]:
        raise ValueError(f"roi_warp needs x (N, C, H, W) with some cells, got shape {x_shape}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or image.shape != boxes.shape[:1]:
        raise ValueError(f"roi_warp needs boxes (R, 4) and image (R,), got {boxes.shape} and {image.shape}")
    if not np.isfinite(boxes).all():
        k = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"roi_warp: boxes[{k}] = {boxes[k].tolist()} is not finite")
    if image.size and not (image.min() >= 0 and image.max() < x_shape[0]):
        raise ValueError(f"roi_warp: image must be in 0..{x_shape[0] - 1}, got {image.min()} to {image.max()}")


def roi_warp(
    x: Tensor, boxes: Tensor, image: np.ndarray, size: tuple[int, int] = (7, 7), spatial_scale: float = 1.0
) -> Tensor:
    """x (N, C, H, W), boxes (R, 4) in image pixels, image (R,) whole numbers -> (R, C, PH, PW).

    image: which of the N images each box belongs to. spatial_scale: cells of x per image pixel.
    Raises ValueError for shapes that do not fit, a corner that is not finite, or an image that x does not have.
    """
    return RoIWarp(np.asarray(image, np.int64), tuple(size), spatial_scale)(x, boxes)
