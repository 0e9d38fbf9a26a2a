"""Measures TCP through the lab's router, without and with etcpipe attached.

    python tools/bench/forward.py [--quick] [--json]          needs root

The end hosts' default offloads first (super-packets of 64 kB), then with TSO off, packets as
on a wire, beside a TC program that does nothing: the least that any program costs. Cases are
interleaved. After every run with etcpipe the first packets of all flows are accounted for:
what the tracker selected = what came to the model + what was settled + every counted loss.
"""

import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

import bed as beds
import common
import paired
import slices
from common import Goal, Report, Samples, Table
from slices import ATTACHED, EMPTY, NONE

STREAMS = (1, 8, 32, 128, 512)
SECONDS = 10.0  # of a transfer's slices
RATIO_GOAL = 0.95
MODEL = "that judges the flows, instead of the default one"
START_S = 1.0  # of a transfer, which does not count: windows grow, flows reach their N
CONTROL_PACKETS = 10  # with payload that iperf3's control connection has at least
SETTLE_S = 0.3  # for what is still on its way when iperf3 has ended

ARRIVED = [
    f"REGROUP_{name}"
    for name in ("STORED", "DUPLICATES", "LATE", "STRAGGLERS", "BEYOND", "UNPARSED")
]


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


CASES = [Case(on, attached) for on in (True, False) for attached in (NONE, EMPTY, ATTACHED)]


@dataclass
class Account:
    """Where the first packets of the flows of one run went.

    Attributes:
        expected: packets that the tracker selected.
        settled: of them, not copied, as their flow had its answer.
        arrived: of them, came out of the socket.
        lost: of them, by the reason under which they were counted.
        flows: flows judged.
        first_n: packets of a flow that are asked for.
        connections: made by iperf3, the control connections included.
        controls: of them, one of each pair of iperf3.
    """

    expected: int
    settled: int
    arrived: int
    lost: dict[str, int]
    flows: int
    first_n: int
    connections: int
    controls: int

    @property
    def missing(self) -> int:
        """Packets under no name: 0, or the accounting is wrong."""
        return self.expected - self.settled - self.arrived - sum(self.lost.values())

    @property
    def in_theory(self) -> int:
        """Packets that must have been selected where each connection has N of them."""
        return self.first_n * self.connections

    @property
    def apart(self) -> int:
        """How far the selected are from that; iperf3's own connections may have fewer."""
        least = self.in_theory - self.controls * max(0, self.first_n - CONTROL_PACKETS)
        return max(0, least - self.expected, self.expected - self.in_theory)


@dataclass
class Runs:
    """All slices of one case with one number of streams, and the transfers' accounts."""

    gbits: list[float] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def account(consumer: beds.Consumer, streams: int) -> Account:
    """Return the accounting of one run from what the consumer counted."""
    result = consumer.result
    counters = result["counters"]
    controls = len(beds.shared(streams))
    return Account(
        expected=counters["PACKETS_FIRST_N"],
        settled=counters["PACKETS_SETTLED"],
        # Regrouping counts each packet that it is given under exactly one of these.
        arrived=sum(counters[name] for name in ARRIVED),
        lost=result["lost"],
        flows=result["flows"],
        first_n=consumer.ready["first_n"],
        connections=streams + controls,
        controls=controls,
    )


def measure_once(
    bed: beds.Bed, streams: int, empty: int, options
) -> tuple[dict[str, list[float]], Account]:
    """Return Gbit/s of one transfer, by what stood on the hook, and its accounting."""
    seconds = START_S + max(options.seconds, slices.ROUNDS_MIN * slices.ROUND_S)
    seconds += slices.ROUND_S  # the last round may begin late
    cpus = (0, os.cpu_count() - 1)
    model = ["--model", options.model] if options.model else []
    with beds.Consumer(bed, *model) as consumer, ExitStack() as hook:
        with bed.transfer(streams, seconds, cpus, options.fifo, options.mbits) as meter:
            time.sleep(START_S)
            gbits = slices.measure(bed, meter, consumer, empty, options.seconds)
            hook.enter_context(slices.put_back(bed))  # for the flows' ends
        time.sleep(SETTLE_S)
    return gbits, account(consumer, streams)


