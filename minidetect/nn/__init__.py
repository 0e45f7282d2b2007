"""Layers, initial weights, optimisers and checkpoints."""

from minidetect.nn.blocks import InvertedResidual
from minidetect.nn.layers import Conv2d, LeakyReLU, Linear, PReLU, ReLU, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import SGD

__all__ = [
    "SGD", "BatchNorm2d", "Conv2d", "InvertedResidual", "LeakyReLU", "Linear", "Module", "PReLU", "ReLU", "Sequential",
]  # fmt: skip
