"""Named experiments: what `minidetect train NAME` runs.

A recipe is a function of the data folder, the output folder and the seed. For `facecraft`, `multi-output`, `extd`
and `group-sampling` the folder DATA has
    wider/train/, wider/wider_train_bbx_gt.txt     photos and boxes in WIDER FACE's text format
    scenes/*.jpg                                   photos without faces (may be missing; only the cascades use them)
    facepoint/train.csv and its crops              faces with five landmarks (only `multi-output` needs them)
For `rcnn`, `fast-rcnn` and `faster-rcnn` it holds pictures and boxes in the format of VOC, COCO or YOLO, or a table:
see data/folders.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from minidetect.api import save
from minidetect.api_objects import ObjectDetector, save_objects
from minidetect.data.folders import read_objects
from minidetect.data.images import image_size
from minidetect.data.landmarks import read_landmarks_csv
from minidetect.data.proposals import searched_proposals
from minidetect.data.wider_face import read_wider
from minidetect.detection.anchor_layout import LAYOUTS
from minidetect.kernels.device import check_device
from minidetect.models.cascade import Cascade
from minidetect.models.extd import EXTD
from minidetect.models.layout_detector import LayoutDetector
from minidetect.nn.checkpoint import write_atomically
from minidetect.train.facecraft import FaceCraftRecipe, FaceCraftRun
from minidetect.train.layouts import LayoutRecipe, losses_of, train_layout
from minidetect.train.loop import Schedule, read_log
from minidetect.train.multi_output import MultiOutputRecipe, MultiOutputRun
from minidetect.train.object_images import ObjectRecipe, check_same_run
from minidetect.train.objects import train_fast_rcnn, train_faster_rcnn
from minidetect.train.rcnn import train_rcnn
from minidetect.train.single_shot import SingleShotRecipe, train_single_shot
from minidetect.visualize import plot_curves

RCNN_RECIPE = ObjectRecipe(schedule=Schedule(steps=1500, lr=0.02, warm_up=100, drops=(0.6, 0.85), max_norm=10.0))


def facecraft(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, control: bool = False
) -> list[Path]:
    """Three separate nets, then the joint cascade that starts from them. Returns the weights' files.

    steps: at most so many a phase. control: also train the separate nets on by as many iterations as the
    joint one had, to compare at equal cost.
    """
    recipe = FaceCraftRecipe() if steps is None else FaceCraftRecipe().shortened(steps)
    run = FaceCraftRun(data, out, recipe, seed, check_nan=check_nan)
    return finish_cascades(run.run(with_control=control), out, "facecraft", seed, steps)


def multi_output(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, control: bool = False
) -> list[Path]:
    """Three separate nets with boxes and landmarks, the end-to-end cascade, and that polished; as `facecraft`."""
    recipe = MultiOutputRecipe() if steps is None else MultiOutputRecipe().shortened(steps)
    run = MultiOutputRun(data, out, recipe, seed, check_nan=check_nan)
    return finish_cascades(run.run(with_control=control), out, "multi-output", seed, steps)


def extd(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, structure: str = "fpn",
    width: int = 32, act: str = "prelu", device: str = "cpu",
) -> list[Path]:
    """EXTD; structure, width and act are the paper's three choices. Returns the weights' file.

    steps: at most so many a phase. device: "cuda" trains on a GPU (kernels/device.py).
    """
    model = EXTD(np.random.default_rng(seed), structure, width, act).to(device)
    recipe = SingleShotRecipe() if steps is None else SingleShotRecipe().shortened(steps)
    train_single_shot(model, data, out, recipe, seed, check_nan)
    model.to("cpu")
    file = out / f"{model.name.lower()}.npz"
    save(model, file, {"recipe": "extd", "seed": seed, "steps": steps})
    if (out / "log.jsonl").exists():
        draw_log(out / "log.jsonl", out / "curves.png")
    return [file]


def group_sampling(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, layout: str = "fpn-finest",
    sampler: str = "gs+wrs", head: str | None = None, box_loss: str = "least-squares", device: str = "cpu",
) -> list[Path]:
    """A detector with an AnchorLayout; the four choices are Group Sampling's. Returns the weights' file.

    steps: at most so many. head: None for "dilated", or for "own" with the layout "ssd", which needs it. device: as
    `extd`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"a layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    losses_of(sampler, box_loss=box_loss)  # refuse names that there are not before anything is read
    head = head or ("own" if layout == "ssd" else "dilated")
    model = LayoutDetector(np.random.default_rng(seed), LAYOUTS[layout], head, blocks=(1, 2, 2, 2)).to(device)
    recipe = LayoutRecipe(sampler=sampler, box_loss=box_loss)
    recipe = recipe if steps is None else recipe.shortened(steps)
    train_layout(model, data, out, recipe, seed, check_nan)
    model.to("cpu")
    file = out / f"{layout}-{sampler.replace('*', '-star')}.npz"
    made = {"recipe": "group-sampling", "seed": seed, "steps": steps, "sampler": sampler, "box_loss": box_loss}
    save(model, file, made)
    if (out / "log.jsonl").exists():
        draw_log(out / "log.jsonl", out / "curves.png")
    return [file]


