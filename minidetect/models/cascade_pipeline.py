"""The test pipeline of the cascades: a pyramid of windows, three looks at what is left, suppression.

`Pipeline` knows boxes, thresholds and levels, but no network: it asks `look_everywhere` and `look_again`, which
cascade.py answers through the autograd (to be read, and to be trained) and cascade_fused.py for speed.

FaceCraft, section 4.3, and the multi-output cascade, section 2.1, differ in what thins out the boxes on the way:
response map pooling there, "local NMS" here. Both are settings of one pipeline. In neither paper: the second look and
the limit on proposals; see facecraft.FaceCraftCascade.

Letters: N boxes, R of them that pass, P landmark points, PH PW size of a map of windows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.detection.box_coder import BoxCoder, CornerCoder
from minidetect.detection.boxes import clip_to_image, to_square, valid_boxes
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.structures import Detections, make_detections
from minidetect.kernels.nms import nms
from minidetect.kernels.response_map import response_map_pool
from minidetect.ops.threshold import threshold_control

SIZES = (12, 24, 48)
CODERS = {"centre": BoxCoder, "corners": CornerCoder}
STRIDE = 2  # of x12 over a pyramid level, from its one 2x2 pooling


class Look(NamedTuple):
    """What a net says of N squares: P(face) (N,), deltas (N, 4), points (N, 2 * P) or None."""

    probs: np.ndarray
    deltas: np.ndarray
    points: np.ndarray | None = None


class Refined(NamedTuple):
    """What one look leaves: boxes (R, 4), scores (R,), landmarks (R, P, 2) or None."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray | None


class StageReport(NamedTuple):
    """What one stage of the test pipeline did to one image."""

    stage: str
    boxes_in: int
    boxes_out: int
    seconds: float


class Survivors(NamedTuple):
    """What passes the stages: boxes (N, 4), scores (N,), what each stage did, landmarks (N, P, 2) or None."""

    boxes: np.ndarray
    scores: np.ndarray
    reports: list[StageReport]
    landmarks: np.ndarray | None


class Proposals(NamedTuple):
    """What stage one leaves: boxes (N, 4), scores (N,), how many windows it looked at, and what it said of them.

    maps: for each level P(face) of every window, (PH, PW), 0 where not above the threshold.
    """

    boxes: np.ndarray
    scores: np.ndarray
    windows: int
    maps: dict[int, np.ndarray]


def face_probability(background: np.ndarray, face: np.ndarray) -> np.ndarray:
    """P(face) from two logits of any shape: their softmax is the sigmoid of the difference."""
    return 0.5 * (np.tanh(0.5 * (face - background)) + 1)


