"""Layers, initial weights, optimisers and checkpoints."""

from minidetect.nn.layers import Conv2d, Linear, PReLU
from minidetect.nn.module import Module
from minidetect.nn.optim import SGD

__all__ = ["SGD", "Conv2d", "Linear", "Module", "PReLU"]
