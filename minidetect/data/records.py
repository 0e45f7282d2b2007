"""What the readers of annotation files share: counted text records, and how a problem is told.

WIDER FACE, FDDB's ellipse lists and FDDB's detections are the same kind of text: an image's name on a
line, the number of its rows on the next, then that many rows of numbers. One parser reads all three, so
that each refuses a wrong count in the same words and with the number of the line.

Two kinds of trouble are kept apart. A file whose *structure* is broken is refused (ValueError), since
everything after the break would be misread. A single bad *box* is left out and told about, since one
zero-size box among 159,000 should not stop a training, but must not become a NaN in its loss either.

Letters: G rows (ground truths) of a record, C columns of numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

OnProblem = str | Callable[[str], None]  # "warn", "raise", or a function that is given each message


class CountedRecord(NamedTuple):
    """name: as written; line: where the name stands (from 1); rows: (G, C) float64; row_lines: G ints."""

    name: str
    line: int
    rows: np.ndarray
    row_lines: list[int]


def read_counted(file: str | Path, columns: Collection[int], zero_row: bool = False) -> list[CountedRecord]:
    """All records of a text of the form `name / count / count rows of numbers`; blank lines are skipped.

    columns: how many numbers a row may have (one choice per record). NaN and infinity are passed on.
    zero_row: allow WIDER's quirk, a row of zeros after the count 0; the record then has no rows.

    Raises ValueError with file, line and record: a count that is no whole number, too few or too many
    rows, a row that is not numbers, a name that comes twice. An empty file has no records.
    """
    lines = _numbered_lines(Path(file))
    records: list[CountedRecord] = []
    seen: dict[str, int] = {}
    at = 0
    while at < len(lines):
        line, name = lines[at]
        where = f"{file}:{line}"
        if len(_numbers(name) or ()) > 1:
            after = f", record {records[-1].name!r} has more rows than its count says" if records else ""
            raise ValueError(f"{where}: expected an image's name, found numbers ({_short(name)}){after}")
        if name in seen:
            raise ValueError(f"{where}: record {name!r} is already on line {seen[name]}")
        seen[name] = line
        count = _count(lines[at + 1][1] if at + 1 < len(lines) else "", where, name)
        at += 2
        rows, row_lines = _rows(lines[at : at + count], count, columns, file, name)
        at += count
        if zero_row and count == 0 and at < len(lines) and _is_zero_row(lines[at][1], columns):
            at += 1
        records.append(CountedRecord(name, line, rows, row_lines))
    return records


def tell(on_problem: OnProblem, problems: list[str], what: str) -> None:
    """Pass `problems` on: one warning for all of them, a ValueError at the first, or a call for each."""
    if on_problem not in ("warn", "raise") and not callable(on_problem):
        raise ValueError(f"on_problem must be 'warn', 'raise' or a function of a string, got {on_problem!r}")
    if not problems:
        return
    if on_problem == "raise":
        raise ValueError(problems[0])
    if on_problem == "warn":
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        warnings.warn(f"{what}: {len(problems)}: " + "; ".join(problems[:3]) + more, stacklevel=3)
        return
    for problem in problems:
        on_problem(problem)


def _numbered_lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8: {error}") from None
    # split at "\n" only: str.splitlines would also break at characters that may stand in a file's name
    stripped = ((i, line.strip()) for i, line in enumerate(text.split("\n"), start=1))
    return [(i, line) for i, line in stripped if line]


def _count(text: str, where: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{where}: record {name!r}: a count must follow the name, found {_short(text)!r}")
    return int(text)


def _rows(
    lines: list[tuple[int, str]], count: int, columns: Collection[int], file: str | Path, name: str
) -> tuple[np.ndarray, list[int]]:
    width = max(columns)
    values: list[list[float]] = []
    for line, text in lines:
        row = _numbers(text)
        if row is None:
            raise ValueError(
                f"{file}:{line}: record {name!r}: expected row {len(values) + 1} of {count}, "
                f"a row of numbers, found {_short(text)!r}"
            )
        if len(row) not in columns or (values and len(row) != len(values[0])):
            allowed = " or ".join(str(c) for c in sorted(columns))
            raise ValueError(
                f"{file}:{line}: record {name!r}: a row has {allowed} numbers, this one {len(row)}"
            )
        values.append(row)
    if len(values) < count:
        raise ValueError(f"{file}: record {name!r} says {count} rows, the file ends after {len(values)}")
    rows = np.array(values, np.float64) if values else np.zeros((0, width))
    return rows, [line for line, _ in lines]


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        return None


def _is_zero_row(text: str, columns: Collection[int]) -> bool:
    row = _numbers(text)
    return row is not None and len(row) in columns and not any(row)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
