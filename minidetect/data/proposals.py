"""Proposals of a whole dataset in one file, so that the slow search runs once and not in every training.

An .npz of two arrays, `boxes` (all images' one after another) and `counts`, with the images' names and whatever else
is to be remembered (the settings of the search) as JSON beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetect.kernels.iou import as_boxes
from minidetect.nn.checkpoint import load_arrays, save_arrays


def save_proposals(path: str | Path, proposals: Mapping[str, np.ndarray], meta: Mapping | None = None) -> None:
    """Write each image's (N, 4) boxes, in the order given, as float32; meta: JSON-able, such as the settings.

    Raises ValueError that names the image for boxes of another shape.
    """
    arrays = [as_boxes(boxes, f"proposals of {name!r}").astype(np.float32) for name, boxes in proposals.items()]
    save_arrays(
        path,
        {
            "boxes": np.concatenate([np.zeros((0, 4), np.float32), *arrays]),
            "counts": np.array([len(boxes) for boxes in arrays], np.int64),
        },
        {"names": list(proposals), "meta": dict(meta or {})},
    )


def load_proposals(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """What `save_proposals` wrote: the boxes of each image by its name, and meta.

    Raises FileNotFoundError, or ValueError that names the file if it is damaged or of something else.
    """
    arrays, content = load_arrays(path)
    names, boxes, counts = content.get("names"), arrays.get("boxes"), arrays.get("counts")
    fits = (
        names is not None and boxes is not None and counts is not None
        and boxes.ndim == 2 and boxes.shape[1] == 4 and counts.shape == (len(names),) and counts.sum() == len(boxes)
    )  # fmt: skip
    if not fits:
        raise ValueError(f"{path}: not a file of proposals (boxes, counts and the images' names)")
    parts = np.split(boxes, np.cumsum(counts)[:-1]) if len(names) else []
    return dict(zip(names, parts, strict=True)), content.get("meta", {})
