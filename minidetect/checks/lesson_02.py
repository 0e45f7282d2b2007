"""Checks of lesson 02: sizes, convolution and its gradients, groups, receptive fields, switches, PReLU.

Letters: N images, C input channels, O filters, H W input size, KH KW kernel, PH PW output size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check, difference
from minidetect.reference import nn_ops as slow
from minidetect.visualize import new_figure


@check("2.1")
def output_size() -> Iterator[Case]:
    """How many places a kernel has along an axis, by trying each place."""
    for size, kernel, stride, padding, dilation, why in (
        (5, 2, 1, 0, 1, "five pixels have four pairs of neighbours"),
        (6, 3, 3, 0, 1, "two places side by side, nothing left over"),
        (8, 3, 2, 0, 1, "a last pixel too few for another step is left unused"),
        (10, 3, 4, 0, 1, "three pixels left of a step of four are still too few"),
        (7, 3, 1, 1, 1, "padding of one keeps the size of a kernel of three"),
        (7, 4, 1, 1, 1, "no padding keeps the size of an even kernel"),
        (7, 3, 1, 0, 2, "dilation 2: three taps reach over five pixels, not over six"),
        (9, 1, 2, 0, 3, "a kernel of one tap does not care for dilation"),
        (9, 3, 2, 2, 3, "all four at once"),
        (227, 11, 4, 0, 1, "the first layer of R-CNN's network"),
    ):
        first_taps = range(-padding, size + padding, stride)
        fits = [first + dilation * (kernel - 1) < size + padding for first in first_taps]
        yield Case((size, kernel, stride, padding, dilation), sum(fits), partial(whole_number, sum(fits)), why)


@check("2.2")
def conv2d() -> Iterator[Case]:
    """x (N, C, H, W), w (O, C, KH, KW), b (O,), stride, padding -> y (N, O, PH, PW)."""
    ramp, corner = np.arange(1.0, 7).reshape(1, 1, 2, 3), np.array([1.0, 10, 100, 1000]).reshape(1, 1, 2, 2)
    yield conv_case(ramp, corner, [0.0], 1, 0, "two places; the kernel is not turned: 1 meets the top left pixel")
    rng = np.random.default_rng(22)
    for x, w, stride, padding, why in (
        ((1, 1, 3, 4), (1, 1, 2, 1), 1, 0, "neither the image nor the kernel is square"),
        ((1, 2, 3, 2), (1, 2, 1, 1), 1, 0, "two channels: their products are summed, and the bias comes once"),
        ((1, 2, 2, 3), (3, 2, 2, 2), 1, 0, "three filters of two channels, each with its own bias"),
        ((2, 1, 2, 3), (1, 1, 2, 2), 1, 0, "two images"),
        ((1, 1, 2, 3), (1, 1, 3, 3), 1, 1, "padding: a frame of zeros around the image"),
        ((1, 1, 2, 3), (1, 1, 2, 3), 2, 2, "padding 2: a frame two pixels thick"),
        ((1, 1, 4, 5), (1, 1, 2, 3), 2, 0, "stride 2 in both directions"),
        ((1, 1, 6, 4), (1, 1, 3, 3), 2, 0, "stride 2, and the last row has no place"),
        ((2, 3, 5, 6), (4, 3, 3, 2), 2, 1, "everything at once"),
    ):
        yield conv_case(draw(rng, x), draw(rng, w), draw(rng, w[:1]), stride, padding, why)


@check("2.3")
def conv2d_backward() -> Iterator[Case]:
    """gy (N, O, PH, PW), x, w, stride, padding -> gx, gw, gb, each like what it belongs to."""
    rng = np.random.default_rng(23)
    for x, w, stride, padding, why in (
        ((1, 1, 1, 3), (1, 1, 1, 2), 1, 0, "the middle pixel helped both outputs and gets a part from both"),
        ((1, 1, 3, 4), (1, 1, 2, 2), 1, 0, "one image, one channel, one filter"),
        ((2, 1, 2, 3), (1, 1, 1, 2), 1, 0, "both images share the filter: their parts are summed"),
        ((1, 2, 2, 3), (3, 2, 1, 2), 1, 0, "a pixel is seen by three filters"),
        ((1, 1, 5, 4), (1, 1, 2, 2), 2, 0, "stride 2, and the last row was never seen: its gradient is zero"),
        ((1, 1, 2, 3), (1, 1, 3, 2), 1, 1, "padding: what falls on the frame is dropped, gx is as large as x"),
        ((1, 1, 2, 3), (1, 1, 2, 3), 2, 2, "padding 2: a frame two pixels thick"),
        ((2, 3, 5, 4), (4, 3, 3, 2), 2, 1, "everything at once"),
    ):
        x, w = draw(rng, x), draw(rng, w)
        gy = draw(rng, slow.conv2d(x, w, None, stride, padding).shape)
        yield Case((gy, x, w, stride, padding), gradients(gy, x, w, stride, padding), why=why)


@check("2.4")
def grouped_conv2d() -> Iterator[Case]:
    """x (N, C, H, W), w (O, C/G, KH, KW), b (O,), groups G -> y, stride 1 and no padding."""
    rng = np.random.default_rng(24)
    for x, w, groups, why in (
        ((1, 2, 1, 2), (2, 1, 1, 1), 2, "two channels, each with a filter of its own"),
        ((1, 2, 2, 3), (1, 2, 2, 2), 1, "one group is an ordinary layer"),
        ((1, 4, 2, 2), (2, 2, 1, 2), 2, "the first filter sees channels 0 and 1, the second 2 and 3"),
        ((1, 2, 2, 3), (4, 1, 2, 1), 2, "two filters a channel: the first two see channel 0"),
        ((2, 3, 3, 4), (3, 1, 2, 3), 3, "depthwise, two images"),
        ((2, 6, 4, 3), (9, 2, 2, 1), 3, "three groups of two channels and three filters"),
    ):
        x, w, b = draw(rng, x), draw(rng, w), draw(rng, w[:1])
        yield Case((x, w, b, groups), slow.conv2d(x, w, b, groups=groups), why=why)


@check("2.5")
def receptive_field() -> Iterator[Case]:
    """[(kernel, stride, dilation), ...] from the input up -> (pixels an output sees, pixels between outputs)."""
    for layers, why in (
        ([], "no layer: an output is a pixel"),
        ([(3, 1, 1)], "one layer sees its kernel"),
        ([(2, 2, 1)], "its own stride does not widen what a layer sees"),
        ([(3, 1, 1), (3, 1, 1)], "two layers of three see five, not six or nine"),
        ([(3, 2, 1), (3, 1, 1)], "after a stride of 2, neighbours are two pixels apart: 3 + 2 * 2"),
        ([(2, 2, 1), (2, 3, 1), (2, 1, 1)], "strides multiply"),
        ([(3, 1, 2), (3, 1, 3)], "dilation counts pixels of the layer's own input"),
        ([(5, 2, 1), (1, 2, 1), (3, 1, 2)], "a kernel of one sees no further, but its stride counts"),
        ([(4, 3, 2), (3, 2, 1), (2, 1, 4)], "stride and dilation mixed"),
    ):
        yield Case((layers,), pixels_seen(layers), why=why)


@check("2.6")
def max_pool_backward() -> Iterator[Case]:
    """gy (N, C, PH, PW), switches of the same shape, height, width -> gx (N, C, height, width)."""
    one = np.array([2.0]).reshape(1, 1, 1, 1)
    yield Case((one, np.array([[[[4]]]]), 2, 3), np.array([[[[0, 0, 0], [0, 2.0, 0]]]]), why="place 4 of 2 x 3 pixels")
    twice = np.array([2.0, 5.0]).reshape(1, 1, 1, 2)
    want = np.array([[[[0.0, 0], [0, 0], [0, 7]]]])
    yield Case((twice, np.array([[[[5, 5]]]]), 3, 2), want, why="a pixel that won two windows gets the sum of both")
    rng = np.random.default_rng(26)
    for shape, kernel, stride, why in (
        ((1, 2, 2, 3), 2, 1, "two channels: a switch is a place in its own channel"),
        ((2, 1, 3, 2), 2, 1, "two images"),
        ((1, 1, 5, 7), 3, 2, "windows of 3 in steps of 2 share rows and columns"),
        ((2, 3, 4, 6), 2, 2, "windows that do not overlap"),
    ):
        yield pool_case(draw(rng, shape), rng, kernel, stride, why)


@check("2.7")
def prelu_backward() -> Iterator[Case]:
    """gy and x (N, C, H, W), slope (C,) -> gx like x, gslope (C,)."""
    x, gy = np.array([3.0, -2.0, -1.0]).reshape(1, 1, 1, 3), np.array([1.0, 10.0, 100.0]).reshape(1, 1, 1, 3)
    want = (np.array([1.0, 5.0, 50.0]).reshape(1, 1, 1, 3), np.array([-120.0]))
    yield Case((gy, x, np.array([0.5])), want, why="y = slope * x at two places, so the slope hears -2 * 10 - 1 * 100")
    rng = np.random.default_rng(27)
    for shape, why in (
        ((1, 2, 1, 2), "two channels, each with a slope of its own"),
        ((3, 1, 2, 1), "three images share the slope"),
        ((2, 3, 4, 5), "everything at once"),
    ):
        x, slope = draw(rng, shape), draw(rng, shape[1:2])
        gy = draw(rng, shape)
        yield Case((gy, x, slope), prelu_gradients(gy, x, slope), why=why)


def whole_number(want: int, got: object) -> str:
    """What is wrong with a number of outputs, or ""."""
    complaint = difference(got, want)
    if not complaint and not isinstance(got, (int, np.integer)):
        return f"{got} is a {type(got).__name__}: right in value, but an array wants an int for its size."
    return complaint


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of one decimal, both signs, none of them zero: (shape)."""
    return rng.integers(1, 30, shape) / 10 * rng.choice([-1.0, 1.0], shape)


