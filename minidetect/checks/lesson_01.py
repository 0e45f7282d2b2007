"""Checks of lesson 01: backward of two operations, an order of the nodes, un-broadcasting, a numeric derivative.

g: the gradient that arrives at an operation's output, d(loss)/d(output).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minidetect.checks.case import Case, check

MOST_VISITS = 10_000  # of one node: more than any walk needs that remembers, 5000 for the longest chain


@check("1.1")
def multiply_backward() -> Iterator[Case]:
    """z = x * y: from g, x and y the gradients of x and of y."""
    yield Case((1.0, 3.0, 5.0), (5.0, 3.0), why="a step of x counts y times, a step of y counts x times")
    yield Case((2.0, 3.0, 5.0), (10.0, 6.0), why="what arrives from behind multiplies both")
    yield Case((-1.5, 4.0, 0.0), (0.0, -6.0), why="a factor of zero hides the other one, but not itself")
    rng = np.random.default_rng(11)
    for g, x, y in rng.uniform(-3, 3, (8, 3)).round(2).tolist():
        yield Case((g, x, y), (g * y, g * x), why="numbers drawn at random")
    g, x, y = rng.uniform(1, 3, (3, 2, 3)).round(2)
    yield Case((g, x, y), (g * y, g * x), why="arrays, element by element")


@check("1.2")
def maximum_backward() -> Iterator[Case]:
    """z = max(x, y): from g, x and y the gradients of x and of y."""
    yield Case((2.0, 3.0, 5.0), (0.0, 2.0), why="y is larger, and a small step of x changes nothing")
    yield Case((2.0, -1.0, -4.0), (2.0, 0.0), why="x is larger, though both are negative")
    yield Case((3.0, 4.0, 4.0), (1.5, 1.5), why="of two equal inputs each gets half, so that the shares sum to g")
    yield Case((-2.0, 0.0, 0.0), (-1.0, -1.0), why="a tie at zero, and a negative gradient")
    yield Case((3.0, 0.0, 1e-9), (0.0, 3.0), why="nearly equal is not equal: y is larger")
    rng = np.random.default_rng(12)
    for g, x, y in rng.uniform(-3, 3, (8, 3)).round(2).tolist():
        want = (g, 0.0) if x > y else (0.0, g)
        yield Case((g, x, y), want, why="numbers drawn at random")


@check("1.3")
def topological_order() -> Iterator[Case]:
    """The nodes that a root was computed from, each once and after its inputs."""
    for text, why in (
        ("a", "a node without inputs is an order of one"),
        ("b:a", "the input comes first"),
        ("c:a,b", "two inputs, in either order"),
        ("b:a,a", "x * x has the same input twice; the node is listed once"),
        ("b:a c:a d:b,c", "a diamond: both ways lead to a, which must precede both"),
        ("b:a c:b d:a,c", "a short and a long way to a: nearness to the root does not decide"),
        ("b:a c:b d:c,a", "the same with the long way first"),
        ("c:a,b d:c,b e:c,d f:a,e", "nodes that are used twice at several depths"),
    ):
        yield order_case(graph_of(text), why)
    doubled = graph_of(" ".join(f"n{i + 1}:n{i},n{i}" for i in range(40)))
    doubled.text = "n0 doubled forty times: n1 from n0 and n0, n2 from n1 and n1, and so on"
    yield order_case(doubled, "41 nodes, but 2 ** 40 ways lead to n0: visit nodes, not ways")
    rng = np.random.default_rng(13)
    for num in (6, 9):
        words = []
        for i in range(1, num):
            words.append(f"n{i}:n{i - 1},n{rng.integers(i)}")  # all of them lead to the last
        yield order_case(graph_of(" ".join(words)), "a graph drawn at random")
    chain = Node("n0")
    for i in range(1, 5000):
        chain = Node(f"n{i}", (chain,))
    chain.text = "the end of a chain of 5000 nodes, each with one input"
    yield order_case(
        chain,
        "Python gives up after about 1000 calls within calls, and graphs are deeper than that; keep a list of what "
        "is still to do instead of calling yourself",
    )


@check("1.4")
def unbroadcast() -> Iterator[Case]:
    """g of the broadcast shape -> the gradient of an input of `shape`."""
    rng = np.random.default_rng(14)
    for broadcast, shape, why in (
        ((2,), (1,), "one number was used twice; its axis of length 1 stays"),
        ((2,), (), "a number without axes was used twice"),
        ((2, 3), (), "a number without axes, and two axes put in front"),
        ((2, 3, 3), (3,), "two axes put in front: after the first sum the second axis is the first"),
        ((2, 3), (3,), "a row was added to each of two rows"),
        ((2, 3), (2, 1), "a column was added to each of three columns"),
        ((2, 3), (2, 3), "nothing was stretched"),
        ((3, 3), (3,), "a missing axis is put in front, so the rows are summed, even where both lengths are 3"),
        ((3, 1), (3, 1), "an axis of length 1 that was not stretched"),
        ((2, 4, 3), (4, 1), "an axis in front and one at the end"),
        ((2, 4, 3), (1, 4, 1), "two stretched axes, with one between"),
        ((3, 2, 5), (1, 1, 1), "one number in three axes"),
    ):
        g = rng.integers(1, 10, broadcast).astype(float)
        yield Case((g, shape), summed_over_copies(g, shape), why=why)


@check("1.5")
def slope_along() -> Iterator[Case]:
    """d/dt sum(g * f(x + t * direction)) at t = 0, by a central difference with the given eps."""
    square = Known("f(x) = x * x", lambda x: x * x, lambda x, d: 2 * x * d)
    cube = Known("f(x) = x ** 3", lambda x: x**3, lambda x, d: 3 * x**2 * d)
    rows = Known("f(x) = (x * x).sum(axis=1)", lambda x: (x * x).sum(axis=1), lambda x, d: (2 * x * d).sum(axis=1))
    double = Known("f(x) = 2 * x", lambda x: 2 * x, lambda x, d: 2 * d)
    one = np.array([3.0])
    yield slope_case(double, one, np.array([1.0]), np.array([1.0]), 0.5, "a straight line: its slope")
    yield slope_case(square, one, np.array([1.0]), np.array([1.0]), 0.1, "one step to each side: exact for a parabola")
    yield slope_case(square, one, np.array([-2.0]), np.array([1.0]), 0.1, "a longer step, backwards")
    yield slope_case(square, one, np.array([1.0]), np.array([5.0]), 0.1, "the output counts five times")
    two, along = np.array([2.0]), np.array([1.0])
    yield slope_case(cube, two, along, along, 0.5, "a long step sees the bend: 2.5 ** 3 - 1.5 ** 3, not 12", 12.25)
    rng = np.random.default_rng(15)
    for f, shape, out, eps in ((square, (3,), (3,), 0.1), (rows, (2, 3), (2,), 0.05), (cube, (2, 4), (2, 4), 1e-4)):
        x, direction, g = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=out)
        yield slope_case(f, x, direction, g, eps, "arrays drawn at random")


class Node:
    """A node of a graph; text: what a reader is told about the graph that ends here.

    Raises RuntimeError when asked for its inputs again and again, so that a walk over every path comes to an end.
    """

    def __init__(self, name: str, inputs: tuple[Node, ...] = (), text: str = "") -> None:
        self.name, self.text, self.asked = name, text, 0
        self._inputs = inputs

    @property
    def inputs(self) -> tuple[Node, ...]:
        self.asked += 1
        if self.asked > MOST_VISITS:
            raise RuntimeError(f"{self.name} was visited {MOST_VISITS} times; remember what you have seen")
        return self._inputs

    def __repr__(self) -> str:
        return f"{self.name} ({self.text})" if self.text else self.name


@dataclass(frozen=True)
class Known:
    """A function whose derivative along a direction is known; text: what it is."""

    text: str
    value: Callable[[np.ndarray], np.ndarray]
    along: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.value(x)

    def __repr__(self) -> str:
        return self.text


def graph_of(text: str) -> Node:
    """The last node of a graph written as "b:a c:a d:b,c": node, colon, its inputs."""
    nodes: dict[str, Node] = {}
    for word in text.split():
        name, _, inputs = word.partition(":")
        names = inputs.split(",") if inputs else []
        nodes[name] = Node(name, tuple(nodes.setdefault(n, Node(n)) for n in names))
    told = [f"{node.name} from {' and '.join(x.name for x in node.inputs)}" for node in nodes.values() if node.inputs]
    nodes[name].text = ", ".join(told) or "no inputs"
    return nodes[name]


def order_case(root: Node, why: str) -> Case:
    return Case((root,), accept=partial(wrong_with_order, root), why=why)


def wrong_with_order(root: Node, got: Any) -> str:
    """What keeps `got` from being an order of the nodes above `root`, or ""."""
    if not isinstance(got, (list, tuple)) or not all(isinstance(node, Node) for node in got):
        return "It should return a list of nodes."
    place = {id(node): i for i, node in enumerate(got)}
    if len(place) < len(got):
        twice = next(node for i, node in enumerate(got) if place[id(node)] != i)
        return f"{twice.name} is listed more than once."
    for node in [root, *got]:
        if id(node) not in place:
            return f"{node.name} is missing."
        for x in node.inputs:
            if id(x) not in place:
                return f"{x.name} is missing, an input of {node.name}."
            if place[id(x)] > place[id(node)]:
                return f"{node.name} comes before its input {x.name}."
    return "" if got[-1] is root else f"{got[-1].name} does not belong to the graph of {root.name}."


def summed_over_copies(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Each element of g goes to the element of the input of which it was a copy."""
    out = np.zeros(shape)
    for index in np.ndindex(g.shape):
        own = index[g.ndim - len(shape) :]
        out[tuple(0 if length == 1 else i for i, length in zip(own, shape, strict=True))] += g[index]
    return out


def slope_case(
    f: Known, x: np.ndarray, direction: np.ndarray, g: np.ndarray, eps: float, why: str, want: float | None = None
) -> Case:
    """want: by default the true slope, where the step is too short for a difference to show."""
    want = float(np.sum(g * f.along(x, direction))) if want is None else want
    return Case((f, x.copy(), direction.copy(), g.copy(), eps), want, why=why)
