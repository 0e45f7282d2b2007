"""Lessons as files: which there are, their cells, and what the header of each says.

A lesson is a percent script (jupytext's format): `# %%` begins a cell of code, `# %% [markdown]` one of prose, whose
lines are comments. The first cell is the header, with one paragraph for each of `FIELDS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FIELDS = ("Question", "Papers", "Time", "Before", "You build", "You may skip")


@dataclass(frozen=True)
class Cell:
    """One cell: prose without its comment signs, or code."""

    is_code: bool
    text: str


@dataclass(frozen=True)
class Header:
    """What a lesson says of itself; seconds is the stated time on two cores, `fields` the paragraphs as they stand."""

    file: Path
    number: str
    title: str
    seconds: int
    fields: dict[str, str]


def lesson_files() -> list[Path]:
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def cells(file: Path) -> list[Cell]:
    """The cells of a lesson in order. Raises ValueError for code before the first `# %%`."""
    before, *parts = re.split(r"^# %%", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"{file}: the first line must begin a cell with # %%")
    found = []
    for part in parts:
        kind, _, body = part.partition("\n")
        is_code = kind.strip() != "[markdown]"
        text = body if is_code else re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        found.append(Cell(is_code, text.strip()))
    return found


def header(file: Path) -> Header:
    """Raises ValueError naming what the header lacks."""
    text = cells(file)[0].text
    title = re.match(r"# (\d\d) (.+)\n", text)
    if not title or not file.name.startswith(f"{title[1]}_"):
        raise ValueError(f"{file}: the header must begin with '# NN Title', NN as in the file's name")
    ends = r"(?=\s*\*\*[A-Z][a-z ]+:\*\*|\n\n|\Z)"
    fields = {name: re.search(rf"\*\*{name}:\*\*\s+(.+?){ends}", text, flags=re.DOTALL) for name in FIELDS}
    if missing := [name for name, found in fields.items() if not found]:
        raise ValueError(f"{file}: the header lacks {', '.join(f'**{name}:**' for name in missing)}")
    said = {name: " ".join(found[1].split()) for name, found in fields.items()}
    seconds = re.match(r"(\d+) s\b", said["Time"])
    if not seconds:
        raise ValueError(f"{file}: **Time:** must begin with a number of seconds, such as '15 s.'")
    return Header(file, title[1], title[2].strip(), int(seconds[1]), said)
