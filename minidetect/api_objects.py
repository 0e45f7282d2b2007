"""Detectors of several classes, trained on somebody's own boxes: kept in one file, loaded, and asked for photos.

    detector = minidetect.load("runs/cells/faster-rcnn.npz")
    for found in detector.detect(["a.jpg"]):
        print([detector.classes[label - 1] for label in found.labels], found.boxes, found.scores)

R-CNN, Fast R-CNN and Faster R-CNN alike: the first two look where selective search tells them to, the third finds its
proposals itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from minidetect.autograd.tensor import no_grad
from minidetect.data.images import ImageSource, check_is_list, load_image
from minidetect.data.proposals import MOST
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.selective_search import search_at_scale
from minidetect.detection.structures import Detections
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import BoxHead, FastRCNN
from minidetect.models.faster_rcnn import FasterRCNN
from minidetect.models.mobilenet import MobileNet
from minidetect.models.rcnn import RCNN, CropNet
from minidetect.nn.checkpoint import save_arrays
from minidetect.nn.fuse import fuse
from minidetect.nn.layers import Linear

ObjectModel = FasterRCNN | FastRCNN | RCNN
# What a detector keeps of its model's settings, beside the sizes of its layers.
THRESHOLDS = ("min_score", "nms_threshold", "most")
SETTINGS = {
    "FasterRCNN": ("train_proposals", "test_proposals", *THRESHOLDS),
    "FastRCNN": THRESHOLDS,
    "RCNN": ("mode", "padding", "tap", "scorer", "regress", *THRESHOLDS),
}


class ObjectDetector:
    """A trained detector of objects that takes images in any usual form, of any size.

    model: the network; classes: their names, by label - 1; mean_colour (3,), scale: how images are prepared for it;
    name: what it was loaded from; training: how it was made. most_proposals: of selective search, where the model does
    not make its own.
    """

    def __init__(
        self, model: ObjectModel, classes: tuple[str, ...], mean_colour: np.ndarray, scale: ImageScale, name: str = "",
        training: Mapping | None = None, most_proposals: int = MOST,
    ) -> None:
        self.model, self.most_proposals = model, most_proposals
        self.classes, self.mean_colour, self.scale = classes, mean_colour, scale
        self.name, self.training = name, training or {}

    @cached_property
    def fused(self) -> ObjectModel:
        """The model made for speed, from the weights that it has when this is first asked for."""
        return fuse(self.model)

    @property
    def likely(self) -> float:
        """The score above which an object is more likely than not: 0 for SVMs, whose scores are margins, else 0.5."""
        return 0.0 if isinstance(self.model, RCNN) and self.model.scorer == "svm" else 0.5

    def detect(self, images: Iterable[ImageSource], threshold: float | None = None) -> list[Detections]:
        """Find objects in each image, in its own pixels; an image without any gives arrays of length 0.

        images: as `Detector.detect`. threshold: the score that an object must exceed; None for the model's own, a low
        one, as evaluation wants it. Scores are from 0 to 1, but R-CNN's are of SVMs: about -1 background, 1 an object.
        """
        check_is_list(images)
        return [self.detect_one(load_image(image), threshold) for image in images]

    def detect_one(self, image: np.ndarray, threshold: float | None = None) -> Detections:
        """image: (H, W, 3) uint8 RGB."""
        resized = self.scale.resize(image)
        planes = normalise(resized, self.mean_colour)
        if isinstance(self.model, FasterRCNN):  # its proposals come from the same pass
            (found,) = self.fused.detect([planes])
        else:
            proposals = self.proposals(image) * box_factors(image.shape, resized.shape)
            (found,) = self.fused.detect([planes], [proposals])
        boxes = clip_to_image(found.boxes * box_factors(resized.shape, image.shape), image.shape[:2])
        kept = found.scores > (-np.inf if threshold is None else threshold)
        return Detections(boxes[kept], found.scores[kept], found.labels[kept])

    def proposals(self, image: np.ndarray) -> np.ndarray:
        """Where the model looks for objects: (R, 4) float32 in pixels of the image, (H, W, 3) uint8 RGB.

        Selective search for R-CNN and Fast R-CNN, of the image as the network sees it; Faster R-CNN's own proposals.
        """
        if not isinstance(self.model, FasterRCNN):
            return search_at_scale(image, self.scale, self.most_proposals)
        resized = self.scale.resize(image)
        with no_grad():
            _, outputs, anchors = self.fused.forward(normalise(resized, self.mean_colour))
            proposer, limits = self.fused.rpn, self.fused.test_proposals
            boxes, _ = proposer.propose(outputs, anchors, resized.shape[:2], *limits)
        return clip_to_image(boxes * box_factors(resized.shape, image.shape), image.shape[:2])

    def __repr__(self) -> str:
        return f"ObjectDetector({self.name!r}, {', '.join(self.classes)}, {self.model.num_parameters():,} parameters)"


# ------------------------------------------------------------------------------------------- files


def save_objects(detector: ObjectDetector, path: str | Path, training: Mapping) -> None:
    """Write a detector so that `minidetect.load` can read it. training: JSON-able facts about how it was made.

    Raises ValueError for a model that a file cannot describe: a head with truncated layers, RoI warping.
    """
    model, kind = detector.model, type(detector.model).__name__
    is_truncated = not isinstance(model, RCNN) and not isinstance(model.head.fc7, Linear)
    if kind not in SETTINGS or is_truncated:
        told = f"{kind}{' with truncated layers' * is_truncated}"
        raise ValueError(f"a {told} cannot be saved as a detector; what can: {', '.join(SETTINGS)}, with whole layers")
    arguments = {
        "classes": list(detector.classes),
        "mean_colour": [float(v) for v in detector.mean_colour],
        "scale": list(detector.scale),
        "most_proposals": detector.most_proposals,
        "settings": {name: getattr(model, name) for name in SETTINGS[kind]},
    }
    if isinstance(model, RCNN):
        net = model.net
        arguments |= trunk_facts(net.backbone)
        arguments |= {"side": net.side, "pool": net.pool, "features": net.sizes["fc7"]}
    else:
        arguments |= trunk_facts(model.backbone)
        arguments |= {"pool": model.head.pool, "features": model.head.fc7.weight.shape[0]}
    if isinstance(model, FasterRCNN):
        arguments |= {"sides": list(model.rpn.grid.sides), "ratios": list(model.rpn.grid.ratios)}
    save_arrays(path, model.state_dict(), {"model": kind, "arguments": arguments, "training": dict(training)})


def build_objects(kind: str, arguments: Mapping, name: str, training: Mapping) -> ObjectDetector:
    """The untrained detector that a file's meta data describe. Raises LookupError or TypeError where they do not.

    kind: of SETTINGS.
    """
    rng, num_classes = np.random.default_rng(0), len(arguments["classes"])
    trunk, features = build_trunk(arguments, rng), arguments["features"]
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in arguments["settings"].items()}
    model: ObjectModel
    if kind == "RCNN":
        net = CropNet(
            num_classes, rng, arguments["side"], features=features, pool=arguments["pool"], backbone=trunk
        )
        model = RCNN(num_classes, rng, net, **settings)
    else:
        if kind == "FastRCNN":
            model = FastRCNN(num_classes, rng, trunk, features, **settings)
        else:
            grid = AnchorGrid(trunk.stride, tuple(arguments["sides"]), tuple(arguments["ratios"]))
            model = FasterRCNN(num_classes, rng, grid, trunk, features, **settings)
        model.head = BoxHead(trunk.channels, trunk.stride, num_classes, rng, arguments.get("pool", 7), features)
    return ObjectDetector(
        model, tuple(arguments["classes"]), np.array(arguments["mean_colour"], np.float32),
        ImageScale(*arguments["scale"]), name, training, arguments.get("most_proposals", MOST),
    )  # fmt: skip


def trunk_facts(trunk: Backbone) -> dict:
    """What `build_trunk` needs to make a trunk like this one."""
    if isinstance(trunk, MobileNet):
        return {"mobilenet": [trunk.width, trunk.blocks]}
    return {"table": [list(row) for row in trunk.table]}


def build_trunk(arguments: Mapping, rng: np.random.Generator) -> Backbone:
    if "mobilenet" in arguments:
        return MobileNet(rng, *arguments["mobilenet"])
    return Backbone(rng, [tuple(row) for row in arguments["table"]])