def measure(options) -> dict[tuple[Case, int], Runs]:
    """Return the runs of every case, by case and streams."""
    runs = {(case, n): Runs() for n in options.streams for case in CASES}
    transfers = [(n, on) for n in options.streams for on in (True, False)]
    with beds.bed() as bed, beds.loaded_empty(options.work) as empty:
        for repeat, (n, on) in paired.shuffled(transfers, options.repeats):
            common.progress(
                f"{repeat + 1}/{options.repeats}: {n} streams, {Case(on, NONE).offloads}"
            )
            bed.set_segmentation(on)
            gbits, accounted = measure_once(bed, n, empty, options)
            for attached, values in gbits.items():
                runs[Case(on, attached), n].gbits += values
            runs[Case(on, ATTACHED), n].accounts.append(accounted)
    return runs


def throughput_table(runs: dict, streams: list[int]) -> Table:
    """Return Gbit/s of every case and its ratio to the router without a program."""
    result = Table(
        "TCP through the router, Gbit/s",
        ["offloads", "attached", *(f"{n} stream{'s' * (n > 1)}" for n in streams)],
    )
    for case in CASES:
        cells = [
            f"{Samples(runs[case, n].gbits).median:.2f}, x {ratio(runs, case, n).text()}"
            for n in streams
        ]
        result.rows.append([case.offloads, case.attached, *cells])
    return result


def ratio(runs: dict, case: Case, streams: int, base: str = NONE) -> paired.Interval:
    """Return the ratio of a case to `base` with the same offloads, slice by slice."""
    reference = runs[Case(case.segmentation, base), streams]
    return paired.ratio(runs[case, streams].gbits, reference.gbits)


def account_table(runs: dict) -> Table:
    """Return where the first packets of all flows went, a row for each case and streams."""
    result = Table(
        "First packets of flows, all repeats",
        [
            *("offloads", "streams", "N x flows", "selected", "settled", "arrived"),
            *("lost by reason", "unaccounted", "flows judged"),
        ],
    )
    for (case, streams), run in runs.items():
        if not run.accounts:
            continue

        def total(name: str, accounts: list[Account] = run.accounts) -> int:
            return sum(getattr(account, name) for account in accounts)

        lost: Counter[str] = sum((Counter(a.lost) for a in run.accounts), Counter())
        reasons = ", ".join(f"{name} {n}" for name, n in sorted(lost.items())) or "0"
        numbers = [total(name) for name in ("in_theory", "expected", "settled", "arrived")]
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
                    value.text(),
                    value.median >= RATIO_GOAL,
                )
            )
    accounts = [account for run in runs.values() for account in run.accounts]
    wrong = sum(abs(account.missing) for account in accounts)
    result.append(Goal("first packets unaccounted for", "0", str(wrong), wrong == 0))
    whole = [a for (case, _), run in runs.items() if not case.segmentation for a in run.accounts]
    wrong = sum(account.apart for account in whole)
    result.append(Goal("selected beside N x flows, TSO off", "0 apart", str(wrong), wrong == 0))
    return result


def main() -> None:
    """Measure and print the report."""
    options = common.throughput_options(
        __doc__.splitlines()[0], 3, SECONDS, STREAMS, {"--model": MODEL}
    )
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
        f"iperf3, client to server; {options.repeats} transfers of {options.seconds:g} s after a "
        "first second. While one runs, the programs on the hook are exchanged, in rounds of a "
        f"slice of {slices.SLICE_S:g} s each in random order. Median of the slices, x: median "
        "ratio to the slice without a program of the same round (95 % interval by bootstrap). "
        "Goals are read from the median ratio.",
        "Flows begin under the attach of the product, with its consumer and model. While "
        "another program stands on the hook, the consumer is stopped.",
        "iperf3's client is pinned to the first CPU, its server to the last one; the consumer, "
        f"with its model, runs where the scheduler puts it. {_priority(options)}; NAPI not "
        "threaded.",
        "selected: packets that the tracker counted as first of their flow. settled: of them, not "
        "copied, as their flow had its final verdict; arrived: taken from the socket by the "
        "consumer. A super-packet is one packet here and stands for "
        "several of the N, so that with default offloads fewer are selected than N x flows.",
        "iperf3 makes one connection more than its streams, which may have fewer than N packets; "
        f"{beds.STREAMS_MAX} streams are the most that a pair of them carries.",
    ]


def _priority(options) -> str:
    return "iperf3 at SCHED_FIFO 1" if options.fifo else "No real-time priorities"


if __name__ == "__main__":
    main()