def finish_cascades(
    cascades: Mapping[str, Cascade], out: Path, recipe: str, seed: int, steps: int | None
) -> list[Path]:
    """Write the cascades and the curves of their training."""
    files = []
    for name, cascade in cascades.items():
        files.append(out / f"{recipe}-{name.replace('_', '-')}.npz")
        save(cascade, files[-1], {"recipe": recipe, "seed": seed, "steps": steps, "phase": name})
    if (out / "log.jsonl").exists():
        draw_log(out / "log.jsonl", out / "curves.png")
    return files


def faster_rcnn(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, vertical_flips: bool = False,
    short_side: int = 480,
) -> list[Path]:
    """Faster R-CNN on the split "train" of a folder of one's own. Returns the weights' file.

    steps: at most so many. vertical_flips: images may stand on their heads. short_side: of the image as the network
    sees it, in pixels; the long side has at most 5/3 of it.
    """
    recipe = changed(ObjectRecipe(), vertical_flips, short_side, steps)
    trained = train_faster_rcnn(read_objects(data, "train"), out, recipe, seed, check_nan)
    detector = ObjectDetector(trained.model, trained.classes, trained.mean_colour, trained.scale)
    return finish(detector, out, "faster-rcnn", seed, recipe)


def fast_rcnn(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, vertical_flips: bool = False,
    short_side: int = 480,
) -> list[Path]:
    """Fast R-CNN, on proposals of selective search, which are kept in OUT/proposals.npz; the rest as `faster_rcnn`."""
    recipe, dataset = changed(ObjectRecipe(), vertical_flips, short_side, steps), read_objects(data, "train")
    check_same_run(out, dataset, recipe, seed)
    proposals = searched_proposals(dataset, data, out / "proposals.npz", recipe.scale)
    model, mean_colour = train_fast_rcnn(dataset, proposals, out, recipe, seed, check_nan)
    return finish(ObjectDetector(model, dataset.classes, mean_colour, recipe.scale), out, "fast-rcnn", seed, recipe)


def rcnn(
    data: Path, out: Path, seed: int, steps: int | None = None, check_nan: bool = False, vertical_flips: bool = False,
    short_side: int = 480,
) -> list[Path]:
    """R-CNN: the network, the SVMs, the box regressions, on proposals as `fast_rcnn`.

    A step is 128 windows of all images, so that half as many do.
    """
    recipe, dataset = changed(RCNN_RECIPE, vertical_flips, short_side, steps), read_objects(data, "train")
    check_same_run(out, dataset, recipe, seed)
    proposals = searched_proposals(dataset, data, out / "proposals.npz", recipe.scale)
    model, mean_colour = train_rcnn(dataset, proposals, out, recipe, seed, check_nan=check_nan)
    return finish(ObjectDetector(model, dataset.classes, mean_colour, recipe.scale), out, "rcnn", seed, recipe)


