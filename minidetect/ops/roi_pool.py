"""RoI max pooling as a differentiable operation; the loops and the geometry are in kernels/roi_pool.py."""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.roi_pool import roi_pool_backward, roi_pool_forward


class RoIPool(Function):
    """Fast R-CNN, section 2.1. The rois are settings, not inputs: no gradient reaches a corner."""

    def __init__(self, rois: np.ndarray, size: tuple[int, int], scale: float, inclusive: bool) -> None:
        self.rois, self.settings = rois, (size, scale, inclusive)

    def forward(self, x):
        check_roi_pool(x.shape, self.rois, *self.settings[:2])
        self.rois = np.asarray(self.rois, like=x)  # copied to the GPU once, for both ways
        y, self.argmax = roi_pool_forward(x, self.rois, *self.settings)
        self.x_shape = x.shape
        return y

    def backward(self, gy):
        """Each bin returns its gradient to the cell that won it; a cell may win bins of several RoIs."""
        return (roi_pool_backward(gy, self.argmax, self.rois, self.x_shape),)


def check_roi_pool(
    x_shape: tuple[int, ...], rois: np.ndarray, size: tuple[int, int], spatial_scale: float
) -> None:
    """Raise ValueError that shows what does not fit, and the first bad RoI."""
    if len(x_shape) != 4:
        raise ValueError(f"roi_pool needs x (N, C, H, W), got shape {x_shape}")
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"roi_pool needs rois (R, 5): batch index, x1, y1, x2, y2; got shape {rois.shape}")
    if len(size) != 2 or min(size) < 1 or not spatial_scale > 0:
        raise ValueError(
            "roi_pool needs size (PH, PW) of at least 1 bin each and spatial_scale above 0, "
            f"got {tuple(size)} and {spatial_scale}"
        )
    image = rois[:, 0]
    good = np.isfinite(rois).all(1) & (image == np.floor(image)) & (image >= 0) & (image < x_shape[0])
    if not good.all():
        k = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"rois[{k}] = {rois[k].tolist()}: needs a batch index in 0..{x_shape[0] - 1} and finite corners"
        )


def roi_pool(
    x: Tensor, rois: np.ndarray, size: tuple[int, int] = (7, 7), spatial_scale: float = 1.0,
    inclusive: bool = False,
) -> Tensor:
    """x (N, C, H, W), rois (R, 5) = batch index, x1, y1, x2, y2 -> (R, C, PH, PW).

    size: (PH, PW) bins. spatial_scale: cells of x per image pixel, 1/16 behind VGG16's fifth block.
    inclusive: read x2, y2 as the last pixel of a box, as Caffe does, instead of as its edge.
    Raises ValueError for shapes that do not fit, NaN, or a batch index that x does not have.
    """
    return RoIPool(np.asarray(rois), tuple(size), spatial_scale, inclusive)(x)
