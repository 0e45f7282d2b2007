"""What the figures add up to: geometric means a family, the bars they are held against, text and plot.

A ratio is a peer's time over ours: above 1 we are quicker. A family's mean is geometric, so that twice as fast
here and half as fast there cancel out. `fastest` means the quickest peer of each case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from minidetect.benchmark.timing import OURS
from minidetect.visualize import COLOURS, new_figure, save_png

FASTEST = "fastest"


class Bar(NamedTuple):
    """What a family should reach: a geometric mean, and a ratio that no case may fall below (0: none)."""

    against: str
    mean: float
    worst: float = 0.0


BARS: dict[str, Bar] = {
    "conv forward": Bar("torch", 1.2, 0.9),
    "conv input gradient": Bar("torch", 1.0, 0.7),
    "conv weight gradient": Bar("torch", 1.0, 0.7),
    "depthwise forward": Bar("torch", 1.5),
    "depthwise backward": Bar("torch", 1.5),
} | {
    family: Bar(FASTEST, 2.0)
    for family in (
        "prelu forward", "prelu backward", "batch norm train", "batch norm inference", "batch norm backward",
        "max pool values", "max pool winners", "max pool backward", "roi pool forward", "roi pool backward", "nms",
    )
}  # fmt: skip


def geometric_mean(values: Sequence[float]) -> float:
    """NaN for no values."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def ratio_to(result: Mapping, peer: str) -> float | None:
    """The ratio of one case to a peer, or to the fastest of its peers; None where it has none."""
    ratios = result["ratio"]
    return min(ratios.values(), default=None) if peer == FASTEST else ratios.get(peer)


def summarise(results: Sequence[Mapping]) -> list[dict]:
    """One entry a family, in the order of the results (as `Result.as_json` gives them).

    ratios: the geometric mean to each peer and to the fastest; worst: the lowest ratio to the peer that the
    bar names (to the fastest where there is no bar) and its case; met: whether the bar is reached, None where
    there is no bar or no such peer.
    """
    families: dict[str, list[Mapping]] = {}
    for result in results:
        families.setdefault(result["family"], []).append(result)
    return [summarise_family(family, cases) for family, cases in families.items()]


