"""The checks of the lessons' exercises: every solution passes, every wrong solution on the list is rejected."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from minidetect import checks
from minidetect.checks.case import Case, Check, Mistake, check, difference, shown

ROOT = Path(__file__).resolve().parents[1]
FEWEST_MUTANTS = 3
# A wrong solution must be one that a reader could hand in, so these errors are a mutant's own bugs.
BROKEN = (NameError, ImportError, SyntaxError, AttributeError)


@pytest.fixture(autouse=True, scope="module")
def solutions_can_be_imported():
    """The mutants build on lessons/solutions, which the lessons import as `solutions`."""
    sys.path.insert(0, str(ROOT / "lessons"))
    yield
    sys.path.remove(str(ROOT / "lessons"))


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(module: ModuleType) -> dict:
    return {name: f for name, f in vars(module).items() if inspect.isfunction(f)}


def has_right_shape(mistake: Mistake) -> bool:
    """Whether an answer is wrong in its numbers only, so that the case's picture must be able to show it."""
    try:
        return mistake.error is None and np.shape(mistake.got) == np.shape(mistake.case.want)
    except ValueError:  # several arrays of different shapes
        return False


LESSONS = sorted(file.stem for file in Path(checks.__file__).parent.glob("lesson_*.py"))
CHECKS = [
    (lesson, found)
    for lesson in LESSONS
    for found in vars(importlib.import_module(f"minidetect.checks.{lesson}")).values()
    if isinstance(found, Check)
]
IDS = [f"{found.number} {found.name}" for _, found in CHECKS]


@pytest.mark.parametrize(("lesson", "found"), CHECKS, ids=IDS)
def test_the_solution_passes(lesson, found):
    solution = functions(load(ROOT / "lessons" / "solutions" / f"{lesson}.py"))[found.name]
    mistake = found.first_mistake(solution)
    assert mistake is None, mistake.tell(solution)


@pytest.mark.parametrize(("lesson", "found"), CHECKS, ids=IDS)
def test_every_mutant_is_rejected(lesson, found):
    module = functions(load(ROOT / "tests" / "mutants" / f"{lesson}.py"))
    mutants = {name: f for name, f in module.items() if name.startswith(f"{found.name}__")}
    assert len(mutants) >= FEWEST_MUTANTS, f"{found.name}: {len(mutants)} wrong solutions; list at least three"
    for name, mutant in mutants.items():
        mistake = found.first_mistake(mutant)
        assert mistake is not None, f"the check of {found.name} accepts {name}"
        assert not isinstance(mistake.error, BROKEN), f"{name} is itself broken: {mistake.error!r}"
        assert mistake.tell(mutant)  # the words must not fail on any answer
        if mistake.case.picture is not None and has_right_shape(mistake):
            assert mistake.draw() is not None, f"{name}: the picture of the counter-example fails"


@pytest.mark.parametrize(("lesson", "found"), CHECKS, ids=IDS)
def test_a_stub_is_not_attempted(lesson, found):
    def stub(*args):
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        found.first_mistake(stub)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_mutant_belongs_to_an_exercise(lesson):
    names = {found.name for other, found in CHECKS if other == lesson}
    mutants = [n for n in functions(load(ROOT / "tests" / "mutants" / f"{lesson}.py")) if "__" in n]
    assert {name.split("__")[0] for name in mutants} == names


def test_numbers_follow_the_lesson():
    for lesson in LESSONS:
        numbers = [found.number for other, found in CHECKS if other == lesson]
        assert numbers == [f"{int(lesson[-2:])}.{i + 1}" for i in range(len(numbers))]


@check("0.1")
def double():
    """A check for the tests below: twice a number."""
    yield Case((np.arange(6.0),), 2 * np.arange(6.0), why="six numbers")
    yield Case((np.array([3.0]),), np.array([6.0]), why="one number")


def test_the_smallest_counter_example_is_shown():
    mistake = double.first_mistake(lambda x: x + 1)
    assert mistake.case.why == "one number"
    assert "given  x = [3.]" in mistake.tell(lambda x: x)
    assert "right  [6.]" in mistake.tell(lambda x: x)


def test_an_answer_that_writes_into_its_argument_is_rejected():
    def attempt(x):
        x *= 2
        return x

    mistake = double.first_mistake(attempt)
    assert "changed its argument `x`" in mistake.complaint
    assert "given  x = [3.]" in mistake.tell(attempt)  # as it was


def test_an_error_is_told_with_its_line():
    mistake = double.first_mistake(lambda x: x[99])
    assert "IndexError" in mistake.complaint
    assert "x[99]" in mistake.complaint


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        (None, 1.0, "return"),
        ([1, 2], np.ones(3), "shape is (2,)"),
        ("a", 1.0, "numbers"),
        ([1.0, np.nan], [1.0, 2.0], "the first at 1"),
        (1, True, ""),
        (0, True, "True"),
        (np.ones(2), (np.ones(2), np.ones(3)), "2 values"),
        ((np.ones(2), np.zeros(3)), (np.ones(2), np.ones(3)), "number 2: 3 of 3 differ"),
        ([np.float32(1), 2], np.array([1, 2]), ""),
    ],
)
def test_difference(got, want, words):
    text = difference(got, want)
    assert words in text
    assert bool(text) == bool(words)


def test_values_are_shown_as_a_reader_wants_them():
    assert shown([np.float64(0.1234567), np.int64(3)]) == "[0.123457, 3]"
    assert shown((np.array([1.0, 2.0]), True, None)) == "([1. 2.], True, None)"
    assert shown(np.zeros((9, 9))).endswith("shape (9, 9)")
    assert shown(np.zeros((0, 4))) == "[], shape (0, 4)"


@check("0.2")
def total():
    """A check whose answer is looked into: a list with the sum of a list of arrays."""
    arrays = [np.ones(2), np.ones(3)]
    yield Case((arrays,), accept=lambda got: "" if got[0] == 5 else "Not their sum.")


def test_an_answer_that_cannot_be_looked_into_is_a_mistake():
    assert total.first_mistake(lambda arrays: [sum(a.sum() for a in arrays)]) is None
    assert total.first_mistake(lambda arrays: [0]).complaint == "Not their sum."
    assert "not of the kind" in total.first_mistake(lambda arrays: 5).complaint


def test_arrays_in_lists_are_guarded_too():
    def attempt(arrays):
        arrays[0] += 1
        return [5]

    assert "changed its argument `arrays`" in total.first_mistake(attempt).complaint
    assert total.first_mistake(lambda arrays: [sum(a.sum() for a in arrays)]) is None  # the case itself is whole
