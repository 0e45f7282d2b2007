"""Does a backward tell the truth? A gradient held against finite differences, and against its adjoint.

A backward computes v -> J^T v without ever writing the Jacobian J down, so it is checked by what it does:
for a random upstream gradient `gy` and a random direction `d` of one input,

    <backward(gy), d>   must equal   d/dt <gy, f(x + t*d)>   at t = 0,

one number against one number, whatever the shapes. Both vectors must be random. With `gy` of ones the
right-hand side for a softmax is 0 (its outputs always sum to 1) and a softmax whose backward returns
nothing but zeros would pass; with `d` along one axis only one entry would be looked at.

Kinks. ReLU, max pooling and RoI pooling have points without a derivative. Where the segment
x - eps*d ... x + eps*d crosses one, the finite difference means nothing. Such a draw is recognised by
the numbers of the forward pass alone: either the central differences with steps eps and eps/2 disagree
(a kink beside x), or the slopes left and right of x differ by as much at eps/2 as at eps (a kink on x; for a
smooth function the difference halves with the step). Then the point is moved a little and everything is
drawn anew. What backward said plays no part in that decision, so a wrong backward is never excused by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidetect.autograd.tensor import Tensor

NUDGE = 1e-3  # how far a point is moved away from a kink: far more than eps, far less than the data's size
ROUNDING = 10 * np.finfo(np.float64).eps  # of one forward value, relative; sums of a few hundred terms


class GradientError(AssertionError):
    """A gradient disagrees with the function it belongs to.

    op: name of the operation; input_index: which of its inputs;
    analytic, numeric: the two derivatives along the drawn direction; relative_error: of the two.
    """

    def __init__(self, op: str, input_index: int, analytic: float, numeric: float, note: str = "") -> None:
        self.op, self.input_index, self.analytic, self.numeric = op, input_index, analytic, numeric
        self.relative_error = relative_error(analytic, numeric)
        super().__init__(
            f"{op}, input {input_index}: backward says {analytic:.10g}, the forward pass {numeric:.10g} "
            f"(relative error {self.relative_error:.3g})" + (f"; {note}" if note else "")
        )


def relative_error(a: float, b: float) -> float:
    """|a - b| / max(|a|, |b|); 0 when both are 0."""
    largest = max(abs(a), abs(b))
    return abs(a - b) / largest if largest else 0.0


def gradcheck(
    function: Callable[..., Tensor],
    *arrays: np.ndarray,
    rng: np.random.Generator,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    redraw: Callable[[np.random.Generator], tuple[np.ndarray, ...]] | None = None,
    attempts: int = 20,
    name: str = "",
) -> float:
    """Hold the gradient of `function` at `arrays`, for every input in turn, against central differences.

    function: takes one Tensor an array and returns one Tensor of any shape. It must be deterministic:
        a dropout makes its generator inside, from a fixed seed. Inputs that have no gradient (labels,
        rois) belong into a closure.
    arrays: converted to float64; their memory layout is kept.
    redraw: gives new arrays when a draw met a kink; by default the old ones are nudged by about 1e-3.
    rtol: allowed relative error. On top comes only what rounding does to the finite difference itself.
    attempts: draws for one input before giving up.
    name: what to call the operation in an error; by default the Function that made the output.

    Returns the largest relative error met. Raises GradientError, also when no draw was free of kinks (or
    the function is not deterministic), when the output has no graph, and when backward writes into `gy`.
    """
    worst = 0.0
    points = tuple(np.asarray(a, np.float64) for a in arrays)
    for i in range(len(points)):
        x = points
        for _ in range(attempts):
            gy, direction, analytic, op = draw_and_differentiate(function, x, i, rng)
            numeric, noise, smooth = numeric_derivative(function, x, i, direction, gy, eps, rtol)
            if smooth:
                break
            x = redraw(rng) if redraw else tuple(a + NUDGE * rng.standard_normal(a.shape) for a in x)
            x = tuple(np.asarray(a, np.float64) for a in x)
        else:
            raise GradientError(name or op, i, analytic, numeric, f"a kink in each of {attempts} draws")
        if not abs(analytic - numeric) <= rtol * max(abs(analytic), abs(numeric)) + noise:  # NaN fails too
            raise GradientError(name or op, i, analytic, numeric)
        if max(abs(analytic), abs(numeric)) > noise / rtol:  # otherwise the derivative is 0 but for rounding
            worst = max(worst, relative_error(analytic, numeric))
    return worst


def draw_and_differentiate(
    function: Callable[..., Tensor], x: tuple[np.ndarray, ...], i: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Draw `gy` and a direction of input i; return both, <backward(gy), direction> and the op's name."""
    inputs = [Tensor(a, requires_grad=True) for a in x]
    y = function(*inputs)
    gy, direction = rng.standard_normal(y.shape), rng.standard_normal(x[i].shape)
    op = y.creator.name if y.creator else getattr(function, "__name__", "function")
    if not y.requires_grad:
        raise GradientError(op, i, 0.0, float("nan"), "the output has no graph: some step detached it")
    kept = gy.copy()
    y.backward(gy)
    if not np.array_equal(kept, gy):
        raise GradientError(op, i, float("nan"), float("nan"), "backward wrote into its argument gy")
    gx = inputs[i].grad  # None: backward claims that this input has no influence
    return gy, direction, 0.0 if gx is None else float(np.vdot(gx, direction)), op


