"""Measures regrouping on the GPU beside the CPU path and the paper's, as the paper's table has it.

    python tools/bench/gpu.py [--quick] [--json]

For each feature set and number of flows: milliseconds from packets in memory to dense features,
by the paper's CPU algorithm restated (paper_fe.c), etcpipe's CPU path and etcpipe's GPU path.
Where there is no GPU its columns say "not measured".
"""

import os
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import common
import numpy as np
import paper_fe
from common import NOT_MEASURED, Goal, Report, Samples, Table
from flow_load import CASES, Case, Load
from gpu_device import open_gpu
from gpu_timing import (
    CPU,
    LATENCY_CASE,
    LATENCY_FLOWS,
    PAPER,
    SCATTER,
    SORTED,
    TRANSFERS,
    Times,
    latencies,
    measure,
)

from etcpipe import model as models

FLOWS = (10, 30, 100, 256, 1000, 10_000)
CORES = 3  # the paper compares with one and with three
GOAL_CASE, GOAL_FLOWS = CASES[2], 256
GOAL_PAPER, GOAL_LINK = 20, 0.7

Results = dict[tuple[Case, int], Times]
Sizes = dict[tuple[Case, int], int]


def speed_table(
    results: Results, sizes: Sizes, cores: tuple[int, ...], link: float | None
) -> Table:
    """Return milliseconds of all ways, a row for each feature set and number of flows."""
    ways = [name.format(n) for n in cores for name in (PAPER, CPU)] + [SCATTER, SORTED, TRANSFERS]
    table = Table(
        "Milliseconds from packets in memory to features (median, MAD)",
        ["features", "flows", *ways, "PCIe limit"],
    )
    for (case, flows), times in results.items():
        limit = f"{sizes[case, flows] / link * 1e3:.3f}" if link else NOT_MEASURED
        cells = [_milliseconds(times.get(way)) for way in ways]
        table.rows.append([case.name, f"{flows:,}", *cells, limit])
    return table


def latency_table(found: dict[str, Times]) -> Table:
    """Return p50 and p99 on each device."""
    table = Table(
        f"Milliseconds from a batch's last packet, {LATENCY_FLOWS} flows x 10 x 1,000 bytes",
        ["device", "until", "p50", "p99"],
    )
    for device, times in found.items():
        for name, (p50, p99) in _percentiles(times).items():
            table.rows.append([device, name, f"{p50:.3f}", f"{p99:.3f}"])
    if "gpu" not in found:
        table.rows.append(["gpu", "features, logits", NOT_MEASURED, NOT_MEASURED])
    return table


def goals(results: Results, sizes: Sizes, link: float | None) -> list[Goal]:
    """Return the project's goals for the GPU: without one they are not measured."""
    times = results.get((GOAL_CASE, GOAL_FLOWS), {})
    ratios: list[float | None] = [None, None, None]
    if SCATTER in times and link:
        took = times[SCATTER].median
        many = times.get(CPU.format(CORES))
        ratios = [
            times[PAPER.format(1)].median / took,
            many.median / took if many else None,
            sizes[GOAL_CASE, GOAL_FLOWS] / took / link,
        ]
    where = f"{GOAL_CASE.name}, {GOAL_FLOWS} flows"
    measures = [
        (f"GPU / one core of the paper's algorithm, {where}", GOAL_PAPER),
        (f"GPU / {CORES} cores of etcpipe, {where}", 1),
        (f"share of the PCIe limit, {where}", GOAL_LINK),
    ]
    return [
        Goal(measure, f">= {goal}", NOT_MEASURED, None)
        if ratio is None
        else Goal(measure, f">= {goal}", f"{ratio:.2f}", ratio >= goal)
        for (measure, goal), ratio in zip(measures, ratios, strict=True)
    ]


