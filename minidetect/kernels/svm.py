"""A linear support vector machine, solved one example at a time: dual coordinate descent.

    minimise over w    |w|^2 / 2 + sum over n of C_n * max(0, 1 - s_n * w.x_n)
    its dual           maximise sum a_n - |w|^2 / 2  with  w = sum a_n s_n x_n  and  0 <= a_n <= C_n

With all but one a_n held, the best value of that one is a parabola's minimum, cut to the interval: a step costs one
dot product and one addition of a row. (Hsieh et al., "A Dual Coordinate Descent Method for Large-scale Linear SVM",
2008; it is what R-CNN's published code calls through LIBLINEAR.) Most examples end at a = 0 and stay there; those are
left out of a pass ("shrinking") until the others have settled, and are then looked at once more.

The bias is one more feature with the same value for all examples, and like the others it is regularised: the larger
that value, the less the bias costs. The column is never written down.

Letters: N examples, D features; x: features, s: +1 or -1, C: the price of an error, a: alpha.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import kernel


class DualSolution(NamedTuple):
    """weight: (D + 1,) float64, the bias's last, to be multiplied by the bias feature. alpha: (N,) float64.

    passes: how many were made. violation: by how much the conditions of the optimum were missed in the last one.
    """

    weight: np.ndarray
    alpha: np.ndarray
    passes: int
    violation: float


def solve_dual(
    x: np.ndarray, is_positive: np.ndarray, price: np.ndarray, bias: float, rng: np.random.Generator,
    alpha: np.ndarray | None = None, tolerance: float = 0.01, most_passes: int = 1000,
) -> DualSolution:
    """Train until no margin is off by more than `tolerance`, or for `most_passes` passes.

    x: (N, D) float; is_positive: (N,) bool; price: (N,), C of each example, above 0. bias: the value of the bias
    feature, above 0. rng: the order of the examples, anew in every pass. alpha: (N,), where to start (those of an
    earlier solution for examples that it knew, 0 for new ones), else 0 for all.
    """
    sign = np.where(is_positive, 1.0, -1.0)
    alpha = np.zeros(len(x)) if alpha is None else np.clip(alpha, 0, price).astype(np.float64)
    pull = alpha * sign
    weight = np.append(pull @ x, bias * pull.sum()).astype(np.float64)
    norms = np.einsum("nd,nd->n", x, x, dtype=np.float64) + bias**2
    everyone, kept = np.arange(len(x)), np.empty(len(x), np.int64)
    active, ceiling, floor, violation, passes = everyone, np.inf, -np.inf, 0.0, 0
    while passes < most_passes:
        order = rng.permutation(active)
        count, highest, lowest = _pass(x, sign, price, norms, bias, order, ceiling, floor, alpha, weight, kept)
        passes, violation = passes + 1, highest - lowest
        if violation > tolerance:
            active = kept[:count].copy()
            ceiling, floor = (highest if highest > 0 else np.inf), (lowest if lowest < 0 else -np.inf)
        elif len(active) == len(x):
            break
        else:  # the active ones have settled: have the others?
            active, ceiling, floor = everyone, np.inf, -np.inf
    return DualSolution(weight, alpha, passes, violation)


@kernel
def _pass(x, sign, price, norms, bias, order, ceiling, floor, alpha, weight, kept):
    """One step on each example in `order`; changes alpha (N,) and weight (D + 1,).

    Writes the examples that stay active to `kept`; one at a bound whose slope beyond ceiling or floor holds it there
    does not. Returns their number, and the largest and smallest slope among them, both 0 or beyond it.
    """
    count, highest, lowest = 0, 0.0, 0.0
    features = x.shape[1]
    for n in order:
        slope = weight[features] * bias
        for d in range(features):
            slope += weight[d] * x[n, d]
        slope = sign[n] * slope - 1.0  # of the function to minimise; below 0: alpha should rise
        free = slope
        if alpha[n] <= 0.0:
            if slope > ceiling:
                continue
            free = min(slope, 0.0)
        elif alpha[n] >= price[n]:
            if slope < floor:
                continue
            free = max(slope, 0.0)
        kept[count] = n
        count += 1
        highest, lowest = max(highest, free), min(lowest, free)
        if free != 0.0:
            new = min(max(alpha[n] - slope / norms[n], 0.0), price[n])
            step = (new - alpha[n]) * sign[n]
            alpha[n] = new
            for d in range(features):
                weight[d] += step * x[n, d]
            weight[features] += step * bias
    return count, highest, lowest