def summarise_family(family: str, cases: Sequence[Mapping]) -> dict:
    peers = sorted({peer for case in cases for peer in case["ratio"]})
    ratios = {}
    for peer in (*peers, FASTEST) if peers else ():
        known = [ratio for case in cases if (ratio := ratio_to(case, peer)) is not None]
        ratios[peer] = geometric_mean(known)
    bar = BARS.get(family)
    against = bar.against if bar else FASTEST
    worst = min(((r, c["name"]) for c in cases if (r := ratio_to(c, against)) is not None), default=None)
    met = None
    if bar and worst:
        met = ratios[against] >= bar.mean and worst[0] >= bar.worst
    return {
        "family": family, "cases": len(cases), "ratios": ratios, "against": against,
        "worst": worst and worst[0], "worst_case": worst and worst[1],
        "bar": bar and [bar.mean, bar.worst], "met": met,
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------- text


def roof_gflops(intensity: float, roofs: Mapping) -> float:
    """The most that a kernel of `intensity` flops a byte can reach when its arrays come from memory."""
    return min(max(roofs["gflops"].values()), intensity * roofs["gbytes"])


def speed(result: Mapping, roofs: Mapping) -> str:
    """What a case achieves: `71 GFLOP/s, 60 %` of the roof, or `9.1 GB/s` of least traffic where it has no flops.

    A small map stays in cache and may so exceed the roof, which is that of memory.
    """
    seconds = result["seconds"][OURS]
    if not result["flops"]:
        gbytes = result["bytes"] / seconds / 1e9
        return f"{gbytes:6.1f} GB/s    {gbytes / roofs['gbytes']:4.0%} of memory"
    gflops = result["flops"] / seconds / 1e9
    share = gflops / roof_gflops(result["flops"] / result["bytes"], roofs)
    return f"{gflops:6.1f} GFLOP/s {share:4.0%} of the roof"


def case_line(result: Mapping, roofs: Mapping) -> str:
    against = "  ".join(f"{peer} {ratio:.2f}x" for peer, ratio in result["ratio"].items())
    milliseconds = result["seconds"][OURS] * 1000
    return f"  {result['name']:42} {milliseconds:9.3f} ms {speed(result, roofs):27}  {against}"


def summary_lines(summary: Sequence[Mapping]) -> list[str]:
    """The table of families; peers' columns only where a peer was there."""
    peers = [p for p in ("torch", "onnxruntime", "opencv", FASTEST) if any(p in row["ratios"] for row in summary)]
    if not peers:
        return ["no peer is installed (pip install minidetect[peers]): nothing to compare with"]
    lines = [f"{'family':22} {'cases':>5} " + " ".join(f"{p:>11}" for p in peers) + f"  {'worst':>6}  bar"]
    for row in summary:
        means = " ".join(f"{row['ratios'][p]:>10.2f}x" if p in row["ratios"] else " " * 11 for p in peers)
        worst = f"{row['worst']:5.2f}x" if row["worst"] else " " * 6
        lines.append(f"{row['family']:22} {row['cases']:5} {means}  {worst}  {bar_text(row)}")
    return lines


def bar_text(row: Mapping) -> str:
    if not row["bar"] or row["met"] is None:
        return ""
    mean, worst = row["bar"]
    wanted = f"{row['against']} {mean:g}x" + (f", none below {worst:g}x" if worst else "")
    return wanted + (": met" if row["met"] else f": MISSED ({row['worst_case']} is the worst)")


# ----------------------------------------------------------------------------------------------- plot


def plot_roofline(runs: Sequence[Mapping], file: str | Path | None = None) -> Figure:
    """GFLOP/s against flops a byte of least traffic, one panel a number of threads, under the measured roofs.

    runs: of the JSON; cases without flops are left out. A dot is ours, a small cross the quickest peer.
    """
    figure = new_figure(6.5 * max(len(runs), 1), 4.8)
    for i, run in enumerate(runs):
        ax = figure.add_subplot(1, len(runs), i + 1, xscale="log", yscale="log")
        cases = [case for case in run["results"] if case["flops"]]
        families = list(dict.fromkeys(case["family"] for case in cases))
        for colour, family in zip(COLOURS[1:] * 3, families, strict=False):
            mine = [case for case in cases if case["family"] == family]
            x = [case["flops"] / case["bytes"] for case in mine]
            best = [min((s for p, s in case["seconds"].items() if p != OURS), default=math.nan) for case in mine]
            ax.plot(x, [c["flops"] / s / 1e9 for c, s in zip(mine, best, strict=True)], "x", color=colour, ms=4)
            y = [case["flops"] / case["seconds"][OURS] / 1e9 for case in mine]
            ax.plot(x, y, "o", color=colour, ms=5, label=family)
        draw_roofs(ax, run["roofs"], [case["flops"] / case["bytes"] for case in cases])
        ax.set(
            xlabel="arithmetic intensity, flop / byte of least traffic", ylabel="GFLOP/s",
            title=f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}",
        )
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=7, title="dot: minidetect, cross: quickest peer", title_fontsize=7)
    if file is not None:
        save_png(figure, file)
    return figure


def draw_roofs(ax, roofs: Mapping, intensities: Sequence[float]) -> None:
    peak, memory = max(roofs["gflops"].values()), roofs["gbytes"]
    low, high = min(intensities, default=0.5) / 1.5, max(intensities, default=50.0) * 1.5
    ridge = min(max(peak / memory, low), high)
    xs = [low, ridge, high]
    ax.plot(xs, [roof_gflops(x, roofs) for x in xs], color="black", linewidth=1)
    ax.annotate(f"{peak:.0f} GFLOP/s", (high, peak), ha="right", va="bottom", fontsize=8)
    ax.annotate(f"memory {memory:.0f} GB/s", (low, low * memory), ha="left", va="bottom", fontsize=8)
