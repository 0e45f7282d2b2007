"""From a face box in WIDER FACE's manner to a region in FDDB's manner.

WIDER FACE draws a box from the forehead to the chin and from ear to ear; FDDB draws an ellipse around the
whole head, hair included. The same correct detection therefore reaches less overlap in FDDB than it could.
`WIDER_TO_FDDB` is one fixed affine map in units of the box, applied to every detection before FDDB's
evaluator sees it.

Where its four numbers come from. The project tests on FDDB's folds 1 to 3, so these may not be used. The
map was fitted on folds 4 to 10: the detections of MTCNN in `fddb_reference` (a public detector trained on
WIDER's boxes, not ours) against those 1,996 images' ellipses, over the pairs with score >= 0.99 and
IoU > 0.5; each number is a median. Two corrections, both because of how that file was written:
    +0.5    its x, y, width and height were cut to whole pixels, which takes away half a pixel on average
    dx = 0  a mirrored photo must give a mirrored region. (In the file the ellipses lie 1.4 pixels to the
            right of the boxes at every size of face: an offset of that port of MTCNN, not of WIDER.)

    python -m minidetect.evaluate.fddb_mapping --data ../shared/data

prints the fit and what the map does to the scores of those folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.fddb import FddbDetections, read_detections, read_ellipses
from minidetect.detection.boxes import xyxy_to_cxcywh
from minidetect.evaluate.fddb import MATCH_IOU, evaluate_fddb, pair_image

# A rectangle's sides, in axes of the ellipse that has its area and proportions: near the best overlap, 0.83.
EQUAL_AREA = np.sqrt(np.pi) / 2


class BoxMapping(NamedTuple):
    """An upright ellipse (or rectangle) placed by a box.

    dx, dy: shift of the centre in widths and heights of the box (y points down).
    width, height: full axes of the ellipse in widths and heights of the box.
    shape: "ellipse", or "rectangle": the one with the ellipse's centre, proportions and area.
    """

    dx: float
    dy: float
    width: float
    height: float
    shape: str = "ellipse"

    def apply(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """What `evaluate_fddb` takes for an image. boxes: (N, 4) x1 y1 x2 y2; scores: (N,).

        Returns (N, 6) float64 major minor angle cx cy score, or for rectangles (N, 5) x y width height
        score. Of an ellipse that is wider than high the major axis lies flat.
        """
        if self.shape not in ("ellipse", "rectangle"):
            raise ValueError(f"shape must be 'ellipse' or 'rectangle', got {self.shape!r}")
        cx, cy, w, h = xyxy_to_cxcywh(np.asarray(boxes, np.float64).reshape(-1, 4)).T
        cx, cy, w, h = cx + self.dx * w, cy + self.dy * h, self.width * w, self.height * h
        scores = np.asarray(scores, np.float64)
        if self.shape == "rectangle":
            w, h = EQUAL_AREA * w, EQUAL_AREA * h
            return np.column_stack([cx - w / 2, cy - h / 2, w, h, scores])
        angle = np.where(h >= w, np.pi / 2, 0.0)
        return np.column_stack([np.maximum(w, h) / 2, np.minimum(w, h) / 2, angle, cx, cy, scores])


WIDER_TO_FDDB = BoxMapping(dx=0.0, dy=-0.083, width=1.129, height=1.271)


class MappingFit(NamedTuple):
    """mapping: the medians; num_pairs: how many pairs they were taken over; quartiles: (2, 4), the 25th
    and 75th percentile of dx, dy, width, height."""

    mapping: BoxMapping
    num_pairs: int
    quartiles: np.ndarray


def fit_box_mapping(
    detections: Mapping[str, FddbDetections],
    ellipses: Mapping[str, np.ndarray],
    min_score: float = 0.99,
    min_iou: float = MATCH_IOU,
) -> MappingFit:
    """The medians of where ellipses lie in units of the boxes that found them.

    detections: image name -> `boxes` (N, 4) x1 y1 x2 y2 and `scores` (N,); ellipses: image name -> (G, 5).
    A pair counts when FDDB's assignment made it, with IoU above `min_iou` and a score of `min_score` or
    more. The ellipse's extent is taken along x and y, so a tilted head widens and lowers it.

    Raises ValueError when no pair is left. Never call it on the folds a detector is tested on.
    """
    units = _in_box_units(*matched_pairs(detections, ellipses, min_score, min_iou))
    dx, dy, width, height = (float(value) for value in np.median(units, axis=0))
    return MappingFit(BoxMapping(dx, dy, width, height), len(units), np.percentile(units, [25, 75], axis=0))


def matched_pairs(
    detections: Mapping[str, FddbDetections], ellipses: Mapping[str, np.ndarray], min_score: float, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and the ellipses (N, 5) that FDDB's assignment gives them. Raises ValueError without any."""
    boxes, matched = [np.zeros((0, 4))], [np.zeros((0, 5))]
    for name, found in detections.items():
        owner, iou = pair_image(found, ellipses[name])
        chosen = (iou > min_iou) & (np.append(found.scores, -np.inf)[owner] >= min_score)
        boxes.append(found.boxes[owner[chosen]])
        matched.append(ellipses[name][chosen])
    if not sum(map(len, boxes)):
        raise ValueError(f"no detection with score >= {min_score} has IoU above {min_iou} with an ellipse")
    return np.concatenate(boxes), np.concatenate(matched)


