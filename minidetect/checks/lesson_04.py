"""Checks of lesson 04: cross entropy, its gradient, a step of SGD, batch norm and its gradient, another prior.

Letters: N samples, K classes, C channels; H, W: a map's height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check
from minidetect.nn.layers import parameter
from minidetect.nn.module import Module
from minidetect.nn.optim import SGD
from minidetect.reference import nn_ops as slow
from minidetect.visualize import COLOURS, new_figure


@check("4.1")
def cross_entropy() -> Iterator[Case]:
    """One number: the mean of -log softmax(logits)[label]; logits (N, K), labels (N,)."""
    for logits, labels, want, why in (
        ([[0, 0]], [1], math.log(2), "two equal logits: log 2, whichever is right"),
        ([[0, 0, 0, 0]], [2], math.log(4), "four equal logits: log 4, by the natural logarithm"),
        ([[math.log(3), 0]], [1], math.log(4), "odds of 3 to 1 for the wrong class: it has probability 1/4"),
        ([[7, 7 - math.log(3)]], [1], math.log(4), "only the difference of the logits counts"),
        ([[1000, 0]], [0], 0, "exp(1000) overflows; the loss is 0 all the same"),
        ([[1000, 0]], [1], 1000, "as wrong as can be: the loss is the difference, it does not end at -log(1e-12)"),
        ([[-1000, -1000]], [0], math.log(2), "exp(-1000) is 0, and the logarithm of 0 is not what is asked for"),
        ([[1000, 990], [-1000, -1000]], [0, 1], (math.log1p(math.exp(-10)) + math.log(2)) / 2,
         "each row needs its own largest logit taken off"),
    ):
        yield Case((np.array(logits, float), np.array(labels)), float(want), why=why)
    rng = np.random.default_rng(41)
    for num, classes in ((1, 3), (3, 2), (5, 4)):
        logits, labels = rng.normal(0, 2, (num, classes)), rng.integers(0, classes, num)
        yield Case((logits, labels), slow_cross_entropy(logits, labels), why="drawn at random: the mean over rows")


@check("4.2")
def cross_entropy_gradient() -> Iterator[Case]:
    """(N, K): the derivative of the mean cross entropy by each logit."""
    for logits, labels, want, why in (
        ([[0, 0]], [1], [[0.5, -0.5]], "an undecided row: both logits are pushed equally hard"),
        ([[math.log(3), 0]], [0], [[-0.25, 0.25]], "the right class has 3/4 already"),
        ([[1000, 0]], [0], [[0, 0]], "surely right: no push at all, and no overflow"),
        ([[1000, 0]], [1], [[1, -1]], "surely wrong: the push is 1 and never more"),
        ([[-1000, -1000, -1000]], [1], [[1 / 3, -2 / 3, 1 / 3]], "very negative logits that are equal"),
        ([[0, 0], [0, 0]], [0, 1], [[-0.25, 0.25], [0.25, -0.25]], "the loss is a mean, so each of two rows has half"),
        ([[1000, 1000], [-1000, -1000]], [0, 1], [[-0.25, 0.25], [0.25, -0.25]],
         "each row needs its own largest logit taken off"),
    ):
        given = np.array(logits, float), np.array(labels)
        yield Case(given, np.array(want, float), why=why, picture=gradient_picture(want))
    rng = np.random.default_rng(42)
    for num, classes in ((1, 3), (3, 2), (5, 4)):
        logits, labels = rng.normal(0, 2, (num, classes)), rng.integers(0, classes, num)
        want = slope(lambda z, u=labels: slow_cross_entropy(z, u), logits)
        yield Case((logits, labels), want, why="held against finite differences", picture=gradient_picture(want))


@check("4.3")
def sgd_step() -> Iterator[Case]:
    """(new p, new v) of p <- p - lr v', v' = momentum v + g + weight_decay p."""
    one = np.array([[1.0]])
    for g, v, lr, momentum, decay, want, why in (
        (2, 0, 0.1, 0, 0, (0.8, 2), "plain descent: 1 - 0.1 * 2"),
        (2, 3, 0.1, 0.5, 0, (0.65, 3.5), "half of the old velocity stays"),
        (2, 3, 0.1, 0.5, 0.5, (0.6, 4), "weight decay joins the gradient before the velocity is made"),
        (0, 0, 0.1, 0.9, 0.5, (0.95, 0.5), "without a gradient the weight shrinks"),
        (0, 3, 0.1, 0.9, 0, (0.73, 2.7), "without a gradient the velocity carries on"),
    ):
        yield Case((one, g * one, v * one, lr, momentum, decay), (want[0] * one, want[1] * one), why=why)
    rng = np.random.default_rng(43)
    for shape in ((1, 3), (3, 2), (4, 5)):
        p, g, v = rng.normal(0, 1, (3, *shape))
        lr, momentum, decay = rng.uniform(0.05, 0.5), rng.uniform(0.5, 0.95), rng.uniform(0.1, 0.5)
        want = library_step(p, g, v, lr, momentum, decay)
        yield Case((p, g, v, lr, momentum, decay), want, why="held against minidetect.nn.optim.SGD")


@check("4.4")
def batch_norm() -> Iterator[Case]:
    """(y, new running mean, new running variance) of x (N, C, H, W) in training."""
    x = np.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    unit, zero = np.ones(1), np.zeros(1)
    y = np.array([-1.0, 1.0]).reshape(2, 1, 1, 1) / math.sqrt(1 + 1e-5)
    moved = np.array([0.2]), np.array([0.9 + 0.1 * 2])  # mean 2; variance 1, with the divisor M - 1 it is 2
    why = "1 and 3 have mean 2 and variance 1; the stored variance is moved by 2, which divides by M - 1"
    yield Case((x, unit, zero, zero, unit), (y, *moved), why=why)
    yield Case((x, 3 * unit, unit, zero, unit), (3 * y + 1, *moved), why="gamma scales and beta shifts the result")
    constant = np.full((3, 1, 1, 2), 5.0)
    want = np.zeros_like(constant), np.array([0.5]), np.array([0.9])
    yield Case((constant, unit, zero, zero, unit), want, why="a constant channel: eps keeps 0 / 0 away")
    faint = np.array([-0.003, 0.003]).reshape(2, 1, 1, 1)
    want = faint / math.sqrt(9e-6 + 1e-5), np.zeros(1), np.array([0.9 + 0.1 * 18e-6])
    yield Case((faint, unit, zero, zero, unit), want, why="a faint channel: eps joins the variance under the root")
    rng = np.random.default_rng(44)
    for shape in ((2, 3, 1, 2), (3, 2, 4, 5)):
        x = rng.normal(2, 3, shape) * rng.uniform(0.01, 2, (1, shape[1], 1, 1))
        gamma, beta, mean = rng.normal(0, 1, (3, shape[1]))
        var = rng.uniform(0.5, 4, shape[1])
        want = slow.batch_norm(x, gamma, beta), *moved_averages(x, mean, var)
        yield Case((x, gamma, beta, mean, var), want, why="each channel by its own N * H * W values", atol=1e-5)


@check("4.5")
def batch_norm_backward() -> Iterator[Case]:
    """(gx, ggamma, gbeta) of the same, for the gradient gy of its result."""
    x, gy = np.array([1.0, 3.0, 8.0]).reshape(3, 1, 1, 1), np.array([1.0, 0, 0]).reshape(3, 1, 1, 1)
    yield norm_case(np.ones_like(gy), x, np.ones(1), "every output is pushed equally: the mean cannot move, so gx is 0")
    yield norm_case(gy, x, np.ones(1), "only one output is pushed, but every input feels it")
    rng = np.random.default_rng(45)
    for shape in ((3, 1, 1, 1), (2, 3, 1, 2), (3, 2, 2, 4)):
        x, gy = rng.normal(1, 2, (2, *shape))
        yield norm_case(gy, x, rng.normal(0, 1, shape[1]), "held against finite differences")


@check("4.6")
def prior_shift() -> Iterator[Case]:
    """Probabilities (N,) of a net that saw `trained` positives, where a share `real` is positive."""
    for p, trained, real, want, why in (
        ([0.5], 0.5, 0.05, [0.05], "a patch that says nothing is positive as often as patches are"),
        ([0.95], 0.5, 0.05, [0.5], "odds of 19 to 1, and faces 19 times rarer: even"),
        ([0.05], 0.05, 0.5, [0.5], "the other way round"),
        ([0.3, 0.7], 0.2, 0.2, [0.3, 0.7], "nothing changes where nothing differs"),
        ([0.0, 1.0], 0.5, 0.05, [0.0, 1.0], "certain before, certain after"),
        ([0.75], 0.25, 0.5, [0.9], "odds 3, times 3 for the faces, times 1 for what is not one: 9"),
    ):
        yield Case((np.array(p), trained, real), np.array(want), why=why)
    rng = np.random.default_rng(46)
    for num in (2, 5):
        p, trained, real = rng.uniform(0.01, 0.99, num), rng.uniform(0.2, 0.8), rng.uniform(0.01, 0.4)
        want = [1 / (1 + math.exp(-(logit(v) - logit(trained) + logit(real)))) for v in p]
        yield Case((p, trained, real), np.array(want), why="in logits it is one constant added to all")


def slow_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    log_probs = slow.log_softmax(logits)
    return -sum(log_probs[n, u] for n, u in enumerate(labels)) / len(labels)


def slope(function: Callable[[np.ndarray], float], x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Central differences of a function with one number as its result: an array like x."""
    out = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = eps
        out[i] = (function(x + step) - function(x - step)) / (2 * eps)
    return out


