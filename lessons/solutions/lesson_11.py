"""Solutions of lesson 11. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def paired_interval(first, second, measure, draws):
    """Every draw is made from both, so that what is common to both falls out of the difference."""
    gained = [measure([second[i] for i in draw]) - measure([first[i] for i in draw]) for draw in draws]
    return np.percentile(gained, [2.5, 97.5])


def svd_pair(weight, bias, rank):
    """The singular values go into the first layer, the bias into the second: it is added after both."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    return (s[:rank, None] * vt[:rank], None), (u[:, :rank], bias)


def largest_rank(outputs, inputs, factor):
    """rank * (outputs + inputs) <= outputs * inputs / factor, solved for the rank."""
    return int(outputs * inputs / (factor * (outputs + inputs)))


def learning(names, frozen):
    """A convolution is three layers; the third, ReLU, has no parameters."""
    stays = tuple(f"backbone.layers.{i}." for i in range(3 * frozen))
    return [name for name in names if not name.startswith(stays)]


def average_recall(overlaps, most):
    """An object of overlap v is found at all thresholds from 0.5 to v: it adds v - 0.5 to the area."""
    best = overlaps[:, :most].max(axis=1, initial=0)
    return 2 * np.maximum(best - 0.5, 0).mean()


def nearest_scale(boxes, factors, canonical_area):
    """Areas grow with the square of the factor; argmin takes the first of equals."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # (R,)
    return np.abs(areas[:, None] * factors**2 - canonical_area).argmin(axis=1)
