"""Matrix product and the fully connected layer.

N: rows (samples), I: inputs, O: outputs. The products are BLAS calls through NumPy.
"""

from __future__ import annotations

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.products import product


class MatMul(Function):
    """y = a @ b for two matrices.

    L depends on a[i, k] through every y[i, j], with dy[i, j] / da[i, k] = b[k, j], hence
    dL/da = gy @ b.T; likewise dL/db = a.T @ gy.
    """

    def forward(self, a, b):
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"matmul needs (N, K) @ (K, M), got {a.shape} @ {b.shape}")
        self.a, self.b = a, b
        return product(a, b)

    def backward(self, gy):
        return product(gy, self.b.T), product(self.a.T, gy)


class Linear(Function):
    """y = x @ w.T + b, with x (N, I), w (O, I), b (O,) -> y (N, O)."""

    def forward(self, x, w, b=None):
        if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
            raise ValueError(f"linear needs x (N, I) and w (O, I) with equal I, got {x.shape} and {w.shape}")
        if b is not None and b.shape != w.shape[:1]:
            raise ValueError(f"linear needs b {w.shape[:1]}, one number an output, got {b.shape}")
        self.x, self.w = x, w
        y = product(x, w.T)
        return y if b is None else y + b

    def backward(self, gy):
        gx = product(gy, self.w) if self.needs[0] else None
        gw = product(gy.T, self.x) if self.needs[1] else None
        return (gx, gw) if len(self.needs) == 2 else (gx, gw, gy.sum(axis=0))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return MatMul()(a, b)


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """A fully connected layer: x (N, I), w (O, I), b (O,) or None -> (N, O)."""
    return Linear()(x, w) if b is None else Linear()(x, w, b)
