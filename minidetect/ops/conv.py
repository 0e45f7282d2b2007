"""Convolution as a differentiable operation; the loops are in kernels/conv.py.

N images, C input channels, O output channels, G groups, H W input size, KH KW kernel, PH PW output.
"""

from __future__ import annotations

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.conv import conv2d_backward, conv2d_forward, output_size


class Conv2d(Function):
    def __init__(self, stride: int, padding: int, dilation: int, groups: int) -> None:
        self.settings = (stride, padding, dilation, groups)

    def forward(self, x, w, b=None):
        check_conv_shapes(x.shape, w.shape, None if b is None else b.shape, *self.settings)
        self.x, self.w = x, w
        return conv2d_forward(x, w, b, *self.settings)

    def backward(self, gy):
        gx, gw = conv2d_backward(gy, self.x, self.w, *self.settings, needs=self.needs[:2])
        # The bias is added at every position of every image: its gradient is the sum over them.
        return (gx, gw) if len(self.needs) == 2 else (gx, gw, gy.sum(axis=(0, 2, 3)))


def check_conv_shapes(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None,
    stride: int, padding: int, dilation: int, groups: int,
) -> None:
    """Raise ValueError that shows the shapes and what would fit."""
    if len(x) != 4 or len(w) != 4:
        raise ValueError(f"conv2d needs x (N, C, H, W) and w (O, C/groups, KH, KW), got {x} and {w}")
    if stride < 1 or dilation < 1 or padding < 0 or groups < 1:
        raise ValueError(
            "conv2d needs stride, dilation and groups of at least 1 and padding of at least 0, got "
            f"stride={stride}, dilation={dilation}, groups={groups}, padding={padding}"
        )
    if x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(
            f"conv2d: x {x} has {x[1]} channels, w {w} with groups={groups} takes {w[1] * groups} "
            f"and its {w[0]} outputs must divide evenly into the groups"
        )
    if b is not None and b != w[:1]:
        raise ValueError(f"conv2d needs b {w[:1]}, one number an output channel, got {b}")
    out = [output_size(n, k, stride, padding, dilation) for n, k in zip(x[2:], w[2:], strict=True)]
    if min(out) < 1:
        raise ValueError(
            f"conv2d: a kernel {w[2:]} with dilation {dilation} does not fit into "
            f"an input of {x[2:]} with padding {padding}"
        )


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None = None,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
) -> Tensor:
    """x (N, C, H, W), w (O, C/groups, KH, KW), b (O,) or None -> (N, O, PH, PW).

    groups=C with w (C, 1, KH, KW) is a depthwise convolution. Raises ValueError for shapes that do not fit.
    """
    op = Conv2d(stride, padding, dilation, groups)
    return op(x, w) if b is None else op(x, w, b)
