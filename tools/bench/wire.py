"""Measures TCP through a box between two hosts: etcpipe as a wire, beside bridges.

    python tools/bench/wire.py [--quick] [--json]          needs root

One subnet, the box in its middle: a Linux bridge, etcpipe's forward mode by TC and by XDP, tracking
and classifying, and Open vSwitch's user-space datapath, which the paper compares with. Once
with packets of a wire: the hosts neither segment nor leave checksums to the device. Once with
their default offloads, which XDP and Open vSwitch do not take on veth. Cases are interleaved,
and the first packets of all flows accounted for.
"""

import os
import time
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bed as beds
import common
import forward
import paired
import slices
from common import Goal, Report, Samples, Table
from wire_bed import bridged, redirect_alone, redirected, switched, wire_bed

STREAMS = (1, 8, 32, 128, 512)
SECONDS = 1.5
START_S = 0.5  # of a transfer, which does not count
IN_TURN_S, QUICK_IN_TURN_S = 15, 2  # of a transfer with both boxes in turn
GOAL = 1.1
WIRE, OFFLOADS = "packets of a wire", "default offloads"

BRIDGE, OVS = "Linux bridge", "Open vSwitch, user space"
TC, TC_RINGBUF = "etcpipe --forward (TC)", "etcpipe --forward (TC), ring buffer"
XDP = "etcpipe --forward --mode xdp"
REDIRECT = "redirect alone"
HOW = {
    TC: (),
    TC_RINGBUF: ("--capture", "ringbuf"),
    XDP: ("--mode", "xdp"),
}
CASES = {WIRE: (BRIDGE, TC, TC_RINGBUF, XDP, OVS), OFFLOADS: (BRIDGE, TC, TC_RINGBUF)}
InTurn = dict[int, dict[str, paired.Interval]]  # by streams and wire


def joined(bed: beds.Bed, case: str, work: Path):
    """Return what joins the ports in this case, to be entered."""
    if case in (BRIDGE, OVS):
        return bridged(bed) if case == BRIDGE else switched(bed, work)
    return beds.Consumer(bed, "--forward", "p1", *HOW[case])


def measure_once(bed: beds.Bed, streams: int, options: Namespace) -> float:
    """Return Gbit/s of a transfer."""
    cpus = (0, os.cpu_count() - 1)
    seconds = START_S + options.seconds
    with bed.transfer(streams, seconds, cpus, options.fifo, options.mbits) as meter:
        time.sleep(START_S)
        return meter.gbits(options.seconds)


@dataclass(frozen=True)
class Series:
    """Transfers with the same offloads at the end hosts.

    Attributes:
        runs: (Gbit/s, account or None) of every repeat, by case and streams.
    """

    offloads: str
    cases: list[str]
    streams: list[int]
    runs: dict[tuple[str, int], list]

    def of_us(self) -> list[str]:
        """The cases that are etcpipe."""
        return [case for case in self.cases if case in HOW]

    def ratio(self, case: str, n: int, base: str = BRIDGE) -> paired.Interval:
        """Return the ratio to the Linux bridge, repeat by repeat."""
        values, reference = ([gbits for gbits, _ in self.runs[name, n]] for name in (case, base))
        return paired.ratio(values, reference)


def measure(options: Namespace, offloads: str, cases: list[str]) -> Series:
    """Return all transfers with these offloads."""
    runs: dict = {(case, n): [] for n in options.streams for case in cases}
    with wire_bed(plain=offloads == WIRE) as bed:
        places = [(n, case) for n in options.streams for case in cases]
        for repeat, (n, case) in paired.shuffled(places, options.repeats):
            common.progress(f"{offloads}, {repeat + 1}/{options.repeats}: {n} streams, {case}")
            way = joined(bed, case, options.work)
            with way:
                gbits = measure_once(bed, n, options)
                time.sleep(forward.SETTLE_S)
            account = forward.account(way, n) if case in HOW else None
            runs[case, n].append((gbits, account))
    return Series(offloads, cases, options.streams, runs)