def conv_case(x: np.ndarray, w: np.ndarray, b: np.ndarray | list, stride: int, padding: int, why: str) -> Case:
    b = np.asarray(b)
    want = slow.conv2d(x, w, b, stride, padding)
    return Case((x, w, b, stride, padding), want, why=why, picture=partial(draw_maps, want))


def gradients(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By trying: the layer is linear, so a pixel's gradient is <gy, the answer to that pixel alone>, a weight's too."""
    pixels = np.eye(x[0].size).reshape(-1, *x.shape[1:])  # (C*H*W, C, H, W)
    answers = slow.conv2d(pixels, w, None, stride, padding)  # (C*H*W, O, PH, PW)
    gx = np.einsum("noij,koij->nk", gy, answers).reshape(x.shape)
    weights = np.eye(w[0].size).reshape(-1, *w.shape[1:])  # (C*KH*KW, C, KH, KW)
    answers = slow.conv2d(x, weights, None, stride, padding)  # (N, C*KH*KW, PH, PW)
    gw = np.einsum("noij,nkij->ok", gy, answers).reshape(w.shape)
    gb = np.array([gy[:, o].sum() for o in range(len(w))])
    return gx, gw, gb


def pixels_seen(layers: list[tuple[int, int, int]]) -> tuple[int, int]:
    """By walking down: the lowest and highest position that the outputs 0 and 1 need, layer by layer."""
    ends = []
    for output in (0, 1):
        low = high = output
        for kernel, stride, dilation in reversed(layers):
            low, high = low * stride, high * stride + dilation * (kernel - 1)
        ends.append((low, high))
    return ends[0][1] - ends[0][0] + 1, ends[1][0] - ends[0][0]


def pool_case(x: np.ndarray, rng: np.random.Generator, kernel: int, stride: int, why: str) -> Case:
    """The winners come from pixels numbered in reading order; the answer visits pixels, not windows."""
    height, width = x.shape[2:]
    y = slow.max_pool2d(x, kernel, stride)
    gy = draw(rng, y.shape)
    switches, want = np.zeros(y.shape, np.int64), np.zeros_like(x)
    for n, c, i, j in np.ndindex(y.shape):
        places = [(i * stride + u, j * stride + v) for u in range(kernel) for v in range(kernel)]
        row, column = max(places, key=lambda place: x[n, c, place[0], place[1]])
        switches[n, c, i, j] = row * width + column
    for n, c, row, column in np.ndindex(x.shape):
        want[n, c, row, column] = gy[n, c][switches[n, c] == row * width + column].sum()
    return Case((gy, switches, height, width), want, why=why, picture=partial(draw_maps, want))


def prelu_gradients(gy: np.ndarray, x: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By central differences, exact away from the kink: PReLU is made of straight lines."""
    step = 1e-3
    gx = gy * (slow.prelu(x + step, slope) - slow.prelu(x - step, slope)) / (2 * step)
    gslope = []
    for c in range(len(slope)):
        moved = step * (np.arange(len(slope)) == c)
        change = slow.prelu(x, slope + moved) - slow.prelu(x, slope - moved)
        gslope.append((gy * change).sum() / (2 * step))
    return gx, np.array(gslope)


def draw_maps(right: np.ndarray, got: np.ndarray) -> Figure:
    """The first map of what came back beside the right one, and where they differ."""
    yours, right = np.asarray(got, float)[0, 0], np.asarray(right)[0, 0]
    figure = new_figure(7, 2.5)
    top = max(abs(right).max(), 1e-9)
    panels = (("yours", yours), ("right", right), ("difference", yours - right))
    for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(values, cmap="RdBu", vmin=-top, vmax=top)
        axes.set_title(f"{title}, image 0, channel 0", fontsize=8)
        axes.set_axis_off()
    return figure
