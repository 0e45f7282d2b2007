"""Group sampling on photos: FPN-finest with random samples, in groups, in groups with hard examples; and FPN.

    minidetect train group-sampling --data DIR --out PRETRAINED      # stop it after step 3,600 (log.jsonl)
    python benchmarks/group_sampling_photos.py --data DIR --out FOLDER --backbone PRETRAINED/layout.ckpt.npz
        [--seeds 0 1 2] [--steps 600] [--json FILE]

Group Sampling's Table 3 and 9, for four of their rows, with a small network: trained on crops of wider/train
(train/layouts.py), measured on wider/val. Trainings of one seed begin with the same weights, as far as their shapes
agree, and see the same crops in the same order.

The paper begins with a backbone that knows ImageNet. Here all four get the backbone of one training that was stopped
(a checkpoint of train/layouts.py; the results in benchmarks/results began with one after 3,600 steps). It was trained
with grouped samples and hard examples; pyramid and heads are new. So what differs between the rows is what the samples
do to these, and to the backbone from there on.

The boxes learn by least squares of the IoU here; by its Table 8 the paper's figures beside them were trained with the
smooth L1 distance.

    all, @16 ... @128   AP in percent over all faces of at least 8 pixels, blurred and occluded ones too, of the whole
                        detector and of each sub-detector alone; photos are looked at in four sizes, a quarter to twice
    single look         the same for photos in their own size only
    usual               AP over faces as `minidetect evaluate wider --min-face 8` counts them, four sizes

What is finished in FOLDER is not run again, and a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from same_settings import check_same_settings, kept_or_run
from tqdm import tqdm

from minidetect.data.images import load_image
from minidetect.data.wider_face import WiderRecord, read_wider, to_target
from minidetect.detection.anchor_layout import LAYOUTS
from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import evaluate_detections
from minidetect.evaluate.runs import LOW_SCORE, from_size
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_pyramid import by_scale
from minidetect.nn.checkpoint import load_arrays
from minidetect.train.layouts import LayoutRecipe, train_layout
from minidetect.train.single_shot import FacePhotos

CONDITIONS = {
    "fpn-finest random": ("fpn-finest", "random"),
    "fpn-finest gs": ("fpn-finest", "gs"),
    "fpn-finest gs+wrs": ("fpn-finest", "gs+wrs"),
    "fpn random": ("fpn", "random"),
}
COLUMNS = ("all", "@16", "@32", "@64", "@128", "single look", "usual")
PAPER = {
    "fpn-finest random": "80.2 65.6 66.8 43.9 22.4", "fpn-finest gs": "82.8 74.1 72.9 47.8 24.5",
    "fpn-finest gs+wrs": "83.1 78.2 73.1 46.8 23.7", "fpn random": "82.1 72.3 67.3 43.2 21.2",
}  # fmt: skip
FACTORS = (0.25, 0.5, 1.0, 2.0)  # of the paper's eight, to save time
BLOCKS, SAMPLES = (1, 2, 2, 2), 128  # of the recipe's backbone; N
SMALLEST = 8.0  # pixels of the photo


class Validation:
    """The photos of wider/val in memory, with all their faces, and with those that usually count."""

    def __init__(self, data: Path) -> None:
        records: list[WiderRecord] = read_wider(data / "wider" / "wider_val_bbx_gt.txt", data / "wider" / "val")
        self.images = [load_image(record.path) for record in records]
        sizes = [image.shape[:2] for image in self.images]
        pairs = list(zip(records, sizes, strict=True))
        self.all = [to_target(record, size, SMALLEST, min_blurred_size=0, max_occlusion=2) for record, size in pairs]
        self.usual = [to_target(record, size, SMALLEST) for record, size in pairs]


def ap(found: Sequence[Detections], targets: Sequence[Target]) -> float:
    curve = evaluate_detections([from_size(of_image, SMALLEST) for of_image in found], targets)
    return round(100 * curve.ap, 2)


def measure(model: LayoutDetector, val: Validation) -> dict[str, float]:
    """AP in percent for each of COLUMNS."""
    fused = model.fuse()
    found = [by_scale(fused, image, FACTORS, LOW_SCORE) for image in tqdm(val.images, desc="val", mininterval=5)]
    once = [fused.detect_with_report(image, 0, LOW_SCORE)[0] for image in val.images]
    together = [of_image["all"] for of_image in found]
    return {
        "all": ap(together, val.all),
        **{f"@{scale}": ap([of_image[scale] for of_image in found], val.all) for scale in model.layout.scales},
        "single look": ap(once, val.all),
        "usual": ap(together, val.usual),
    }


def pretrained(file: Path) -> dict[str, np.ndarray]:
    """The backbone's weights in a checkpoint of a training."""
    start = "model/backbone."
    return {name[len(start) :]: array for name, array in load_arrays(file)[0].items() if name.startswith(start)}


def fingerprint(file: Path) -> str:
    """Which backbone it is: after how many steps, and the first digits of a hash of its weights."""
    weights = pretrained(file)
    digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
    return f"step {load_arrays(file)[1].get('step')}, {digest[:12]}"


def run(
    seed: int, name: str, steps: int, backbone: Path, data: Path, out: Path, photos: FacePhotos, val: Validation
) -> dict[str, object]:
    """One training (or the rest of it) and what came of it."""
    layout, sampler = CONDITIONS[name]
    recipe = LayoutRecipe(sampler=sampler, num=SAMPLES)
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=steps))
    model = LayoutDetector(np.random.default_rng(seed), LAYOUTS[layout], blocks=BLOCKS)
    model.backbone.load_state_dict(pretrained(backbone), str(backbone))
    train_layout(model, data, out, recipe, seed, photos=photos)
    return {"seed": seed, "condition": name, "parameters": model.num_parameters(), "ap": measure(model, val)}


def report(rows: Sequence[dict]) -> str:
    lines = [f"{'AP, %':20}" + "".join(f"{column:>20}" for column in COLUMNS) + "   paper: All @16 @32 @64 @128"]
    for name in dict.fromkeys(row["condition"] for row in rows):
        of_name = [row["ap"] for row in rows if row["condition"] == name]
        cells = (" ".join(f"{ap[column]:.1f}" for ap in of_name) for column in COLUMNS)
        lines.append(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells) + f"   {PAPER[name]}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True, metavar="FILE", help="a checkpoint, see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: 600)")
    parser.add_argument("--only", nargs="+", choices=tuple(CONDITIONS), default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = {"steps": arguments.steps, "backbone": fingerprint(arguments.backbone)}
    check_same_settings(arguments.out, settings)
    recipe, rows = LayoutRecipe(), []
    photos, val = FacePhotos(arguments.data, recipe.crops, recipe.smallest), Validation(arguments.data)
    for seed in arguments.seeds:
        for name in arguments.only:
            out = arguments.out / f"seed{seed}" / name.replace(" ", "-")
            more = (seed, name, arguments.steps, arguments.backbone, arguments.data, out, photos, val)
            rows.append(kept_or_run(out / "result.json", run, *more))
            print(json.dumps(rows[-1]), flush=True)
    print(report(rows))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**settings, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
