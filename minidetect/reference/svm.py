"""Slow twins of the linear support vector machine: its two objectives as sums, and a plain descent on the dual.

N examples, D features; rows are x, sides +1 or -1, prices C, alphas in [0, C]. The bias feature is an ordinary column
here: append it to x first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def primal(weight: Sequence[float], x: np.ndarray, sides: Sequence[float], prices: Sequence[float]) -> float:
    """|w|^2 / 2 and what the margins' violations cost, one example after the other."""
    total = sum(float(w) ** 2 for w in weight) / 2
    for row, side, price in zip(x, sides, prices, strict=True):
        score = sum(float(w) * float(v) for w, v in zip(weight, row, strict=True))
        total += price * max(0.0, 1 - side * score)
    return total


def dual(alphas: Sequence[float], x: np.ndarray, sides: Sequence[float]) -> float:
    """The sum of the alphas less half of the sum over all pairs of a_i a_j s_i s_j x_i.x_j; at most the primal."""
    pulls = [alpha * side for alpha, side in zip(alphas, sides, strict=True)]
    pairs = sum(
        p * q * float(np.dot(a.astype(np.float64), b.astype(np.float64)))
        for p, a in zip(pulls, x, strict=True)
        for q, b in zip(pulls, x, strict=True)
    )
    return sum(alphas) - pairs / 2


def linear_svm(x: np.ndarray, sides: np.ndarray, prices: np.ndarray, steps: int = 20_000) -> np.ndarray:
    """w (D,) by projected gradient: all alphas a small step downhill, then back into their intervals."""
    rows = x.astype(np.float64) * np.asarray(sides, np.float64)[:, None]
    gram = rows @ rows.T  # (N, N)
    step = 1 / max(np.linalg.eigvalsh(gram).max(), 1e-12)
    alphas = np.zeros(len(x))
    for _ in range(steps):
        alphas = np.clip(alphas - step * (gram @ alphas - 1), 0, prices)
    return alphas @ rows
