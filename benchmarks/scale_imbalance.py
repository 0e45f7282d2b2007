"""Group Sampling's Figure 2 on the real boxes of wider/train: which scales a detector learns from.

    python benchmarks/scale_imbalance.py --data DIR [--photos N] [--json FILE] [--picture FILE]

For five detectors the shares of positive and negative samples by scale, as a table and as bars. Scales and strides
are the paper's; no network is needed. Each photo counts once, resized by 0.25 n with n drawn from 1 to 8, and where it
is larger than 640 pixels a side (the paper: 1,200) only a part of it, at random. Samples are 256 of an image for the
first four (as many as Faster R-CNN takes), 64 of each group for the last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.data.images import image_size
from minidetect.data.wider_face import read_wider, to_target
from minidetect.detection.anchor_layout import FPN, FPN_FINEST, FPN_FINEST_STRIDE, RPN, AnchorLayout
from minidetect.detection.group_sampler import Sampler, at_random, in_groups
from minidetect.detection.structures import Target
from minidetect.evaluate.scale_shares import ScaleShares, scale_shares
from minidetect.train.layouts import JITTER
from minidetect.visualize import new_figure, save_png

SIDE, SAMPLES = 640, 64  # pixels of a part; N of a group and image
DETECTORS: dict[str, tuple[AnchorLayout, Sampler]] = {
    "(a) RPN": (RPN, at_random(4 * SAMPLES)),
    "(b) FPN": (FPN, at_random(4 * SAMPLES)),
    "(c) FPN-finest-stride": (FPN_FINEST_STRIDE, at_random(4 * SAMPLES)),
    "(d) FPN-finest": (FPN_FINEST, at_random(4 * SAMPLES)),
    "(e) FPN-finest-sampling": (FPN_FINEST, in_groups(at_random(SAMPLES))),
}


def crops(data: Path, num: int | None) -> list[tuple[tuple[int, int], Target]]:
    """Sizes and faces of `num` photos (None: all), each resized, and cut where it is too large."""
    records = read_wider(data / "wider" / "wider_train_bbx_gt.txt", data / "wider" / "train")
    rng, found = np.random.default_rng(0), []
    for i in rng.permutation(len(records))[:num]:
        size = image_size(records[i].path)
        target = to_target(records[i], size, 4.0, min_blurred_size=0, max_occlusion=2)
        factor = JITTER[rng.integers(len(JITTER))]
        height, width = (max(1, round(n * factor)) for n in size)
        part = min(height, SIDE), min(width, SIDE)
        y, x = (int(rng.integers(whole - piece + 1)) for whole, piece in zip((height, width), part, strict=True))
        found.append((part, cut(target, factor, (x, y), part)))
    return found


def cut(target: Target, factor: float, corner: tuple[int, int], size: tuple[int, int]) -> Target:
    """A target in the part of (height, width) that begins at `corner` of the resized photo; faces by their centres."""
    limit = np.array([*size[::-1], *size[::-1]], np.float32)
    shift = np.array([*corner, *corner], np.float32)
    boxes, ignore = (np.float32(factor) * part - shift for part in (target.boxes, target.ignore))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres < limit[:2])).all(axis=1)
    unclear = np.clip(np.concatenate([ignore, boxes[~inside]]), 0, limit)
    return Target(np.clip(boxes[inside], 0, limit), target.labels[inside], unclear)


def rows_of(shares: ScaleShares) -> Iterator[tuple[str, np.ndarray]]:
    """What the table says of a detector, in percent by scale."""
    yield "positive anchors", 100 * shares.objects / max(shares.objects.sum(), 1)
    yield "negative anchors", 100 * shares.background / max(shares.background.sum(), 1)
    positive, negative = shares.shares()
    yield "positive samples", 100 * positive
    yield "negative samples", 100 * negative
    yield "positives a face", shares.objects / np.maximum(shares.object_counts, 1)


def report(found: dict[str, ScaleShares]) -> str:
    scales = next(iter(found.values())).scales
    lines = [f"{'':44}" + "".join(f"{f'@{scale}':>9}" for scale in scales)]
    for name, shares in found.items():
        for title, values in rows_of(shares):
            form = "9.3f" if title == "positives a face" else "9.2f"
            lines.append(f"{name:26}{title:18}" + "".join(f"{value:{form}}" for value in values))
    return "\n".join(lines)


def draw(found: dict[str, ScaleShares], file: Path) -> None:
    """Bars as in the paper's figure: positives above, negatives below, shares of all samples."""
    figure = new_figure(11, 3.4)
    axes = figure.subplots(2, len(found), sharex=True, sharey="row")
    for column, (name, shares) in enumerate(found.items()):
        for line, (part, title) in enumerate(zip(shares.shares(), ("positive", "negative"), strict=True)):
            axis = axes[line, column]
            axis.bar([str(scale) for scale in shares.scales], 100 * part, color=("#2b6cb0", "#c05621")[line])
            if column == 0:
                axis.set_ylabel(f"{title}\n% of samples")
            if line == 0:
                axis.set_title(name, fontsize=9)
    save_png(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, help="so many, drawn at random (default: all)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    images, found = crops(arguments.data, arguments.photos), {}
    print(f"{len(images)} photos, {sum(len(target.boxes) for _, target in images)} faces")
    for name, (layout, sampler) in DETECTORS.items():
        found[name] = scale_shares(layout, tqdm(images, desc=name, mininterval=5), sampler, np.random.default_rng(1))
    print(report(found))
    if arguments.json:
        table = {
            name: {title: np.round(values, 4).tolist() for title, values in rows_of(shares)}
            for name, shares in found.items()
        }
        arguments.json.write_text(json.dumps({"photos": len(images), "shares": table}, indent=1) + "\n")
    if arguments.picture:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
