"""The fast ways to convolve (float32), and which of them suits a shape.

    lanes     a batch of small images                              conv_lanes.py
    points    3 or 5 rows of taps over enough channels, stride 1   conv_points.py, a half of the multiplications
    rows      everything else                                      conv_tile.py

All three compute `sum over c, t of w[o, c, t] * x[n, c, i*S + dy[t], j*S + dx[t]]`, so they serve the forward
pass and the input gradient alike. Their results differ by rounding only.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.conv_lanes import convolve_lanes
from minidetect.kernels.conv_points import convolve_points, pack_points, suits_points
from minidetect.kernels.conv_tile import (
    Geometry,
    Taps,
    band_rows,
    convolve_rows,
    forward_taps,
    input_gradient_taps,
    pack_filters,
)  # fmt: skip
from minidetect.kernels.pool import max_pool_values
from minidetect.kernels.products import product
from minidetect.kernels.simd import LANES

MATRIX_MAP = 1024  # positions of a map from which a product for each image is quicker than lanes, however many images
POINTS_PAY = 3000  # output positions from which evaluating the filters at points is repaid in one call


def use_lanes(images: int, g: Geometry) -> bool:
    """Lanes where there is a batch, and they are better filled than a vector that runs over the rows of a map."""
    filled_lanes = images / (-(-images // LANES) * LANES)
    positions = (g.out_h - 1) * (g.out_w + g.halo_w) + g.out_w
    filled_rows = g.out_h * g.out_w / (-(-positions // LANES) * LANES)
    return 2 * images >= LANES and filled_lanes > 0.9 * filled_rows


class Weights:
    """Weights (O, C, KH, KW), or turned as pack_filters has it, put in the order that a way needs when it needs it.

    bias, slope: (O,) or None, see pack_filters. reused: whether they serve many calls, so that order is cheap.
    """

    def __init__(
        self, w: np.ndarray, bias: np.ndarray | None = None, slope: np.ndarray | None = None, turned: bool = False,
        reused: bool = False,
    ) -> None:
        self.w, self.bias, self.slope, self.turned, self.reused = w, bias, slope, turned, reused
        self.filters, self.points = None, None

    def convolve(
        self, x: np.ndarray, taps: Taps, y: np.ndarray, residual: np.ndarray | None = None,
        last_slope: np.ndarray | None = None, pool: bool = False,
    ) -> None:
        """x (N, C, H, W), contiguous -> y (N, O, PH, PW): act(sums + bias), or act(act(sums + bias) + residual).

        pool: only the maxima of 2x2, y (N, O, PH // 2, PW // 2); by rows and without a residual only.

        The second activation, with a residual only, has slopes last_slope (O,), None for no activation. The
        taps may differ between calls in where they lie, not in which they are.
        """
        if self.filters is None:
            self.filters = pack_filters(self.w, taps, self.bias, self.slope, self.turned)
        g, (_, _, bias, slope) = taps.geometry, self.filters
        last = np.ones(len(bias), np.float32) if last_slope is None else last_slope
        way = self.way(x.shape, taps)
        if way == "lanes":
            convolve_lanes(x, g, taps.row, taps.column, self.filters, y)
            if residual is not None:
                y += residual
                if last_slope is not None:
                    np.copyto(y, last[:, None, None] * y, where=~(y > 0))
        elif way == "points":
            if self.points is None:
                self.points = pack_points(self.w, taps, self.turned)
            convolve_points(x, taps, self.points, bias, slope, residual, last, y)
        else:
            has = residual is not None
            band = band_rows(x.shape[1], g)
            convolve_rows(x, g, taps.row, taps.column, band, self.filters, pool, has, residual if has else y, last, y)

    def way(self, x: tuple[int, ...], taps: Taps) -> str:
        """"lanes", "points" or "rows": what suits x (N, C, H, W)."""
        g, filters = taps.geometry, self.w.shape[1 if self.turned else 0]
        if use_lanes(x[0], g):
            return "lanes"
        pays = self.reused or x[0] * g.out_h * g.out_w >= POINTS_PAY
        return "points" if pays and suits_points(x[1], filters, taps) else "rows"


def forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: int, padding: int, dilation: int, y: np.ndarray,
    slope: np.ndarray | None = None, residual: np.ndarray | None = None, activate_last: bool = False,
) -> None:
    """x (N, C, H, W), w (O, C, KH, KW), b (O,) -> y (N, O, PH, PW); see conv2d_forward."""
    taps = forward_taps(*w.shape[2:], stride, padding, dilation, *y.shape[2:])
    last = activate_last and residual is not None
    Weights(w, b, None if last else slope).convolve(x, taps, y, residual, slope if last else None)


def input_gradient(
    gy: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int, gx: np.ndarray
) -> None:
    """gy (N, O, PH, PW), w (O, C, KH, KW) -> gx (N, C, H, W)."""
    for a in range(min(stride, gx.shape[2])):
        for b in range(min(stride, gx.shape[3])):
            taps = input_gradient_taps(*w.shape[2:], stride, padding, dilation, a, b, *gx.shape[2:])
            target = gx[:, :, a::stride, b::stride]
            if taps is None:  # pixels that the stride steps over
                target[...] = 0
                continue
            part = gx if stride == 1 else np.empty(target.shape, np.float32)
            Weights(w, turned=True).convolve(gy, taps, part)
            if stride > 1:
                target[...] = part


class PackedConvolution:
    """A convolution whose weights are put in order once, for inference: unpadded, stride 1, activation included.

    w (O, C, KH, KW), b (O,), slope (O,): of negative values. All are copied. pool: 0 for none, or the side of the
    windows of a maximum pooling of stride 2 that follows; 3x3 windows may hang over the border.
    """

    def __init__(self, w: np.ndarray, b: np.ndarray, slope: np.ndarray, pool: int = 0) -> None:
        self.pool = pool
        self.weights = Weights(w.copy(), b.copy(), slope.copy(), reused=True)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x (N, C, H, W) float32, contiguous -> (N, O, H - KH + 1, W - KW + 1), pooled if this pools."""
        filters, _, *kernel = self.weights.w.shape
        out = [n - k + 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
        taps = forward_taps(*kernel, 1, 0, 1, *out)
        on_the_way = self.pool == 2 and min(out) > 0 and self.weights.way(x.shape, taps) == "rows"
        y = np.empty((len(x), filters, *(n // 2 if on_the_way else n for n in out)), np.float32)
        if y.size:
            self.weights.convolve(x, taps, y, pool=on_the_way)
        if self.pool and not on_the_way:
            y = max_pool_values(y, self.pool, 2, 0, self.pool == 3)
        return y


# ------------------------------------------------------------------------------------ one pixel: matrices


def is_matrix(x: np.ndarray, w: np.ndarray, stride: int, padding: int) -> bool:
    """Whether every output sees one pixel, and a product by BLAS for each image pays: few images, or large maps."""
    pays = len(x) < LANES or x.shape[2] * x.shape[3] >= MATRIX_MAP
    return w.shape[2:] == (1, 1) and stride == 1 and padding == 0 and pays


def matrix_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray) -> None:
    """x (N, C, H, W), w (O, C, 1, 1), b (O,) -> y (N, O, H, W): for each image (O, C) @ (C, H*W) + b."""
    for x_n, y_n in zip(as_matrices(x), as_matrices(y), strict=True):
        product(w[:, :, 0, 0], x_n, out=y_n)
        if b is not None:
            y_n += b[:, None]


def matrix_input_gradient(
    gy: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int, gx: np.ndarray
) -> None:
    """For each image (C, O) @ (O, H*W)."""
    for gy_n, gx_n in zip(as_matrices(gy), as_matrices(gx), strict=True):
        product(w[:, :, 0, 0].T, gy_n, out=gx_n)


def matrix_weight_gradient(
    gy: np.ndarray, x: np.ndarray, stride: int, padding: int, dilation: int, gw: np.ndarray
) -> None:
    """The sum over images of (O, H*W) @ (H*W, C)."""
    products = [product(gy_n, x_n.T) for gy_n, x_n in zip(as_matrices(gy), as_matrices(x), strict=True)]
    gw[:, :, 0, 0] = products[0] if len(products) == 1 else np.sum(products, axis=0)


def as_matrices(a: np.ndarray) -> np.ndarray:
    """(N, C, H, W), contiguous -> (N, C, H*W), the same memory."""
    return a.reshape(a.shape[0], a.shape[1], a.shape[2] * a.shape[3])
