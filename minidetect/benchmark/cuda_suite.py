"""The benchmark of the GPU's kernels: the ceilings first, then every case, then whole training steps.

    cuda_timing.py    the stopwatch, and what this GPU can do at most
    cuda_cases.py     cases: convolution, regions, boxes; which shapes
    cuda_layers.py    cases: what stands between the convolutions
    cuda_steps.py     training steps, against the processor of the same machine
    cuda_report.py    what was wanted and what was measured; Markdown

Every case is verified before it is timed: its result on the GPU, at full size and into memory that held NaN before, is
held against the processor's kernel, and PyTorch's against that as well. A case that fails is reported, and the next one
has its turn.

`python benchmarks/gpu_kernels.py` runs it. In Numba's simulator it goes through tiny shapes, and measures nothing.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minidetect.benchmark import cuda_cases, cuda_layers
from minidetect.benchmark.cuda_cases import ARITHMETIC, FULL, MEMORY, TINY, GpuCase, Shapes
from minidetect.benchmark.cuda_report import case_line, ceilings_line, step_line, targets
from minidetect.benchmark.cuda_steps import run_step, step_cases
from minidetect.benchmark.cuda_timing import Contestant, Stopwatch, Timing, cache_bytes, ceilings, copied, sets_for
from minidetect.benchmark.machine import describe
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import OURS, WrongResultError, as_arrays, compare
from minidetect.kernels import gpu
from minidetect.kernels.device import DeviceArray, fetched, to_device
from minidetect.kernels.device_math import fill
from minidetect.kernels.dispatch import get_num_threads
from minidetect.kernels.gpu import SIMULATED, cuda

Say = Callable[[str], None]

STEPS = "steps"  # what the training steps are called beside the families of kernels
STEPS_TAKE = 90  # seconds that are left to them
PEER_TOLERANCE = 1e-3  # of PyTorch's results: is it the same operation at all?
ENOUGH = 1 << 22  # of PyTorch's numbers are looked at
COPIED_BUDGET = 0.1  # seconds of timing with copies


def gpu_cases(shapes: Shapes = FULL) -> list[GpuCase]:
    """All cases, family by family: what time runs out for comes last."""
    makers = (
        cuda_cases.conv_cases, cuda_cases.box_cases, cuda_cases.roi_cases, cuda_cases.depthwise_cases,
        cuda_layers.map_cases, cuda_layers.pool_cases, cuda_layers.resize_cases, cuda_layers.softmax_cases,
    )  # fmt: skip
    cases = [case for maker in makers for case in maker(shapes)]
    order = list(dict.fromkeys(case.family for case in cases))
    return sorted(cases, key=lambda case: order.index(case.family))


def run_gpu_suite(
    families: Sequence[str] = (), budget: float = 0.15, seconds: float = 480.0, peers: Peers | None = None,
    say: Say = print, save: Callable[[dict], None] = lambda document: None,
) -> dict:
    """Everything, or the families whose names begin so ("steps": the training steps). Returns what goes into the JSON.

    budget: seconds to time a contestant of a case; seconds: no case is begun later than that, less what the training
    steps take. peers: with PyTorch or without; None looks whether it is there. save: given the document so far, after
    every case: a run that is cut off has not been for nothing.
    """
    start = time.perf_counter()
    peers = Peers(get_num_threads(), ("torch",)) if peers is None else peers
    torch = peers.torch_on_gpu()
    document: dict[str, Any] = {"machine": machine(peers, torch), "ceilings": {}, "rows": [], "steps": []}
    document |= {"wrong": [], "failed": [], "skipped": []}
    say(", ".join(f"{key} {value}" for key, value in document["machine"].items()))
    watch = Stopwatch()
    document["ceilings"] = ceilings(watch, budget)
    say(ceilings_line(document["ceilings"]))
    wanted = tuple(families) or ("",)
    with_steps = STEPS.startswith(wanted)
    end, family = start + seconds - with_steps * STEPS_TAKE, ""
    for case in gpu_cases(TINY if SIMULATED else FULL):
        if not case.family.startswith(wanted):
            continue
        if time.perf_counter() > end:
            document["skipped"].append(f"{case.family}, {case.name}")
            continue
        if case.family != family:
            family = case.family
            say(f"{family}    ({time.perf_counter() - start:.0f} s)")
        row = attempt(document, f"{case.family}, {case.name}", partial(run_case, case, watch, torch, budget), say)
        if row:
            document["rows"].append(row | of_ceilings(row, document["ceilings"]))
            say(case_line(document["rows"][-1]))
        finish(document, torch, save)
    for step in step_cases() if with_steps else ():
        row = attempt(document, step.name, partial(run_step, step, 5 * budget), say)
        if row:
            document["steps"].append(row)
            say(step_line(row))
        finish(document, torch, save)
    document["first_calls"] = sum(row["first_call"] for row in document["rows"] + document["steps"])
    document["took"] = time.perf_counter() - start
    finish(document, torch, save)
    return document


def finish(document: dict, torch: Any, save: Callable[[dict], None]) -> None:
    """After each case: what is known so far goes to disk, and memory back, for the next one.

    Raises RuntimeError where the GPU is lost to this process, as after a kernel that wrote beside its array: all that
    followed would fail.
    """
    document["targets"] = targets(document)
    save(document)
    gpu.release_memory()
    try:
        cuda.synchronize()
        if torch:
            torch.cuda.empty_cache()
    except Exception as error:
        raise RuntimeError(f"the GPU answers no more: {error}. Leave the last case out by --only") from error


def attempt(document: dict, name: str, run: Callable[[], dict], say: Say) -> dict | None:
    """A row; or None, and a line in `wrong` or `failed` that says why."""
    try:
        return run()
    except WrongResultError as error:
        document["wrong"].append(f"{name}: {error}")
        say(f"  WRONG {name}: {error}")
    except Exception as error:  # of the compiler, of the driver, of a kernel: whatever it is, the others have a turn
        text = " ".join(str(error).split())[:600]
        document["failed"].append(f"{name}: {type(error).__name__}: {text}")
        say(f"  FAILED {name}: {type(error).__name__}: {text}")
    return None


# ------------------------------------------------------------------------------------------------- one case


def run_case(case: GpuCase, watch: Stopwatch, torch: Any, budget: float) -> dict:
    """Verify, then time: ours, and PyTorch's in turn with it. Raises WrongResultError."""
    arrays = case.arrays()
    right = (case.expected or case.call)(*arrays)
    resident = tuple(to_device(a) for a in arrays)
    start = time.perf_counter()
    result = case.call(*resident)
    cuda.synchronize()
    first_call = time.perf_counter() - start
    written = sum(part.nbytes for part in parts_of(result))
    poison(result)
    del result  # the next call is given this memory
    compare(fetched(case.call(*resident)), right, "the processor", case.tolerance)
    one = sum(a.nbytes for a in arrays) + written
    sets = sets_for(one)
    calls = [partial(case.call, *resident)]
    calls += [partial(case.call, *map(copied, resident)) for _ in range(sets - 1)]
    contestants = {OURS: Contestant(calls)}
    peer_error = ""
    if torch and case.torch:
        try:
            contestants["torch"] = their_contestant(case, torch, arrays, sets, right)
        except Exception as error:
            peer_error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    timings = watch.measure(contestants, budget)
    row = {
        "family": case.family, "name": case.name, "bound": case.bound, "flops": case.flops, "bytes": case.bytes,
        "sets": sets, "in_cache": sets * one < 2 * cache_bytes(), **timings[OURS].as_json(),
        "copied": seconds_with_copies(case, arrays), "first_call": first_call,
    }  # fmt: skip
    if "torch" in timings:
        row |= {"torch": timings["torch"].as_json(), "ratio": ratio(timings)}
    return row | ({"torch_error": peer_error} if peer_error else {})


