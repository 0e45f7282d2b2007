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
from minidetect.data.wider_face import read_wider
from minidetect.models.facecraft import Cascade
from minidetect.train.facecraft import FaceCraftRecipe, FaceCraftRun
from minidetect.train.loop import read_log
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
        draw_log(out / "log.jsonl", out / "curves.png")
    return files


RECIPES: dict[str, Callable[..., list[Path]]] = {"facecraft": facecraft}


def run_recipe(
    name: str, data: Path, out: Path, seed: int = 0, steps: int | None = None, resume: bool = False, **options: bool
) -> list[Path]:
    """Run a recipe into a folder that is empty, or that `resume` continues.

    options: what does not change the weights of a phase, and so may differ when a run is continued:
        check_nan, control.
    Raises ValueError for an unknown name, a folder with an earlier run, or unusable annotations;
    FileNotFoundError for missing data. Nothing is written then.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    check_data(data)
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty: continue its run with --resume, or choose another folder")
    settings_file, settings = out / "settings.txt", f"{name} seed={seed} steps={steps}"
    if settings_file.exists() and settings_file.read_text() != settings:
        raise ValueError(f"{out} holds a run of {settings_file.read_text()!r}, which this is not: {settings!r}")
    out.mkdir(parents=True, exist_ok=True)
    settings_file.write_text(settings)
    return RECIPES[name](data, out, seed=seed, steps=steps, **options)


def check_data(data: Path) -> None:
    """Find what the training would stumble over later: a missing list, a broken one, a missing photo."""
    file = data / "wider" / "wider_train_bbx_gt.txt"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; the photos to train on should be in {data}")
    records = read_wider(file, data / "wider" / "train", on_problem=lambda problem: None)
    missing = [record for record in records if not record.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{file}: {len(missing)} of {len(records)} photos are missing; for record {missing[0].name!r} "
            f"there is no {missing[0].path}"
        )
    if not any(len(record) for record in records):
        raise ValueError(f"{file}: no face in it")


def draw_log(log: Path, picture: Path) -> None:
    """The curves of all phases one after the other: each counts its steps from 0, the axis goes on."""
    rows, done = read_log(log), {}
    for row in rows:
        done[row["phase"]] = row.pop("step")
        row["step of the run"] = sum(done.values())
    plot_curves(rows, picture, x="step of the run")
