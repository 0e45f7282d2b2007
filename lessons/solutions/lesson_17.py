"""Solutions of lesson 17. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np

from minidetect.kernels.conv import conv2d_forward as library_conv


def parameters(layers):
    """A filter reads the channels of its own group only, so that the weights are divided by the groups once."""
    count = 0
    for kind, *numbers in layers:
        if kind == "conv":
            inputs, outputs, kernel, _, _, groups, bias = numbers
            count += outputs * (inputs // groups) * kernel**2 + outputs * bias
        elif kind == "norm":
            count += 2 * numbers[0]
        elif kind == "prelu":
            count += numbers[0]
    return count


def normalise(y):
    """Batch norm in training, without its scale and shift."""
    mean, var = (f(y, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return (y - mean) / np.sqrt(var + 1e-5)


def activate(y):
    return np.where(y > 0, y, 0.25 * y)


def inverted_residual(x, widen, filters, narrow, stride, ends):
    """Whether x is added is decided by the channels and the stride, never by the size of a map."""
    y = x
    if widen is not None:
        y = activate(normalise(library_conv(y, widen, None, 1, 0, 1, 1)))
    y = activate(normalise(library_conv(y, filters, None, stride, 1, 1, len(filters))))
    y = normalise(library_conv(y, narrow, None, 1, 0, 1, 1))
    y = activate(y) if ends else y
    return x + y if stride == 1 and x.shape[1] == len(narrow) else y


def shared_gradient(w, f0, gs):
    """Backward, `gf` is what later passes say of f_i; the loss of its own adds to it."""
    f, z = [f0], []
    for _ in gs:
        z.append(w @ f[-1])
        f.append(activate(z[-1]))
    gw, gf = np.zeros(w.shape), np.zeros(f0.shape)
    for i in reversed(range(len(gs))):
        gz = (gf + gs[i]) * np.where(z[i] > 0, 1, 0.25)
        gw += np.outer(gz, f[i])
        gf = w.T @ gz
    return gw


def multiply_adds(layers, height, width):
    """Each output of a convolution is a sum of as many products as its filter has weights."""
    count = 0
    for kind, *numbers in layers:
        if kind == "conv":
            inputs, outputs, kernel, stride, padding, groups, _ = numbers
            height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
            count += height * width * outputs * (inputs // groups) * kernel**2
    return count, height, width


def fields(start, body, passes):
    """The jump goes on growing from pass to pass: neighbours in f_2 are twice as far apart as in f_1."""
    size, jump, found = 1, 1, []
    for i in range(passes):
        for kind, *numbers in start + body if i == 0 else body:
            if kind == "conv":
                _, _, kernel, stride, *_ = numbers
                size, jump = size + (kernel - 1) * jump, jump * stride
        found.append((size, jump))
    return found
