"""Cases: boxes and pictures. NMS and IoU of 10,000 boxes, resizing photos and maps."""

from __future__ import annotations

import numpy as np

from minidetect.benchmark.layers import against, normal, size_name
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import Call, Case, Contest
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms
from minidetect.kernels.resize import resize_image, resize_maps
from minidetect.reference import nn_ops as reference

THRESHOLD = 0.5


def box_cases() -> list[Case]:
    return [
        nms_case("10000 in clusters, 640x480", 10_000, 300, short=True),
        nms_case("10000 scattered, 1920x1080", 10_000, 0),
        nms_case("1000 in clusters, 640x480", 1_000, 100, family="nms of 1000"),
        iou_case(10_000, 100, short=True),
        iou_case(1_000, 1_000),
        *(image_case(*sizes) for sizes in IMAGES),
        *(map_case(*sizes) for sizes in MAPS),
    ]


IMAGES = (((480, 640), (240, 320)), ((480, 640), (381, 508)), ((1080, 1920), (540, 960)), ((240, 320), (480, 640)))
MAPS = (((1, 64, 40, 40), (80, 80)), ((1, 32, 160, 160), (320, 320)), ((128, 3, 48, 48), (24, 24)))


def random_boxes(count: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as a detector leaves them: many around each of some objects, sides 12 to 200; all scores differ.

    clusters 0: anywhere in a large photo, where few overlap.
    """
    rng = np.random.default_rng(0)
    if clusters:
        of = rng.integers(clusters, size=count)
        sides = np.exp(rng.uniform(np.log(12), np.log(200), clusters))[of]
        centres = (rng.uniform(0, 1, (clusters, 2)) * (640, 480))[of]
        centres += rng.normal(0, 0.12, (count, 2)) * sides[:, None]
        sides = sides * np.exp(rng.normal(0, 0.15, count))
    else:
        sides = np.exp(rng.uniform(np.log(12), np.log(100), count))
        centres = rng.uniform(0, 1, (count, 2)) * (1920, 1080)
    half = sides[:, None] / 2
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    return boxes, ((rng.permutation(count) + 1) / count).astype(np.float32)


def nms_case(name: str, count: int, clusters: int, short: bool = False, family: str = "nms") -> Case:
    def build(peers: Peers) -> Contest:
        boxes, scores = random_boxes(count, clusters)
        calls: dict[str, Call] = {}
        if peers.ort:
            found = peers.node(
                "NonMaxSuppression", {"boxes": boxes[None], "scores": scores[None, None]},
                {"most": np.array([count]), "iou": np.array([THRESHOLD], np.float32)},
            )
            calls["onnxruntime"] = lambda: [found().copy_outputs_to_cpu()[0][:, 2]]
        if peers.cv2:
            exact = boxes.astype(np.float64)  # a side rounded to float32 would change which boxes are kept
            corner_and_size = np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)
            calls["opencv"] = lambda: [peers.cv2.dnn.NMSBoxes(corner_and_size, scores, 0.0, THRESHOLD)]
        check = against(lambda: slow_nms(boxes, scores), 0)
        return Contest(lambda: nms(boxes, scores, THRESHOLD), calls, check, tolerance=0)

    return Case(family, name, 0, 20.0 * count, build, short)


def slow_nms(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """As minidetect.reference.boxes.nms, which would take a minute for 10,000 boxes: a vector at a time."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        kept.append(left[0])
        left = left[1:][~(slow_iou(boxes[left[0]], boxes[left[1:]]) > THRESHOLD)]
    return np.array(kept)


def slow_iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """One box (4,) with each of boxes (N, 4), in float64."""
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared)


def iou_case(n: int, m: int, short: bool = False) -> Case:
    def build(peers: Peers) -> Contest:
        a, b = random_boxes(n, 300)[0], random_boxes(n + m, 300)[0][n:]
        calls = {}
        if peers.torch:
            tensors = peers.tensor(a), peers.tensor(b)
            calls["torch"] = lambda: torch_iou(peers.torch, *tensors)
        check = against(lambda: np.stack([slow_iou(box, b) for box in a]))
        return Contest(lambda: iou_matrix(a, b), calls, check)

    return Case("iou", f"{n} x {m}", 0, 4.0 * n * m, build, short)


def torch_iou(torch, a, b):
    """As torchvision's box_iou computes it: broadcast (N, 1, 2) against (M, 2)."""
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(t[:, 2] - t[:, 0]) * (t[:, 3] - t[:, 1]) for t in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def image_case(size: tuple[int, int], out: tuple[int, int]) -> Case:
    """Photos: areas averaged where they shrink, bilinear where they grow, as OpenCV's INTER_AREA and LINEAR."""

    def build(peers: Peers) -> Contest:
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        calls = {}
        if peers.cv2:
            way = peers.cv2.INTER_AREA if out[0] < size[0] else peers.cv2.INTER_LINEAR
            calls["opencv"] = lambda: peers.cv2.resize(image, out[::-1], interpolation=way)
        check = against(lambda: reference.resize_image(image, out), 1.3 / 255)
        return Contest(lambda: resize_image(image, out), calls, check, tolerance=1.3 / 255)

    moved = 3.0 * (size[0] * size[1] + out[0] * out[1])
    return Case("resize image", f"{size_name(size)} > {size_name(out)}", 0, moved, build, (size, out) == IMAGES[0])


def map_case(size: tuple[int, ...], out: tuple[int, int]) -> Case:
    def build(peers: Peers) -> Contest:
        x, calls = normal(*size), {}
        if peers.torch:
            tensor, resize = peers.tensor(x), peers.torch.nn.functional.interpolate
            calls["torch"] = lambda: resize(tensor, out, mode="bilinear", align_corners=False)
        if peers.ort:
            sizes = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)}
            calls["onnxruntime"] = peers.node(
                "Resize", {"x": x}, sizes | {"sizes": np.array([*size[:2], *out])}, mode="linear"
            )

        def check(y: np.ndarray) -> None:
            against(lambda: reference.resize(x[:1, :1], out))(y[:1, :1])  # one plane: it loops over pixels

        return Contest(lambda: resize_maps(x, out), calls, check)

    moved = 4.0 * size[0] * size[1] * (size[2] * size[3] + out[0] * out[1])
    return Case("resize maps", f"{size_name(size)} > {size_name(out)}", 0, moved, build, (size, out) == MAPS[0])
