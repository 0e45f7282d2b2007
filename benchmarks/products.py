"""What OpenBLAS' waiting threads cost the kernels: a training step with matrix products on one thread, and on all.

    python benchmarks/products.py

The step is of a narrow joint cascade (64 patches of 48 pixels), which takes turns between products and kernels. Both
kinds are timed in turns; with one processor there is nothing to see.
"""

from __future__ import annotations

import time

import numpy as np

from minidetect.kernels import conv_fast
from minidetect.kernels.products import product
from minidetect.kernels.threads import blas_threads, get_num_threads
from minidetect.models.facecraft import JointCascade
from minidetect.nn.optim import SGD
from minidetect.ops import linear

TABLES = (
    ((8, 3, 2), (16, 5, 0)),
    ((12, 3, 3), (12, 3, 3), (16, 2, 0)),
    ((8, 3, 3), (16, 3, 3), (16, 3, 2), (16, 2, 0)),
)
ROUNDS, STEPS = 5, 20


def main() -> None:
    rng = np.random.default_rng(0)
    cascade = JointCascade(rng, TABLES)
    optimiser = SGD(cascade, lr=0.01)
    patches, labels = rng.integers(0, 255, (64, 48, 48, 3), dtype=np.uint8), rng.integers(0, 2, 64)
    deltas = [np.zeros((64, 4), np.float32)] * 3

    def step() -> None:
        optimiser.zero_grad()
        sum(cascade.losses(cascade.normalise(patches), labels, deltas, rng).values()).backward()
        optimiser.step()

    seconds: dict[str, list[float]] = {"one thread": [], "all threads": []}
    for turn in range(ROUNDS + 1):
        for name, multiply in (("one thread", product), ("all threads", np.matmul)):
            linear.product = conv_fast.product = multiply
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if turn:  # the first compiles
                seconds[name].append((time.perf_counter() - start) / STEPS)
    print(f"kernels on {get_num_threads()} threads, BLAS allowed {blas_threads()}")
    for name, times in seconds.items():
        print(f"products on {name:12} {1000 * np.median(times):6.1f} ms a training step")


if __name__ == "__main__":
    main()
