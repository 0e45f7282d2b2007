"""EX-18: what EXTD's eighteen models and the two baselines cost: parameters, multiply-adds, memory, receptive fields.

    python benchmarks/extd_counts.py [--size 640] [--layers EXTD-FPN-32-PReLU] [--json FILE]

Beside every count stands the paper's (Tables 1 and 2). "walk" is what the published code counts, "true" each use of
each convolution on its own map; see minidetect/models/counting.py. Then, as in section 4.2, by how many times each
model is smaller than S3FD. No image is looked at, so that it takes seconds. --layers prints every layer of one model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.models.counting import Memory, count_table, memory, module_walk, table_text, total
from minidetect.models.extd import ACTIVATIONS, BLOCKS, EXTD, STRUCTURES
from minidetect.models.receptive_fields import Field, receptive_fields
from minidetect.models.s3fd import S3FD, S3FDMobileFaceNet
from minidetect.models.single_shot import SingleShot

# Millions of parameters and G multiply-adds by Tables 1 and 2; for EXTD by structure and width.
PAPER = {
    "S3FD": ("22", "128"), "S3FD+MobileFaceNet": ("1.2", "12.7"),
    ("fpn", 32): ("0.063", "4.52"), ("fpn", 48): ("0.10", "6.67"), ("fpn", 64): ("0.16", "11.2"),
    ("ssd", 32): ("0.056", "4.35"), ("ssd", 48): ("0.086", "6.63"), ("ssd", 64): ("0.14", "10.6"),
}  # fmt: skip
# By how many times the FPN models with PReLU are smaller than S3FD, section 4.2: parameters and multiply-adds.
SMALLER = {32: ("343", "28.3"), 48: ("220", "19.2"), 64: ("138", "11")}


def models() -> dict[str, Callable[[], SingleShot]]:
    """How to make each model, by its name."""
    rng = np.random.default_rng(0)
    found = {"S3FD": partial(S3FD, rng), "S3FD+MobileFaceNet": partial(S3FDMobileFaceNet, rng)}
    for width, structure, act in product(BLOCKS, STRUCTURES, ACTIVATIONS):
        make = partial(EXTD, rng, structure, width, act)
        found[make().name] = make
    return found


def measure(name: str, model: SingleShot, size: tuple[int, int]) -> dict:
    """Memory and fields only for PReLU: they are the same for other activations."""
    parameters, true = total(count_table(model, size))
    key = (model.structure, model.width) if isinstance(model, EXTD) else name
    row = {"name": name, "parameters": parameters, "walk": module_walk(model, size), "true": true, "paper": PAPER[key]}
    if isinstance(model, EXTD) and model.act != "prelu":
        return row
    if isinstance(model, EXTD) and model.structure == "fpn":
        row["smaller"] = SMALLER[model.width]
    fields = [field._asdict() for field in receptive_fields(model)]
    return row | {"memory": memory(model, size)._asdict(), "fields": fields}


def count_line(row: Mapping) -> str:
    parameters, multiply_adds = row["paper"]
    counted = f"{row['walk'] / 1e9:9.3f} {row['true'] / 1e9:9.3f}"
    return f"{row['name']:20} {row['parameters']:11,} {parameters:>8} {multiply_adds:>8} {counted}"


def smaller_line(row: Mapping, s3fd: Mapping) -> str:
    """How many times smaller than S3FD: ours and, where there is one, the paper's."""
    parameters, multiply_adds = row.get("smaller", ("", ""))
    ratios = [s3fd[key] / row[key] for key in ("parameters", "walk", "true")]
    return f"{row['name']:20} {ratios[0]:8.1f} {parameters:>8} {multiply_adds:>8} {ratios[1]:9.1f} {ratios[2]:9.1f}"


def memory_line(name: str, used: Memory) -> str:
    return f"{name:20} {used.weights / 1e6:9.2f} {used.training / 1e6:9.0f} {used.inference / 1e6:9.0f}"


def report(rows: list[dict], size: int) -> str:
    lines = [f"G multiply-adds at {size} x {size}", ""]
    lines += [f"{'':20} {'parameters':>11} {'paper, M':>8} {'paper, G':>8} {'walk':>9} {'true':>9}"]
    lines += [count_line(row) for row in rows]
    lines += ["", f"{'times less than S3FD':20} {'params':>8} {'paper':>8} {'paper, G':>8} {'walk':>9} {'true':>9}"]
    lines += [smaller_line(row, rows[0]) for row in rows if "memory" in row]
    lines += ["", f"{'MB, one image':20} {'weights':>9} {'training':>9} {'inference':>9}"]
    lines += [memory_line(row["name"], Memory(**row["memory"])) for row in rows if "memory" in row]
    lines += ["", "receptive fields of the heads in pixels (times the anchor's side), anchors of 16 to 512"]
    for row in (row for row in rows if "fields" in row):
        fields = [Field(**field) for field in row["fields"]]
        lines.append(f"{row['name']:20} " + " ".join(f"{field.of_head:5} ({field.ratio:5.1f})" for field in fields))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640, help="of the square image (default: 640, the paper's)")
    parser.add_argument("--layers", choices=tuple(models()), metavar="NAME", help="every layer of one model instead")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.size < 1:
        parser.error(f"--size must be at least 1, got {arguments.size}")
    size = (arguments.size, arguments.size)
    if arguments.layers:
        print(table_text(count_table(models()[arguments.layers](), size)))
        return
    rows = [measure(name, make(), size) for name, make in tqdm(models().items(), desc="models")]
    print(report(rows, arguments.size))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"size": arguments.size, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
