"""README's tables of speed, written from the JSON files of the benchmarks and from nothing else.

    python benchmarks/table.py benchmarks/results/*.json             # to look at
    python benchmarks/table.py benchmarks/results/*.json --readme    # between README's two marker comments

A file holds `machine`, and `runs` (benchmarks/kernels.py) or `whole` (benchmarks/end_to_end.py, cold_start.py):
a list of {"what", "threads", "seconds": {contestant: seconds}, "bar": text, "met": true, false or null}; or
`resolutions` (benchmarks/extd_resolution.py): a list of {"size", "seconds": {model: seconds}}. A file without `machine`
is passed over.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: written by benchmarks/table.py -->", "<!-- /benchmarks -->"
OURS = "minidetect"
NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "opencv": "OpenCV", "fastest": "the fastest"}
NAMES |= {"torch, norms folded": "PyTorch (norms folded)", f"{OURS}, not fused": "not fused"}


def tables(documents: Sequence[Mapping]) -> str:
    """Markdown: the machine, one row a family of kernels, one row a whole task."""
    documents = [document for document in documents if "machine" in document]
    parts = [machine_line(max((d["machine"] for d in documents), key=len))]  # the one that names the peers
    runs = [run for document in documents for run in document.get("runs", ())]
    whole = [row for document in documents for row in document.get("whole", ())]
    if runs:
        parts.append(kernel_table(runs))
    if whole:
        parts.append(whole_table(whole))
    parts += [resolution_table(document["resolutions"]) for document in documents if "resolutions" in document]
    return "\n\n".join(parts) + "\n"


def machine_line(machine: Mapping) -> str:
    lanes = machine["float32_lanes"]
    versions = [f"{NAMES.get(name, name)} {machine[name]}" for name in ("numpy", "numba", *NAMES) if name in machine]
    return (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, vectors of {lanes} float32; "
        f"Python {machine['python']}, {', '.join(versions)}."
    )


def kernel_table(runs: Sequence[Mapping]) -> str:
    """Per family and number of threads: the geometric mean of the ratios, and in brackets the worst."""
    heads = [f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}" for run in runs]
    lines = [
        "| kernels | shapes | beside | " + " | ".join(heads) + " | aim | |",
        "| --- | --- | --- |" + " --- |" * len(runs) + " --- | --- |",
    ]
    for rows in zip(*(run["summary"] for run in runs), strict=True):
        first = rows[0]
        if any(row["family"] != first["family"] for row in rows):
            raise ValueError(f"the runs have other families: {[row['family'] for row in rows]}")
        if first["worst"] is None:
            continue
        cells = [f"{row['ratios'][row['against']]:.2f} ({row['worst']:.2f})" for row in rows]
        aim = ""
        if first["bar"]:
            mean, worst = first["bar"]
            aim = f"{mean:g} ({worst:g})" if worst else f"{mean:g}"
        row = (first["family"], str(first["cases"]), NAMES[first["against"]], *cells, aim, verdict(rows))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def verdict(rows: Sequence[Mapping]) -> str:
    """met by all runs, missed by one; nothing where there is no aim."""
    met = [row["met"] for row in rows if row["met"] is not None]
    return "" if not met else "met" if all(met) else "missed"


def whole_table(rows: Sequence[Mapping]) -> str:
    lines = ["| task | threads | minidetect | others | aim | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        others = ", ".join(f"{NAMES.get(n, n)} {duration(s)}" for n, s in row["seconds"].items() if n != OURS)
        ours = duration(row["seconds"][OURS])
        lines.append(f"| {row['what']} | {row['threads']} | {ours} | {others} | {row['bar']} | {verdict([row])} |")
    return "\n".join(lines)


def resolution_table(rows: Sequence[Mapping]) -> str:
    """A row a model, a column a size of the image."""
    lines = [
        "| one thread, square images | " + " | ".join(str(row["size"]) for row in rows) + " |",
        "| --- |" + " --- |" * len(rows),
    ]
    for name in rows[0]["seconds"]:
        lines.append(f"| {name} | " + " | ".join(duration(row["seconds"][name]) for row in rows) + " |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def with_tables(readme: str, text: str) -> str:
    """README's text with what stands between the markers replaced. Raises ValueError without markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{text}{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--readme", action="store_true", help="rewrite README.md")
    arguments = parser.parse_args()
    text = tables([json.loads(file.read_text()) for file in sorted(arguments.files)])
    if arguments.readme:
        README.write_text(with_tables(README.read_text(), text))
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