def their_contestant(case: GpuCase, torch: Any, arrays: Sequence[np.ndarray], sets: int, right: Any) -> Contestant:
    """PyTorch's calls on as many sets. Raises WrongResultError where it computes something else."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays]
    calls = [case.torch(torch, *first)]
    calls += [case.torch(torch, *(tensor.clone() for tensor in first)) for _ in range(sets - 1)]
    result = calls[0]()
    result = result if isinstance(result, tuple) else (result,)
    theirs = tuple(None if part is None else part.detach().cpu() for part in result)
    if case.peer_agrees is None:
        compare(thinned(theirs), thinned(right), "the processor", PEER_TOLERANCE, case.peer_wrong_share)
    elif not case.peer_agrees(as_arrays(right)[0], as_arrays(theirs)[0]):
        raise WrongResultError("PyTorch's result is another one")
    return Contestant(calls, partial(torch.cuda.Event, enable_timing=True))


def thinned(result: Any) -> tuple[np.ndarray | None, ...]:
    """Every so-manyth number of large arrays: enough to see whether two functions are the same."""
    arrays = as_arrays(result)
    return tuple(None if a is None else a.reshape(-1)[:: a.size // ENOUGH + 1] for a in arrays)


def parts_of(result: Any) -> list[Any]:
    return [part for part in (result if isinstance(result, tuple) else (result,)) if part is not None]


def poison(result: Any) -> None:
    """NaN, or -7, into every place of the results: what a kernel leaves out is seen."""
    for part in parts_of(result):
        if isinstance(part, DeviceArray):
            fill(part, np.nan if part.dtype.kind == "f" else -7)


def seconds_with_copies(case: GpuCase, arrays: Sequence[np.ndarray]) -> float:
    """Of a call with its arrays brought to the GPU and its results fetched; ordinary memory, no page-locked one."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < COPIED_BUDGET and len(seconds) < 20:
        start = time.perf_counter()
        fetched(case.call(*(to_device(a) for a in arrays)))
        seconds.append(time.perf_counter() - start)
        if SIMULATED:
            break
    return float(np.median(seconds[1:] or seconds))