def library_step(
    p: np.ndarray, g: np.ndarray, v: np.ndarray, lr: float, momentum: float, decay: float
) -> tuple[np.ndarray, np.ndarray]:
    model = Module()
    model.weight = parameter(p.copy())
    optimiser = SGD(model, lr, momentum, decay)
    optimiser.velocity["weight"][...] = v
    model.weight.grad = g.copy()
    optimiser.step()
    return model.weight.data, optimiser.velocity["weight"]


def moved_averages(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = [x[:, c].ravel() for c in range(x.shape[1])]
    means = [0.9 * old + 0.1 * v.mean() for v, old in zip(values, mean, strict=True)]
    return np.array(means), np.array([0.9 * old + 0.1 * v.var(ddof=1) for v, old in zip(values, var, strict=True)])


def norm_case(gy: np.ndarray, x: np.ndarray, gamma: np.ndarray, why: str) -> Case:
    beta = np.zeros_like(gamma)
    want = (
        slope(lambda a: (gy * slow.batch_norm(a, gamma, beta)).sum(), x),
        slope(lambda a: (gy * slow.batch_norm(x, a, beta)).sum(), gamma),
        slope(lambda a: (gy * slow.batch_norm(x, gamma, a)).sum(), beta),
    )
    return Case((gy, x, gamma), want, why=why, atol=1e-5)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def gradient_picture(want: list | np.ndarray) -> Callable[[np.ndarray], Figure]:
    want = np.asarray(want, float)

    def draw(got: np.ndarray) -> Figure:
        figure = new_figure(6, 2.5)
        axes = figure.subplots()
        at = np.arange(want.size)
        axes.bar(at - 0.2, np.ravel(got), 0.4, color=COLOURS[5], label="yours")
        axes.bar(at + 0.2, want.ravel(), 0.4, color=COLOURS[6], label="right")
        axes.set_xticks(at, [f"{n}, {k}" for n, k in np.ndindex(want.shape)])
        axes.set(xlabel="row, class", ylabel="gradient")
        axes.legend()
        return figure

    return draw
