"""The command `evaluate`: a model of faces on FDDB, WIDER FACE or face crops; one of objects on your folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from minidetect.cli_arguments import refuse
from minidetect.cli_objects import evaluate_objects
from minidetect.console import DETECTION_KERNELS, CompileNote, check_can_write, make_folder, print_stages, write_json

if TYPE_CHECKING:
    from minidetect.evaluate.average_precision import Curve
    from minidetect.evaluate.runs import AnyFinder
    from minidetect.models.cascade_pipeline import StageReport

SMALLEST = 20.0  # face, in pixels


def run_evaluation(arguments: argparse.Namespace) -> int:
    """`minidetect evaluate`: figures printed, and written where that was asked for."""
    from minidetect.visualize import plot_roc

    check_can_write(arguments.json)
    check_can_write(arguments.plot)
    if arguments.benchmark == "objects":
        return evaluate_objects(arguments)
    refuse(arguments, ["split"], "only for `evaluate objects`")
    if arguments.benchmark == "landmarks":
        return evaluate_landmarks(arguments)
    if arguments.detections:
        refuse(arguments, ["min_face", "thorough"], "not with --detections, which were found before")
    if arguments.benchmark != "wider" or arguments.detections:
        refuse(arguments, ["write_detections"], "only for `evaluate wider` with a model")
    elif arguments.write_detections:
        make_folder(arguments.write_detections)
    with CompileNote(DETECTION_KERNELS, live=False):  # the last line belongs to the progress bar
        curve, summary, stages = (measure_wider if arguments.benchmark == "wider" else measure_fddb)(arguments)
    for key, value in summary.items():
        print(f"{key:22} {value}")
    print_stages(stages)
    if arguments.json:
        write_json(arguments.json, {**summary, "stages": [stage._asdict() for stage in stages]})
    if arguments.plot:
        plot_roc(curve, arguments.plot)
    return 0


def evaluate_landmarks(arguments: argparse.Namespace) -> int:
    """How far landmarks are off, on the crops of facepoint/test.csv."""
    from minidetect.evaluate.landmarks import landmark_table, run_facepoint, summarise_landmarks
    from minidetect.visualize import plot_error_curves

    if arguments.detections:
        raise ValueError("--detections are boxes in FDDB's format: only for `evaluate fddb`")
    pipeline = face_pipeline(arguments)
    if pipeline.points_mean is None:
        raise ValueError(f"{arguments.model}: gives no landmarks; `minidetect models` says which model does")
    with CompileNote(DETECTION_KERNELS, live=False):
        result = run_facepoint(pipeline, arguments.data, min_face=arguments.min_face or SMALLEST)
    print(landmark_table(result.errors))
    print_stages(result.stages)
    if arguments.json:
        stages = [stage._asdict() for stage in result.stages]
        write_json(arguments.json, {**summarise_landmarks(result.errors), "stages": stages})
    if arguments.plot:
        plot_error_curves({arguments.model: result.errors.per_face}, arguments.plot)
    return 0


def face_pipeline(arguments: argparse.Namespace) -> AnyFinder:
    """What is to be measured. Raises ValueError for a model of objects."""
    from minidetect.api import load
    from minidetect.api_objects import ObjectDetector

    detector = load(arguments.model, arguments.thorough)
    if isinstance(detector, ObjectDetector):
        raise ValueError(f"{arguments.model}: knows {', '.join(detector.classes)}; measure it by `evaluate objects`")
    return detector.pipeline


def measure_wider(arguments: argparse.Namespace) -> tuple[Curve, dict, list[StageReport]]:
    from minidetect.data.wider_detections import write_wider_detections
    from minidetect.evaluate.runs import at_threshold, run_wider
    from minidetect.evaluate.wider import summarise_wider

    if arguments.detections:
        return measure_wider_texts(arguments)
    model = face_pipeline(arguments)
    min_face = arguments.min_face or min(SMALLEST, model.smallest_face)
    curve, settings, detections, stages = run_wider(model, arguments.data, min_face=min_face)
    if arguments.write_detections:
        write_wider_detections(arguments.write_detections, detections)
    summary = {"from_pixels": min_face, "faces": curve.num_gt, "ap": round(curve.ap, 4)}
    summary |= {f"recall_at_{n}_fp": round(curve.recall_at(n), 4) for n in (10, 50, 100, 200)}
    return curve, summary | at_threshold(curve, model.threshold) | summarise_wider(settings), stages


def measure_wider_texts(arguments: argparse.Namespace) -> tuple[Curve, dict, list[StageReport]]:
    """The official easy, medium and hard of a folder of texts; in a photo without a text nothing was found."""
    from minidetect.data.wider_detections import read_wider_detections
    from minidetect.data.wider_ground_truth import read_wider_truth
    from minidetect.evaluate.wider import evaluate_wider, summarise_wider, wider_truth_folder

    truth = read_wider_truth(wider_truth_folder(arguments.data))
    detections = read_wider_detections(arguments.detections)
    curves = evaluate_wider(detections, truth)
    summary = {"photos": len(truth), "without_text": len(truth) - len(detections), **summarise_wider(curves)}
    return curves["hard"], summary, []


def measure_fddb(arguments: argparse.Namespace) -> tuple[Curve, dict, list[StageReport]]:
    from minidetect.evaluate.runs import evaluate_detection_file, run_fddb, summarise_fddb

    if arguments.detections:
        curves, stages = evaluate_detection_file(arguments.detections, arguments.data), []
    else:
        result = run_fddb(face_pipeline(arguments), arguments.data, arguments.min_face or SMALLEST)
        curves, stages = result.curves, result.stages
    return curves.discrete, summarise_fddb(curves), stages
