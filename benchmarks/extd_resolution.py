"""How long a detection takes against the size of the image: EXTD's three widths and both baselines (EXTD, Fig. 6).

    python benchmarks/extd_resolution.py [--sizes 160 320 ...] [--json benchmarks/results/extd_resolution.json]
                                         [--plot extd_resolution.png]

Square images of noise, one thread, one image at a time, random weights, networks fused: from the uint8 image to the
suppressed boxes, of which a threshold of 1 leaves none. Printed are medians in milliseconds, and megapixels a second.
The paper's figure counts frames a second on a GPU, with PyTorch's layers one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from extd_peers import norms_of

from minidetect.autograd import Tensor, no_grad
from minidetect.benchmark.machine import describe
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import time_in_turns
from minidetect.kernels.dispatch import set_num_threads
from minidetect.models.extd import EXTD
from minidetect.models.s3fd import S3FD, S3FDMobileFaceNet
from minidetect.models.single_shot import SingleShot

SIZES = (160, 320, 480, 640, 800, 960, 1280)
MODELS = {
    **{f"EXTD-FPN-{w}": lambda rng, w=w: EXTD(rng, width=w) for w in (32, 48, 64)},
    "S3FD (VGG-16)": S3FD,
    "S3FD + MobileFaceNet": S3FDMobileFaceNet,
}


def ready(name: str) -> SingleShot:
    """The fused model; batch norms with statistics of one pass over noise, lest values grow out of range."""
    rng = np.random.default_rng(0)
    model = MODELS[name](rng)
    for norm in norms_of(model):
        norm.momentum = 1.0
    model.train()
    with no_grad():
        model.predict(Tensor(rng.normal(0, 60, (1, 3, 256, 256)).astype(np.float32)))
    model.train(False)
    return model.fuse()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--budget", type=float, default=4, help="seconds of timing a model and size (default: 4)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    set_num_threads(1)
    models = {name: ready(name) for name in MODELS}
    images = {size: np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8) for size in arguments.sizes}
    rows = []
    for size, image in images.items():
        calls = {name: lambda m=m, i=image: m.detect([i], min_score=1.0) for name, m in models.items()}
        times = {name: time_in_turns({name: call}, arguments.budget, 3)[name] for name, call in calls.items()}
        medians = {name: float(np.median(t)) for name, t in times.items()}
        rows.append({"size": size, "seconds": medians, "fastest": {name: float(t.min()) for name, t in times.items()}})
        print(f"{size:5} x {size:<5}", *(f"{n} {1e3 * s:.1f} ms" for n, s in medians.items()), sep="   ", flush=True)
    for name in models:
        speeds = [f"{row['size'] ** 2 / row['seconds'][name] / 1e6:.2f}" for row in rows]
        print(f"{name:22} megapixels a second: {' '.join(speeds)}")
    if arguments.json:
        document = {"machine": describe(Peers(1, ())), "resolutions": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)
    return 0


def draw(rows: list[dict], file: Path) -> None:
    """Frames a second against the side of the image, as in the paper."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in MODELS:
        axes.plot([r["size"] for r in rows], [1 / r["seconds"][name] for r in rows], marker="o", label=name)
    axes.set(xlabel="side of the image, pixels", ylabel="images a second, one thread", yscale="log")
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
