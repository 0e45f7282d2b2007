"""Batches of four types of samples: positives, negatives, part faces, faces with landmarks.

Multi-output cascade, section 2.3. The types themselves, and who learns from which, are in
models/multi_output_cascade.py.

N: patches, S: their side, P = 5 landmark points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from minidetect.data.images import load_image
from minidetect.data.landmarks import LandmarkRecord
from minidetect.data.transforms import flip_deltas, flip_landmarks
from minidetect.detection.boxes import to_square, xyxy_to_cxcywh
from minidetect.detection.pyramid import ImagePyramid
from minidetect.kernels.iou import iou_matrix
from minidetect.models.cascade_pipeline import Pipeline
from minidetect.models.multi_output_cascade import LANDMARK, PART, POSITIVE, TYPES
from minidetect.train.patches import Pool, augment, cut, empty_pool, face_box, jittered_squares

Shares = Sequence[tuple[Pool, float]]  # pools with their shares of a type's samples


class TypedBatch(NamedTuple):
    """patches (N, S, S, 3) float32, types (N,), raw deltas (N, 4), points (N, 10) in sides of the patch.

    Deltas and points of samples without them are NaN, so that nothing can learn from them unseen.
    """

    patches: np.ndarray
    types: np.ndarray
    deltas: np.ndarray
    points: np.ndarray

    def rows(self, rows: np.ndarray) -> TypedBatch:
        return TypedBatch(*(array[rows] for array in self))

    @classmethod
    def join(cls, batches: Sequence[TypedBatch]) -> TypedBatch:
        return cls(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def transformed(batch: TypedBatch, rng: np.random.Generator) -> TypedBatch:
    """Each patch mirrored or not and recoloured at random (`augment`), its targets with it."""
    patches, mirrored = augment(batch.patches, rng)
    points = batch.points.copy()
    faces = batch.points[mirrored].reshape(-1, 5, 2)  # (M, 10) -> (M, 5, 2)
    points[mirrored] = flip_landmarks(faces, 1.0).reshape(-1, 10)
    return TypedBatch(patches, batch.types, flip_deltas(batch.deltas, mirrored), points)


class TypedSource:
    """Draws batches from pools.

    pools: for each type its pools with their shares. counts: how many samples of each type a batch has.
    single: whether a batch holds one type only, `single` of it; the type is drawn as often as `counts` says. 0 for
        batches that mix the types: section 2.3 compares 256 mixed with 64 of one type.
    """

    def __init__(self, pools: Mapping[int, Shares], counts: Mapping[int, int], single: int = 0) -> None:
        self.pools = {kind: [part for part in pools[kind] if part[1] > 0] for kind, count in counts.items() if count}
        self.counts = {kind: count for kind, count in counts.items() if count}
        self.single = single
        for kind, parts in self.pools.items():
            if not parts or any(len(pool.patches) == 0 for pool, _ in parts):
                name = f"{kind} ({TYPES[kind]})"
                raise ValueError(f"no patches of type {name} to draw a batch from: the photos hold none")

    def draw(self, rng: np.random.Generator) -> TypedBatch:
        """A batch of the whole source, or of one type."""
        if not self.single:
            parts = [self.of_type(kind, count, rng) for kind, count in self.counts.items()]
            return transformed(TypedBatch.join(parts), rng)
        shares = np.array(list(self.counts.values()))
        kind = list(self.counts)[rng.choice(len(shares), p=shares / shares.sum())]
        return transformed(self.of_type(kind, self.single, rng), rng)

    def of_type(self, kind: int, count: int, rng: np.random.Generator) -> TypedBatch:
        """`count` samples of one type, drawn with replacement, as they were cut."""
        pools, shares = zip(*self.pools[kind], strict=True)
        edges = np.floor(np.cumsum((0, *shares)) / sum(shares) * count + 0.5).astype(int)
        parts = []
        for pool, first, end in zip(pools, edges[:-1], edges[1:], strict=True):
            parts.append(typed(pool.rows(rng.integers(0, len(pool.patches), end - first)), kind))
        return TypedBatch.join(parts)


def typed(pool: Pool, kind: int) -> TypedBatch:
    """All patches of a pool as samples of one type."""
    count = len(pool.patches)
    nothing = np.full((count, 10), np.nan, np.float32)
    deltas = pool.deltas if kind in (POSITIVE, PART) else nothing[:, :4]
    points = pool.points if kind == LANDMARK else nothing
    return TypedBatch(pool.patches, np.full(count, kind, np.int64), deltas, points)


# ---------------------------------------------------------------------------------------- landmark faces


def landmark_faces(
    records: Sequence[LandmarkRecord], rng: np.random.Generator, turns: int = 3, each: int = 2, max_turn: float = 20.0,
    min_iou: float = 0.65,
) -> Pool:
    """Patches of faces with five landmarks, each face `turns` times, turned by up to `max_turn` degrees.

    each: squares around every turned face, with an IoU of more than `min_iou` to the face's square.
    """
    pools = [empty_pool()._replace(points=np.zeros((0, 10), np.float32))]
    for record in tqdm(records, desc="cutting landmark faces", mininterval=5):
        image = load_image(record.path)
        for _ in range(turns):
            turned, face = turn(image, record, rng.uniform(-max_turn, max_turn))
            squares, _ = jittered_squares(face_box(face)[None], each, min_iou, rng, shift=0.12, octaves=0.3)
            pools.append(points_in_squares(turned, squares, face))
    return Pool.join(pools)


def landmark_proposals(
    records: Sequence[LandmarkRecord], pipeline: Pipeline, rng: np.random.Generator, turns: int = 2, each: int = 2,
    max_turn: float = 20.0, min_iou: float = 0.4,
) -> Pool:
    """As `landmark_faces`, but of the squares that x12 and x24 hand to x48, at most `each` a face.

    A face in profile has its landmarks on one side of the box that a detector finds, which squares around the
    landmarks never show.
    """
    pools = [empty_pool()._replace(points=np.zeros((0, 10), np.float32))]
    for record in tqdm(records, desc="proposing landmark faces", mininterval=5):
        image = load_image(record.path)
        for _ in range(turns):
            turned, face = turn(image, record, rng.uniform(-max_turn, max_turn))
            size = record.box[2] - record.box[0]
            found = pipeline.survivors(ImagePyramid(turned, pipeline.levels_per_octave), max(12.0, size / 2), stages=2)
            squares = to_square(found.boxes)
            iou = iou_matrix(squares, to_square(face_box(face)[None]))[:, 0]
            rows = np.flatnonzero(iou > min_iou)
            pools.append(points_in_squares(turned, squares[rng.permutation(rows)[:each]], face))
    return Pool.join(pools)


def turn(image: np.ndarray, record: LandmarkRecord, degrees: float) -> tuple[np.ndarray, LandmarkRecord]:
    """The image turned clockwise around the face's centre, black where nothing was, and where its points are then.

    The record's box stays as it was: of it only the height is used with turned points, by `face_box`.
    """
    centre = record.points.mean(axis=0)
    picture = Image.fromarray(image).rotate(-degrees, Image.Resampling.BILINEAR, center=tuple(centre.tolist()))
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)  # y points down
    return np.asarray(picture), record._replace(points=(record.points - centre) @ matrix.T + centre)


def points_in_squares(image: np.ndarray, squares: np.ndarray, face: LandmarkRecord) -> Pool:
    """Patches of squares (N, 4) around one face, with its points in sides of the square."""
    pool = cut(ImagePyramid(image), squares, np.repeat(face_box(face)[None], len(squares), axis=0))
    sides = xyxy_to_cxcywh(squares)[:, None, 2:]  # (N, 1, 2)
    points = (face.points[None] - squares[:, None, :2]) / sides  # (N, 5, 2)
    return pool._replace(points=points.reshape(-1, 10).astype(np.float32))
