"""Initial weights. A layer's outputs should start with about the variance of its inputs."""

from __future__ import annotations

import numpy as np


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """N(0, 2 / fan_in), float32: keeps the variance through ReLU, which halves it (He et al. 2015, Eq. (10)).

    shape: (outputs, inputs, ...); fan_in is the number of inputs that one output sums over.
    """
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def normal(shape: tuple[int, ...], rng: np.random.Generator, std: float) -> np.ndarray:
    """N(0, std^2), float32: the detection papers start their output layers so, at std 0.01 or 0.001."""
    return (rng.standard_normal(shape) * std).astype(np.float32)
