"""MTCNN's published weights in the multi-output cascade's nets and pipeline.

Zhang, Zhang, Li, Qiao: "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016; the
weights as facenet-pytorch (MIT) publishes them, three state dicts pnet.pt, rnet.pt, onet.pt in a folder. They are read
by nn/torch_file.py, without torch.

    pnet.pt   12net   conv1 to conv3, prelu1 to prelu3, conv4_1 (2 classes), conv4_2 (box)
    rnet.pt   24net   ... dense4, prelu4, dense5_1, dense5_2
    onet.pt   48net   ... dense5, prelu5, dense6_1, dense6_2, dense6_3 (points)

What differs from the nets here:
- The input is (pixel - 127.5) / 128: `mean_colour` is 127.5.
- The fully connected layers read the last map as (column, row, channel), ours as (channel, row, column).
- Boxes are coded by their corners (`CornerCoder`), and the ten numbers are five x, then five y.
- Its pyramid has the factor 0.709, ours 2 ** -0.5; its crops are averages over whole pixels, ours are interpolated from
  the pyramid. Its windows are corrected after the NMS of their level, ours before it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidetect.models.multi_output_cascade import MultiOutputCascade
from minidetect.nn.torch_file import read_state_dict

FILES = ("pnet.pt", "rnet.pt", "onet.pt")
# The heads of each net: its name there, and here.
HEADS = (
    {"conv4_1": "logits", "conv4_2": "deltas"},
    {"dense5_1": "logits", "dense5_2": "deltas"},
    {"dense6_1": "logits", "dense6_2": "deltas", "dense6_3": "points"},
)
SETTINGS = {
    "landmarks": (False, False, True), "thresholds": (0.6, 0.7, 0.7), "level_nms": 0.5, "stage_nms": (0.7, 0.7),
    "nms_threshold": 1.0, "second_look": None, "levels_per_octave": 2, "coder": "corners",
}  # fmt: skip


def load_mtcnn(folder: str | Path) -> MultiOutputCascade:
    """The cascade with the weights of pnet.pt, rnet.pt and onet.pt in a folder.

    Raises FileNotFoundError for a missing file, ValueError that names the file for one that holds anything else: a
    tensor too many, too few, or of another shape.
    """
    cascade = MultiOutputCascade(np.random.default_rng(0), **SETTINGS)
    cascade.mean_colour[:] = 127.5
    cascade.points_mean[:] = 0
    if not Path(folder).is_dir() or not str(folder):
        raise FileNotFoundError(f"mtcnn:{folder} names no folder; MTCNN's weights are {', '.join(FILES)} in one")
    for stage, (net, name) in enumerate(zip(cascade.branches, FILES, strict=True)):
        file = Path(folder) / name
        if not file.is_file():
            raise FileNotFoundError(f"{folder}: there is no {name}; MTCNN's weights are {', '.join(FILES)}")
        own = net.state_dict()
        net.load_state_dict(translated(read_state_dict(file), stage, net.stack.channels, own), str(file))
    return cascade


def translated(theirs: dict[str, np.ndarray], stage: int, channels: int, own: dict[str, np.ndarray]) -> dict:
    """A net's tensors by the names that they have here. channels: of its last map; own: names and shapes here.

    What has no place here keeps its name, and what has another shape keeps that, for `load_state_dict` to refuse.
    """
    convs = sum(name.startswith("stack.convs.") and name.endswith(".weight") for name in own)
    layers = HEADS[stage] | {f"conv{k + 1}": f"stack.convs.{k}" for k in range(convs)}
    slopes = {f"prelu{k + 1}": f"stack.prelus.{k}" for k in range(convs)}
    if stage:
        layers[f"dense{convs + 1}"], slopes[f"prelu{convs + 1}"] = "fc", "prelu"
    names = {f"{theirs}.{kind}": f"{here}.{kind}" for theirs, here in layers.items() for kind in ("weight", "bias")}
    names |= {f"{theirs}.weight": f"{here}.slope" for theirs, here in slopes.items()}
    state = {}
    for name, array in theirs.items():
        here = names.get(name, f"{name} (of the file)")
        if here in own and array.shape == own[here].shape:
            array = rearranged(array, here, channels)
        state[here] = array
    return state


def rearranged(array: np.ndarray, name: str, channels: int) -> np.ndarray:
    """The same numbers in the order that the layer has here."""
    if name == "fc.weight":
        side = int(np.sqrt(array.shape[1] // channels))
        maps = array.reshape(-1, side, side, channels)  # (F, W*H*C) -> (F, W, H, C)
        return maps.transpose(0, 3, 2, 1).reshape(len(array), -1)  # -> (F, C, H, W) -> (F, C*H*W)
    if name.startswith("points."):  # five x, five y -> x and y of each point
        return array.reshape(2, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
    return array
