"""Groups of layers that networks are built from.

C channels; t: by which factor the inner map is wider than the input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.nn.layers import Conv2d, Module, PReLU, Sequential
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.elementwise import add


def one_slope() -> Module:
    """EXTD's activation: a PReLU with a single slope for all channels."""
    return PReLU(1)


class InvertedResidual(Module):
    """Widen, filter each channel by itself, narrow (MobileNetV2, 2018; EXTD, section 3.2 and Fig. 3).

        1x1 conv C -> t*C, BN, act      (left out for t = 1)
        3x3 depthwise conv, BN, act     (with a bias, as in EXTD's code)
        1x1 conv -> out_channels, BN, and `last` if there is one

    The input is added at the end where it fits: stride 1 and as many channels out as in.
    x (N, C, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, t: int, rng: np.random.Generator, stride: int = 1,
        act: Callable[[], Module] = one_slope, last: Callable[[], Module] | None = None,
    ) -> None:
        """act, last: make an activation after the first two convolutions, and after the last (EXTD-32 has it)."""
        inner = t * in_channels
        widen = [Conv2d(in_channels, inner, 1, rng, bias=False), BatchNorm2d(inner), act()] if t > 1 else []
        self.body = Sequential(
            *widen,
            Conv2d(inner, inner, 3, rng, stride, padding=1, groups=inner), BatchNorm2d(inner), act(),
            Conv2d(inner, out_channels, 1, rng, bias=False), BatchNorm2d(out_channels), *([last()] if last else []),
        )  # fmt: skip
        self.skip = stride == 1 and in_channels == out_channels

    def __call__(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return add(x, y) if self.skip else y
