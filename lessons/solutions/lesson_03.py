"""Solutions of lesson 03. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import math

import numpy as np


def multiply_adds(x_shape, w_shape, stride, padding):
    """Each output number takes as many as one filter has weights; groups are in that already."""
    filters, *one_filter = w_shape
    rows = (x_shape[2] + 2 * padding - w_shape[2]) // stride + 1
    columns = (x_shape[3] + 2 * padding - w_shape[3]) // stride + 1
    return x_shape[0] * filters * rows * columns * math.prod(one_filter)


def intensity(x_shape, w_shape, stride, padding):
    """Multiply-adds for each byte, if x, w and y travel once."""
    work = multiply_adds(x_shape, w_shape, stride, padding)
    outputs = work // math.prod(w_shape[1:])
    return work / (4 * (math.prod(x_shape) + math.prod(w_shape) + outputs))


def depthwise(x, w):
    """The sum runs over the taps only: channel c of the output is made of channel c of the input."""
    y = np.zeros((len(x), x.shape[1] - w.shape[1] + 1, x.shape[2] - w.shape[2] + 1))
    for c, i, j in np.ndindex(y.shape):
        y[c, i, j] = (w[c] * x[c, i : i + w.shape[1], j : j + w.shape[2]]).sum()
    return y


def shared_cells(writes):
    """A set for each iteration first: to write twice to one's own cell harms nobody."""
    owners = {}
    for iteration, cells in enumerate(writes):
        for cell in cells:
            owners.setdefault(cell, set()).add(iteration)
    return sorted(cell for cell, who in owners.items() if len(who) > 1)


def pixel_gradient(gy, w, row, column, stride):
    """Output (i, j) reads pixel (i * stride + u, j * stride + v) through the tap (u, v); solved for i and j."""
    total = 0.0
    for u in range(w.shape[0]):
        for v in range(w.shape[1]):
            i, row_rest = divmod(row - u, stride)
            j, column_rest = divmod(column - v, stride)
            if row_rest == column_rest == 0 and 0 <= i < gy.shape[0] and 0 <= j < gy.shape[1]:
                total += w[u, v] * gy[i, j]
    return total