@contextmanager
def _in_turn(bed: beds.Bed, consumer: beds.Consumer, program: int | None, is_awake: bool):
    with ExitStack() as stack:
        if program is not None:
            stack.enter_context(redirected(bed, program))
        if not is_awake:
            stack.enter_context(slices.resting(consumer))
        yield


def measure_in_turn(options: Namespace, offloads: str, streams: int) -> dict[str, paired.Interval]:
    """Return the ratio of wires made of a TC program to the bridge, all within one transfer.

    Two transfers differ by more than the boxes do. So the ports are a bridge's all the time, and
    the tracker, which sends packets past it, stands on their hooks every third slice.
    """
    gbits: dict[str, list[float]] = {BRIDGE: [], TC: [], REDIRECT: []}
    cpus = (0, os.cpu_count() - 1)
    with ExitStack() as stack:
        bed = stack.enter_context(wire_bed(plain=offloads == WIRE))
        stack.enter_context(bridged(bed))
        consumer = stack.enter_context(beds.Consumer(bed, "--forward", "p1"))
        slices.take_off(bed)
        programs = {
            TC: stack.enter_context(slices.tracker(bed)),
            REDIRECT: stack.enter_context(redirect_alone(bed)),
        }
        seconds = START_S + options.in_turn_s + slices.ROUNDS_MIN * slices.ROUND_S
        transfer = bed.transfer(streams, seconds, cpus, options.fifo, options.mbits)
        meter = stack.enter_context(transfer)
        time.sleep(START_S)
        end = time.monotonic() + options.in_turn_s
        while time.monotonic() < end or len(gbits[TC]) < slices.ROUNDS_MIN:
            for _, case in paired.shuffled(list(gbits), 1):
                with _in_turn(bed, consumer, programs.get(case), case == TC):
                    time.sleep(slices.SETTLE_S)
                    gbits[case].append(meter.gbits(slices.SLICE_S))
    return {case: paired.ratio(gbits[case], gbits[BRIDGE]) for case in programs}


def throughput_table(series: Series) -> Table:
    """Return Gbit/s of every case and its ratio to the bridge."""
    columns = ["box", *(f"{n} stream{'s' * (n > 1)}" for n in series.streams)]
    table = Table(f"TCP through the box, {series.offloads}, Gbit/s", columns)
    for case in series.cases:
        cells = [
            f"{Samples([g for g, _ in series.runs[case, n]]).median:.2f}, "
            f"x {series.ratio(case, n).text()}"
            for n in series.streams
        ]
        table.rows.append([case, *cells])
    return table


def account_table(series: Series) -> Table:
    """Return where the first packets of all flows went, a row for each case and streams."""
    columns = ["box", "streams", "selected", "settled", "arrived", "lost by reason", "unaccounted"]
    table = Table(f"First packets of flows, {series.offloads}, all repeats", columns)
    for case in series.of_us():
        for n in series.streams:
            accounts = [account for _, account in series.runs[case, n]]
            lost = sum((Counter(account.lost) for account in accounts), Counter())
            reasons = ", ".join(f"{name} {count}" for name, count in sorted(lost.items())) or "0"
            sums = {
                name: str(sum(getattr(account, name) for account in accounts))
                for name in ("expected", "settled", "arrived", "missing")
            }
            missing = sums.pop("missing")
            table.rows.append([case, str(n), *sums.values(), reasons, missing])
    return table


def results(series: Series) -> dict[str, dict[str, Any]]:
    """Return the figures of all runs by case and streams, for the report's JSON."""
    return {
        f"{series.offloads}, {case}, {n}": {
            "gbits": Samples([gbits for gbits, _ in run]).summary(),
            "missing": sum(account.missing for _, account in run if account),
            "lost": [account.lost for _, account in run if account],
        }
        for (case, n), run in series.runs.items()
    }


