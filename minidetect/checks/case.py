"""The parts of a check: a case is what an exercise is given and what should come back.

    @check("5.1")
    def iou() -> Iterator[Case]:
        yield Case((box, other), want=0.25, why="boxes that share a quarter")

makes `iou` a Check; `iou.first_mistake(attempt)` is None, or the smallest case that the attempt gets wrong.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Case:
    """One call of an exercise.

    given: the arguments. want: what must come back: a number, a bool, a string, None, an array, or a tuple or list
        of those. Lists and arrays of the same numbers are equal; dtypes may differ, shapes may not.
    accept: where several answers are right: takes what came back, returns "" or what is wrong with it; `want` is
        then not looked at.
    why: what this case is about; told when it fails. picture: draws what came back (it may be of any kind).
    rtol, atol: |got - want| <= atol + rtol * |want|, element by element.
    """

    given: tuple[Any, ...]
    want: Any = None
    accept: Callable[[Any], str] | None = None
    why: str = ""
    picture: Callable[[Any], Figure] | None = None
    rtol: float = 1e-5
    atol: float = 1e-6


@dataclass(frozen=True)
class Mistake:
    """A case that an attempt got wrong: what came back (None after an error) and the complaint."""

    case: Case
    got: Any
    complaint: str
    error: Exception | None = None

    def tell(self, attempt: Callable) -> str:
        """The counter-example in words, a few lines."""
        given = zip(names_of(attempt, self.case), self.case.given, strict=True)
        lines = [f"given  {name} = {shown(value)}" for name, value in given]
        if self.error is None:
            lines.append(f"yours  {shown(self.got)}")
        if self.case.accept is None:
            lines.append(f"right  {shown(self.case.want)}")
        lines += [self.complaint] + ([f"This case: {self.case.why}."] if self.case.why else [])
        return "\n".join(line.replace("\n", "\n" + " " * 9) for line in lines)

    def draw(self) -> Figure | None:
        """The case's picture of what came back; None if it has none. A wrong answer may be such that this raises."""
        return None if self.case.picture is None or self.error is not None else self.case.picture(self.got)


@dataclass(frozen=True)
class Check:
    """The check of one exercise: its number in the lessons, its name, and a function that yields the cases."""

    number: str
    name: str
    cases: Callable[[], Iterator[Case]]

    def first_mistake(self, attempt: Callable) -> Mistake | None:
        """None if every case is right, else the wrong case with the fewest numbers in it.

        Raises NotImplementedError where the attempt does: the exercise is not attempted.
        """
        mistakes = [m for m in (judge(attempt, case) for case in self.cases()) if m is not None]
        return min(mistakes, key=lambda m: count_numbers(m.case.given), default=None)


def check(number: str) -> Callable[[Callable[[], Iterator[Case]]], Check]:
    """Make a Check of a function that yields cases; number: "5.1", exercise 1 of lesson 05."""
    return lambda cases: Check(number, cases.__name__, cases)


def judge(attempt: Callable, case: Case) -> Mistake | None:
    """Call the attempt with a case's arguments and look at what comes back, and at what became of the arguments."""
    given = [copied(value) for value in case.given]
    try:
        got = attempt(*given)
    except NotImplementedError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"It stopped with {type(error).__name__}: {error} (line {where.lineno}: {where.line})"
        return Mistake(case, None, said, error)
    for name, value, old in zip(names_of(attempt, case), given, case.given, strict=True):
        if not unchanged(value, old):
            return Mistake(case, got, f"It changed its argument `{name}`; work on a copy.")
    try:
        complaint = case.accept(got) if case.accept else difference(got, case.want, case.rtol, case.atol)
    except Exception as error:  # `accept` looks into an answer that may be anything
        complaint = f"It is not of the kind that was asked for ({type(error).__name__}: {error})."
    return Mistake(case, got, complaint) if complaint else None


def copied(value: Any) -> Any:
    """Arrays, also in lists and tuples, are copied; anything else is passed on as it is."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(map(copied, value)) if type(value) in (list, tuple) else value


def unchanged(value: Any, old: Any) -> bool:
    """Whether an argument still holds what it held before the call."""
    if isinstance(old, np.ndarray):
        return np.array_equal(value, old, equal_nan=old.dtype.kind == "f")
    if type(old) in (list, tuple):
        return len(value) == len(old) and all(map(unchanged, value, old))
    return True


def difference(got: Any, want: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str:
    """What is wrong with `got`, or ""."""
    if got is None and want is not None:
        return "It returned None: is the `return` missing?"
    if isinstance(want, (str, bool, type(None))):
        return "" if type(got) is not np.ndarray and got == want else f"It should be {want!r}."
    if isinstance(want, tuple) and any(np.ndim(w) for w in want):  # several arrays: one after the other
        if not isinstance(got, (tuple, list)) or len(got) != len(want):
            return f"It should return {len(want)} values, one after the other."
        found = ((i, difference(g, w, rtol, atol)) for i, (g, w) in enumerate(zip(got, want, strict=True)))
        return next((f"Of the {len(want)} values returned, number {i + 1}: {text}" for i, text in found if text), "")
    try:
        values, right = np.asarray(got, np.float64), np.asarray(want, np.float64)
    except (TypeError, ValueError):
        return f"It should be numbers, not {type(got).__name__}."
    if values.shape != right.shape:
        return f"Its shape is {values.shape}; right is {right.shape}."
    wrong = ~np.isclose(values, right, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ""
    if right.ndim == 0:
        return f"{values:.6g} is not {right:.6g}."
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = at[0] if len(at) == 1 else at
    return f"{wrong.sum()} of {wrong.size} differ; the first at {place}: {values[at]:.6g}, right is {right[at]:.6g}."


def names_of(attempt: Callable, case: Case) -> list[str]:
    """The attempt's own names for its arguments; arguments beyond them are numbered."""
    names = list(inspect.signature(attempt).parameters)
    return [names[i] if i < len(names) else f"argument {i}" for i in range(len(case.given))]


def count_numbers(value: Any) -> int:
    """How large a case is: the numbers in its arguments."""
    if isinstance(value, np.ndarray):
        return value.size
    return sum(map(count_numbers, value)) if isinstance(value, (tuple, list)) else 1


def shown(value: Any) -> str:
    """A value as a reader wants it: short arrays whole, long ones by their corners and shape."""
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(shown, value))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, np.ndarray):
        return f"{value:.6g}" if isinstance(value, float) else repr(value)
    text = np.array2string(value, precision=4, suppress_small=True, threshold=60, edgeitems=2)
    return text if 0 < value.size <= 60 else f"{text}, shape {value.shape}"
