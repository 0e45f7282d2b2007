"""Detectors of several classes, trained on somebody's own boxes: kept in one file, loaded, and asked for photos.

    detector = minidetect.load("runs/cells/faster-rcnn.npz")
    for found in detector.detect(["a.jpg"]):
        print([detector.classes[label - 1] for label in found.labels], found.boxes, found.scores)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from minidetect.data.images import ImageSource, check_is_list, load_image
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.structures import Detections
from minidetect.models.backbones import Backbone
from minidetect.models.faster_rcnn import FasterRCNN
from minidetect.nn.checkpoint import save_arrays
from minidetect.nn.fuse import fuse

# What a detector keeps of its model's settings, beside the sizes of its layers.
SETTINGS = ("train_proposals", "test_proposals", "min_score", "nms_threshold", "most")


class ObjectDetector:
    """A trained Faster R-CNN that takes images in any usual form, of any size.

    model: the network; classes: their names, by label - 1; mean_colour (3,), scale: how images are prepared for it;
    name: what it was loaded from; training: how it was made.
    """

    def __init__(
        self, model: FasterRCNN, classes: tuple[str, ...], mean_colour: np.ndarray, scale: ImageScale, name: str = "",
        training: Mapping | None = None,
    ) -> None:
        self.model = model
        self.classes, self.mean_colour, self.scale = classes, mean_colour, scale
        self.name, self.training = name, training or {}

    @cached_property
    def fused(self) -> FasterRCNN:
        """The model made for speed, from the weights that it has when this is first asked for."""
        return fuse(self.model)

    def detect(self, images: Iterable[ImageSource], threshold: float | None = None) -> list[Detections]:
        """Find objects in each image, in its own pixels; an image without any gives arrays of length 0.

        images: as `Detector.detect`. threshold: the score that an object must exceed; None for the model's own, a low
        one, as evaluation wants it.
        """
        check_is_list(images)
        return [self.detect_one(load_image(image), threshold) for image in images]

    def detect_one(self, image: np.ndarray, threshold: float | None = None) -> Detections:
        """image: (H, W, 3) uint8 RGB."""
        resized = self.scale.resize(image)
        found = self.fused.detect([normalise(resized, self.mean_colour)])[0]
        boxes = clip_to_image(found.boxes * box_factors(resized.shape, image.shape), image.shape[:2])
        kept = found.scores > (-1 if threshold is None else threshold)
        return Detections(boxes[kept], found.scores[kept], found.labels[kept])

    def __repr__(self) -> str:
        return f"ObjectDetector({self.name!r}, {', '.join(self.classes)}, {self.model.num_parameters():,} parameters)"


def save_objects(detector: ObjectDetector, path: str | Path, training: Mapping) -> None:
    """Write a detector so that `minidetect.load` can read it. training: JSON-able facts about how it was made."""
    model = detector.model
    arguments = {
        "classes": list(detector.classes),
        "mean_colour": [float(v) for v in detector.mean_colour],
        "scale": list(detector.scale),
        "sides": list(model.rpn.grid.sides),
        "ratios": list(model.rpn.grid.ratios),
        "table": [list(row) for row in model.backbone.table],
        "features": model.head.fc7.weight.shape[0],
        "settings": {name: getattr(model, name) for name in SETTINGS},
    }
    save_arrays(path, model.state_dict(), {"model": "FasterRCNN", "arguments": arguments, "training": dict(training)})


def build_objects(arguments: Mapping, name: str, training: Mapping) -> ObjectDetector:
    """The untrained detector that a file's meta data describe. Raises LookupError or TypeError where they do not."""
    rng = np.random.default_rng(0)
    backbone = Backbone(rng, [tuple(row) for row in arguments["table"]])
    grid = AnchorGrid(backbone.stride, tuple(arguments["sides"]), tuple(arguments["ratios"]))
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in arguments["settings"].items()}
    model = FasterRCNN(len(arguments["classes"]), rng, grid, backbone, arguments["features"], **settings)
    mean_colour = np.array(arguments["mean_colour"], np.float32)
    scale = ImageScale(*arguments["scale"])
    return ObjectDetector(model, tuple(arguments["classes"]), mean_colour, scale, name, training)
