"""Find faces in three lines: `minidetect.load("facecraft").detect(["photo.jpg"])`.

Weights are .npz files with a `__meta__` entry: {"model": class name, "arguments": its constructor's,
"training": how it was made}. Those that ship stand in `minidetect/weights`, a model card beside each. A model of
several classes (api_objects.py) is loaded and asked in the same way. Weights that others have published are read where
they lie, as `mtcnn:FOLDER` or `extd:FILE`, or made into such a file by `convert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.api_objects import SETTINGS, ObjectDetector, build_objects
from minidetect.data.images import ImageSource, check_is_list, load_image
from minidetect.detection.structures import Detections
from minidetect.kernels.device import check_device
from minidetect.models.anchor_detector import AnchorDetector
from minidetect.models.cascade import Cascade
from minidetect.models.cascade_pipeline import Pipeline
from minidetect.models.extd import EXTD
from minidetect.models.extd_weights import load_extd
from minidetect.models.facecraft import JointCascade, SeparateCascade
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_pyramid import PyramidLooks
from minidetect.models.mtcnn import load_mtcnn
from minidetect.models.multi_output_cascade import EndToEndCascade, MultiOutputCascade
from minidetect.models.single_shot_scales import ManyLooks
from minidetect.nn.checkpoint import load_arrays, save_arrays

WEIGHTS = Path(__file__).parent / "weights"
# Readers of published weights by what stands before the colon, and what stands behind it.
PUBLISHED = {"mtcnn": (load_mtcnn, "FOLDER"), "extd": (load_extd, "FILE")}
MODELS = {
    kind.__name__: kind
    for kind in (JointCascade, SeparateCascade, EndToEndCascade, MultiOutputCascade, EXTD, LayoutDetector)
}
FaceModel = Cascade | AnchorDetector


class Detector:
    """A trained face detector that takes images in any usual form.

    model: the network and its test pipeline; pipeline: the same fused for speed, from the weights that the model
    had then; name: what it was loaded from; training: how it was made. thorough, device: see `load`.
    """

    classes = ("face",)

    def __init__(
        self, model: FaceModel, name: str, training: Mapping, thorough: bool = False, device: str = "cpu"
    ) -> None:
        fused = on_device(model.fuse(), name, device)
        self.model, self.pipeline = model, thorough_form(fused) if thorough else fused
        self.name, self.training = name, training

    def detect(
        self, images: Iterable[ImageSource], min_face: float | None = None, threshold: float | None = None
    ) -> list[Detections]:
        """Find faces in each image; an image without any gives arrays of length 0.

        images: paths, Pillow images, or (H, W, 3) uint8 RGB arrays, in any mix; a list even for one image.
        min_face: the smallest face to look for, the longer side of its box in pixels; None for the model's own choice,
            24 for a cascade, 8 for detectors by anchors.
        threshold: the score that a face must exceed; None for the model's own.
        Raises ImageError (a ValueError) that names an image which cannot be read.
        """
        check_is_list(images)
        min_face = self.pipeline.smallest_face if min_face is None else min_face
        return self.pipeline.detect([load_image(image) for image in images], min_face, threshold)

    def __repr__(self) -> str:
        return f"Detector({self.name!r}, {type(self.model).__name__}, {self.model.num_parameters():,} parameters)"


class ShippedModel(NamedTuple):
    name: str
    path: Path
    card: Path
    training: Mapping


def shipped_models() -> list[ShippedModel]:
    """The models that come with the package, by name."""
    return [
        ShippedModel(path.stem, path, path.with_suffix(".md"), load_arrays(path)[1].get("training", {}))
        for path in sorted(WEIGHTS.glob("*.npz"))
    ]


def load(
    name_or_path: str | Path = "facecraft", thorough: bool = False, device: str = "cpu"
) -> Detector | ObjectDetector:
    """A detector by the name of a model that ships, or from a weights file of one's own training.

    "mtcnn:FOLDER" is MTCNN with the weights that facenet-pytorch publishes (models/mtcnn.py), "extd:FILE" is EXTD with
    one of the files that its authors publish (models/extd_weights.py); both are read without torch.
    A cascade, EXTD or LayoutDetector gives a Detector of faces, R-CNN and its successors an ObjectDetector.
    thorough: only for faces, and not for MTCNN; takes longer and finds more faces. A cascade looks at more boxes
        (README, "Default or thorough"), EXTD at several scales and the mirror image (models/single_shot_scales.py),
        a LayoutDetector at eight sizes (models/layout_pyramid.py).
    device: "cpu", or "cuda" for the network of an EXTD or a LayoutDetector on a GPU (kernels/device.py).
    Raises FileNotFoundError that lists the names, or ValueError for a file that holds no such weights, or for
    `thorough` or "cuda" with a model that has no such form; NoGPUError, an OSError, where there is no GPU to use.
    """
    published = read_published(str(name_or_path))
    if published is not None:
        return Detector(published, str(name_or_path), {}, thorough, device)
    shipped = {file.stem: file for file in sorted(WEIGHTS.glob("*.npz"))}
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        names = ", ".join(shipped) or "none in this copy"
        raise FileNotFoundError(f"no model {str(name_or_path)!r}: neither a file nor one that ships ({names})")
    arrays, meta = load_arrays(path)
    built = build(meta, path, str(name_or_path))
    if isinstance(built, ObjectDetector):
        if thorough:
            raise ValueError(f"{path}: knows {', '.join(built.classes)}; thorough (--thorough) is for models of faces")
        on_device(None, str(name_or_path), device)
        built.model.load_state_dict(arrays, str(path))
        return built
    built.load_state_dict(arrays, str(path))
    return Detector(built, str(name_or_path), meta.get("training", {}), thorough, device)


def on_device(fused: FaceModel | None, name: str, device: str) -> FaceModel | None:
    """What detects, brought to a device; ValueError where it only knows the processor."""
    check_device(device)
    if device == "cuda" and not isinstance(fused, AnchorDetector):
        raise ValueError(f"{name}: detects on the processor alone; device cuda is for EXTD and layout detectors")
    return fused.to(device) if device == "cuda" else fused


def thorough_form(fused: FaceModel) -> Pipeline | ManyLooks | PyramidLooks:
    """What `thorough` means for this model; ValueError for MTCNN's weights."""
    if isinstance(fused, LayoutDetector):
        return PyramidLooks(fused)
    return ManyLooks(fused) if isinstance(fused, AnchorDetector) else fused.thorough()


