"""Measures the kernel side: what the tap costs a packet, its way, the consumer, and memory.

    python tools/bench/kernel.py [--quick] [--json]          needs root, clang, gcc

Each figure stands beside its floor of the same run: a program that only passes, the parser
alone, a look-up in the kernel's hash map alone, the way without a program.
"""

import os
from collections import Counter

import both_ways
import common
import packet_cost
import paired
import path_cost
from common import Goal, Report, Samples, Table
from packet_cost import SMALL, Cost, Row
from path_cost import EMPTY, NONE, TAP, Drain

HOT_GOAL_NS = 60
LARGE_GOAL_NS = 200
PATH_GOAL = 1.10
PATH_REPEATS = 4  # times those of the other measures: they are short and noisy
DRAIN_GOAL_NS = 150
LATENCY_GOAL_MS = 1.5

HOT = Row("known flow past N, TCP over IPv4", "xdp_track")
FIRST_FLOWS, FIRST_PASSES = 1000, 60  # packets of a flow that are measured, fewer than N
WALKS = (1_000, 32_000, 262_000, 1_000_000)
FLOOR_PROGRAMS = ("xdp_touch", "xdp_await", "xdp_find", "xdp_find_hash")


def rows(walks: tuple[int, ...] = WALKS) -> list[Row]:
    """Return all rows of the table of costs."""
    return [
        Row("floor: parser alone, IPv4", "xdp_parse"),
        Row("floor: parser alone, IPv6", "xdp_parse", version=6),
        Row("floor: parser and look-up, IPv4", "xdp_find"),
        Row("floor: parser and look-up, IPv6", "xdp_find", version=6),
        HOT,
        Row("the same, TC hook", "tc_track"),
        Row("the same, TCP over IPv6", "xdp_track", version=6),
        Row(
            "first-N packet",
            "xdp_track",
            tap="first",
            flows=FIRST_FLOWS,
            runs=FIRST_FLOWS * FIRST_PASSES,
            meets="first",
        ),
        Row("new flow, full table of 65,536", "xdp_track", tap="full", flows=SMALL, meets="new"),
        *(walk_row(flows, name) for flows in walks for name in (*FLOOR_PROGRAMS, "xdp_track")),
    ]


def walk_row(flows: int, program: str) -> Row:
    """Return the row of packets of flows drawn at random from a table of 1,048,576."""
    what = {
        "xdp_touch": "floor: an array's entry touched",
        "xdp_await": "floor: an array's entry waited for",
        "xdp_find": "floor: parser and look-up",
        "xdp_find_hash": "floor: parser and look-up, map without LRU",
        "xdp_track": "known flow past N",
    }
    return Row(f"{what[program]}, {flows:,} flows", program, tap="large", flows=flows)


def cost_table(costs: dict[Row, Cost]) -> Table:
    """Return ns a packet over a program that only passes."""
    result = Table(
        "A packet's cost by test runs, ns over a program that only passes",
        ["what", "program", "smallest", "median"],
    )
    for row, cost in costs.items():
        middle = Samples(cost.ns).median - Samples(cost.floor_ns).median
        result.rows.append([row.name, row.program, str(cost.net_ns), f"{middle:.0f}"])
    return result


def path_table(path: dict[str, list[float]]) -> Table:
    """Return ns a packet of the whole way."""
    result = Table(
        "A packet's whole way on one processor, ns",
        ["on the router's device", "smallest", "x", "median (min .. max, MAD)", "x"],
    )
    for case, values in path.items():
        smallest = [f"{min(values):,.0f}", f"{path_ratio(path, case):.2f}"]
        result.rows.append(
            [case, *smallest, Samples(values).text(0), paired.ratio(values, path[NONE]).text()]
        )
    return result


def path_ratio(path: dict[str, list[float]], case: str) -> float:
    """Return the ratio of the smallest ways, the case's to that without a program."""
    return min(path[case]) / min(path[NONE])


def drain_table(drain: Drain) -> Table:
    """Return what draining the ring took."""
    result = Table("Draining the AF_XDP ring, every packet mirrored", ["measure", "value"])
    named = [
        ("sender, thousand packets/s", drain.sent_kpps),
        (f"consumer's CPU, ns a packet, {path_cost.GATHER} bytes gathered", drain.cpu_ns),
        ("the same of a ring filled before, nobody sending", drain.full_cpu_ns),
        ("packets a batch", drain.batch),
        ("latency, median, ms", drain.p50_ms),
        ("latency, 99th percentile, ms", drain.p99_ms),
        ("longest time between two batches, ms", drain.pause_ms),
    ]
    room_ms = path_cost.RING_SIZE / max(drain.sent_kpps)
    named.append(("what the ring has room for at that rate, ms", [room_ms]))
    result.rows = [[name, Samples(values).text()] for name, values in named]
    lost = sum(map(Counter, drain.lost), Counter())
    reasons = ", ".join(f"{name} {n}" for name, n in lost.items()) or "0"
    result.rows.append(["lost, all repeats", reasons])
    result.rows.append(["unaccounted for", str(sum(map(abs, drain.missing)))])
    return result


