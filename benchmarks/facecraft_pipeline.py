"""A cascade's test pipeline: how fast, what each stage keeps, and response map pooling against NMS.

    python benchmarks/facecraft_pipeline.py [--model NAME_OR_PATH] [--data DIR] [--repeat N]

Prints
    the median time of pictures of 640 x 480 and 800 x 600 at min-face 24 on one thread (FaceCraft, section 6.5: 100 ms)
    survivors and share of time per stage (section 4.3: about 1000 after stage one, dozens after stage two,
        half of the time in the later stages)
    FC-M4: recall of stage one and its time with response map pooling (blocks, sliding), with NMS 0.5 on
        each level, and with neither (section 6.5: pooling is comparative to NMS 0.5, and faster)
    what the shipped settings for speed cost: recall at equal numbers of false positives, and time, beside the
        pipeline without them (`Pipeline.thorough`)
The last three need photos with faces: DIR is a folder with WIDER FACE's layout, see README.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):  # before NumPy is loaded
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

import minidetect  # noqa: E402
from minidetect.data.images import load_image  # noqa: E402
from minidetect.data.synthetic import draw_crowd  # noqa: E402
from minidetect.data.wider_face import read_wider, to_target  # noqa: E402
from minidetect.detection.pyramid import ImagePyramid  # noqa: E402
from minidetect.evaluate.average_precision import evaluate_detections  # noqa: E402
from minidetect.evaluate.runs import at_threshold, sum_reports  # noqa: E402
from minidetect.kernels.iou import iou_matrix  # noqa: E402
from minidetect.kernels.nms import nms  # noqa: E402
from minidetect.kernels.response_map import response_map_pool  # noqa: E402
from minidetect.models.cascade_pipeline import Pipeline  # noqa: E402

MIN_FACE = 24.0


def picture_time(model: Pipeline, size: tuple[int, int], repeat: int) -> None:
    image = draw_crowd(size=size).image
    model.detect_with_report(image, MIN_FACE)  # compiles
    seconds, reports = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        reports.append(model.detect_with_report(image, MIN_FACE)[1])
        seconds.append(time.perf_counter() - start)
    print(f"{size[1]} x {size[0]}, min-face 24, one thread: median {np.median(seconds) * 1000:.1f} ms of {repeat} "
          f"(fastest {min(seconds) * 1000:.1f})")
    print_stages(sum_reports(reports), repeat)


def print_stages(stages, images: int) -> None:
    total = sum(stage.seconds for stage in stages)
    for stage in stages:
        print(f"    {stage.stage:4} {stage.boxes_in / images:9.1f} in {stage.boxes_out / images:8.1f} out"
              f" {stage.seconds / images * 1000:8.1f} ms {stage.seconds / total:5.0%}")


def photos_with_targets(data: Path):
    folder = data / "wider"
    for record in read_wider(folder / "wider_val_bbx_gt.txt", folder / "val"):
        image = load_image(record.path)
        yield image, to_target(record, image.shape[:2], MIN_FACE)


def stages_on_photos(model: Pipeline, photos) -> None:
    reports = [model.detect_with_report(image, MIN_FACE)[1] for image, _ in photos]
    print(f"mean of {len(photos)} WIDER FACE val photos, min-face 24:")
    print_stages(sum_reports(reports), len(photos))


def first_stage(model: Pipeline, image: np.ndarray, suppress) -> tuple[np.ndarray, float]:
    """Stage one with `suppress` in place of its response map pooling: boxes, and the seconds it took."""
    pyramid, boxes, spent = ImagePyramid(image, model.levels_per_octave), [], 0.0
    for k in range(pyramid.level_for(MIN_FACE, 12), pyramid.last_level(12) + 1):
        face_map, deltas = model.face_map(pyramid, k)
        start = time.perf_counter()
        found = suppress(face_map, lambda i, j, k=k, deltas=deltas: points_to_boxes(model, pyramid, k, i, j, deltas))
        spent += time.perf_counter() - start
        boxes.append(found)
    return np.concatenate(boxes), spent


def points_to_boxes(model, pyramid, k, i, j, deltas):
    return model.map_boxes(pyramid, k, np.stack([i, j], axis=1), deltas[:, i, j].T)


def by_pooling(mode: str | None):
    def suppress(face_map, to_boxes):
        return to_boxes(*np.nonzero(face_map if mode is None else response_map_pool(face_map, 2, mode)))
    return suppress


def by_nms(face_map, to_boxes):
    i, j = np.nonzero(face_map)
    boxes = to_boxes(i, j)
    return boxes[nms(boxes, face_map[i, j], 0.5)]


def pooling_against_nms(model: Pipeline, photos) -> None:
    print("FC-M4, stage one alone: boxes a photo, recall at IoU 0.5, ms a photo spent on suppression")
    ways = {"neither": by_pooling(None), "block 2x2": by_pooling("block"), "sliding": by_pooling("slide")}
    ways["NMS 0.5"] = by_nms
    for name, suppress in ways.items():
        counts, hits, faces, seconds = 0, 0, 0, 0.0
        for image, target in photos:
            boxes, spent = first_stage(model, image, suppress)
            counts, seconds, faces = counts + len(boxes), seconds + spent, faces + len(target.boxes)
            if len(target.boxes) and len(boxes):
                hits += int((iou_matrix(target.boxes, boxes).max(axis=1) >= 0.5).sum())
        n = len(photos)
        recall, ms = hits / max(1, faces), seconds / n * 1000
        print(f"    {name:10} {counts / n:8.1f} boxes   recall {recall:.4f}   {ms:7.2f} ms")


def speed_against_thoroughness(model: Pipeline, photos) -> None:
    counts = (10, 20, 30, 50, 70, 90)
    print(f"recall at {', '.join(map(str, counts))} false positives in {len(photos)} photos; at the default threshold:")
    for name, pipeline in (("thorough", model.thorough()), ("shipped", model)):
        start = time.perf_counter()
        found = [pipeline.detect_with_report(image, MIN_FACE, 0.02)[0] for image, _ in photos]
        seconds = time.perf_counter() - start
        curve = evaluate_detections(found, [target for _, target in photos])
        shown = at_threshold(curve, model.thresholds[2])
        recalls = " ".join(f"{curve.recall_at(n):.4f}" for n in counts)
        print(f"    {name:9} {recalls}   precision {shown['precision']:.4f} recall {shown['recall']:.4f}"
              f"   AP {curve.ap:.4f}   {seconds / len(photos) * 1000:.1f} ms a photo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="facecraft")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeat", type=int, default=30)
    arguments = parser.parse_args()
    model = minidetect.load(arguments.model).pipeline
    for size in ((480, 640), (600, 800)):
        picture_time(model, size, arguments.repeat)
    if arguments.data:
        photos = list(photos_with_targets(arguments.data))
        stages_on_photos(model, photos)
        pooling_against_nms(model, photos)
        speed_against_thoroughness(model, photos)


if __name__ == "__main__":
    main()
