"""Convolutional trunks small enough to train on two cores, for R-CNN and its successors.

The papers use AlexNet, ZF and VGG-16, pre-trained on ImageNet's 1.2 million photos. What matters to the detectors is
kept: a stack of 3 x 3 convolutions, ReLU, a map of stride 16. What is not: the pre-training (mobilenet.py has a trunk
with it), local response normalisation, and the fully connected layers of 4096. Batch norm stands where the papers have
none, so that a small trunk can be trained from nothing.

Letters: N images, C channels, H W: size of an image, FH FW: size of the map, H / 16 rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.nn.layers import Conv2d, ReLU, Sequential
from minidetect.nn.normalize import BatchNorm2d

# (output channels, stride) of each 3 x 3 convolution
SMALL: tuple[tuple[int, int], ...] = ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))


class Backbone(Sequential):
    """x (N, 3, H, W) -> (N, C, FH, FW): convolution 3 x 3, batch norm, ReLU, as often as the table has rows.

    table: output channels and stride of each convolution. `stride` and `channels` say what comes out.
    """

    def __init__(self, rng: np.random.Generator, table: Sequence[tuple[int, int]] = SMALL) -> None:
        layers, inputs, stride = [], 3, 1
        for channels, step in table:
            layers += [
                Conv2d(inputs, channels, 3, rng, stride=step, padding=1, bias=False),
                BatchNorm2d(channels),
                ReLU(),
            ]
            inputs, stride = channels, stride * step
        super().__init__(*layers)
        self.table, self.channels, self.stride = tuple(table), inputs, stride

    @property
    def geometry(self) -> list[tuple[int, int, int]]:
        """Kernel, stride and padding of each convolution, for `unit_view.receptive_field`."""
        return [(3, stride, 1) for _, stride in self.table]

    def taps(self, x: Tensor) -> dict[str, Tensor]:
        """The maps after every ReLU, by name: conv1, conv2, ... R-CNN, section 3.2, compares features so."""
        maps = {}
        for i in range(0, len(self.layers), 3):
            for layer in self.layers[i : i + 3]:
                x = layer(x)
            maps[f"conv{i // 3 + 1}"] = x
        return maps


def trunk_maps(backbone: Backbone, x: Tensor, frozen: int = 0) -> Tensor:
    """backbone(x), of which the first `frozen` convolutions are constants: they get no gradient and learn nothing.

    Fast R-CNN, section 4.5, trains VGG-16 from its third block on: the first layers are generic. Their batch norms use
    the running statistics.
    """
    if frozen == 0:
        return backbone(x)
    layers = backbone.layers
    with no_grad():
        for layer in layers[: 3 * frozen]:
            layer.train(False)
            x = layer(x)
    x = x.detach()
    for layer in layers[3 * frozen :]:
        x = layer(x)
    return x
