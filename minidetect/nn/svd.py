"""Truncated singular value decomposition of fully connected layers: fewer multiplications at test time.

Fast R-CNN, section 3.1. A layer of weights W (O, I) costs O * I multiplications an input. With its t largest
singular values,

    W ~ U_t S_t V_t'        U_t (O, t), S_t (t, t) diagonal, V_t (I, t)

it becomes two layers, S_t V_t' (t, I) without bias and U_t (O, t) with the old bias, at t * (O + I). No matrix of rank
t is closer to W, in the sum of squares; whether the detections care is measured, not implied.
"""

from __future__ import annotations

import numpy as np

from minidetect.nn.layers import Linear, Sequential


def truncate(layer: Linear, rank: int) -> Sequential:
    """Fast R-CNN, Eq. (5): two layers that compute nearly what one did.

    rank: t, from 1 to the smaller side of the weights, where nothing is lost but nothing is saved either.
    Raises ValueError for another rank. The given layer is left as it is; the result cannot be trained sensibly, since
    its two parts move against each other.
    """
    outputs, inputs = layer.weight.shape
    if not 1 <= rank <= min(outputs, inputs):
        most = min(outputs, inputs)
        raise ValueError(f"truncate: rank must be in 1..{most} for weights {(outputs, inputs)}, got {rank}")
    u, s, vt = np.linalg.svd(layer.weight.data, full_matrices=False)  # (O, m), (m,), (m, I)
    unused = np.random.default_rng(0)  # the layers begin with random weights, which are replaced
    first, second = Linear(inputs, rank, unused, bias=False), Linear(rank, outputs, unused)
    first.weight.data[...] = s[:rank, None] * vt[:rank]
    second.weight.data[...] = u[:, :rank]
    second.bias.data[...] = layer.bias.data
    return Sequential(first, second)


def multiplications(layer: Linear | Sequential) -> int:
    """Multiplications an input: the number of weights."""
    layers = layer.layers if isinstance(layer, Sequential) else [layer]
    return sum(part.weight.size for part in layers)
