"""A pass through a model that computes next to nothing: which layer is used on which map, and how often.

`trace` copies a model and puts a stand-in for each of its layers, which gives zeros of the shape that the layer would
give. The copy's forward pass is the model's own code: what it does with its layers, such as using F six times, need not
be said again. counting.py reads the list of uses; receptive_fields.py reads the graph that autograd records on the way.

The zeros are one number that NumPy shows as a whole map, so that VGG-16 at 640 x 640 needs no memory. Computed are only
the operations that are no layers, such as the sum at the end of an inverted residual.

Letters: N images, C channels, H W size of an image or map.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.conv import output_size
from minidetect.kernels.pool import pooled_size
from minidetect.models.anchor_detector import AnchorDetector
from minidetect.models.s3fd import L2Norm, MaxPool2d
from minidetect.nn.fuse import is_plain
from minidetect.nn.layers import Conv2d, LeakyReLU, PReLU, ReLU
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d

KINDS = (Conv2d, MaxPool2d, BatchNorm2d, PReLU, LeakyReLU, ReLU, L2Norm)  # all but the first two keep the shape


class Use(Function):
    """One use of a layer on one map. name: the layer's, as in `named_parameters`; layer: itself.

    input_shape, output_shape: (N, C, H, W) of the maps, once it was used.
    """

    def __init__(self, name: str, layer: Module) -> None:
        self.layer_name, self.layer = name, layer

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.input_shape, self.output_shape = x.shape, output_shape(self.layer, x.shape)
        return zeros(self.output_shape)


class Trace(NamedTuple):
    """uses: in their order; maps: that the heads look at; outputs: logits and deltas. The tensors hold the graph."""

    uses: list[Use]
    maps: list[Tensor]
    outputs: tuple[Tensor, Tensor]


def trace(model: AnchorDetector, size: tuple[int, int]) -> Trace:
    """A pass of one image of (height, width) through `model`, which stays as it is.

    Raises ValueError for a size without a pixel, or a layer of a kind that is not known here, as in a fused model;
    RuntimeError inside `no_grad`.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least 1 pixel each, got {tuple(size)}")
    layers_of(model)  # are they all known?
    uses: list[Use] = []
    twin = stand_in(model, "", uses)
    maps = twin.maps(Tensor(zeros((1, 3, *size)), requires_grad=True))
    if not maps[0].requires_grad:
        raise RuntimeError("trace reads the graph that autograd records: call it outside no_grad()")
    return Trace(uses, maps, twin.heads(maps))


def layers_of(module: Module, name: str = "") -> list[tuple[str, Module]]:
    """The layers of a model (parts that have no parts), by name, in the order of their definition.

    Raises ValueError for a layer of a kind that is not known here.
    """
    parts = list(module.children())
    if not parts and not any(is_plain(module, kind) for kind in KINDS):
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise ValueError(f"{name}: a {type(module).__name__} cannot be counted; the layers known are {known}")
    prefix = f"{name}." if name else ""
    return [layer for key, part in parts for layer in layers_of(part, prefix + key)] or [(name, module)]


class StandIn(Module):
    """In the place of a layer: notes each use."""

    def __init__(self, name: str, layer: Module, uses: list[Use]) -> None:
        self.name, self.layer, self.uses = name, layer, uses

    def __call__(self, x: Tensor) -> Tensor:
        use = Use(self.name, self.layer)
        self.uses.append(use)
        return use(x)


def stand_in(module: Module, name: str, uses: list[Use]) -> Module:
    """A copy of `module` with stand-ins for its layers; for a layer, its stand-in."""
    if next(module.children(), None) is None:
        return StandIn(name, module, uses)
    twin = copy.copy(module)
    prefix = f"{name}." if name else ""
    for key, value in vars(module).items():
        if isinstance(value, Module):
            setattr(twin, key, stand_in(value, prefix + key, uses))
        elif isinstance(value, (list, tuple)) and any(isinstance(part, Module) for part in value):
            setattr(twin, key, [stand_in(part, f"{prefix}{key}.{i}", uses) for i, part in enumerate(value)])
    return twin


def output_shape(layer: Module, x: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of layer(x) by that of x, (N, C, H, W)."""
    if isinstance(layer, Conv2d):
        stride, padding, dilation, _ = layer.settings
        kernels = layer.weight.shape[2:]
        size = (output_size(n, kernel, stride, padding, dilation) for n, kernel in zip(x[2:], kernels, strict=True))
        return x[0], layer.weight.shape[0], *size
    if isinstance(layer, MaxPool2d):
        return *x[:2], *(pooled_size(n, layer.kernel, layer.stride, 0, ceil_mode=True) for n in x[2:])
    return x


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Read-only, without the memory."""
    return np.broadcast_to(np.float32(0), shape)
