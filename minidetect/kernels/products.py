"""Matrix products by NumPy's BLAS, on one thread.

OpenBLAS' own threads wait for the next product in a loop that keeps their processor busy, for some 20 ms. The next
kernel of Numba finds no free processor then: on two cores, a training step of a small network, which takes turns
between both, takes 84 ms with products on two threads and 16 ms with products on one (benchmarks/products.py). So a
product is computed by the thread that asks for it, and the result does not depend on how many there are. OpenBLAS has
one number of threads for the whole process: while a product runs, others' products get one thread as well.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.threads import one_blas_thread


@on_either_device
def product(a: np.ndarray, b: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """a (M, K) @ b (K, N) -> (M, N); out: where to, else a new array."""
    with one_blas_thread():
        return np.matmul(a, b, out=out)