def notes(repeats: int, runs: int, cores: int) -> list[str]:
    """Return what a reader must know of the figures."""
    return [
        f"Wall time, the processes pinned; {repeats} repeats, each of some runs that take "
        f"milliseconds together; latency: {runs} batches, on the GPU by its events.",
        "Packets of all flows in random order, headers included in the bytes kept, nothing "
        "masked. paper: one packet at a time into doubles, one table a core. etcpipe: batches of "
        "1,024; flow id and rank are known, as from the kernel, except in sort + scan.",
        "PCIe limit: the frames' bytes at the rate of one plain copy from pinned memory.",
        "The paper has for 100 flows, in ms on 1 core, 3 cores and its GPU: [5,500] 3.0, 1.15, "
        "0.70; [10,500] 4.15, 1.72, 1.38; [10,1000] 6.5, 2.5, 2.66; 10 sizes 1.36, 0.88, 0.09; "
        "1 x 786 2.77, 1.11, 0.27.",
        *([] if cores == CORES else [f"{CORES} cores: {NOT_MEASURED}, there are {cores} here."]),
    ]


def measured(
    flows: Sequence[int], within_s: float, measure_one: Callable[[Load, Case], Times]
) -> tuple[Results, Sizes]:
    """Return the seconds of all ways, and the bytes of the frames, in the order of the table.

    The case of the goals comes first: it is what must not be missing when time runs out.

    Args:
        within_s: what is not begun by then has no seconds.
    """
    results: Results = {}
    sizes: Sizes = {}
    until = time.monotonic() + within_s
    for case in sorted(CASES, key=lambda case: case != GOAL_CASE):
        for n in flows:
            common.progress(f"{case.name}, {n:,} flows")
            load = Load(case, n)
            sizes[case, n] = load.frame_bytes
            results[case, n] = measure_one(load, case) if time.monotonic() < until else {}
    return {key: results[key] for key in product(CASES, sorted(flows))}, sizes


def main() -> None:
    """Measure what can be measured here, and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--flows", type=int, nargs="+", help="numbers of flows")
    parser.add_argument(
        "--within",
        type=float,
        default=np.inf,
        metavar="SECONDS",
        help="begin no other measurement after them: the report says which",
    )
    parser.add_argument("--model", type=Path, help="model for the latency, else the default one")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else options.default_repeats)
    flows = options.flows or (FLOWS[:1] if options.quick else FLOWS)
    runs = 20 if options.quick else 500
    cores = tuple(sorted({1, min(CORES, len(os.sched_getaffinity(0)))}))
    library = paper_fe.compile_library(options.work)
    gpu, name = open_gpu()
    report = Report("gpu", "Packets to features: CPU and GPU", {"GPU": name})

    way = library, cores, gpu, repeats
    results, sizes = measured(flows, options.within, lambda load, case: measure(load, case, *way))
    common.progress("latency")
    found = {"cpu": latencies(models.load(options.model), runs)}
    if gpu:
        found["gpu"] = gpu.latencies(Load(LATENCY_CASE, LATENCY_FLOWS), LATENCY_CASE, runs)
    link = gpu.link_bytes_a_second() if gpu else None

    report.tables = [speed_table(results, sizes, cores, link), latency_table(found)]
    report.goals = [] if options.quick else goals(results, sizes, link)
    report.results = {
        "seconds": {
            f"{case.name}, {n} flows": {way: taken.summary() for way, taken in times.items()}
            for (case, n), times in results.items()
        },
        "latency_ms": {device: _percentiles(times) for device, times in found.items()},
        "link_bytes_a_second": link or NOT_MEASURED,
    }
    report.notes = notes(repeats, runs, max(cores))
    report.notes += [common.quick_note()] if options.quick else []
    report.show(options.json)


def _milliseconds(samples: Samples | None) -> str:
    if samples is None:
        return NOT_MEASURED
    return f"{samples.median * 1e3:.3f} ({samples.mad * 1e3:.3f})"


def _percentiles(times: Times) -> dict[str, list[float]]:
    """Return p50 and p99 in milliseconds."""
    return {
        name: (np.percentile(samples.values, [50, 99]) * 1e3).tolist()
        for name, samples in times.items()
    }


if __name__ == "__main__":
    main()
