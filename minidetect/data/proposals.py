"""Proposals of a whole dataset in one file, so that the slow search runs once and not in every training.

An .npz of two arrays, `boxes` (all images' one after another) and `counts`, with the images' names and whatever else
is to be remembered (the settings of the search) as JSON beside them. `searched_proposals` fills it by selective search.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.data.objects import ObjectDataset, load_record
from minidetect.detection.image_scale import ImageScale
from minidetect.detection.selective_search import search_at_scale
from minidetect.kernels.iou import as_boxes
from minidetect.nn.checkpoint import load_arrays, save_arrays

MOST = 2000  # an image: R-CNN, section 2.2, and Fast R-CNN, section 2
SAVE_EVERY = 100  # images: what a kill costs at most


def searched_proposals(
    dataset: ObjectDataset, root: Path, file: Path, scale: ImageScale, most: int = MOST, progress: bool = True
) -> list[np.ndarray]:
    """Selective search of every image of a dataset, (N, 4) each in the image's own pixels, kept in a file.

    root: the folder that images are named from. scale: of the image that is searched, see `search_at_scale`.
    Images that are in the file already are not searched again, so that a run which was killed goes on.
    Raises ValueError that names the file if it is of another search or of other images, or holds something else.
    """
    names = [Path(os.path.relpath(record.path, root)).as_posix() for record in dataset.records]
    search = {"short_side": scale.short_side, "longest": scale.longest, "most": most}
    found: dict[str, np.ndarray] = {}
    if file.exists():
        found, earlier = load_proposals(file)
        if earlier != search:
            raise ValueError(f"{file}: proposals of another search: {earlier}, and now {search}")
        if unknown := found.keys() - set(names):
            raise ValueError(f"{file}: holds {len(unknown)} other images, such as {min(unknown)}")
    missing = [(name, record) for name, record in zip(names, dataset.records, strict=True) if name not in found]
    for done, (name, record) in enumerate(tqdm(missing, desc="proposals", disable=not progress or not missing), 1):
        found[name] = search_at_scale(load_record(record), scale, most)
        if done % SAVE_EVERY == 0 or done == len(missing):
            save_proposals(file, found, search)
    return [found[name] for name in names]


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
