"""Checks of lesson 23: timing in turns, Amdahl's law, the next step, equal detections, multiply-adds.

Letters: C contestants, R rounds, P parts of a program, N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minidetect.autograd import Tensor, no_grad
from minidetect.checks.case import Case, check, difference, shown
from minidetect.models.cascade import ConvStack, Table
from minidetect.models.facecraft import TABLES
from minidetect.ops.pool import max_pool2d


@check("23.1")
def ratios_in_turns() -> Iterator[Case]:
    """Callables, a number of rounds, a clock -> for each callable the median of its time over the first one's."""
    for seconds, rounds, slow, why in (
        ([[2, 3]], 1, [1], "one round; the first call of each also compiles for 100 s and must not count"),
        ([[1, 2], [1, 2], [1, 2]], 3, [1, 2, 4], "the machine gets slower from round to round, for both alike"),
        ([[1, 2], [1, 50], [1, 2]], 3, [1, 1, 1], "in one round somebody else needs the machine: the mean is misled"),
        ([[1, 2], [2, 3], [4, 4]], 3, [1, 1, 1], "the ratios are 2, 1.5 and 1: their median, not the medians' ratio"),
        ([[1, 2], [1, 4]], 2, [1, 1], "two rounds: the median of 2 and 4 is 3"),
        ([[4, 1, 2], [4, 1, 2]], 2, [1, 3], "three contestants: all against the first, whose ratio is 1"),
    ):
        yield turns_case(np.array(seconds, float)[:rounds], np.array(slow, float), why)
    rng = np.random.default_rng(231)
    for num, rounds in ((2, 5), (3, 7), (4, 5)):
        seconds = rng.uniform(1, 3, (rounds, num)) * rng.uniform(1, 4, num)
        yield turns_case(seconds, rng.uniform(1, 6, rounds), "times at random, on a machine that changes its speed")


@check("23.2")
def amdahl() -> Iterator[Case]:
    """Seconds of the parts (P,), which part, how many times as fast -> how many times as fast the whole is."""
    for seconds, part, factor, want, why in (
        ([1.0, 1.0], 0, 2.0, 4 / 3, "half of the time made twice as fast: 2 s become 1.5 s"),
        ([3.0, 1.0], 1, 1e9, 4 / 3, "a quarter of the time made free: never more than 4 / 3"),
        ([5.0], 0, 4.0, 4.0, "the only part"),
        ([2.0, 6.0, 2.0], 1, 3.0, 10 / 6, "6 s become 2 s"),
        ([2.0, 6.0, 2.0], 0, 1.0, 1.0, "nothing is gained"),
        ([2.0, 6.0, 2.0], 2, 0.5, 10 / 12, "a part made twice as slow"),
    ):
        yield Case((np.array(seconds), part, factor), want, why=why)
    rng = np.random.default_rng(232)
    for num in (3, 5):
        seconds, part, factor = rng.uniform(1, 9, num), int(rng.integers(num)), float(rng.uniform(1, 20))
        after = [s / factor if i == part else s for i, s in enumerate(seconds)]
        yield Case((seconds, part, factor), sum(seconds) / sum(after), why="numbers at random")


@check("23.3")
def next_step() -> Iterator[Case]:
    """Seconds of the parts (P,), plans (part, factor, chance) -> the index of the plan that saves most on average."""
    seconds = np.array([10.0, 30.0, 60.0])
    for plans, want, why in (
        ([(0, 100.0, 1.0), (2, 2.0, 1.0)], 1, "100 times as fast saves 9.9 s of 10; twice as fast saves 30 s of 60"),
        ([(2, 1.1, 1.0), (1, 3.0, 1.0)], 1, "the largest part, hardly sped up, saves 5.5 s; the other plan 20 s"),
        ([(2, 2.0, 0.2), (1, 2.0, 0.9)], 1, "30 s with a chance of 0.2 are 6 s; 15 s with 0.9 are 13.5 s"),
        ([(1, 2.0, 0.5), (1, 5.0, 0.25)], 0, "one part, two plans: 7.5 s against 6 s"),
        ([(0, 2.0, 1.0)], 0, "only one plan"),
        ([(0, 4.0, 1.0), (1, 2.0, 0.5), (2, 1.02, 1.0)], 0, "7.5 s, 7.5 s and 1.2 s: of equal plans the first"),
        ([(2, 6.0, 0.5), (1, 10.0, 0.95)], 1,
         "50 s with a chance of 0.5 are 25 s, 27 s with 0.95 are 25.7 s; by times as fast the first would win"),
        ([(0, 2.0, 1.0), (1, 2.0, 0.5)], 1, "5 s for certain, 15 s with a chance of 0.5, which is 7.5 s"),
    ):  # fmt: skip
        yield Case((seconds, plans), want, why=why)
    rng = np.random.default_rng(233)
    for num in (3, 5, 8):
        seconds = rng.uniform(1, 50, 4)
        plans = [
            (int(rng.integers(4)), float(rng.uniform(1.1, 20)), float(rng.uniform(0.1, 1))) for _ in range(num)
        ]
        gains = [chance * (seconds[part] - seconds[part] / factor) for part, factor, chance in plans]
        yield Case((seconds, plans), gains.index(max(gains)), why="plans at random")


