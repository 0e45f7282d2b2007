"""Named experiments: what `minidetect train NAME` runs.

A recipe is a function of the data folder, the output folder and the seed. The folder DATA has
    wider/train/, wider/wider_train_bbx_gt.txt     photos and boxes in WIDER FACE's text format
    scenes/*.jpg                                   photos without faces (may be missing)
    facepoint/train.csv and its crops              faces with five landmarks (may be missing)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minidetect.api import save
from minidetect.models.facecraft import Cascade
from minidetect.train.facecraft import FaceCraftRecipe, FaceCraftRun
from minidetect.visualize import plot_curves


def facecraft(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, control: bool = False
) -> list[Path]:
    """Three separate nets, then the joint cascade that starts from them. Returns the weights' files.

    steps: at most so many a phase. control: also train the separate nets on by as many iterations as the
    joint one had, to compare at equal cost.
    """
    recipe = FaceCraftRecipe() if steps is None else FaceCraftRecipe().shortened(steps)
    run = FaceCraftRun(data, out, recipe, seed, check_nan=check_nan)
    cascades: dict[str, Cascade] = run.run(with_control=control)
    files = []
    for name, cascade in cascades.items():
        files.append(out / f"facecraft-{name}.npz")
        save(cascade, files[-1], {"recipe": "facecraft", "seed": seed, "steps": steps, "phase": name})
    if (out / "log.jsonl").exists():
        plot_curves(out / "log.jsonl", out / "curves.png")
    return files


RECIPES: dict[str, Callable[..., list[Path]]] = {"facecraft": facecraft}


def run_recipe(name: str, data: Path, out: Path, resume: bool, **settings) -> list[Path]:
    """Run a recipe into a folder that is empty, or that `resume` continues.

    Raises ValueError for an unknown name or a folder with an earlier run, FileNotFoundError for no data.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty: continue its run with --resume, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    settings_file = out / "settings.txt"
    described = f"{name} " + " ".join(f"{key}={value}" for key, value in sorted(settings.items()))
    if settings_file.exists() and settings_file.read_text() != described:
        raise ValueError(f"{out} holds a run of {settings_file.read_text()!r}, which this is not: {described!r}")
    settings_file.write_text(described)
    return RECIPES[name](data, out, **settings)