def read_published(name: str) -> FaceModel | None:
    """The model behind a name such as "mtcnn:FOLDER" or "extd:FILE", None for a name of any other form."""
    kind, colon, path = name.partition(":")
    return PUBLISHED[kind][0](path) if colon and kind in PUBLISHED else None


def convert(name: str, path: str | Path) -> None:
    """Write published weights, such as "mtcnn:FOLDER", as a file that `load` reads.

    Raises ValueError for a name of another form, and as their reader does.
    """
    model = read_published(name)
    if model is None:
        forms = ", ".join(f"{kind}:{what}" for kind, (_, what) in PUBLISHED.items())
        raise ValueError(f"{name!r}: weights that can be converted are given as {forms}")
    save(model, path, {"converted from": name})


def build(meta: object, path: Path, name: str) -> FaceModel | ObjectDetector:
    """The untrained model that a file's meta data describe; ValueError that names the file if they do not."""
    kind = meta.get("model") if isinstance(meta, dict) else None
    if kind is None and isinstance(meta, dict) and "rng" in meta:
        raise ValueError(
            f"{path}: the bare weights of one phase of a training, which say nothing about classes or thresholds; the "
            "detector is the file that `minidetect train` named when it ended"
        )
    if not isinstance(kind, str) or kind not in (*MODELS, *SETTINGS):
        raise ValueError(f"{path}: not the weights of a model of this library (its meta data name {kind!r})")
    try:
        if kind in SETTINGS:
            return build_objects(kind, meta["arguments"], name, meta.get("training", {}))
        return MODELS[kind](np.random.default_rng(0), **meta["arguments"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its meta data do not describe a {kind}: {error}") from None


def save(model: FaceModel, path: str | Path, training: Mapping) -> None:
    """Write a model so that `load` can read it. training: JSON-able facts about how it was made."""
    meta = {"model": type(model).__name__, "arguments": model.arguments(), "training": dict(training)}
    save_arrays(path, model.state_dict(), meta, compressed=True)