@check("23.4")
def same_detections() -> Iterator[Case]:
    """Boxes (N, 4) and scores (N,) of two detectors, tolerances in pixels and in score -> bool."""
    boxes = np.array([[10.0, 20, 40, 60], [50, 10, 80, 55], [12, 70, 30, 95]])
    scores = np.array([0.9, 0.8, 0.7])
    none, no_scores = np.zeros((0, 4)), np.zeros(0)
    moved = boxes + np.array([[0.4, 0, 0, 0], [0, 0, 0, -0.4], [0, 0.4, 0, 0]])
    far, twins = boxes.copy(), boxes[[0, 0, 2]]
    far[1, 3] += 2
    crossed = np.array([[10.0, 20, 40, 60], [10.2, 55, 80, 60.2]])
    crossed_back = crossed + np.array([[0.3, 0, 0, 0.3], [-0.1, 0, 0, -0.1]])
    near_twins = np.array([[10.0, 20, 40, 60], [10.3, 20, 40, 60]])
    for a, sa, b, sb, want, why in (
        (none, no_scores, none, no_scores, True, "both found nothing"),
        (boxes[:1], scores[:1], none, no_scores, False, "the second found nothing"),
        (boxes, scores, boxes, scores, True, "the same"),
        (boxes, scores, boxes[[2, 0, 1]], scores[[2, 0, 1]], True, "the same in another order"),
        (boxes, scores, boxes[[2, 0, 1]], scores, False, "boxes in another order, but the scores did not follow"),
        (boxes, scores, moved, scores, True, "moved by less than the tolerance"),
        (boxes, scores, far, scores, False, "one edge of one box is 2 pixels off"),
        (boxes, scores, boxes, scores - 0.004, True, "scores within their tolerance"),
        (boxes, scores, boxes, scores + np.array([0, 0.05, 0]), False, "one score is off by 0.05"),
        (boxes[:2], np.array([0.9, 0.895]), boxes[:2], np.array([0.896, 0.899]), True,
         "two scores that differ by less than their tolerance may change places"),
        (boxes, scores, boxes[:2], scores[:2], False, "the first found one more"),
        (boxes[:2], scores[:2], boxes, scores, False, "the second found one more"),
        (twins, scores[[0, 0, 2]], boxes[[0, 2, 2]], scores[[0, 2, 2]], False,
         "as many boxes, but two of the first have only one partner"),
        (crossed, scores[[0, 0]], crossed_back, scores[[0, 0]], True,
         "edges that differ by less than the tolerance may change places, so sorting by an edge is no help either"),
        (boxes[[0, 0]], np.array([0.9, 0.7]), boxes[[0, 0]], np.array([0.7, 0.9]), True,
         "two scores at one place: of two boxes equally near, the partner is the one with the score"),
        (near_twins, scores[:2] * 0 + 0.9, near_twins[::-1], scores[:2] * 0 + 0.9, True,
         "two nearly equal boxes in another order: each has its partner"),
    ):  # fmt: skip
        yield Case((a, sa, b, sb, 0.5, 0.01), want, why=why)
    rng = np.random.default_rng(234)
    for num in (6, 9):
        corners = rng.uniform(0, 300, (num, 2))
        found = np.concatenate([corners, corners + rng.uniform(20, 60, (num, 2))], axis=1)
        scored, order = rng.uniform(0.6, 1, num), rng.permutation(num)
        close = found[order] + rng.uniform(-0.4, 0.4, (num, 4))
        yield Case((found, scored, close, scored[order], 0.5, 0.01), True, why="shuffled and slightly moved")
        other = close.copy()
        other[num // 2, 0] -= 9
        yield Case((found, scored, other, scored[order], 0.5, 0.01), False, why="shuffled, and one box has moved")


@check("23.5")
def multiply_adds() -> Iterator[Case]:
    """A table of rows (channels, kernel, pooling), height and width of the input -> multiply-adds."""
    for table, height, width, why in (
        (((2, 1, 0),), 2, 3, "2 x 3 positions, 3 input channels, 2 output channels: 36"),
        (((4, 3, 0),), 3, 5, "no padding: a 3 x 3 kernel has 1 x 3 places in 3 x 5 pixels"),
        (((4, 3, 2),), 6, 9, "what is pooled afterwards was computed all the same"),
        (((4, 1, 2), (5, 1, 0)), 4, 6, "the second row reads 4 channels, and a quarter of the positions"),
        (((2, 1, 2), (3, 1, 0)), 5, 7, "2 x 2 blocks: an odd last row is dropped"),
        (((2, 1, 3), (3, 1, 0)), 6, 9, "3 x 3 at stride 2, the last window may be cut off: 6 -> 3, 9 -> 4"),
        (TABLES[0], 12, 12, "x12 and one window"),
        (TABLES[0], 60, 81, "x12 and a level of a pyramid"),
        (TABLES[1], 24, 24, "x24 and one patch"),
        (TABLES[2], 48, 48, "x48 and one patch"),
        (((8, 5, 3), (7, 2, 2), (6, 3, 0)), 31, 40, "a net of no particular shape"),
    ):
        yield Case((table, height, width), counted(table, height, width), why=why)


class Machine:
    """A clock that only moves when a contestant works: seconds (R, C), each round slower by slow (R,).

    The first call of each contestant compiles: 100 s more, and it uses up none of the rounds.
    """

    def __init__(self, seconds: np.ndarray, slow: np.ndarray) -> None:
        self.times, self.now = seconds * slow[:, None], 1000.0
        self.calls = [0] * seconds.shape[1]

    def clock(self) -> float:
        return self.now

    def work(self, contestant: int) -> None:
        """Its n-th timed call takes what the round says that the machine as a whole has come to."""
        done = self.calls[contestant]
        self.calls[contestant] += 1
        if done == 0:
            self.now += 100 + self.times[0, contestant]
            return
        finished = sum(max(n - 1, 0) for n in self.calls) - 1  # timed calls before this one, of all
        turn, own = finished // len(self.calls), done - 1
        rounds = len(self.times)
        base = self.times[min(own, rounds - 1), contestant]
        self.now += base if turn == own else base * (1 + abs(turn - own))  # out of turn: at another speed


class Contestant:
    """What is timed; it tells its number where a case is printed."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine, self.number = machine, number

    def __call__(self) -> None:
        self.machine.work(self.number)

    def __repr__(self) -> str:
        return f"contestant {self.number}"


class Clock:
    """The machine's clock, in seconds."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def __call__(self) -> float:
        return self.machine.clock()

    def __repr__(self) -> str:
        return "a clock"


def turns_case(seconds: np.ndarray, slow: np.ndarray, why: str) -> Case:
    rounds, num = seconds.shape
    machine = Machine(seconds, slow)
    contestants: Sequence[Callable] = [Contestant(machine, i) for i in range(num)]
    times = seconds * slow[:, None]
    want = np.median(times / times[:, :1], axis=0)

    def accept(got: object) -> str:
        complaint = difference(got, want)
        if not complaint:
            return ""
        once_a_round = machine.calls == [rounds + 1] * num
        counted = f"The contestants were called {machine.calls} times; once before and {rounds} times is {rounds + 1}."
        return f"{complaint} {f'Right is {shown(want)}.' if once_a_round else counted}"

    return Case((contestants, rounds, Clock(machine)), want, accept=accept, why=why)


def counted(table: Table, height: int, width: int) -> int:
    """A net of that table is run, and what each of its layers really returns is counted."""
    stack = ConvStack(table, np.random.default_rng(0))
    x, total = Tensor(np.zeros((1, 3, height, width), np.float32)), 0
    with no_grad():
        for conv, pool in zip(stack.convs, stack.pools, strict=True):
            x = conv(x)
            total += x.data[0, 0].size * conv.weight.data.size  # each weight once at each position
            x = max_pool2d(x, pool, 2, ceil_mode=pool == 3) if pool else x
    return total
