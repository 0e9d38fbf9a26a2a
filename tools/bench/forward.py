"""Measures TCP through the lab's router, without and with etcpipe attached.

    python tools/bench/forward.py [--quick] [--json]          needs root

The end hosts' default offloads first (super-packets of 64 kB), then with TSO off, packets as
on a wire, beside a TC program that does nothing: the least that any program costs. Cases are
interleaved. After every run with etcpipe the first packets of all flows are accounted for:
what the tracker selected = what came to the model + every counted loss.
"""

import os
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field

import bed as beds
import common
from common import Goal, Report, Samples, Table

STREAMS = (1, 8, 32, 128)
SECONDS = 3.0
RATIO_GOAL = 0.95
SETTLE_S = 0.3  # for what is still on its way when iperf3 has ended

ARRIVED = [
    f"REGROUP_{name}"
    for name in ("STORED", "DUPLICATES", "LATE", "STRAGGLERS", "BEYOND", "UNPARSED")
]
NONE, EMPTY, ATTACHED = "without", "empty tc program", "etcpipe attached"


@dataclass(frozen=True)
class Case:
    """A way to run the router: with super-packets or not, and what is attached."""

    segmentation: bool
    attached: str

    def __str__(self) -> str:
        return f"{self.offloads}, {self.attached}"

    @property
    def offloads(self) -> str:
        return "default offloads" if self.segmentation else "TSO off"


CASES = [
    Case(True, NONE),
    Case(True, ATTACHED),
    Case(False, NONE),
    Case(False, EMPTY),
    Case(False, ATTACHED),
]


@dataclass
class Account:
    """Where the first packets of the flows of one run went.

    Attributes:
        expected: packets that the tracker selected.
        arrived: of them, came out of the socket.
        lost: of them, by the reason under which they were counted.
        flows: flows judged.
        first_n: packets of a flow that are asked for.
        connections: made by iperf3, its control connection included.
    """

    expected: int
    arrived: int
    lost: dict[str, int]
    flows: int
    first_n: int
    connections: int

    @property
    def missing(self) -> int:
        """Packets under no name: 0, or the accounting is wrong."""
        return self.expected - self.arrived - sum(self.lost.values())

    @property
    def in_theory(self) -> int:
        """Packets that must have been selected: each connection has more than N of them."""
        return self.first_n * self.connections


@dataclass
class Runs:
    """All repeats of one case with one number of streams."""

    gbits: list[float] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def account(consumer: beds.Consumer, streams: int) -> Account:
    """Return the accounting of one run from what the consumer counted."""
    result = consumer.result
    counters = result["counters"]
    return Account(
        expected=counters["PACKETS_FIRST_N"],
        # Regrouping counts each packet that it is given under exactly one of these.
        arrived=sum(counters[name] for name in ARRIVED),
        lost=result["lost"],
        flows=result["flows"],
        first_n=consumer.ready["first_n"],
        connections=streams + 1,
    )


def measure_once(bed: beds.Bed, case: Case, streams: int, options) -> tuple[float, Account | None]:
    """Return Gbit/s of one run, and its accounting if etcpipe was attached."""
    bed.set_segmentation(case.segmentation)
    consumer = beds.Consumer(bed)
    attached = {NONE: nullcontext(), EMPTY: beds.empty_program(bed, options.work)}
    with attached.get(case.attached, consumer):
        gbits = bed.throughput(streams, options.seconds, (0, os.cpu_count() - 1), options.fifo)
        time.sleep(SETTLE_S)
    return gbits, account(consumer, streams) if case.attached == ATTACHED else None


def measure(options) -> dict[tuple[Case, int], Runs]:
    """Return the runs of every case, by case and streams."""
    runs = {(case, n): Runs() for n in options.streams for case in CASES}
    with beds.bed() as bed:
        for n, case in common.interleaved(options, CASES):
            gbits, accounted = measure_once(bed, case, n, options)
            runs[case, n].gbits.append(gbits)
            if accounted:
                runs[case, n].accounts.append(accounted)
    return runs


def throughput_table(runs: dict, streams: list[int]) -> Table:
    """Return Gbit/s of every case and its ratio to the router without a program."""
    result = Table(
        "TCP through the router, Gbit/s",
        ["offloads", "attached", *(f"{n} stream{'s' * (n > 1)}" for n in streams)],
    )
    for case in CASES:
        cells = [
            f"{Samples(runs[case, n].gbits).text()}, x {ratio(runs, case, n):.2f}" for n in streams
        ]
        result.rows.append([case.offloads, case.attached, *cells])
    return result


