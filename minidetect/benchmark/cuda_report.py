"""What was wanted of the GPU's kernels and what was measured: lines and Markdown, from gpu_kernels.py's JSON alone.

A ratio is PyTorch's time over ours, or the processor's over the GPU's: above 1 we are quicker. A share is of a measured
ceiling: of the bandwidth of a copy, or of multiply-adds on registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from minidetect.benchmark.report import geometric_mean

MEMORY, CONVOLUTIONS = "memory", ("conv forward", "conv input gradient", "conv weight gradient")
SHARE = 0.7  # of the copy's bandwidth, for kernels held up by memory
JUDGED_BYTES = 32e6  # and that move so much: with less, a launch takes as long as the bytes
WORST, AIM = 0.3, 0.6  # of PyTorch's speed, for convolutions: each shape, and the aim for their geometric mean
NMS_BOXES = "10000"


def targets(document: Mapping) -> list[dict]:
    """{name, wanted, measured, met}: at least `wanted`; measured and met are None where nothing was measured."""
    rows, found = document["rows"], []
    for family, mine in by_family(row for row in rows if row["bound"] == MEMORY).items():
        shares = [row["share"] for row in mine if row["bytes"] >= JUDGED_BYTES]
        if shares:
            found.append(target(f"{family}: least share of the copy's bandwidth, large maps", SHARE, min(shares)))
    for family in CONVOLUTIONS:
        ratios = [row["ratio"] for row in rows if row["family"] == family and "ratio" in row]
        found.append(target(f"{family}: least ratio to PyTorch, float32", WORST, min(ratios, default=None)))
        mean = geometric_mean(ratios) if ratios else None
        found.append(target(f"{family}: mean ratio to PyTorch, float32 (aim)", AIM, mean))
    ratios = [r["ratio"] for r in rows if r["family"] == "nms" and NMS_BOXES in r["name"] and "ratio" in r]
    found.append(target("nms of 10,000 boxes: least ratio to torchvision", 1.0, min(ratios, default=None)))
    for row in document["steps"]:
        if row["wanted"]:
            found.append(target(f"training step, {row['name']}: ratio to the processor", row["wanted"], row["ratio"]))
    return found


def target(name: str, wanted: float, measured: float | None) -> dict:
    met = None if measured is None else bool(measured >= wanted)
    return {"name": name, "wanted": wanted, "measured": measured, "met": met}


def by_family(rows: Iterable[Mapping]) -> dict[str, list[Mapping]]:
    families: dict[str, list[Mapping]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    return families


# ------------------------------------------------------------------------------------------- lines as it goes


def ceilings_line(most: Mapping) -> str:
    return (
        f"ceilings: copy {most['copy_gbytes']:.0f} GB/s (driver {most['driver_copy_gbytes']:.0f}, plain kernel "
        f"{most['kernel_copy_gbytes']:.0f}), float32 {most['fma_gflops'] / 1000:.1f} TFLOP/s; a launch takes the GPU "
        f"{duration(most['launch_seconds'])}, Python {duration(most['call_seconds'])}"
    )


def case_line(row: Mapping) -> str:
    torch = f"torch {row['ratio']:.2f}x" if "ratio" in row else row.get("torch_error", "")[:60]
    notes = " ".join(note for note in ("gaps", "in_cache") if row[note])
    return (
        f"  {row['name']:34} {duration(row['seconds']):>10} {speed(row):26} {torch:14} "
        f"call {duration(row['call'])}, with copies {duration(row['copied'])}  {notes}"
    )


def step_line(row: Mapping) -> str:
    copies = row["copies"]
    return (
        f"  {row['name']}: GPU {duration(row['seconds'])}, processor {duration(row['cpu'])}: "
        f"{row['ratio']:.1f}x; {copies_text(copies)}; first call {row['first_call']:.1f} s"
    )


def copies_text(copies: Mapping) -> str:
    return (
        f"{copies['to_gpu']} copies to the GPU ({copies['to_gpu_bytes'] / 1e6:.3g} MB), "
        f"{copies['to_host']} back ({copies['to_host_bytes'] / 1e6:.3g} MB)"
    )


def speed(row: Mapping) -> str:
    """GFLOP/s where arithmetic is what holds a kernel up, GB/s elsewhere, and the share of the ceiling."""
    text = f"{row['gflops']:.0f} GFLOP/s" if row["bound"] == "arithmetic" else f"{row['gbytes']:.0f} GB/s"
    return text + (f", {row['share']:.0%}" if row["share"] is not None else "") if row["bytes"] else ""


def duration(seconds: float) -> str:
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 9.995e-4 else f"{seconds * 1e6:.3g} us"


def target_lines(found: Sequence[Mapping]) -> list[str]:
    return [f"  {t['name']}: {number(t['measured'])} (wanted: {t['wanted']:g}) {verdict(t)}" for t in found]


def number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def verdict(t: Mapping) -> str:
    return {True: "met", False: "MISSED", None: ""}[t["met"]]


# -------------------------------------------------------------------------------------------------- Markdown


def tables(document: Mapping) -> str:
    """The machine, the ceilings, the targets, every case and the training steps."""
    machine = document["machine"]
    names = ("numba_cuda", "driver", "torch", "torchvision", "cpu", "cores", "date")
    facts = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    parts = [f"{machine['gpu']}; {facts}.", ceilings_line(document["ceilings"]).capitalize() + "."]
    if machine["simulated"]:
        parts.insert(0, "**Numba's simulator: no figure here means anything.**")
    parts.append(table(
        ("wanted, at least", "", "measured", ""),
        [(t["name"], f"{t['wanted']:g}", number(t["measured"]), verdict(t).lower()) for t in document["targets"]],
    ))  # fmt: skip
    heads = ("kernel", "shape", "time", "speed, share of the ceiling", "PyTorch", "call", "with copies")
    parts.append(table(heads, [case_cells(row) for row in document["rows"]]))
    if document["steps"]:
        heads = ("training step", "GPU", "processor", "ratio", "copied in a step")
        parts.append(table(heads, [step_cells(row) for row in document["steps"]]))
    for what in ("wrong", "failed", "skipped"):
        parts += [f"{what.capitalize()}: {text}" for text in document[what]]
    return "\n\n".join(parts) + "\n"


def case_cells(row: Mapping) -> tuple[str, ...]:
    """A star: the time has gaps in it. In brackets: all sets of inputs together are no more than twice the cache."""
    time = duration(row["seconds"]) + ("*" if row["gaps"] else "")
    fast = f"({speed(row)})" if row["in_cache"] and speed(row) else speed(row)
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    return row["family"], row["name"], time, fast, ratio, duration(row["call"]), duration(row["copied"])


def step_cells(row: Mapping) -> tuple[str, ...]:
    times = duration(row["seconds"]), duration(row["cpu"])
    return row["name"], *times, f"{row['ratio']:.1f}", copies_text(row["copies"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
