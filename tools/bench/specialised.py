"""A pipeline that holds only what a point of the search needs, beside one that computes all.

The general pipeline keeps 50 packets of a flow and computes every column of the view
`features`; a model then takes those that it wants. The specialised one regroups to the
point's depth and does the work that its columns name (gpu/features.py). Both run the same C
code, by another plan. Processor time a flow, on the flows of the recordings, beside a
reference (etcpipe/tune/timing.py); inference is the same in both and left out.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import ROOT, Goal, Report, Samples, Table, parser, progress, quick_note

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.capture import Capture
from etcpipe.gpu import features_cpu, features_native
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS
from etcpipe.tune.cost import FLOWS, Cost, Profiler
from etcpipe.tune.timing import Stopwatch

REPEATS = 3
DEEPEST = 50
EVERY = VIEWS["features"].column_names("none")
SIX = ("dur", "s_bytes_mean", "d_bytes_max", "s_iat_mean", "d_bytes_std", "psh_cnt")


@dataclass(frozen=True)
class Point:
    """Columns and packets."""

    name: str
    columns: tuple[str, ...]
    depth: int


POINTS = (
    Point("one count", ("d_pkt_cnt",), 3),
    Point("three sums", ("dur", "s_bytes_sum", "d_bytes_sum"), 3),
    Point("six", SIX, 3),
    Point("six", SIX, 10),
    Point("six", SIX, 50),
    Point("medians", ("s_bytes_med", "d_bytes_med", "s_iat_med"), 10),
    Point("stats, strict mask", VIEWS["stats"].column_names(), 10),
    Point("stats", VIEWS["stats"].column_names("none"), 10),
    Point("all", EVERY, 10),
    Point("all", EVERY, DEEPEST),
)
AIM, GENERAL = POINTS[2], POINTS[-1]


class NoModel:
    """Stands where a model would be: what is measured is what comes before it."""

    def infer(self, rows: np.ndarray) -> np.ndarray:
        return rows


def read_flows(paths: list[Path]) -> FlowBatch:
    """Return the flows of captures, DEEPEST packets of each."""
    ready = []
    for path in paths:
        regroup = Regroup(DEEPEST)
        capture = Capture([path], first_n=DEEPEST)
        ready += [regroup.add(batch, capture.clock_ns()) for batch in capture]
        ready.append(regroup.flush())
    return concatenate([part for part in ready if len(part)])


def numpy_ns(flows: FlowBatch, point: Point, watch: Stopwatch) -> float:
    """Return what the definition takes for a flow."""
    some = flows.select(np.arange(FLOWS) % len(flows))
    cut = FlowBatch(**vars(some) | {"packets": some.packets[:, : point.depth].copy()})
    pieces = {"rows": lambda: features_cpu.rows(cut, point.depth, point.columns)}
    return watch.time(pieces, repeats=10)["rows"].median / FLOWS


def plan_us(columns: tuple[str, ...]) -> float:
    """Return how long it takes to specialise, the median of 100."""
    took = []
    for _ in range(100):
        began = time.perf_counter()
        features_native.Plan(columns).at_depth(10)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1e6


def table_of(costs: dict[Point, list[Cost]], flows: FlowBatch) -> Table:
    """Return a row a point, with its ratio to the general pipeline."""
    columns = ["columns", "of them", "packets", "regrouping, ns", "extraction, ns", "by NumPy, ns"]
    columns += ["general / specialised: extraction", "with regrouping", "plan made in, µs"]
    table = Table("Processor time a flow (median of repeats)", columns)
    general, watch = costs[GENERAL], Stopwatch()
    for point, measured in costs.items():
        extract, whole = (ratio(general, measured, of) for of in (extract_ns, both_ns))
        regroup = Samples([one.regroup_ns for one in measured])
        table.rows.append(
            [
                point.name,
                str(len(point.columns)),
                str(point.depth),
                f"{regroup.median:,.0f}",
                f"{Samples([one.extract_ns for one in measured]).median:,.0f}",
                f"{numpy_ns(flows, point, watch):,.0f}",
                f"{extract.median:.1f} ({min(extract.values):.1f} .. {max(extract.values):.1f})",
                f"{whole.median:.1f} ({min(whole.values):.1f} .. {max(whole.values):.1f})",
                f"{plan_us(point.columns):.0f}",
            ]
        )
    return table


def extract_ns(cost: Cost) -> float:
    return cost.extract_ns


def both_ns(cost: Cost) -> float:
    return cost.extract_ns + cost.regroup_ns


def ratio(general: list[Cost], specialised: list[Cost], of) -> Samples:
    """Return how many times a cost the general pipeline takes, by repeat."""
    return Samples([of(a) / of(b) for a, b in zip(general, specialised, strict=True)])


def main() -> None:
    options = parser(__doc__.splitlines()[0], REPEATS)
    options.add_argument("recordings", nargs="*", type=Path, help="default: those of the tests")
    options = options.parse_args()
    repeats = options.repeats or (1 if options.quick else REPEATS)
    paths = options.recordings or sorted((ROOT / "tests" / "data" / "lab").glob("*.pcap"))
    flows = read_flows(paths)
    points = (AIM, GENERAL) if options.quick else POINTS
    costs: dict[Point, list[Cost]] = {point: [] for point in points}
    for repeat in range(repeats):
        progress(f"specialised: repeat {repeat + 1} of {repeats}")
        profiler = Profiler(flows, "features")
        for point in points:
            costs[point].append(profiler.measure(point.columns, point.depth, NoModel()))
    report = Report("specialised", "Specialised against general pipeline", {})
    report.tables.append(table_of(costs, flows))
    report.results = {
        f"{point.name} at {point.depth}": [vars(cost) for cost in measured]
        for point, measured in costs.items()
    }
    disturbed = sum(cost.is_disturbed for measured in costs.values() for cost in measured)
    report.notes = [
        f"{len(flows)} flows of {len(paths)} recordings, {FLOWS} drawn of them.",
        f"Measured on a machine too busy to trust: {disturbed} of {repeats * len(points)}.",
    ]
    if options.quick:
        report.notes.append(quick_note())
    else:
        six = ratio(costs[GENERAL], costs[AIM], both_ns)
        report.goals.append(
            Goal(
                "general / specialised, six columns at 3 packets",
                "above 1",
                six.text(1),
                six.median > 1,
            )
        )
    report.show(options.json)


if __name__ == "__main__":
    main()
