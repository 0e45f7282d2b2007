"""What this machine is, and what it can do at most: the two roofs of the roofline plot.

    arithmetic   fused multiply-adds on registers alone, nothing loaded in between; BLAS' matrix product
                 beside it, for a processor whose vectors `kernels/simd.py` does not know
    memory       the triad a[i] = b[i] + s * c[i] over arrays far larger than any cache
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numba
import numpy as np

from minidetect import __version__
from minidetect.benchmark.peers import Peers
from minidetect.kernels.dispatch import parallel_kernel, prange
from minidetect.kernels.simd import LANES, fma, load, splat, store

TRIAD_BYTES = 96 << 20  # of each of the three arrays
CHAINS = 12  # independent sums: a multiply-add takes 4 steps and two start at once, so 8 keep the units busy


def describe(peers: Peers) -> dict:
    """Everything a reader needs to place the figures; no name of a host or of a user."""
    return {
        "cpu": cpu_model(), "cores": usable_cores(), "float32_lanes": LANES,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "minidetect": __version__, "numpy": np.__version__, "numba": numba.__version__, **peers.versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_of(call: Callable[[], object], times: int) -> float:
    """The shortest of several runs: a roof is what is possible, not what usually happens."""
    call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_gflops(threads: int) -> dict[str, float]:
    """The arithmetic roof in GFLOP/s, measured both ways."""
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    roofs = {"sgemm": 2 * 1024**3 / best_of(lambda: a @ a, 10) / 1e9}
    if LANES > 1:
        steps, out = 100_000, np.zeros(threads * CHAINS * LANES, np.float32)
        seconds = best_of(lambda: multiply_add(steps, threads, out), 300)  # 0.3 ms each: some go undisturbed
        roofs["fma"] = 2.0 * LANES * CHAINS * steps * threads / seconds / 1e9
    return roofs


def memory_gbytes() -> float:
    """The memory roof in GB/s: two arrays read and one written."""
    n = TRIAD_BYTES // 4
    a, b, c = (np.full(n, value, np.float32) for value in (0, 1, 2))
    return 3 * 4 * n / best_of(lambda: triad(a, b, c, 3.0), 5) / 1e9


@parallel_kernel
def multiply_add(steps, threads, out):
    """CHAINS chains of v = v * 0.999 + 0.001, which stay where they are; each thread has its own."""
    for t in prange(threads):
        first = t * CHAINS * LANES
        factor, term = splat(np.float32(0.999)), splat(np.float32(0.001))
        v0 = v1 = v2 = v3 = v4 = v5 = v6 = v7 = v8 = v9 = v10 = v11 = load(out, first)
        for _ in range(steps):
            v0, v1, v2 = fma(v0, factor, term), fma(v1, factor, term), fma(v2, factor, term)
            v3, v4, v5 = fma(v3, factor, term), fma(v4, factor, term), fma(v5, factor, term)
            v6, v7, v8 = fma(v6, factor, term), fma(v7, factor, term), fma(v8, factor, term)
            v9, v10, v11 = fma(v9, factor, term), fma(v10, factor, term), fma(v11, factor, term)
        for k, v in enumerate((v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11)):
            store(out, first + k * LANES, v)


@parallel_kernel
def triad(a, b, c, s):
    factor = a.dtype.type(s)
    for i in prange(a.shape[0]):
        a[i] = b[i] + factor * c[i]
