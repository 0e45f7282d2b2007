"""S3FD, and S3FD on a MobileFaceNet: the two detectors that EXTD's Table 1 is measured against.

Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017, and EXTD, appendix C and Table 3. Both are
here to be counted and compared: they build, run and can be trained by the losses of single_shot_loss.py. Nobody has
published weights of the second, and those of the first are not read here.

    S3FD        conv3_3   conv4_3   conv5_3     fc7      conv6_2   conv7_2
    stride         4         8         16        32         64       128       pixels a cell
    channels      256       512       512       1024       512       256
                 L2, 10    L2, 8     L2, 5                                     `L2Norm` and its first scale

VGG-16 as far as conv5_3, its two connected layers as convolutions, then a 1x1 and a 3x3 convolution of stride 2, twice.
The text says of fc6 only that it is subsampled from VGG's. There are three readings:

    padding 1                S3FD's Table 1: receptive fields of 48, 108, 228, 340, 468 and 724 pixels. The default here
    padding 3, dilation 3    the PyTorch copy that EXTD's code grew from: `dilation=3`; the last three fields are larger
    padding 3                the published weights, "a negligible mistake" (sfzhang15/SFD, issue 9): a map of 24 x 24
                             cells where 20 x 20 have anchors. Left out

All three have 22.46 million parameters (the paper: 22 M).

    MobileFaceNet   block 6   block 7   block 14   extra 1   extra 2   extra 3
    stride             4         8         16         32        64       128
    channels          64        128       128        128       128       128

Appendix C contradicts itself. It has a first convolution of stride 2, and Table 3 a block 1 of stride 2; with both, the
maps have strides of 8, 16, 32, ... and 256. The map sizes need one of the two at stride 1:

    here it is block 1: 12.78 G by the count of the published code, 12.95 G truly; EXTD says 12.7

Parameters do not depend on it: 1.19 million (1.2 M). The extra layers are 3x3 convolutions of stride 2, as the appendix
says; "equivalent to original S3FD" would be pairs of 1x1 and 3x3. Activations are EXTD's PReLU with one slope.

Where both leave the original: pooling rounds sizes up, as convolutions of stride 2 do, so that an image of any size has
all six maps, and trunks begin from He's random numbers instead of ImageNet.

Letters: N images, C channels, H W size of an image or map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.models.single_shot import SIDES, Heads, SingleShot
from minidetect.nn.blocks import InvertedResidual, one_slope
from minidetect.nn.layers import Conv2d, ReLU, Sequential, parameter
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.elementwise import add, mul, power
from minidetect.ops.pool import max_pool2d
from minidetect.ops.reduce import sum as sum_over
from minidetect.ops.shape import reshape

# Channels of VGG-16's 3x3 convolutions, a tuple for each part that ends with pooling.
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SCALES = (10.0, 8.0, 5.0)  # of the normalised maps, at the start
# EXTD, Table 3: output channels, t (hidden channels by input channels) and stride of blocks 1 to 14.
MOBILE = ((64, 1, 1), *[(64, 2, 1)] * 4, (64, 2, 2), (128, 4, 2), *[(128, 2, 1)] * 6, (128, 4, 2))
HEADS_AFTER = (6, 7, 14)  # these blocks


class L2Norm(Module):
    """Each cell's channels as a vector of length 1, times a learned scale for each channel. S3FD, section 3.1.

    The maps of early layers have larger numbers than those of late ones; this makes them comparable (after ParseNet).
    x (N, C, H, W) -> the same shape. eps: added under the root; a vector of zeros stays one, with a finite gradient.
    """

    def __init__(self, channels: int, scale: float, eps: float = 1e-10) -> None:
        self.scale = parameter(np.full(channels, scale, np.float32))
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        squared_length = sum_over(mul(x, x), axis=1, keepdims=True)  # (N, 1, H, W)
        unit = mul(x, power(add(squared_length, self.eps), -0.5))
        return mul(unit, reshape(self.scale, (1, self.scale.size, 1, 1)))


class MaxPool2d(Module):
    """The largest of each 2x2 cells: x (N, C, H, W) -> (N, C, H / 2, W / 2), rounded up."""

    kernel = stride = 2

    def __call__(self, x: Tensor) -> Tensor:
        return max_pool2d(x, self.kernel, self.stride, ceil_mode=True)


class S3FD(SingleShot):
    """The detector on VGG-16. dilation: of fc6, see above. settings: of `SingleShot`, with six sides.

    Raises ValueError for a dilation below 1, another number of sides, or settings that cannot be used.
    """

    def __init__(
        self, rng: np.random.Generator, dilation: int = 1, sides: Sequence[int] = SIDES, **settings: float
    ) -> None:
        super().__init__(sides=sides, **settings)
        check_sides(self.sides)
        if not isinstance(dilation, int) or dilation < 1:
            raise ValueError(f"dilation must be a whole number of at least 1, got {dilation!r}")
        self.dilation = dilation
        inputs = (3, *(part[-1] for part in VGG))
        parts = [relu_convs(c, part, rng) for c, part in zip(inputs, VGG, strict=False)]
        fc6 = Conv2d(512, 1024, 3, rng, padding=dilation, dilation=dilation)
        self.stages = [  # each ends at a map for the heads
            Sequential(*parts[0], MaxPool2d(), *parts[1], MaxPool2d(), *parts[2]),
            Sequential(MaxPool2d(), *parts[3]),
            Sequential(MaxPool2d(), *parts[4]),
            Sequential(MaxPool2d(), fc6, ReLU(), Conv2d(1024, 1024, 1, rng), ReLU()),
            extra_layer(1024, 256, rng),
            extra_layer(512, 128, rng),
        ]
        channels = (256, 512, 512, 1024, 512, 256)
        self.norms = [L2Norm(c, scale) for c, scale in zip(channels, SCALES, strict=False)]
        self.heads = Heads(channels, rng)

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector like this one, JSON-able."""
        return {"dilation": self.dilation} | self.settings()

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W) -> six maps (N, C, H/4, W/4) to (N, C, H/128, W/128), rounded up."""
        maps = outputs_of(self.stages, x)
        return [norm(y) for norm, y in zip(self.norms, maps, strict=False)] + maps[len(self.norms) :]


class S3FDMobileFaceNet(SingleShot):
    """The detector on inverted residuals: EXTD, appendix C. settings: of `SingleShot`, with six sides.

    Raises ValueError for another number of sides, or settings that cannot be used.
    """

    def __init__(self, rng: np.random.Generator, sides: Sequence[int] = SIDES, **settings: float) -> None:
        super().__init__(sides=sides, **settings)
        check_sides(self.sides)
        inputs = (64, *(channels for channels, _, _ in MOBILE))
        blocks = [InvertedResidual(c, out, t, rng, stride) for c, (out, t, stride) in zip(inputs, MOBILE, strict=False)]
        first, second, third = HEADS_AFTER
        self.stages = [
            Sequential(*norm_conv(3, 64, rng), one_slope(), *blocks[:first]),
            Sequential(*blocks[first:second]),
            Sequential(*blocks[second:third]),
            *(Sequential(*norm_conv(128, 128, rng), ReLU()) for _ in range(3)),
        ]
        self.heads = Heads((64, 128, 128, 128, 128, 128), rng)

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector like this one, JSON-able."""
        return self.settings()

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W) -> six maps (N, C, H/4, W/4) to (N, C, H/128, W/128), rounded up."""
        return outputs_of(self.stages, x)


def outputs_of(stages: Sequence[Module], x: Tensor) -> list[Tensor]:
    """What each of several stages gives, one after the other."""
    outputs = []
    for stage in stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def relu_convs(channels: int, outputs: Sequence[int], rng: np.random.Generator) -> list[Module]:
    """3x3 convolutions, each with its ReLU."""
    layers: list[Module] = []
    for c, out in zip((channels, *outputs), outputs, strict=False):
        layers += [Conv2d(c, out, 3, rng, padding=1), ReLU()]
    return layers


def extra_layer(channels: int, narrow: int, rng: np.random.Generator) -> Sequential:
    """conv6 and conv7: 1x1 to `narrow` channels, 3x3 of stride 2 to twice as many."""
    wide = Conv2d(narrow, 2 * narrow, 3, rng, stride=2, padding=1)
    return Sequential(Conv2d(channels, narrow, 1, rng), ReLU(), wide, ReLU())


def norm_conv(channels: int, outputs: int, rng: np.random.Generator) -> list[Module]:
    """A 3x3 convolution of stride 2 and its batch norm."""
    return [Conv2d(channels, outputs, 3, rng, stride=2, padding=1, bias=False), BatchNorm2d(outputs)]


def check_sides(sides: Sequence[int]) -> None:
    if len(sides) != len(SIDES):
        raise ValueError(f"sides must be {len(SIDES)}, one for each map, got {len(sides)}: {tuple(sides)}")
