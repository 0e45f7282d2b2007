"""For benchmarks that keep finished trainings in a folder: it must hold results of the same settings only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def check_same_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Refuse a folder with results of other settings; note these in an empty one."""
    file = out / "settings.json"
    if file.exists() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{out} holds results of {file.read_text().strip()}: choose another folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings) + "\n")
