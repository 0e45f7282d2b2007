"""Solutions of lesson 02. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def output_size(size, kernel, stride, padding, dilation):
    """The first place, and one more for each whole stride that is left of the padded axis."""
    reach = dilation * (kernel - 1) + 1
    return (size + 2 * padding - reach) // stride + 1


def conv2d(x, w, b, stride, padding):
    """Four loops choose an output; the loops over c, u and v are the sum over a patch."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    filters, _, kernel_h, kernel_w = w.shape
    rows = (x.shape[2] - kernel_h) // stride + 1
    columns = (x.shape[3] - kernel_w) // stride + 1
    y = np.empty((len(x), filters, rows, columns))
    for n, o, i, j in np.ndindex(y.shape):
        patch = x[n, :, i * stride : i * stride + kernel_h, j * stride : j * stride + kernel_w]  # (C, KH, KW)
        y[n, o, i, j] = (patch * w[o]).sum() + b[o]
    return y


def conv2d_backward(gy, x, w, stride, padding):
    """The same loops: what a patch and a filter gave to an output, its gradient gives back to both."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    gx, gw = np.zeros_like(padded), np.zeros_like(w)
    for n, o, i, j in np.ndindex(gy.shape):
        rows = slice(i * stride, i * stride + w.shape[2])
        columns = slice(j * stride, j * stride + w.shape[3])
        gx[n, :, rows, columns] += gy[n, o, i, j] * w[o]
        gw[o] += gy[n, o, i, j] * padded[n, :, rows, columns]
    gx = gx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
    return gx, gw, gy.sum(axis=(0, 2, 3))


def grouped_conv2d(x, w, b, groups):
    """A layer of its own for each group, one behind the other."""
    inputs, outputs = x.shape[1] // groups, len(w) // groups
    parts = []
    for g in range(groups):
        own = slice(g * outputs, (g + 1) * outputs)
        parts.append(conv2d(x[:, g * inputs : (g + 1) * inputs], w[own], b[own], 1, 0))
    return np.concatenate(parts, axis=1)


def receptive_field(layers):
    """Each layer adds its reach, in steps of what one step has become by then."""
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size += dilation * (kernel - 1) * jump
        jump *= stride
    return size, jump


def max_pool_backward(gy, switches, height, width):
    """Each output's gradient goes to the pixel that won; a pixel that won twice gets both."""
    gx = np.zeros((*gy.shape[:2], height * width))
    for n, c, i, j in np.ndindex(gy.shape):
        gx[n, c, switches[n, c, i, j]] += gy[n, c, i, j]
    return gx.reshape(*gy.shape[:2], height, width)


def prelu_backward(gy, x, slope):
    """Below zero y = slope * x: so x gets slope * gy, and the slope gets x * gy, from every place that used it."""
    gx = np.where(x > 0, gy, slope[:, None, None] * gy)
    gslope = np.where(x > 0, 0, x * gy).sum(axis=(0, 2, 3))
    return gx, gslope
