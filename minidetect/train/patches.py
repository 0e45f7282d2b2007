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
from minidetect.models.facecraft_pipeline import Pipeline
from minidetect.nn.checkpoint import load_arrays, save_arrays

PATCH = 48
NEGATIVE_IOU = 0.5  # FaceCraft, section 4.2: negatives have a maximum IoU in [0, 0.5)
LEVELS_PER_OCTAVE = 5  # of the pyramid that patches are cut from (section 4.2); mining uses the cascade's own


@dataclass(frozen=True)
class Photo:
    """A photo on disk and how to make its target once its size is known."""

    path: Path
    target: Callable[[tuple[int, int]], Target]


class Pool(NamedTuple):
    """Patches (N, 48, 48, 3) uint8; for positives also raw deltas (N, 4) to their face and IoU (N,) with it."""

    patches: np.ndarray
    deltas: np.ndarray
    iou: np.ndarray

    def save(self, path: Path) -> None:
        save_arrays(path, self._asdict())

    @classmethod
    def load(cls, path: Path) -> Pool:
        arrays = load_arrays(path)[0]
        if set(arrays) != set(cls._fields):
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
        return cls(*(np.concatenate(parts) for parts in zip(*pools, strict=True)))


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
    gt_boxes: np.ndarray, each: int, min_iou: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random squares around faces, with IoU above `min_iou` to the face's square.

    The paper takes its positives from the sliding windows; drawing them around each face gives the same
    windows in equal number for every face. Returns squares (N, 4), about `each` a face, and the face of each.
    """
    if len(gt_boxes) == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    squares = xyxy_to_cxcywh(np.repeat(to_square(gt_boxes), 4 * each, axis=0))
    owner = np.repeat(np.arange(len(gt_boxes)), 4 * each)
    side = squares[:, 2:3]
    squares[:, :2] += rng.uniform(-0.15, 0.15, (len(squares), 2)) * side
    squares[:, 2:] *= 2 ** rng.uniform(-0.25, 0.25, (len(squares), 1))
    squares = cxcywh_to_xyxy(squares.astype(np.float32))
    iou = iou_matrix(squares, to_square(gt_boxes))
    good = np.flatnonzero((iou[np.arange(len(squares)), owner] > min_iou) & (iou.argmax(axis=1) == owner))
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
    windows: np.ndarray, target: Target, most: int, rng: np.random.Generator
) -> np.ndarray:
    """At most `most` of the windows (N, 4) that hold no face and lie in no ignore region (section 6.1)."""
    if len(target.boxes):
        windows = windows[iou_matrix(windows, to_square(target.boxes)).max(axis=1) < NEGATIVE_IOU]
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
    min_iou: float = 0.7,
    min_face: float = 20.0,
) -> tuple[Pool, Pool]:
    """Positives around every face, negatives from the sliding windows of every photo (section 4.2).

    near_per_photo: further negatives that touch a face (IoU 0.1 to 0.5), which random windows hardly hit.
    """
    positives, negatives = [empty_pool()], [empty_pool()]
    for photo in tqdm(photos, desc="cutting patches", mininterval=5):
        image = load_image(photo.path)
        target = photo.target(image.shape[:2])
        pyramid = ImagePyramid(image, LEVELS_PER_OCTAVE)
        squares, owner = jittered_squares(target.boxes, positives_per_face, min_iou, rng)
        positives.append(cut(pyramid, squares, target.boxes[owner]))
        windows = sliding_windows(
            image.shape[:2], 12, 8, LEVELS_PER_OCTAVE, max_upscale=12 / min_face, rng=rng
        )
        chosen = [negatives_among(windows, target, negatives_per_photo, rng)]
        if len(target.boxes):
            near = iou_matrix(windows, to_square(target.boxes)).max(axis=1) >= 0.1
            chosen.append(negatives_among(windows[near], target, near_per_photo, rng))
        negatives.append(cut(pyramid, np.concatenate(chosen)))
    return Pool.join(positives), Pool.join(negatives)


def mine(
    cascade: Pipeline,
    photos: Sequence[Photo],
    stages: int,
    rng: np.random.Generator,
    negatives_per_photo: int,
    positives_per_photo: int = 20,
    min_iou: float = 0.7,
    min_face: float = 20.0,
) -> tuple[Pool, Pool]:
    """What passes the first `stages` stages of the cascade: its true finds, and its hard negatives."""
    positives, negatives = [empty_pool()], [empty_pool()]
    for photo in tqdm(photos, desc=f"mining with {stages} stages", mininterval=5):
        image = load_image(photo.path)
        target = photo.target(image.shape[:2])
        pyramid = ImagePyramid(image, cascade.levels_per_octave)
        squares = to_square(cascade.survivors(pyramid, min_face, stages)[0])
        matched, _ = match(squares, to_square(target.boxes), min_iou, NEGATIVE_IOU)
        found = np.flatnonzero(matched >= 0)
        if len(found) > positives_per_photo:
            found = np.sort(rng.choice(found, positives_per_photo, replace=False))
        positives.append(cut(pyramid, squares[found], target.boxes[matched[found]]))
        negatives.append(cut(pyramid, negatives_among(squares, target, negatives_per_photo, rng)))
    return Pool.join(positives), Pool.join(negatives)


# ------------------------------------------------------------------------------------------ batches


def augment(patches: np.ndarray, deltas: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the patches mirrored (FaceCraft, section 4.2); brightness, contrast and colour varied.

    patches (N, S, S, 3) uint8 -> float32 of the same shape; deltas (N, 4): a mirrored face lies as far
    to the other side. The photometric part is ours: the paper has seven times as many faces.
    """
    count = len(patches)
    x = patches.astype(np.float32)
    flip = rng.random(count) < 0.5
    x[flip] = x[flip, :, ::-1]
    deltas = flip_deltas(deltas, flip)
    grey = rng.random(count) < 0.2
    x[grey] = (x[grey] @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    contrast = rng.uniform(0.7, 1.3, (count, 1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-25, 25, (count, 1, 1, 1)) + rng.uniform(-8, 8, (count, 1, 1, 3))
    x -= 128
    x *= contrast
    x += (128 + offset).astype(np.float32)
    return np.clip(x, 0, 255, out=x), deltas


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
        patches, deltas = augment(patches, deltas, rng)
        return patches, self.labels, deltas
