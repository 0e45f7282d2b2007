"""The teaching frame: exercises, predictions, claims and pictures, as a lesson uses them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minidetect.checks.case import Case, check
from minidetect.teach import Lesson
from minidetect.visualize import new_figure


def draw_nothing(got):
    assert np.shape(got) == (2,)
    return new_figure(2, 2)


@check("9.1")
def reverse():
    """Two numbers, the other way round."""
    yield Case((np.array([1.0, 2.0]),), np.array([2.0, 1.0]), why="two numbers", picture=draw_nothing)


@pytest.fixture
def lesson(tmp_path):
    return Lesson("09", "A test", out=tmp_path, budget="lesson")


def the_library(x):
    return x[::-1]


def test_a_right_answer_is_used(lesson, capsys):
    @lesson.exercise(reverse, otherwise=the_library)
    def mine(x):
        return np.array([x[1], x[0]])

    assert mine is not the_library and lesson.exercises == {"9.1": "PASS"}
    assert "Exercise 9.1, reverse: PASS" in capsys.readouterr().out


def test_a_stub_is_replaced(lesson, capsys):
    @lesson.exercise(reverse, otherwise=the_library)
    def mine(x):
        raise NotImplementedError

    assert mine is the_library and lesson.exercises == {"9.1": "not attempted"}
    assert "not attempted" in capsys.readouterr().out


def test_a_wrong_answer_is_told_drawn_and_replaced(lesson, capsys, tmp_path):
    @lesson.exercise(reverse, otherwise=the_library)
    def mine(x):
        return x

    said = capsys.readouterr().out
    assert mine is the_library and lesson.exercises == {"9.1": "FAIL"}
    assert "given  x = [1. 2.]" in said and "yours  [1. 2.]" in said and "right  [2. 1.]" in said
    assert "2 of 2 differ" in said and "This case: two numbers." in said
    assert (tmp_path / "09_counter_example_9.1.png").exists()


def test_an_answer_that_cannot_be_drawn_is_still_told(lesson, capsys):
    lesson.exercise(reverse, otherwise=the_library)(lambda x: "two")
    said = capsys.readouterr().out
    assert "numbers, not str" in said and "The picture of it cannot be drawn" in said
    assert lesson.pictures == {}


def test_an_answer_may_call_itself(lesson):
    """In a lesson the name is global, and bound only after the check has run."""
    answer = "def mine(x):\n    return x if len(x) < 2 else np.append(mine(x[1:]), x[0])\n"
    exec("@examine\n" + answer, {"np": np, "examine": lesson.exercise(reverse, otherwise=the_library)})
    assert lesson.exercises == {"9.1": "PASS"}


def test_an_exercise_done_again_counts_once(lesson):
    lesson.exercise(reverse, otherwise=the_library)(lambda x: x)
    lesson.exercise(reverse, otherwise=the_library)(lambda x: x[::-1])
    assert lesson.exercises == {"9.1": "PASS"}


def test_predictions_are_kept_beside_what_came_out(lesson, capsys):
    guess = lesson.predict("How many?", 40)
    lesson.reveal(guess, np.int64(212))
    assert (guess.guess, guess.measured) == (40, 212)
    assert "You said 40; it is 212." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "bound", "holds"),
    [
        ([1, 2, 3], {"above": 0}, True),
        ([3, 3, -1], {"above": 0}, True),  # two of three, and the mean
        ([9, -1, -1], {"above": 0}, False),  # the mean alone
        ([1, 1, -9], {"above": 0}, False),  # two of three alone
        ([0, 0, 0], {"above": 0}, False),
        ([1, 1, 1, -1, -1], {"above": 0}, False),  # three of five
        ([0.1, 0.2, 0.9], {"below": 0.5}, True),
        ([0.1, 0.9, 0.9], {"below": 0.5}, False),
        ([np.nan, 1, 1], {"above": 0}, False),
    ],
)
def test_a_claim_needs_the_mean_and_two_of_three_seeds(lesson, capsys, values, bound, holds):
    lesson.claim("X-1", "more is more", values, paper="more by 1", **bound)
    assert (lesson.claims["X-1"].verdict == "comes out") is holds
    said = capsys.readouterr().out
    assert ("does not come out" in said) is not holds
    assert "paper: more by 1" in said and all(f"{v:g}" in said for v in values)


def test_claims_that_cannot_be_judged(lesson, tmp_path):
    with pytest.raises(ValueError, match="at least 3 seeds"):
        lesson.claim("X-1", "", [1, 2], paper="", above=0)
    with pytest.raises(ValueError, match="one of above and below"):
        lesson.claim("X-1", "", [1, 2, 3], paper="", above=0, below=1)
    with pytest.raises(ValueError, match="one of above and below"):
        lesson.claim("X-1", "", [1, 2, 3], paper="")


def test_an_asserted_claim_that_fails_stops_the_lesson(lesson):
    with pytest.raises(AssertionError, match="X-1"):
        lesson.claim("X-1", "", [-1, -2, -3], paper="", above=0, asserted=True)


def test_the_smoke_budget_judges_nothing(tmp_path, capsys):
    lesson = Lesson("09", "A test", out=tmp_path, budget="smoke")
    assert lesson.amount(smoke=1, lesson=2, full=3) == 1
    lesson.claim("X-1", "", [-1], paper="", above=0, asserted=True)
    assert "not judged" in capsys.readouterr().out


def test_budgets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDETECT_BUDGET", "full")
    assert Lesson("09", "", out=tmp_path).amount(1, 2, 3) == 3
    monkeypatch.delenv("MINIDETECT_BUDGET")
    assert Lesson("09", "", out=tmp_path).budget == "lesson"
    monkeypatch.setenv("MINIDETECT_BUDGET", "quick")
    with pytest.raises(ValueError, match="smoke, lesson, full, got 'quick'"):
        Lesson("09", "", out=tmp_path)


def test_finish_leaves_everything_in_a_file(lesson, tmp_path, capsys):
    lesson.exercise(reverse, otherwise=the_library)(the_library)
    lesson.reveal(lesson.predict("How many?", 40), 20)
    lesson.claim("X-1", "more", [1, 2, 3], paper="", above=0)
    lesson.show(np.zeros((4, 6, 3), np.uint8), "black", "A black picture")
    lesson.finish()
    record = json.loads((tmp_path / "09.json").read_text())
    assert record["exercises"] == {"9.1": "PASS"} and record["budget"] == "lesson" and record["seconds"] >= 0
    assert record["predictions"] == [{"question": "How many?", "guess": 40.0, "measured": 20.0}]
    assert record["claims"][0]["values"] == [1, 2, 3] and record["claims"][0]["verdict"] == "comes out"
    assert record["pictures"] == {"black": "A black picture"}
    assert Image.open(tmp_path / "09_black.png").size == (6, 4)
    said = capsys.readouterr().out
    assert "guessed 40, measured 20" in said and "claim X-1: comes out" in said


def test_a_script_leaves_its_files_beside_itself(tmp_path):
    script = tmp_path / "09_test.py"
    script.write_text('from minidetect.teach import Lesson\nLesson("09", "A test").finish()\n')
    subprocess.run([sys.executable, script], check=True, cwd="/", capture_output=True)
    assert (tmp_path / "out" / "09.json").exists()
