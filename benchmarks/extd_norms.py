"""EXTD's shared batch norms: the loss of trained weights with running statistics, and with each batch's own.

    python benchmarks/extd_norms.py --data DATA --model extd:EXTD_32.pth [--crops 32] [--size 640]

Crops of WIDER FACE's validation photos in DATA/wider, cut as in training. With running statistics all six passes of F
are normalised alike; with the batch's own each pass is by its own maps. For a network that learned with the one, the
other is another network. Also printed: the counters of batches in the published file, outside of F and within.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import minidetect
from minidetect.autograd import Tensor, no_grad
from minidetect.data.face_crops import CropSettings, training_crop
from minidetect.data.images import load_image
from minidetect.data.wider_face import read_wider, to_target
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.nn.torch_file import read_state_dict

BATCH = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--crops", type=int, default=32, help="how many, in batches of 4 (default: 32)")
    parser.add_argument("--size", type=int, default=640)
    arguments = parser.parse_args()
    if arguments.model.startswith("extd:"):
        tensors = read_state_dict(arguments.model.removeprefix("extd:"))
        counters = {int(array) for name, array in tensors.items() if name.endswith("num_batches_tracked")}
        print("batches that its norms have seen:", *sorted(counters))
    model, rng = minidetect.load(arguments.model).model, np.random.default_rng(0)
    records = read_wider(arguments.data / "wider" / "wider_val_bbx_gt.txt", arguments.data / "wider" / "val")
    crops, sums = replace(CropSettings(), size=arguments.size), {True: np.zeros(2), False: np.zeros(2)}
    state, steps = model.state_dict(), -(-arguments.crops // BATCH)
    for _ in range(steps):
        planes, targets = [], []
        for i in rng.integers(len(records), size=BATCH):
            photo = load_image(records[i].path)
            target = to_target(records[i], photo.shape[:2], 4.0, min_blurred_size=0, max_occlusion=2)
            crop, target = training_crop(photo, target, rng, crops)
            planes.append(model.planes(crop))
            targets.append(target)
        for own in (False, True):
            model.train(own)
            with no_grad():
                losses = single_shot_losses(model, Tensor(np.stack(planes)), targets, least=8)
            sums[own] += [losses["class"].item(), losses["box"].item()]
            model.load_state_dict(state)  # the running averages have moved
    for own, name in ((False, "running statistics"), (True, "each batch's own")):
        print(f"{name:20} class {sums[own][0] / steps:.2f}   box {sums[own][1] / steps:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
