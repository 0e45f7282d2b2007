"""What the lessons stand on: exercises that check themselves, predictions, claims, pictures.

    lesson = Lesson("05", "Boxes, overlap, suppression")

    @lesson.exercise(check.iou, otherwise=solution.iou)
    def iou(a, b):
        raise NotImplementedError

    guess = lesson.predict("How many of 200 boxes survive?", 40)
    lesson.reveal(guess, len(kept))
    lesson.show(figure, "kept", "What is kept of 200 boxes")
    lesson.claim("FC-M4", "...", [0.98, 0.99, 0.97], above=0.95, paper="...")
    lesson.finish()

An exercise is checked where it is defined. Right or wrong or not attempted, the lesson goes on: with the reader's own
function if it is right, else with the one named by `otherwise`.

A script saves its pictures in lessons/out/, a notebook shows them too. MINIDETECT_BUDGET is smoke, lesson or full: how
long the experiments may take. The smoke budget only proves that everything runs; claims are not judged in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from minidetect.checks.case import Check, Mistake
from minidetect.nn.checkpoint import write_atomically
from minidetect.visualize import save_png

BUDGETS = ("smoke", "lesson", "full")
FEWEST_SEEDS = 3

Amount = TypeVar("Amount")


@dataclass
class Prediction:
    """A question, the number in the lesson's file (edit it!), and what came out."""

    question: str
    guess: float
    measured: float | None = None


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, in miniature: one value a seed, the bound they are held against, and the verdict."""

    id: str
    text: str
    paper: str
    values: list[float]
    bound: str
    verdict: str
    budget: str


class Lesson:
    """One run of one lesson; `finish` prints its tables and leaves them in out/NN.json.

    number: "05". title: as in the header. out: folder of pictures and tables; by default `out` beside the script, or
    in the notebook's folder. budget: smoke, lesson or full; by default MINIDETECT_BUDGET, else lesson.

    Raises ValueError for another budget.
    """

    def __init__(self, number: str, title: str, out: Path | None = None, budget: str | None = None) -> None:
        self.number, self.title = number, title
        self.out = home() / "out" if out is None else Path(out)
        self.budget = budget or os.environ.get("MINIDETECT_BUDGET", "lesson")
        if self.budget not in BUDGETS:
            raise ValueError(f"MINIDETECT_BUDGET must be one of {', '.join(BUDGETS)}, got {self.budget!r}")
        self.begin = time.perf_counter()
        self.exercises: dict[str, str] = {}
        self.predictions: list[Prediction] = []
        self.claims: dict[str, Claim] = {}
        self.pictures: dict[str, str] = {}

    def amount(self, smoke: Amount, lesson: Amount, full: Amount) -> Amount:
        """The one of three values that the budget allows: iterations, seeds, sizes."""
        return {"smoke": smoke, "lesson": lesson, "full": full}[self.budget]

    def exercise(self, check: Check, otherwise: Callable) -> Callable[[Callable], Callable]:
        """Decorate an attempt: check it here and now; the lesson goes on with it, or with `otherwise`.

        Prints PASS, or FAIL with the smallest counter-example (and shows its picture), or "not attempted" for a
        function that raises NotImplementedError. Returns the function that the lesson goes on with.
        """

        def examine(attempt: Callable) -> Callable:
            label = f"Exercise {check.number}, {check.name}"
            # Python binds the name after the decorator has run; an answer may call itself before that.
            attempt.__globals__[attempt.__name__] = attempt
            try:
                mistake = check.first_mistake(attempt)
            except NotImplementedError:
                self.exercises[check.number] = "not attempted"
                print(f"{label}: not attempted. The lesson goes on with a right one.")
                return otherwise
            if mistake is None:
                self.exercises[check.number] = "PASS"
                print(f"{label}: PASS")
                return attempt
            self.exercises[check.number] = "FAIL"
            print(f"{label}: FAIL")
            print("  " + mistake.tell(attempt).replace("\n", "\n  "))
            print("  Mend it and run this cell again; the lesson goes on with a right one.")
            self.show_mistake(mistake, f"counter_example_{check.number}")
            return otherwise

        return examine

    def show_mistake(self, mistake: Mistake, name: str) -> None:
        """The picture of a counter-example, where there is one and it can be drawn: a wrong answer may be anything."""
        try:
            if (figure := mistake.draw()) is not None:
                self.show(figure, name, "the counter-example")
        except Exception as error:
            print(f"  (The picture of it cannot be drawn: {error})")

    def predict(self, question: str, guess: float) -> Prediction:
        """Note what the reader expects before anything is run."""
        self.predictions.append(Prediction(question, float(guess)))
        print(f"{question}  Your guess: {guess:g}")
        return self.predictions[-1]

    def reveal(self, prediction: Prediction, measured: float) -> None:
        """Print the guess beside what was measured."""
        prediction.measured = float(measured)
        print(f"{prediction.question}  You said {prediction.guess:g}; it is {measured:.4g}.")

    def claim(
        self,
        id: str,
        text: str,
        values: Sequence[float],
        *,
        paper: str,
        above: float | None = None,
        below: float | None = None,
        asserted: bool = False,
    ) -> None:
        """Hold a statement against one value a seed (at least three), print all of them and the verdict.

        paper: what the paper measured, or "" for a fact of arithmetic. above, below: give one; the claim comes out if
        the mean and at least two of every three values lie beyond it. asserted: three seeds are known to support it, so
        anything else raises AssertionError. In the smoke budget nothing is judged.
        """
        values = [float(v) for v in values]
        if (above is None) == (below is None):
            raise ValueError(f"claim {id}: give one of above and below")
        if self.budget != "smoke" and len(values) < FEWEST_SEEDS:
            raise ValueError(f"claim {id}: {len(values)} values; a claim needs at least {FEWEST_SEEDS} seeds")
        bound = f"> {above:g}" if below is None else f"< {below:g}"
        beyond = np.subtract(values, above) if below is None else np.subtract(below, values)
        holds = bool(beyond.mean() > 0 and 3 * (beyond > 0).sum() >= 2 * len(values))
        verdict = "not judged" if self.budget == "smoke" else "comes out" if holds else "does not come out"
        self.claims[id] = Claim(id, text, paper, values, bound, verdict, self.budget)
        print(f"Claim {id}: {text}")
        print(f"  paper: {paper or 'arithmetic'}; here: {numbers(values)}, expected {bound}: {verdict}")
        if asserted and verdict == "does not come out":
            raise AssertionError(f"claim {id} came out on three seeds when this lesson was written: {numbers(values)}")

    def show(self, picture: Figure | Image.Image | np.ndarray, name: str, caption: str) -> None:
        """Save a picture as out/NN_name.png and show it, where this is a notebook, with its caption."""
        file = self.out / f"{self.number}_{name}.png"
        save_png(picture, file)
        self.pictures[name] = caption
        if in_notebook():
            notebook = sys.modules["IPython.display"]  # the notebook's own; scripts need no IPython
            notebook.display(notebook.Image(data=file.read_bytes(), alt=caption))
            print(caption)
        else:
            print(f"Picture {file.parent.name}/{file.name}: {caption}")

    def finish(self) -> None:
        """Print what was done, predicted and claimed, and write it to out/NN.json."""
        seconds = time.perf_counter() - self.begin
        print(f"Lesson {self.number}, {self.title}: {seconds:.0f} s at budget {self.budget}")
        for number, result in sorted(self.exercises.items()):
            print(f"  exercise {number}: {result}")
        for p in self.predictions:
            outcome = "not measured" if p.measured is None else f"measured {p.measured:.4g}"
            print(f"  {p.question} guessed {p.guess:g}, {outcome}")
        for c in self.claims.values():
            print(f"  claim {c.id}: {c.verdict} ({c.text}; paper: {c.paper or 'arithmetic'}; here {numbers(c.values)})")
        record = {
            "lesson": self.number,
            "title": self.title,
            "budget": self.budget,
            "seconds": round(seconds, 1),
            "exercises": self.exercises,
            "predictions": [asdict(p) for p in self.predictions],
            "claims": [asdict(c) for c in self.claims.values()],
            "pictures": self.pictures,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(self.out / f"{self.number}.json", lambda file: file.write(text.encode()))




def home() -> Path:
    """The lesson's folder: the script's, or where the notebook runs."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path(script).resolve().parent if script and not in_notebook() else Path.cwd()


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this: it has loaded IPython, which is therefore not imported here."""
    ipython = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