def _in_box_units(boxes: np.ndarray, ellipses: np.ndarray) -> np.ndarray:
    """dx, dy, width, height of each ellipse in units of its box: (N, 4), (N, 5) -> (N, 4)."""
    cx, cy, w, h = xyxy_to_cxcywh(boxes).T
    major, minor, angle, ellipse_x, ellipse_y = ellipses.T
    half_width = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    half_height = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    return np.column_stack(
        [(ellipse_x - cx) / w, (ellipse_y - cy) / h, 2 * half_width / w, 2 * half_height / h]
    )


def reference_outside_test_folds(
    data: Path,
) -> tuple[dict[str, FddbDetections], dict[str, np.ndarray]]:
    """The reference detections (half a pixel given back, see the module) and ellipses of folds 4 to 10.

    data: the folder with `fddb_reference` and `fddb`. Every image that a list in `fddb/FDDB-folds` or
    `fddb/missing.txt` names belongs to the test folds and is left out.
    """
    test_names: set[str] = set()
    lists = sorted((data / "fddb" / "FDDB-folds").glob("FDDB-fold-*-ellipseList.txt"))
    if not lists:
        raise FileNotFoundError(f"{data}/fddb/FDDB-folds: no list of the test folds, which must be left out")
    for file in lists:
        test_names |= set(read_ellipses(file))
    for line in (data / "fddb" / "missing.txt").read_text(encoding="utf-8").splitlines():
        test_names |= set(line.split()[1:2])  # "fold01 2002/08/08/big/img_471 faces=2"
    ellipses = read_ellipses(data / "fddb_reference" / "ellipseList.txt")
    detections = read_detections(data / "fddb_reference" / "detections.txt")
    given_back = np.array([0.5, 0.5, 1.0, 1.0])  # x, y, and x + width, y + height
    return (
        {n: f._replace(boxes=f.boxes + given_back) for n, f in detections.items() if n not in test_names},
        {name: rows for name, rows in ellipses.items() if name not in test_names},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m minidetect.evaluate.fddb_mapping",
        description="fit the map from WIDER boxes to FDDB regions on FDDB's folds 4 to 10",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with fddb_reference/ and fddb/")
    options = parser.parse_args(arguments)
    detections, ellipses = reference_outside_test_folds(options.data)
    fit = fit_box_mapping(detections, ellipses)
    print(f"{len(ellipses)} images of folds 4 to 10, {fit.num_pairs} pairs")
    print(f"{'':16}{'dx':>9}{'dy':>9}{'width':>9}{'height':>9}")
    rows = {
        "25th percentile": fit.quartiles[0],
        "median": fit.mapping[:4],
        "75th percentile": fit.quartiles[1],
        "WIDER_TO_FDDB": WIDER_TO_FDDB[:4],
    }
    for title, row in rows.items():
        print(f"{title:16}" + "".join(f"{value:9.4f}" for value in row))
    print("\nrecall at false positives:    10     100    1000   highest continuous score")
    for title, mapping in {
        "the boxes themselves": None,
        "mapped, rectangles": WIDER_TO_FDDB._replace(shape="rectangle"),
        "mapped, ellipses": WIDER_TO_FDDB,
    }.items():
        found = {n: f if mapping is None else mapping.apply(*f) for n, f in detections.items()}
        curves = evaluate_fddb(found, ellipses)
        recalls = "".join(f"{curves.discrete.recall_at(count):8.4f}" for count in (10, 100, 1000))
        print(f"{title:25}{recalls}   {curves.continuous.recall.max():.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
