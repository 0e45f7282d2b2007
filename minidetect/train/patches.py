"""Training patches for a cascade, cut from photographs: positives around faces, negatives elsewhere.

A pool keeps every patch at 48 x 48 pixels; the 12 and 24 pixel inputs are its averages, as inside the joint
network (FaceCraft, section 4.1). N: patches, G: faces of a photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minidetect.data.images import load_image
from minidetect.data.landmarks import LandmarkRecord, read_landmarks_csv
from minidetect.data.transforms import flip_deltas
from minidetect.data.wider_face import WiderRecord, read_wider, to_target
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import cxcywh_to_xyxy, to_square, xyxy_to_cxcywh
from minidetect.detection.matcher import match, overlaps_ignore
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.sampler import sliding_windows
from minidetect.detection.structures import Target, make_target
from minidetect.kernels.iou import iou_matrix
from minidetect.models.cascade_pipeline import Pipeline
from minidetect.nn.checkpoint import load_arrays, save_arrays

PATCH = 48
NEGATIVE_IOU = 0.5  # FaceCraft, section 4.2: negatives have a maximum IoU in [0, 0.5)
LEVELS_PER_OCTAVE = 5  # of the pyramid that patches are cut from (the same); mining uses the cascade's own


@dataclass(frozen=True)
class Photo:
    """A photo on disk and how to make its target once its size is known."""

    path: Path
    target: Callable[[tuple[int, int]], Target]


class Pool(NamedTuple):
    """Patches (N, 48, 48, 3) uint8; for those on a face also raw deltas (N, 4) to it and IoU (N,) with its square.

    points: (N, 10) landmarks x, y in sides of the patch, for patches cut to learn those, None for others.
    """

    patches: np.ndarray
    deltas: np.ndarray
    iou: np.ndarray
    points: np.ndarray | None = None

    def rows(self, rows: np.ndarray) -> Pool:
        """Some of the patches. rows: indices, or a mask (N,)."""
        return Pool(*(None if array is None else array[rows] for array in self))

    def save(self, path: Path) -> None:
        save_arrays(path, {name: array for name, array in self._asdict().items() if array is not None})

    @classmethod
    def load(cls, path: Path) -> Pool:
        arrays = load_arrays(path)[0]
        if {*arrays, "points"} != set(cls._fields):
            raise ValueError(f"{path}: not a pool of patches: it holds {', '.join(sorted(arrays)) or 'nothing'}")
        return cls(**arrays)

    def shrunk(self, size: int) -> Pool:
        """The same pool at size x size pixels, each the mean of a block: the joint network's average pooling."""
        k = self.patches.shape[1] // size
        small = np.empty((len(self.patches), size, size, 3), np.uint8)
        for first in range(0, len(small), 4096):
            part = self.patches[first : first + 4096]
            blocks = part.reshape(len(part), size, k, size, k, 3)  # (N, 48, 48, 3) -> (N, S, k, S, k, 3)
            small[first : first + 4096] = blocks.mean(axis=(2, 4), dtype=np.float32) + 0.5
        return self._replace(patches=small)

    @classmethod
    def join(cls, pools: Iterable[Pool]) -> Pool:
        """All patches of the pools, which must agree on whether they have landmarks."""
        pools = list(pools)
        if len({pool.points is None for pool in pools}) > 1:
            raise ValueError("pools with landmarks and pools without them cannot be joined")
        return cls(*(None if parts[0] is None else np.concatenate(parts) for parts in zip(*pools, strict=True)))


class Found(NamedTuple):
    """What was cut from photos: around faces, elsewhere, and between the two."""

    positives: Pool
    negatives: Pool
    parts: Pool

    @classmethod
    def join(cls, found: Iterable[Found]) -> Found:
        return cls(*(Pool.join(pools) for pools in zip(*found, strict=True)))


def nothing_found() -> Found:
    return Found(empty_pool(), empty_pool(), empty_pool())


