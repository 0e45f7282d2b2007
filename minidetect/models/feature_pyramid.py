"""A small residual network and the feature pyramid on top of it.

    x -> stem -> C2 -> C3 -> C4 -> C5            each half as large as the one before    (`ResidualBackbone`)
                  |     |     |     |
                 1x1   1x1   1x1   1x1           laterals, to one number of channels     (`FeaturePyramid`)
                  |     |     |     |
                  + <-- + <-- + <---+            twice as large by bilinear interpolation, and added
                  |     |     |     |
                 3x3   3x3   3x3   3x3           one for each map
                  |     |     |     |
                 P2    P3    P4    P5 [-> pool, 3x3, 3x3 -> P6, for large objects]

Group Sampling, section 3 and Fig. 3, after Lin et al., "Feature Pyramid Networks" (2017), and He et al., "Deep Residual
Learning" (2016). The paper's backbone is ResNet-50 with ImageNet's weights and 256 channels in the pyramid; this one
has basic blocks of two 3x3 convolutions, a few of them, and random weights.

Letters: N images, C channels, H W size of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.models.s3fd import MaxPool2d
from minidetect.nn.layers import Conv2d, ReLU, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.activation import relu
from minidetect.ops.elementwise import add
from minidetect.ops.resize import resize

WIDTHS = (32, 48, 64, 96)  # channels of C2 to C5
BLOCKS = (1, 1, 1, 1)  # residual blocks of C2 to C5


class ResidualBlock(Module):
    """relu(body(x) + shortcut(x)): x (N, C, H, W) -> (N, outputs, H / stride, W / stride), rounded up.

    body: two 3x3 convolutions with batch norm; shortcut: x itself, or a 1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, stride: int = 1) -> None:
        self.body = Sequential(
            Conv2d(inputs, outputs, 3, rng, stride, padding=1, bias=False), BatchNorm2d(outputs), ReLU(),
            Conv2d(outputs, outputs, 3, rng, padding=1, bias=False), BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = Sequential(Conv2d(inputs, outputs, 1, rng, stride, bias=False), BatchNorm2d(outputs))

    def __call__(self, x: Tensor) -> Tensor:
        return relu(add(self.body(x), x if self.shortcut is None else self.shortcut(x)))


class ResidualBackbone(Module):
    """x (N, 3, H, W) -> [C2, C3, C4, C5], see above; widths, blocks: of each.

    stem: channels of the first convolution. unit: the stride of C2: 4, or 2 for a smaller world.
    """

    def __init__(
        self, rng: np.random.Generator, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS, stem: int = 16,
        unit: int = 4,
    ) -> None:
        if unit not in (2, 4) or not widths or len(widths) != len(blocks) or min(*widths, *blocks, stem) < 1:
            raise ValueError(
                "a backbone needs a unit of 2 or 4 and as many widths as blocks, all at least 1, got "
                f"unit={unit}, widths={tuple(widths)}, blocks={tuple(blocks)}, stem={stem}"
            )
        self.stem = Sequential(
            Conv2d(3, stem, 3, rng, stride=unit // 2, padding=1, bias=False), BatchNorm2d(stem), ReLU()
        )
        self.stages = []
        for before, width, count in zip((stem, *widths), widths, blocks, strict=False):
            more = (ResidualBlock(width, width, rng) for _ in range(count - 1))
            self.stages.append(Sequential(ResidualBlock(before, width, rng, stride=2), *more))

    def __call__(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class FeaturePyramid(Module):
    """[C2, ..., C5] -> [P2, ..., P5], or [P2, ..., P6] with `extra`, all with `width` channels. Group Sampling, Fig. 3.

    channels: of C2 to C5. needed: numbers of the maps that are wanted (2 for P2); the 3x3 convolutions of others are
    left out, and P6 is there if 6 is among them.
    """

    def __init__(
        self, channels: Sequence[int], width: int, rng: np.random.Generator, needed: Collection[int] | None = None
    ) -> None:
        numbers = range(2, 2 + len(channels))
        needed = set(numbers if needed is None else needed)
        self.extra_number = numbers.stop
        if not needed <= {*numbers, self.extra_number}:
            raise ValueError(f"maps P{numbers.start} to P{numbers.stop} can be had, got {sorted(needed)}")
        self.numbers = tuple(k for k in numbers if k in needed or (k == numbers[-1] and self.extra_number in needed))
        self.first = min(self.numbers)  # below it nothing need be computed
        self.laterals = [Conv2d(c, width, 1, rng) for k, c in zip(numbers, channels, strict=True) if k >= self.first]
        self.smooth = [Conv2d(width, width, 3, rng, padding=1) for _ in self.numbers]
        self.extra = []
        if self.extra_number in needed:
            self.extra = [MaxPool2d(), *(Conv2d(width, width, 3, rng, padding=1) for _ in range(2))]

    def __call__(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """The maps by name, "P2" and so on."""
        merged = []  # coarsest first
        for lateral, c in zip(self.laterals[::-1], maps[::-1], strict=False):
            side = lateral(c)
            merged.append(add(side, resize(merged[-1], side.shape[2:])) if merged else side)
        by_number = dict(zip(range(self.first, self.first + len(merged)), merged[::-1], strict=True))
        named = {f"P{k}": smooth(by_number[k]) for k, smooth in zip(self.numbers, self.smooth, strict=True)}
        if self.extra:
            x = named[f"P{self.extra_number - 1}"]
            for layer in self.extra:
                x = layer(x)
            named[f"P{self.extra_number}"] = x
        return named