def numeric_derivative(
    function: Callable[..., Tensor],
    x: tuple[np.ndarray, ...],
    i: int,
    direction: np.ndarray,
    gy: np.ndarray,
    eps: float,
    rtol: float,
) -> tuple[float, float, bool]:
    """d/dt <gy, f(.., x[i] + t*direction, ..)> at t = 0 from values of f alone.

    Returns the central difference with step eps, what rounding may have done to it, and whether the
    function looks smooth there (see the module's head).
    """

    def along(t: float) -> np.ndarray:
        moved = x[i] + t * direction
        return function(*(Tensor(moved if k == i else a) for k, a in enumerate(x))).data

    middle = along(0.0)
    noise = ROUNDING * float(np.linalg.norm(gy * middle)) / eps
    slopes, bends = [], []
    for step in (eps, eps / 2):
        right, left = along(step) - middle, middle - along(-step)  # subtract first: less is lost than in
        slopes.append(float(np.vdot(gy, right + left)) / (2 * step))  # a difference of two long sums
        bends.append(float(np.vdot(gy, right - left)) / step)
    allowed = 0.5 * rtol * max(abs(slopes[0]), abs(slopes[1])) + noise
    kink_beside = abs(slopes[0] - slopes[1]) > allowed
    kink_here = abs(bends[1]) > max(0.75 * abs(bends[0]), 4 * allowed)
    return slopes[0], noise, not (kink_beside or kink_here)


def check_adjoint(
    function: Callable[[Tensor], Tensor],
    x_shape: tuple[int, ...],
    rng: np.random.Generator,
    rtol: float = 1e-12,
    dtype: type = np.float64,
    name: str = "",
) -> None:
    """<f(x), y> = <x, f^T(y)> for a linear `function`, where f^T is its backward.

    No finite differences, so it holds to rounding: it catches what 1e-6 might let pass, such as one wrong
    border pixel. Raises GradientError; ValueError when f(0) is not 0 (an affine function: drop its bias).
    """
    zero = function(Tensor(np.zeros(x_shape, dtype))).data
    if np.any(zero):
        raise ValueError(f"check_adjoint needs a linear function, but f(0) is up to {np.abs(zero).max():.3g}")
    x = Tensor(rng.standard_normal(x_shape).astype(dtype), requires_grad=True)
    fx = function(x)
    y = rng.standard_normal(fx.shape).astype(dtype)
    op = name or (fx.creator.name if fx.creator else "function")
    there = float(np.vdot(fx.data.astype(np.float64), y))
    size = float(np.linalg.norm(fx.data)) * float(np.linalg.norm(y))  # of the terms: sums may cancel
    fx.backward(y)
    back = 0.0 if x.grad is None else float(np.vdot(x.data.astype(np.float64), x.grad))
    if not abs(there - back) <= rtol * max(size, abs(back)):
        raise GradientError(op, 0, back, there, "the adjoint identity <f(x), y> = <x, f^T(y)> fails")