def empty_pool() -> Pool:
    return Pool(np.zeros((0, PATCH, PATCH, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


# ------------------------------------------------------------------------------------------- photos


def wider_photos(data: Path, split: str, min_face: float = 20.0) -> list[Photo]:
    """The WIDER FACE photos of `split`; faces under `min_face` pixels and unclear ones are ignore regions."""
    folder = data / "wider"

    def photo(record: WiderRecord) -> Photo:
        return Photo(record.path, lambda size: to_target(record, size, min_face))

    return [photo(r) for r in read_wider(folder / f"wider_{split}_bbx_gt.txt", folder / split)]


def scene_photos(data: Path) -> list[Photo]:
    """Photos without a face."""
    nothing = make_target(np.zeros((0, 4), np.float32))
    return [Photo(path, lambda size: nothing) for path in sorted((data / "scenes").glob("*.jpg"))]


def landmark_photos(data: Path) -> list[Photo]:
    """Crops with one face each, whose box is made from its landmarks; none where the folder is missing."""
    folder = data / "facepoint"
    if not folder.is_dir():
        return []

    def photo(record: LandmarkRecord) -> Photo:
        box = face_box(record)
        return Photo(record.path, lambda size: make_target(box[None]))

    return [photo(r) for r in read_landmarks_csv(folder / "train.csv", folder)]


def face_box(record: LandmarkRecord) -> np.ndarray:
    """A box (4,) in WIDER FACE's manner (hairline to chin) from five landmarks and a brow-to-mouth square.

    In such a box the eyes lie at 0.385 and the mouth at 0.765 of the height, and its width is 0.78 of it
    (the median of WIDER's boxes). The height is the mean of two estimates, from the eye-mouth distance and
    from the square: either alone fails where a head is tilted or a mouth wide open. Fitted by eye.
    """
    eyes, mouth = record.points[:2].mean(axis=0), record.points[3:].mean(axis=0)
    distance = np.linalg.norm(mouth - eyes)
    height = 0.5 * (distance / 0.38 + 1.27 * (record.box[3] - record.box[1]))
    centre = eyes + (0.5 - 0.385) / 0.38 * (mouth - eyes)
    return cxcywh_to_xyxy(np.array([[*centre, 0.78 * height, height]], np.float32))[0]


# ----------------------------------------------------------------------------------------- windows


def jittered_squares(
    gt_boxes: np.ndarray, each: int, min_iou: float, rng: np.random.Generator, max_iou: float = 1.0,
    shift: float = 0.15, octaves: float = 0.25,
) -> tuple[np.ndarray, np.ndarray]:
    """Random squares around faces, with IoU above `min_iou`, and at most `max_iou`, to the face's square.

    shift, octaves: how far a square may lie from its face, in sides of it, and by how much its size may differ.

    The paper takes its positives from the sliding windows; drawing them around each face gives the same
    windows in equal number for every face. Returns squares (N, 4), about `each` a face, and the face of each.
    """
    if len(gt_boxes) == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    squares = xyxy_to_cxcywh(np.repeat(to_square(gt_boxes), 4 * each, axis=0))
    owner = np.repeat(np.arange(len(gt_boxes)), 4 * each)
    side = squares[:, 2:3]
    squares[:, :2] += rng.uniform(-shift, shift, (len(squares), 2)) * side
    squares[:, 2:] *= 2 ** rng.uniform(-octaves, octaves, (len(squares), 1))
    squares = cxcywh_to_xyxy(squares.astype(np.float32))
    iou = iou_matrix(squares, to_square(gt_boxes))
    own = iou[np.arange(len(squares)), owner]
    good = np.flatnonzero((own > min_iou) & (own <= max_iou) & (iou.argmax(axis=1) == owner))
    if len(good) > each * len(gt_boxes):
        good = np.sort(rng.choice(good, each * len(gt_boxes), replace=False))
    return squares[good], owner[good]


def cut(pyramid: ImagePyramid, squares: np.ndarray, faces: np.ndarray | None = None) -> Pool:
    """Patches of square windows (N, 4); faces (N, 4), the ground truth of each, makes them positives."""
    patches = np.floor(pyramid.crop(squares, PATCH) + 0.5).astype(np.uint8)
    if faces is None:
        return Pool(patches, np.zeros((len(squares), 4), np.float32), np.zeros(len(squares), np.float32))
    iou = np.diag(iou_matrix(squares, to_square(faces))) if len(faces) else np.zeros(0)
    return Pool(patches, BoxCoder().encode(squares, faces).astype(np.float32), iou.astype(np.float32))


def negatives_among(
    windows: np.ndarray, target: Target, most: int, rng: np.random.Generator, max_iou: float = NEGATIVE_IOU
) -> np.ndarray:
    """At most `most` of the windows (N, 4) that hold no face and lie in no ignore region (FaceCraft, section 6.1)."""
    if len(target.boxes):
        windows = windows[iou_matrix(windows, to_square(target.boxes)).max(axis=1) < max_iou]
    windows = windows[~overlaps_ignore(windows, target.ignore)]
    if len(windows) > most:
        windows = windows[np.sort(rng.choice(len(windows), most, replace=False))]
    return windows


def collect(
    photos: Sequence[Photo],
    rng: np.random.Generator,
    positives_per_face: int = 6,
    negatives_per_photo: int = 60,
    near_per_photo: int = 15,
    parts_per_face: int = 0,
    min_iou: float = 0.7,
    negative_iou: float = NEGATIVE_IOU,
    min_face: float = 20.0,
) -> Found:
    """Positives around every face, negatives from the sliding windows of every photo (FaceCraft, section 4.2).

    near_per_photo: further negatives that touch a face (IoU from 0.1), which random windows hardly hit.
    parts_per_face: squares with an IoU between the negatives' and the positives'.
    """
    found = [nothing_found()]
    for photo in tqdm(photos, desc="cutting patches", mininterval=5):
        image = load_image(photo.path)
        target = photo.target(image.shape[:2])
        pyramid = ImagePyramid(image, LEVELS_PER_OCTAVE)
        squares, owner = jittered_squares(target.boxes, positives_per_face, min_iou, rng)
        windows = sliding_windows(
            image.shape[:2], 12, 8, LEVELS_PER_OCTAVE, max_upscale=12 / min_face, rng=rng
        )
        chosen, parts = [negatives_among(windows, target, negatives_per_photo, rng, negative_iou)], empty_pool()
        if len(target.boxes):
            near = iou_matrix(windows, to_square(target.boxes)).max(axis=1) >= 0.1
            chosen.append(negatives_among(windows[near], target, near_per_photo, rng, negative_iou))
        if parts_per_face:
            beside, whose = jittered_squares(target.boxes, parts_per_face, negative_iou, rng, min_iou, 0.4, 0.6)
            parts = cut(pyramid, beside, target.boxes[whose])
        positives = cut(pyramid, squares, target.boxes[owner])
        found.append(Found(positives, cut(pyramid, np.concatenate(chosen)), parts))
    return Found.join(found)


def mine(
    cascade: Pipeline,
    photos: Sequence[Photo],
    stages: int,
    rng: np.random.Generator,
    negatives_per_photo: int,
    positives_per_photo: int = 20,
    parts_per_photo: int = 0,
    min_iou: float = 0.7,
    negative_iou: float = NEGATIVE_IOU,
    min_face: float = 20.0,
) -> Found:
    """What passes the first `stages` stages of the cascade: its true finds, its hard negatives, what lies between."""
    found = [nothing_found()]
    for photo in tqdm(photos, desc=f"mining with {stages} stages", mininterval=5):
        image = load_image(photo.path)
        target = photo.target(image.shape[:2])
        pyramid = ImagePyramid(image, cascade.levels_per_octave)
        squares = to_square(cascade.survivors(pyramid, min_face, stages).boxes)
        matched, _ = match(squares, to_square(target.boxes), min_iou, negative_iou)
        positives = on_faces(pyramid, squares, target, matched >= 0, positives_per_photo, rng)
        negatives = cut(pyramid, negatives_among(squares, target, negatives_per_photo, rng, negative_iou))
        between = np.zeros(len(squares), bool)
        if parts_per_photo and len(target.boxes):
            iou = iou_matrix(squares, to_square(target.boxes)).max(axis=1)
            between = (iou >= negative_iou) & (iou < min_iou)
        found.append(Found(positives, negatives, on_faces(pyramid, squares, target, between, parts_per_photo, rng)))
    return Found.join(found)


def on_faces(
    pyramid: ImagePyramid, squares: np.ndarray, target: Target, mask: np.ndarray, most: int, rng: np.random.Generator
) -> Pool:
    """At most `most` patches of the squares (N, 4) in the mask (N,), each with the face that it overlaps most."""
    rows = np.flatnonzero(mask)
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    if len(rows) == 0:
        return empty_pool()
    return cut(pyramid, squares[rows], target.boxes[iou_matrix(squares[rows], to_square(target.boxes)).argmax(axis=1)])


# ------------------------------------------------------------------------------------------ batches


def augment(patches: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the patches mirrored (FaceCraft, section 4.2); brightness, contrast and colour varied.

    patches (N, S, S, 3) uint8 -> float32 of the same shape, and which were mirrored (N,) bool, for their targets to
    follow. The photometric part is ours: that paper has seven times as many faces.
    """
    count = len(patches)
    x = patches.astype(np.float32)
    flip = rng.random(count) < 0.5
    x[flip] = x[flip, :, ::-1]
    grey = rng.random(count) < 0.2
    x[grey] = (x[grey] @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    contrast = rng.uniform(0.7, 1.3, (count, 1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-25, 25, (count, 1, 1, 1)) + rng.uniform(-8, 8, (count, 1, 1, 3))
    x -= 128
    x *= contrast
    x += (128 + offset).astype(np.float32)
    return np.clip(x, 0, 255, out=x), flip


class BatchSource:
    """Draws batches from pools of positives and negatives.

    negatives: pools with their shares of a batch's negatives. positive_fraction: of a batch.
    """

    def __init__(
        self, positives: Pool, negatives: Sequence[tuple[Pool, float]], batch: int, positive_fraction: float
    ) -> None:
        counts = [round(batch * (1 - positive_fraction) * share) for _, share in negatives]
        self.parts = [(pool, count) for (pool, _), count in zip(negatives, counts, strict=True)]
        self.parts.insert(0, (positives, batch - sum(counts)))
        for pool, count in self.parts:
            if count and len(pool.patches) == 0:
                raise ValueError("no patches to draw a batch from: the photos hold no face, or mining found nothing")
        self.labels = np.zeros(batch, np.int64)
        self.labels[: self.parts[0][1]] = 1

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patches (N, S, S, 3) float32, labels (N,), raw deltas (N, 4)."""
        picks = [rng.integers(0, max(1, len(pool.patches)), count) for pool, count in self.parts]
        patches = np.concatenate([pool.patches[i] for (pool, _), i in zip(self.parts, picks, strict=True)])
        deltas = np.concatenate([pool.deltas[i] for (pool, _), i in zip(self.parts, picks, strict=True)])
        patches, mirrored = augment(patches, rng)
        return patches, self.labels, flip_deltas(deltas, mirrored)