def ratio(runs: dict, case: Case, streams: int, base: str = NONE) -> float:
    """Return the median ratio of a case to `base` with the same offloads, repeat by repeat."""
    reference = runs[Case(case.segmentation, base), streams]
    pairs = zip(runs[case, streams].gbits, reference.gbits, strict=True)
    return Samples([gbits / without for gbits, without in pairs]).median


def account_table(runs: dict) -> Table:
    """Return where the first packets of all flows went, a row for each case and streams."""
    result = Table(
        "First packets of flows, all repeats",
        "offloads,streams,N x flows,selected,arrived,lost by reason,unaccounted,flows judged".split(
            ","
        ),
    )
    for (case, streams), run in runs.items():
        if not run.accounts:
            continue

        def total(name: str, accounts: list[Account] = run.accounts) -> int:
            return sum(getattr(account, name) for account in accounts)

        lost: Counter[str] = sum((Counter(a.lost) for a in run.accounts), Counter())
        reasons = ", ".join(f"{name} {n}" for name, n in sorted(lost.items())) or "0"
        numbers = [total(name) for name in ("in_theory", "expected", "arrived")]
        result.rows.append(
            [
                case.offloads,
                str(streams),
                *map(str, numbers),
                reasons,
                str(total("missing")),
                f"{total('flows')} of {total('connections')}",
            ]
        )
    return result


def goals(runs: dict, streams: list[int]) -> list[Goal]:
    """Return the project's goals for forwarding beside what was measured."""
    result = []
    for segmentation, base in ((True, NONE), (False, EMPTY)):
        case = Case(segmentation, ATTACHED)
        for n in streams:
            value = ratio(runs, case, n, base)
            result.append(
                Goal(
                    f"attached / {base}, {case.offloads}, {n} streams",
                    f">= {RATIO_GOAL}",
                    f"{value:.2f}",
                    value >= RATIO_GOAL,
                )
            )
    accounts = [account for run in runs.values() for account in run.accounts]
    wrong = sum(abs(account.missing) for account in accounts)
    result.append(Goal("first packets unaccounted for", "0", str(wrong), wrong == 0))
    whole = [a for (case, _), run in runs.items() if not case.segmentation for a in run.accounts]
    wrong = sum(abs(account.in_theory - account.expected) for account in whole)
    result.append(Goal("selected beside N x flows, TSO off", "0 apart", str(wrong), wrong == 0))
    return result


def main() -> None:
    """Measure and print the report."""
    options = common.throughput_options(__doc__.splitlines()[0], 5, SECONDS, STREAMS)
    streams = options.streams
    versions = {"iperf3": common.tool_version(["iperf3", "--version"], r"iperf ([\d.]+)")}
    report = Report("forward", "Forwarding with etcpipe attached", versions)
    runs = measure(options)
    report.tables = [throughput_table(runs, streams), account_table(runs)]
    report.goals = [] if options.quick else goals(runs, streams)
    report.notes = _notes(options)
    report.notes += [common.quick_note()] if options.quick else []
    report.results = {
        f"{case}, {n}": {
            "gbits": Samples(run.gbits).summary(),
            "accounts": [
                {**vars(a), "in_theory": a.in_theory, "missing": a.missing} for a in run.accounts
            ],
        }
        for (case, n), run in runs.items()
    }
    report.show(options.json)


def _notes(options) -> list[str]:
    return [
        f"iperf3, client to server, {options.seconds:g} s after a first second that does not "
        f"count; {options.repeats} interleaved repeats; median (min .. max, MAD), x the median "
        "ratio to the router without a program in the same repeat.",
        "iperf3's client is pinned to the first CPU, its server to the last one; the consumer, "
        f"with its model, runs where the scheduler puts it. {_priority(options)}; NAPI not "
        "threaded.",
        "selected: packets that the tracker counted as first of their flow. arrived: of them, "
        "taken from the socket by the consumer. A super-packet is one packet here and stands for "
        "several of the N, so that with default offloads fewer are selected than N x flows.",
        "iperf3 makes one connection more than its streams.",
    ]


def _priority(options) -> str:
    return "iperf3 at SCHED_FIFO 1" if options.fifo else "No real-time priorities"


if __name__ == "__main__":
    main()