def goals(costs: dict[Row, Cost], path: dict[str, list[float]], drain: Drain) -> list[Goal]:
    """Return the project's goals for the kernel side beside what was measured."""
    large = walk_row(WALKS[-1], "xdp_track")
    least, floor = (costs[walk_row(WALKS[-1], name)].net_ns for name in ("xdp_await", "xdp_find"))
    hot_ns, large_ns = costs[HOT].net_ns, costs[large].net_ns
    ratio, floor_ratio = path_ratio(path, TAP), path_ratio(path, EMPTY)
    cpu_ns, p99_ms = min(drain.cpu_ns), min(drain.p99_ms)
    lost = sum(sum(reasons.values()) for reasons in drain.lost) + sum(map(abs, drain.missing))
    return [
        Goal(HOT.name, f"<= {HOT_GOAL_NS} ns", f"{hot_ns} ns", hot_ns <= HOT_GOAL_NS),
        Goal(
            large.name,
            f"<= {LARGE_GOAL_NS} ns",
            f"{large_ns} ns; the look-up alone {floor} ns, one access to memory {least} ns",
            large_ns <= LARGE_GOAL_NS,
        ),
        Goal(
            "whole way, etcpipe / no program",
            f"<= {PATH_GOAL:.2f}",
            f"{ratio:.2f}; an empty program {floor_ratio:.2f}",
            ratio <= PATH_GOAL,
        ),
        Goal(
            "drain, CPU a packet",
            f"<= {DRAIN_GOAL_NS} ns",
            f"{cpu_ns:.0f} ns; of a ring filled before {min(drain.full_cpu_ns):.0f} ns",
            cpu_ns <= DRAIN_GOAL_NS,
        ),
        Goal(
            "drain, latency p99",
            f"< {LATENCY_GOAL_MS} ms",
            f"{p99_ms:.2f} ms",
            p99_ms < LATENCY_GOAL_MS,
        ),
        Goal("drain, packets lost or unaccounted for", "0", str(lost), lost == 0),
    ]


def main() -> None:
    """Measure and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=15)
    options = parser.parse_args()
    common.need_root()
    if os.cpu_count() < 2:
        parser.error("needs two processors: the sender and the consumer each take one")
    repeats = options.repeats or (1 if options.quick else options.default_repeats)
    runs, packets = (10_000, 10_000) if options.quick else (200_000, 20_000)

    versions = {
        "clang": common.tool_version(["clang", "--version"], r"version ([\d.]+)"),
        "gcc": common.tool_version(["gcc", "--version"], r" ([\d.]+)\n"),
    }
    report = Report("kernel", "The kernel side", versions)
    common.progress("test runs")
    costs, bytes_a_flow = packet_cost.measure(rows(), repeats, runs)
    ways = both_ways.measure(repeats, runs)
    path = path_cost.measure_path(PATH_REPEATS * repeats, packets, options.work)
    drain = path_cost.measure_drain(min(repeats, 5), 15 * packets, options.work)
    memory = Table("Memory, flow table of 1,048,576 entries", ["bytes a flow", "MB"])
    memory.rows = [[f"{bytes_a_flow:.0f}", f"{bytes_a_flow * packet_cost.LARGE / 1e6:.0f}"]]
    tables = [cost_table(costs), both_ways.table(ways), path_table(path), drain_table(drain)]
    report.tables = [*tables, memory]
    report.goals = [] if options.quick else goals(costs, path, drain)
    report.notes = _notes(repeats) + ([common.quick_note()] if options.quick else [])
    report.results = {
        "costs": {
            row.name: {**vars(cost), "net_ns": cost.net_ns, "program": row.program}
            for row, cost in costs.items()
        },
        "both_ways": {" ".join(map(str, case)): ns for case, ns in ways.items()},
        "path": {case: Samples(values).summary() for case, values in path.items()},
        "drain": vars(drain),
        "bytes_a_flow": bytes_a_flow,
    }
    report.show(options.json)


def _notes(repeats: int) -> list[str]:
    return [
        f"{repeats} interleaved repeats, on one processor at real-time priority. Test runs: the "
        "smallest mean of a repeat, less that of the passing program; median: the same of the "
        "medians. Goals are read from the smallest.",
        "Flows of a walk are drawn at random, as neighbours in memory must not follow one "
        "another. An array's entry is the least that one flow's memory can cost: touched, it "
        "overlaps with the next packet; waited for, it does not.",
        "While the other processor has packets: as test runs, one processor each direction; "
        "smallest (median) of the repeats.",
        "Whole way: one UDP flow; sender, veth, router, veth, dropped by the server's route. "
        f"{PATH_REPEATS * repeats} repeats in random order; x: the ratio to no program, of the "
        "smallest, and the median of the ratios within a repeat (95 % interval by bootstrap).",
    ]


if __name__ == "__main__":
    main()
