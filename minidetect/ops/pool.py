"""Maximum and average pooling as differentiable operations; the loops are in kernels/pool.py."""

from __future__ import annotations

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels import pool as kernels


class MaxPool2d(Function):
    def __init__(self, kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
        self.settings = (kernel, stride, padding, ceil_mode)

    def forward(self, x):
        check_pool(x.shape, *self.settings)
        if not self.needs[0]:
            return kernels.max_pool_values(x, *self.settings)
        y, self.argmax = kernels.max_pool_forward(x, *self.settings)
        self.x_shape = x.shape
        return y

    def backward(self, gy):
        """Each output returns its gradient to the pixel that won; a pixel may win several windows."""
        return (kernels.max_pool_backward(gy, self.argmax, self.x_shape, *self.settings[:3]),)


class AvgPool2d(Function):
    def __init__(self, kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
        self.settings = (kernel, stride, padding, ceil_mode)

    def forward(self, x):
        check_pool(x.shape, *self.settings)
        self.x_shape = x.shape
        return kernels.avg_pool_forward(x, *self.settings)

    def backward(self, gy):
        """Each output's gradient is shared evenly by the real pixels of its window."""
        return (kernels.avg_pool_backward(gy, self.x_shape, *self.settings[:3]),)


def check_pool(shape: tuple[int, ...], kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
    if len(shape) != 4:
        raise ValueError(f"pooling needs x (N, C, H, W), got shape {shape}")
    if kernel < 1 or stride < 1 or not 0 <= padding <= kernel // 2:
        raise ValueError(
            "pooling needs kernel >= 1, stride >= 1 and padding of at most half the kernel, got "
            f"kernel={kernel}, stride={stride}, padding={padding}"
        )
    if min(kernels.pooled_size(n, kernel, stride, padding, ceil_mode) for n in shape[2:]) < 1:
        raise ValueError(f"pooling: a window of {kernel} with padding {padding} does not fit into {shape}")


def max_pool2d(
    x: Tensor, kernel: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False
) -> Tensor:
    """x (N, C, H, W) -> (N, C, PH, PW); stride defaults to the kernel's size."""
    return MaxPool2d(kernel, kernel if stride is None else stride, padding, ceil_mode)(x)


def avg_pool2d(
    x: Tensor, kernel: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False
) -> Tensor:
    """x (N, C, H, W) -> (N, C, PH, PW); the mean is over a window's real pixels, padding not counted."""
    return AvgPool2d(kernel, kernel if stride is None else stride, padding, ceil_mode)(x)
