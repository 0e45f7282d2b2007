"""Bilinear and nearest resizing of feature maps; the loops are in kernels/resize.py."""

from __future__ import annotations

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.resize import resize_maps, resize_maps_grad


class Resize(Function):
    """A linear map with fixed weights, so its backward is the transposed map."""

    def __init__(self, size: tuple[int, int], mode: str) -> None:
        self.size, self.mode = size, mode

    def forward(self, x):
        y = resize_maps(x, self.size, self.mode)
        self.x_size = x.shape[2:]
        return y

    def backward(self, gy):
        return (resize_maps_grad(gy, self.x_size, self.mode),)


def resize(x: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """x (N, C, H, W) -> (N, C, h, w) with size = (h, w) and mode "bilinear" or "nearest".

    Pixel centres stand at i + 0.5 (`align_corners=False`), the border is clamped, and shrinking does not
    average: what lies between the sample points is skipped. Raises ValueError for a bad shape, size or mode.
    """
    return Resize(tuple(size), mode)(x)
