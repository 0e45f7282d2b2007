"""For the tests of the command line: run it in this process, and a weights file of an untrained cascade."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.api import save
from minidetect.cli import main
from minidetect.models.facecraft import TABLES, SeparateCascade

# The same kinds of layers as TABLES, but few channels: quick.
NARROW = (TABLES[0], ((6, 3, 3), (8, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))


class Outcome(NamedTuple):
    """code: the exit code; out: standard output; err: the lines on standard error that begin `minidetect`.

    Left out of `err` are progress bars and the note that kernels are being compiled.
    """

    code: int
    out: str
    err: list[str]


def run(capsys, *arguments: object) -> Outcome:
    """`minidetect ARGUMENTS...`; an exception other than argparse's exit is a failure of the test."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = leaving.code
    out, err = capsys.readouterr()
    lines = [line for line in err.replace("\r", "\n").split("\n") if line.startswith("minidetect")]
    return Outcome(code, out, [line for line in lines if "compiling the kernels" not in line])


def untrained(path: Path, **settings) -> Path:
    """Weights that take about half of all windows for faces, unless the thresholds say otherwise."""
    settings = {"thresholds": (0.1, 0.1, 0.5)} | settings  # untrained scores are around 0.5
    save(SeparateCascade(np.random.default_rng(0), NARROW, **settings), path, {"score": "none"})
    return path