def changed(recipe: ObjectRecipe, vertical_flips: bool, short_side: int, steps: int | None) -> ObjectRecipe:
    """A recipe with what the command line says."""
    scale = recipe.scale._replace(short_side=short_side, longest=short_side * 5 // 3)
    recipe = replace(recipe, scale=scale, vertical_flips=vertical_flips)
    return recipe if steps is None else recipe.shortened(steps)


def finish(detector: ObjectDetector, out: Path, name: str, seed: int, recipe: ObjectRecipe) -> list[Path]:
    """Write the detector and the curves of its training."""
    file = out / f"{name}.npz"
    save_objects(detector, file, {"recipe": name, "seed": seed, "steps": recipe.schedule.steps})
    if (out / "log.jsonl").exists():
        draw_log(out / "log.jsonl", out / "curves.png")
    return [file]


def run_recipe(
    name: str, data: Path, out: Path, seed: int = 0, steps: int | None = None, resume: bool = False,
    **options: bool | int | str,
) -> list[Path]:
    """Run a recipe into a folder that is empty, or that `resume` continues.

    options: of the recipe; `check_nan`, `control` and `device`, which change no phase's weights but by rounding, may
        differ when a run goes on.
    Raises ValueError for an unknown name or option, a folder with an earlier run, or unusable annotations;
    FileNotFoundError for missing data. Nothing is written then.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    check, recipe = RECIPES[name]
    if unknown := sorted(options.keys() - inspect.signature(recipe).parameters.keys()):
        raise ValueError(f"the recipe {name} has no {', '.join('--' + option.replace('_', '-') for option in unknown)}")
    check_device(str(options.get("device", "cpu")))
    check(data)
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty: continue its run with --resume, or choose another folder")
    settings_file, settings = out / "settings.txt", settings_of(name, seed, steps, options)
    if settings_file.exists():
        if settings_file.read_text() != settings:
            raise ValueError(f"{out} holds a run of {settings_file.read_text()!r}, which this is not: {settings!r}")
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} holds files, but no run (there is no {settings_file.name}): choose another folder")
    is_new = not out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(settings_file, lambda stream: stream.write(settings.encode()))
    try:
        return recipe(data, out, seed=seed, steps=steps, **options)
    except ValueError:  # such as choices that do not go together: a run that never began must not keep its folder
        if not resume and [file.name for file in out.iterdir()] == [settings_file.name]:
            settings_file.unlink()
            if is_new:
                out.rmdir()
        raise


def settings_of(name: str, seed: int, steps: int | None, options: Mapping[str, bool | int | str]) -> str:
    """What makes a run the one it is, defaults written out, so that it goes on however they were given.

    A default that depends on other options is None, and not the same as its value.
    """
    defaults = {key: p.default for key, p in inspect.signature(RECIPES[name][1]).parameters.items()}
    free = ("data", "out", "seed", "steps", "check_nan", "control", "device")  # told apart, or changing no weights
    changing = [f"{key}={value}" for key, value in sorted((defaults | dict(options)).items()) if key not in free]
    return " ".join([name, f"seed={seed}", f"steps={steps}", *changing])


def check_faces(data: Path) -> None:
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


def check_landmarks(data: Path) -> None:
    """As `check_faces`, and for the faces with landmarks as well."""
    check_faces(data)
    file = data / "facepoint" / "train.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; `multi-output` learns landmarks from the crops that it names")
    records = read_landmarks_csv(file, file.parent, on_problem=lambda problem: None)
    if missing := [record.path for record in records if not record.path.is_file()]:
        raise FileNotFoundError(f"{file}: {len(missing)} of {len(records)} crops are missing, such as {missing[0]}")
    if not records:
        raise ValueError(f"{file}: no face in it")


def check_objects(data: Path) -> None:
    """Find what the training would stumble over later: no annotations, broken ones, a missing image, no object."""
    dataset = read_objects(data, "train", on_problem=lambda problem: None)
    if missing := [record.path for record in dataset.records if not record.path.is_file()]:
        raise FileNotFoundError(f"{data}: {len(missing)} of {len(dataset)} images are missing, such as {missing[0]}")
    for record in dataset.records:
        if (size := image_size(record.path)) != record.size:
            raise ValueError(f"{record.path}: (height, width) is {size}, but its annotation says {record.size}")
    if not any(len(record) for record in dataset.records):
        raise ValueError(f"{data}: no object in the split 'train'")


RECIPES: dict[str, tuple[Callable[[Path], None], Callable[..., list[Path]]]] = {
    "facecraft": (check_faces, facecraft),
    "multi-output": (check_landmarks, multi_output),
    "extd": (check_faces, extd),
    "group-sampling": (check_faces, group_sampling),
    "rcnn": (check_objects, rcnn),
    "fast-rcnn": (check_objects, fast_rcnn),
    "faster-rcnn": (check_objects, faster_rcnn),
}


def draw_log(log: Path, picture: Path) -> None:
    """The curves of all phases one after the other: each counts its steps from 0, the axis goes on."""
    rows, done = read_log(log), {}
    for row in rows:
        done[row["phase"]] = row.pop("step")
        row["step of the run"] = sum(done.values())
    plot_curves(rows, picture, x="step of the run")
