"""All cases, and a run over them: the roofs first, then family by family, at one number of threads."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence

from minidetect.benchmark.boxes import box_cases
from minidetect.benchmark.conv import conv_cases
from minidetect.benchmark.layers import layer_cases
from minidetect.benchmark.machine import memory_gbytes, peak_gflops
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.report import case_line, summarise
from minidetect.benchmark.timing import Case, WrongResultError, run_case
from minidetect.kernels.dispatch import set_num_threads

Say = Callable[[str], None]


def all_cases(short: bool = False, families: Sequence[str] = ()) -> list[Case]:
    """short: a few of each family. families: beginnings of their names, such as "conv"; none for all."""
    cases = [*conv_cases(), *layer_cases(), *box_cases()]
    wanted = tuple(families) or ("",)
    chosen = [case for case in cases if case.family.startswith(wanted) and (case.short or not short)]
    order = list(dict.fromkeys(case.family for case in cases))
    return sorted(chosen, key=lambda case: order.index(case.family))


def run_suite(cases: Sequence[Case], peers: Peers, budget: float, say: Say = print) -> dict:
    """Run the cases with `peers.threads` threads, each for about `budget` seconds.

    Returns what goes into the JSON: threads, roofs (GFLOP/s and GB/s), results, their summary, `wrong`, what there
    is to say of the cases whose result was wrong (these are not timed), and `load`, see `busy_processors`.
    """
    set_num_threads(peers.threads)
    load = busy_processors()
    if load > 0.5:
        say(f"{load:.1f} processors are busy already: read the ratios only, and none of several threads")
    roofs = {"gflops": peak_gflops(peers.threads), "gbytes": memory_gbytes()}
    measured = ", ".join(f"{value:.0f} GFLOP/s ({name})" for name, value in roofs["gflops"].items())
    say(f"{peers.threads} thread{'s' if peers.threads > 1 else ''}: at most {measured}, {roofs['gbytes']:.1f} GB/s")
    results, wrong, family = [], [], ""
    for case in cases:
        if case.family != family:
            family = case.family
            say(family)
        try:
            results.append(run_case(case, peers, budget).as_json())
            say(case_line(results[-1], roofs))
        except WrongResultError as error:
            wrong.append(str(error))
            say(f"  WRONG {error}")
        gc.collect()
    return {
        "threads": peers.threads, "load": load, "roofs": roofs, "results": results, "wrong": wrong,
        "summary": summarise(results),
    }  # fmt: skip


def busy_processors() -> float:
    """How many processors this machine used of late (a minute's mean); 0 where the system doesn't tell.

    Threads that wait for each other suffer most from company: where one is put aside for a time slice, all are.
    """
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0
