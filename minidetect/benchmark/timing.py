"""One contest: verify, compile, then time, ours and the peers in turn.

A shared machine changes its speed from one second to the next, so nothing here is timed alone. A round gives
every contestant its turn; what counts is the ratio within a round, and the median of these ratios:

    round 1    ours .. torch .. onnxruntime         ratio 1 = torch 1 / ours 1
    round 2    ours .. torch .. onnxruntime         ratio 2 = torch 2 / ours 2
    ...

Before a turn the process sleeps for a moment: thread pools (OpenMP's, ONNX Runtime's) spin for about a
millisecond after their work and would take the next contestant's processor. Then one call is not timed, so
that everybody finds warm threads and arrays that are as much in cache as they can be.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from minidetect.benchmark.peers import Peers

Call = Callable[[], object]
OURS = "minidetect"
REST = 0.002  # seconds of sleep before a turn
TURN = 0.004  # a turn repeats its call until it is about this long, so that the clock's steps don't matter


class WrongResultError(ValueError):
    """A contestant computed something else: its time would mean nothing."""


@dataclass(frozen=True)
class Contest:
    """Calls on the same arrays, without arguments; each returns an array, a tuple of arrays, or None for
    one that is not there (an index that a peer counts otherwise).

    check: given our result, raises WrongResultError; believed where no peer is installed.
    tolerance: largest difference, as a share of the largest absolute value.
    wrong_share: so many values may differ by more (of RoI pooling: a bin edge rounded the other way).
    """

    ours: Call
    peers: Mapping[str, Call]
    check: Callable[[object], None] | None = None
    tolerance: float = 1e-4
    wrong_share: float = 0.0


@dataclass(frozen=True)
class Case:
    """One kernel on one shape. `build` makes the arrays when the case's turn has come, not before.

    flops: floating point operations, a multiply-add counted as 2; 0 where they say nothing.
    bytes: the least traffic with memory, each input read once and each output written once.
    short: part of the short form.
    """

    family: str
    name: str
    flops: float
    bytes: float
    build: Callable[[Peers], Contest]
    short: bool = False


@dataclass
class Result:
    """seconds: median of each contestant; spread: its quartiles; fastest: its minimum; ratio: peer's time over
    ours, medians of the rounds' ratios; first_call: of ours, compilation or the loading of a cache included."""

    family: str
    name: str
    flops: float
    bytes: float
    seconds: dict[str, float]
    spread: dict[str, tuple[float, float]]
    fastest: dict[str, float]
    ratio: dict[str, float] = field(default_factory=dict)
    first_call: float = 0.0
    rounds: int = 0

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds[OURS] / 1e9

    def as_json(self) -> dict:
        return asdict(self)


def run_case(case: Case, peers: Peers, budget: float = 0.5) -> Result:
    """Verify, compile and time one case. Raises WrongResultError that names the case.

    budget: seconds to spend on the timing, about; at least five rounds are made however long they take.
    """
    contest = case.build(peers)
    start = time.perf_counter()
    result = contest.ours()
    first_call = time.perf_counter() - start
    try:
        verify(contest, result)
    except WrongResultError as error:
        raise WrongResultError(f"{case.family}, {case.name}: {error}") from None
    peers.check_threads()
    times = time_in_turns({OURS: contest.ours, **contest.peers}, budget)
    ours = times[OURS]
    return Result(
        case.family, case.name, case.flops, case.bytes,
        seconds={name: float(np.median(t)) for name, t in times.items()},
        spread={name: quartiles(t) for name, t in times.items()},
        fastest={name: float(t.min()) for name, t in times.items()},
        ratio={name: float(np.median(t / ours)) for name, t in times.items() if name != OURS},
        first_call=first_call, rounds=len(ours),
    )


def verify(contest: Contest, result: object) -> None:
    """Hold our result against every peer's, or against the slow twin where there is no peer."""
    for name, peer in contest.peers.items():
        compare(result, peer(), name, contest.tolerance, contest.wrong_share)
    if not contest.peers and contest.check is not None:
        contest.check(result)


def compare(ours: object, theirs: object, name: str, tolerance: float, wrong_share: float = 0.0) -> None:
    """Raise WrongResultError unless the arrays agree; None stands for one that is not compared."""
    pairs = list(zip(as_arrays(ours), as_arrays(theirs), strict=False))
    for i, (a, b) in enumerate(pairs):
        if a is None or b is None:
            continue
        if a.shape != b.shape:
            raise WrongResultError(f"output {i} has shape {a.shape}, {name}'s {b.shape}")
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        allowed = tolerance * max(float(np.abs(b).max(initial=0)), 1e-30)
        wrong = int(np.count_nonzero(~(difference <= allowed)))  # a NaN is wrong
        if wrong > wrong_share * a.size:
            raise WrongResultError(
                f"output {i} differs from {name}'s by {float(difference.max()):.3g} at most, {allowed:.3g} is "
                f"allowed; {wrong} of {a.size} values are wrong"
            )


def as_arrays(result: object) -> Sequence[np.ndarray | None]:
    """An array, a peer's tensor, several of them, or ONNX Runtime's binding -> NumPy arrays."""
    if hasattr(result, "copy_outputs_to_cpu"):
        result = result.copy_outputs_to_cpu()
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return [None if part is None else np.asarray(part.numpy() if hasattr(part, "numpy") else part) for part in parts]


def time_in_turns(calls: Mapping[str, Call], budget: float, least: int = 5, most: int = 25) -> dict[str, np.ndarray]:
    """Seconds a call takes, one number a round for each contestant. See the top of this file."""
    repeats = {name: calls_per_turn(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    collects = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + budget
        rounds = 0
        while rounds < least or (rounds < most and time.perf_counter() < end):
            for name, call in calls.items():
                seconds[name].append(one_turn(call, repeats[name]))
            rounds += 1
    finally:
        if collects:
            gc.enable()
    return {name: np.array(values) for name, values in seconds.items()}


def calls_per_turn(call: Call) -> int:
    call()  # warms up
    return max(1, min(1000, round(TURN / max(one_turn(call, 1), 1e-7))))


def one_turn(call: Call, repeats: int) -> float:
    time.sleep(REST)
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def quartiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)
