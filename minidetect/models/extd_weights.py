"""EXTD's published weights: EXTD_32.pth, EXTD_48.pth, EXTD_64.pth (clovaai/EXTD_Pytorch, MIT).

Each is the FPN model with PReLU of its width, which is read off the tensors. They are read by nn/torch_file.py, without
torch.

    base.0.{0,1,2}      E: convolution, batch norm, PReLU
    base.1.conv.{0..}   block 1
    base.k.conv.{0..}   F, block k - 2, from k = 2 on
    upfeat.k, loc.k, conf.k

The counters of batches, `num_batches_tracked`, have no place here; that they fit to six uses of F is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetect.models.extd import BLOCKS, EXTD
from minidetect.nn.torch_file import read_state_dict

COUNTER = "num_batches_tracked"
FIRST_BLOCK = "base.1.conv.3.weight"  # (width, 64, 1, 1): block 1's last convolution
# With these 95 % of what is shown of our WIDER FACE validation photos, from 8 pixels on, is a face.
THRESHOLDS = {32: 0.79, 48: 0.81, 64: 0.76}


def load_extd(path: str | Path) -> EXTD:
    """The model with the weights of one of the three files.

    Raises FileNotFoundError for a missing file, ValueError that names the file for one that holds anything else: a
    tensor too many, too few, or of another shape.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"extd:{path} names no file; EXTD's weights are EXTD_32.pth, EXTD_48.pth, EXTD_64.pth")
    theirs = read_state_dict(path)
    width = (*np.shape(theirs.get(FIRST_BLOCK, ())), 0)[0]
    if width not in BLOCKS:
        widths = ", ".join(map(str, BLOCKS))
        raise ValueError(f"{path}: not EXTD's weights: there is no {FIRST_BLOCK} of width {widths}")
    model = EXTD(np.random.default_rng(0), width=width, threshold=THRESHOLDS[width])
    model.load_state_dict(translated(theirs, model.state_dict()), str(path))
    check_counters(theirs, str(path), passes=len(model.sides))
    return model


def translated(theirs: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their tensors by the names that they have here. own: names and arrays here.

    What has no place here keeps its name, for `load_state_dict` to refuse; the mean colour is ours.
    """
    state = {"mean_colour": own["mean_colour"]}
    for name, array in theirs.items():
        if not name.endswith(COUNTER):
            here = own_name(name)
            here = here.removesuffix("weight") + "slope" if array.shape == (1,) else here
            state[f"{name} (of the file)" if here in state else here] = array
    return state


def own_name(name: str) -> str:
    """base.3.conv.4.weight -> backbones.0.layers.1.body.layers.4.weight"""
    if name.count(".") < 2:
        return name
    part, number, *rest = name.split(".")
    if part == "base" and number.isdecimal():
        k, tail = int(number), ".".join(rest[1:])
        if k == 0:
            return ".".join(("start.layers", *rest))
        return f"start.layers.3.body.layers.{tail}" if k == 1 else f"backbones.0.layers.{k - 2}.body.layers.{tail}"
    if part == "upfeat":
        return ".".join(("up", number, "layers", *rest))
    return ".".join(({"loc": "heads.deltas", "conf": "heads.logits"}.get(part, part), number, *rest))


def check_counters(theirs: Mapping[str, np.ndarray], source: str, passes: int) -> None:
    """Each layer of F must have seen `passes` times as many batches as the others: another file is not an EXTD."""
    seen = {name: array for name, array in theirs.items() if name.endswith(COUNTER)}
    norms = {name.removesuffix("running_mean") + COUNTER for name in theirs if name.endswith("running_mean")}
    for name in sorted(norms ^ seen.keys()):
        raise ValueError(f"{source}: {name} {'is missing' if name in norms else 'belongs to no batch norm'}")
    steps = seen[f"base.0.1.{COUNTER}"]
    for name, count in seen.items():
        is_shared = name.startswith("base.") and name.split(".")[1] not in ("0", "1")
        if count.shape != () or not np.array_equal(count, steps * (passes if is_shared else 1)):
            raise ValueError(f"{source}: {name} is {count}, which does not fit {steps} steps and {passes} passes of F")
