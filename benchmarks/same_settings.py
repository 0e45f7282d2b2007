"""For benchmarks that keep finished trainings in a folder: it must hold results of the same settings only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path


def check_same_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Refuse a folder with results of other settings; note these in an empty one."""
    file = out / "settings.json"
    if file.exists() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{out} holds results of {file.read_text().strip()}: choose another folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings) + "\n")


def kept_or_run(file: Path, run: Callable[..., dict], *arguments: object) -> dict:
    """The result of run(*arguments), from `file` if it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(run(*arguments)) + "\n")
        part.rename(file)
    return json.loads(file.read_text())