def ratio(timings: dict[str, Timing]) -> float:
    """PyTorch's time over ours, the median of the batches' ratios: above 1 we are quicker."""
    ours, theirs = (timings[name].seconds for name in (OURS, "torch"))
    count = min(len(ours), len(theirs))
    return float(np.median(theirs[:count] / ours[:count]))


def of_ceilings(row: dict, most: dict) -> dict:
    """gbytes, gflops a second, and what share of its ceiling that is: of the copy's, or of the multiply-adds'."""
    gbytes, gflops = (row[what] / row["seconds"] / 1e9 for what in ("bytes", "flops"))
    share = None
    if row["bound"] == MEMORY:
        share = gbytes / most["copy_gbytes"]
    elif row["bound"] == ARITHMETIC:
        share = gflops / most["fma_gflops"]
    return {"gbytes": gbytes, "gflops": gflops, "share": share}


# -------------------------------------------------------------------------------------------------- the machine


def machine(peers: Peers, torch: Any) -> dict:
    """What a reader needs to place the figures: the GPU and its driver, and the packages that run it."""
    facts: dict[str, Any] = {"gpu": gpu.describe(), "simulated": SIMULATED, "numba_cuda": package()}
    if not SIMULATED:
        device = cuda.get_current_device()
        facts |= {"cache_mbytes": round(cache_bytes() / 2**20), "multiprocessors": device.MULTIPROCESSOR_COUNT}
        facts["driver"] = driver()
    if torch:
        facts |= {"torch_cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        facts["torchvision"] = getattr(peers.torchvision, "__version__", "none")
    return facts | describe(peers) | {"threads": peers.threads}


def package() -> str:
    """Which of the two drives the GPU: "numba-cuda 0.30.4", or Numba's own."""
    if SIMULATED:
        return "the simulator"
    if getattr(cuda, "implementation", "") == "Built-in":
        return "Numba's own numba.cuda"
    return f"numba-cuda {importlib.metadata.version('numba-cuda')}"


def driver() -> str:
    """The driver's version, where its own tool says so; reads only."""
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.split("\n")[0].strip() or "unknown"