class Pipeline:
    """What every form of a cascade does with an image.

    The settings are described in facecraft.FaceCraftCascade, those that have a value here in
    multi_output_cascade.MultiOutputCascade.
    """

    thresholds: tuple[float, float, float]
    nms_threshold: float
    stage_nms: tuple[float, float] | None
    second_look: float | None
    levels_per_octave: int
    response_pool: int
    max_proposals: int
    deltas_mean: np.ndarray
    deltas_std: np.ndarray
    points_mean: np.ndarray | None = None  # (2 * P,)
    points_std: np.ndarray | None = None
    level_nms: float | None = None
    coder: str = "centre"
    batch = 128  # patches at a time: a bound on memory
    smallest_face = 24.0  # pixels, where nobody says otherwise

    @property
    def threshold(self) -> float:
        """The score that a face must exceed to be shown: the last stage's."""
        return self.thresholds[2]

    def check_settings(self) -> None:
        """Raise ValueError that names a setting which cannot be used: a weights file may hold any."""
        shares = {f"thresholds[{k}]": t for k, t in enumerate(self.thresholds)} | {"nms_threshold": self.nms_threshold}
        optional = {"second_look": self.second_look, "level_nms": self.level_nms}
        optional |= {f"stage_nms[{k}]": t for k, t in enumerate(self.stage_nms or ())}
        shares |= {name: value for name, value in optional.items() if value is not None}
        for name, value in shares.items():
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
        if len(self.thresholds) != 3 or len(self.stage_nms or (0, 0)) != 2:
            raise ValueError(f"thresholds must be three, stage_nms two: got {self.thresholds}, {self.stage_nms}")
        for name, least in (("levels_per_octave", 1), ("response_pool", 0), ("max_proposals", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.coder not in CODERS:
            raise ValueError(f"coder must be one of {', '.join(CODERS)}, got {self.coder!r}")

    def thorough(self) -> Pipeline:
        """A copy without the second look and with the settings between the stages that the nets were chosen with.

        Raises ValueError for MTCNN's weights, which have but the settings that they were published with.
        """
        if self.coder == "corners":
            raise ValueError("thorough (--thorough) is for cascades that were trained here, not for MTCNN's weights")
        twin = copy.copy(self)
        twin.thresholds = (0.1, 0.1, self.thresholds[2])
        twin.second_look, twin.stage_nms = None, (0.7, 0.7)
        return twin

    def look_everywhere(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        """x12 over level k: P(face) of every window (PH, PW), and the deltas (4, PH, PW)."""
        raise NotImplementedError

    def look_again(self, pyramid: ImagePyramid, squares: np.ndarray, stage: int) -> Look:
        """Stage 1 (x24) or 2 (x48) at squares (N, 4)."""
        raise NotImplementedError

    def box_coder(self, stage: int) -> BoxCoder:
        return CODERS[self.coder](tuple(self.deltas_mean[stage]), tuple(self.deltas_std[stage]))

    def detect(
        self, images: Sequence[np.ndarray], min_face: float = 24.0, min_score: float | None = None
    ) -> list[Detections]:
        """Find faces in images, each (H, W, 3) uint8 RGB.

        min_face: the smallest side to look for, in pixels. min_score: what a face must score in the last
        stage; None for the model's own threshold.
        """
        return [self.detect_with_report(image, min_face, min_score)[0] for image in images]

    def detect_with_report(
        self, image: np.ndarray, min_face: float = 24.0, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """The test pipeline on one image, with what each stage kept and how long it took."""
        pyramid = ImagePyramid(image, self.levels_per_octave)
        boxes, scores, reports, landmarks = self.survivors(pyramid, min_face, min_score=min_score)
        start, before = time.perf_counter(), len(boxes)
        keep = nms(boxes, scores, self.nms_threshold)
        keep = keep[nms(boxes[keep], scores[keep], 0.7, mode="min")]  # a part inside a larger, better face
        boxes = clip_to_image(boxes, pyramid.size)
        keep = keep[valid_boxes(boxes[keep])]
        reports.append(StageReport("nms", before, len(keep), time.perf_counter() - start))
        points = None if landmarks is None else landmarks[keep]
        return make_detections(boxes[keep], scores[keep], landmarks=points), reports

    def survivors(
        self, pyramid: ImagePyramid, min_face: float, stages: int = 3, min_score: float | None = None
    ) -> Survivors:
        """What passes the first `stages` stages, before the final NMS."""
        start, landmarks = time.perf_counter(), None
        boxes, scores, windows, maps = self.propose(pyramid, min_face)
        reports = [StageReport("x12", windows, len(boxes), time.perf_counter() - start)]
        for stage in range(1, stages):
            start, before = time.perf_counter(), len(boxes)
            if self.stage_nms is not None:
                boxes = boxes[nms(boxes, scores, self.stage_nms[stage - 1])]
            if stage == 1 and self.second_look is not None:
                boxes = boxes[self.score_where_moved(pyramid, maps, boxes) > self.second_look]
            threshold = min_score if stage == 2 and min_score is not None else self.thresholds[stage]
            boxes, scores, landmarks = self.refine(pyramid, boxes, stage, threshold)
            reports.append(StageReport(f"x{SIZES[stage]}", before, len(boxes), time.perf_counter() - start))
        return Survivors(boxes, scores, reports, landmarks)

    def propose(self, pyramid: ImagePyramid, min_face: float) -> Proposals:
        """Stage one: slide x12 over every level."""
        if not 4 <= min_face < np.inf:
            raise ValueError(f"min_face must be a number of pixels, at least 4 (x12 looks at 12), got {min_face}")
        boxes, scores, maps = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], {}
        for k in range(pyramid.level_for(min_face, SIZES[0]), pyramid.last_level(SIZES[0]) + 1):
            face_map, delta_map = self.face_map(pyramid, k)
            maps[k] = face_map
            if self.response_pool:
                face_map = response_map_pool(face_map, self.response_pool)
            i, j = np.nonzero(face_map)
            found, probs = self.map_boxes(pyramid, k, np.stack([i, j], axis=1), delta_map[:, i, j].T), face_map[i, j]
            keep = slice(None) if self.level_nms is None else nms(found, probs, self.level_nms)
            boxes.append(found[keep])
            scores.append(probs[keep])
        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        best = np.argsort(-all_scores, kind="stable")[: self.max_proposals]
        return Proposals(all_boxes[best], all_scores[best], sum(face_map.size for face_map in maps.values()), maps)

    def face_map(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`look_everywhere`, with 0 in place of the probabilities (PH, PW) that are not above the threshold."""
        face_map, deltas = self.look_everywhere(pyramid, k)
        face_map[face_map <= self.thresholds[0]] = 0
        return face_map, deltas

    def map_boxes(self, pyramid: ImagePyramid, k: int, corners: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        """The refined boxes (N, 4), in the image, of points of level k's map.

        corners: (N, 2), row and column; deltas: (N, 4). FaceCraft, section 4.3: a point of the map stands for the
        window whose upper left corner it is.
        """
        upper_left = corners[:, ::-1] * STRIDE
        windows = np.concatenate([upper_left, upper_left + SIZES[0]], axis=1)
        return self.box_coder(0).decode(pyramid.to_image(windows, k), deltas)

    def score_where_moved(self, pyramid: ImagePyramid, maps: dict[int, np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """What x12 has said of the windows nearest to boxes (N, 4), (N,): its regression has moved them there.

        maps: P(face) of every window of each level, as `propose` leaves them. Read from the level in which the
        box has x12's size, the best of the four windows around its place.
        """
        squares, scores = to_square(boxes), np.zeros(len(boxes), np.float32)
        octaves = np.log2(np.maximum(squares[:, 2] - squares[:, 0], 1e-3) / SIZES[0])
        levels = np.floor(self.levels_per_octave * octaves + 0.5).clip(min(maps, default=0), max(maps, default=0))
        for k in np.unique(levels).astype(int):
            rows, face_map = np.flatnonzero(levels == k), maps[k]
            centre = (squares[rows, :2] + squares[rows, 2:]) / 2 * np.divide(pyramid.level_size(k), pyramid.size)[::-1]
            corner = np.floor((centre - SIZES[0] / 2) / STRIDE).astype(int)  # of the window at the upper left
            for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
                j, i = (corner + step).clip(0, np.array(face_map.shape[::-1]) - 1).T
                scores[rows] = np.maximum(scores[rows], face_map[i, j])
        return scores

    def refine(self, pyramid: ImagePyramid, boxes: np.ndarray, stage: int, threshold: float) -> Refined:
        """Stages two and three: look at each box (N, 4) again, larger; drop it or move it."""
        squares = to_square(boxes)
        kept, scores, points = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], []
        for first in range(0, max(1, len(boxes)), self.batch):
            part = squares[first : first + self.batch]
            look = self.look_again(pyramid, part, stage)
            rows = threshold_control(look.probs, threshold)
            kept.append(self.box_coder(stage).decode(part[rows], look.deltas[rows]))
            scores.append(look.probs[rows])
            if look.points is not None:
                points.append(self.points_in(part[rows], look.points[rows]))
        return Refined(np.concatenate(kept), np.concatenate(scores), np.concatenate(points) if points else None)

    def points_in(self, squares: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Landmarks (N, P, 2) in the image, from what x48 says of squares (N, 4): points (N, 2 * P)."""
        places = points * self.points_std + self.points_mean
        places = places.reshape(len(points), points.shape[1] // 2, 2)  # (N, 2*P) -> (N, P, 2)
        sides = squares[:, 2:] - squares[:, :2]
        return (squares[:, None, :2] + places * sides[:, None]).astype(np.float32)