def goals(series: Series) -> list[Goal]:
    """Return the project's goals for forward mode beside what was measured."""
    result = []
    for case in series.of_us():
        for n in series.streams:
            value = series.ratio(case, n)
            measure = f"{series.offloads}: {case} / {BRIDGE}, {n} streams"
            result.append(Goal(measure, f">= {GOAL}", value.text(), value.median >= GOAL))
    if OVS in series.cases:
        for case in (BRIDGE, *series.of_us()):
            least = min(series.ratio(case, n, OVS).median for n in series.streams)
            result.append(Goal(f"{case} / {OVS}", "> 1", f"{least:.1f} at least", least > 1))
    accounts = [account for run in series.runs.values() for _, account in run if account]
    wrong = sum(abs(account.missing) for account in accounts)
    what = f"{series.offloads}: first packets unaccounted for"
    result.append(Goal(what, "0", str(wrong), wrong == 0))
    return result


def in_turn_table(streams: list[int], ratios: dict[str, InTurn]) -> Table:
    """Return the ratios that were taken in turn, a row for each kind of packets and wire."""
    table = Table(
        f"Wires / {BRIDGE}, in turn within one transfer",
        ["packets", "wire", *(f"{n} stream{'s' * (n > 1)}" for n in streams)],
    )
    for offloads, by_streams in ratios.items():
        for case in (TC, REDIRECT):
            cells = [ratio[case].text() for ratio in by_streams.values()]
            table.rows.append([offloads, case, *cells])
    return table


def in_turn_goals(offloads: str, ratios: InTurn) -> list[Goal]:
    """Return the goal of a wire at TC beside the most that one of its kind can reach."""
    return [
        Goal(
            f"{offloads}, in turn: {TC} / {BRIDGE}, {n} streams",
            f">= {GOAL}",
            f"{one[TC].text()}; a {REDIRECT} {one[REDIRECT].text()}",
            one[TC].median >= GOAL,
        )
        for n, one in ratios.items()
    ]


def notes(options: Namespace) -> list[str]:
    """Return how to read the report."""
    said = [
        f"iperf3, client to server, {options.seconds:g} s after the first {START_S:g} s; "
        f"{options.repeats} repeats of all boxes and numbers of streams in random order. "
        "Median, x: median ratio to the Linux bridge of the same repeat (95 % interval by "
        "bootstrap). Goals are read from the median ratio.",
        f"{REDIRECT}: a TC program that sends packets to the other port and does nothing else, "
        "the most that a wire of this kind can reach.",
        "veth: its native XDP copies each packet and costs some 780 ns that no network card "
        "asks for.",
    ]
    return said + ([common.quick_note()] if options.quick else [])


def main() -> None:
    """Measure and print the report."""
    options = common.throughput_options(__doc__.splitlines()[0], 9, SECONDS, STREAMS)
    versions = {
        "iperf3": common.tool_version(["iperf3", "--version"], r"iperf ([\d.]+)"),
        "Open vSwitch": common.tool_version(["ovs-vswitchd", "--version"], r"([\d.]+)"),
    }
    options.in_turn_s = QUICK_IN_TURN_S if options.quick else IN_TURN_S
    report = Report("wire", "A wire between two hosts", versions)
    in_turn: dict[str, InTurn] = {}
    for offloads, wanted in CASES.items():
        cases = [case for case in wanted if case != OVS or versions["Open vSwitch"]]
        series = measure(options, offloads, cases)
        report.tables += [throughput_table(series), account_table(series)]
        report.results |= results(series)
        ratios = in_turn[offloads] = {}
        for n in options.streams:
            common.progress(f"{offloads}, in turn: {n} streams")
            ratios[n] = measure_in_turn(options, offloads, n)
        if not options.quick:
            report.goals += goals(series) + in_turn_goals(offloads, ratios)
    report.tables.append(in_turn_table(options.streams, in_turn))
    report.notes = notes(options)
    report.show(options.json)


if __name__ == "__main__":
    main()
