"""What a copy to the consumer costs: the sender's time a packet, by the way of the copy.

All of a packet's way is work of the sender's processor (path_cost.py), and of its copy too
up to the ring that it shares with the consumer, which runs on another processor. Every
packet is among the first N of its flow; what is beyond the same run without copies is the
copy's cost, or that of a settled packet, whose flow has its final verdict. Needs root.
"""

import os
import threading
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import bed as beds
import common
import numpy as np
import paired
from common import Goal, Report, Samples, Table
from path_cost import PACKETS_A_FLOW, Sender

from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import CONSTANTS
from etcpipe.policy.rules import verdict_words
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

PACKETS = 60_000
SENDS = 5
RING_SIZE = 8192
GOALS_NS = {"AF_XDP": 1200, "ring buffer": 200}
COPIED = {"first_n": CONSTANTS["FIRST_N_MAX"], "mode": "tc"}
SETTLED = "settled"
# One packet of a flow's PACKETS_A_FLOW is copied where "none" are, or all flows are settled.
WAYS = {
    "none": {"first_n": 1, "mode": "tc"},
    SETTLED: COPIED,
    "AF_XDP, no consumer": COPIED,
    "AF_XDP": COPIED,
    "ring buffer": {**COPIED, "capture": "ringbuf"},
}


@contextmanager
def attached(bed: beds.Bed, way: str):
    """Attach a tap and, for the length of the block, drain what it copies."""
    settings = TapSettings(**WAYS[way])
    with netns.enter(bed.router), Tap(bed.device, settings) as tap:
        if way == SETTLED:
            _settle(tap)
        if way == "AF_XDP, no consumer":
            tap.start()
            yield tap
            return
        if settings.capture == "ringbuf":
            ring = RingBuffer(tap.records_fd, settings.ringbuf_bytes)
        else:
            ring = Ring(tap.mirror_ifindex, ring_size=RING_SIZE)
            tap.bind(ring.fd)
        with ring:
            tap.start()
            with _drained(ring):
                yield tap


def _settle(tap: Tap) -> None:
    """Say that the flows to come are answered: a tap that was loaded now counts ids from 1."""
    flow_id = np.arange(len(tap.verdicts), dtype=np.uint64)
    nothing = np.zeros(len(flow_id), np.uint8)
    tap.verdicts[:] = verdict_words(flow_id, nothing, nothing, True)


@contextmanager
def _drained(ring: Ring | RingBuffer):
    stop = threading.Event()

    def drain() -> None:
        os.sched_setaffinity(0, {os.cpu_count() - 1})
        while not stop.is_set():
            ring.receive()

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(repeats: int, packets: int, work: Path) -> dict[str, list[float]]:
    """Return ns a packet by way, a value a round: SENDS rounds in each repeat."""
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    flows = -(-packets // PACKETS_A_FLOW)
    rounds = repeats * SENDS
    with beds.bed() as bed:
        sender = Sender(bed, work)
        for turn, way in paired.shuffled(list(WAYS), rounds):
            common.progress(f"mirror {turn + 1}/{rounds} {way}")
            with attached(bed, way):  # anew: each send's flows are new ones
                costs[way].append(sender.send(flows, packets))
    return costs


def copy_costs(costs: dict[str, list[float]]) -> dict[str, paired.Interval]:
    """Return ns a copy by way: what a round took beyond the same round without copies."""
    copied = 1 - 1 / PACKETS_A_FLOW
    return {
        way: paired.difference(np.array(values) / copied, np.array(costs["none"]) / copied)
        for way, values in costs.items()
        if way != "none"
    }


def table(costs: dict[str, list[float]]) -> Table:
    """Return ns a packet and a copy, by the way of the copy."""
    result = Table("A copy to the consumer", ["way", "ns a packet", "ns a copy, or settled"])
    copies = copy_costs(costs)
    for way, values in costs.items():
        copy = copies[way].text(0) if way in copies else "-"
        result.rows.append([way, Samples(values).text(0), copy])
    return result


def goals(costs: dict[str, list[float]]) -> list[Goal]:
    """Return the project's goals for a copy beside what was measured."""
    copies = copy_costs(costs)
    return [
        Goal(f"a copy, {way}", f"<= {goal} ns", copies[way].text(0), copies[way].median <= goal)
        for way, goal in GOALS_NS.items()
    ]


def main() -> None:
    """Measure and print the report."""
    options = common.parser(__doc__.splitlines()[0], repeats=5).parse_args()
    common.need_root()
    if os.cpu_count() < 2:
        raise SystemExit("bench: the sender and the consumer each take a processor")
    repeats = options.repeats or (1 if options.quick else options.default_repeats)
    packets = PACKETS // 4 if options.quick else PACKETS
    versions = {"gcc": common.tool_version(["gcc", "--version"], r" ([\d.]+)\n")}
    report = Report("mirror", "What a copy costs", versions)
    costs = measure(repeats, packets, options.work)
    report.tables = [table(costs)]
    report.goals = [] if options.quick else goals(costs)
    report.notes = [
        f"{repeats * SENDS} rounds of a send of {packets:,} packets each, in random order; median "
        "(min .. max, MAD). A copy: median of the differences to the send without copies of the "
        "same round (95 % interval by bootstrap).",
        f"The ring buffer has {TapSettings().ringbuf_bytes >> 20} MiB, the size that attach() "
        "takes: a larger one is not in the caches.",
    ]
    report.notes += [common.quick_note()] if options.quick else []
    report.results = {
        "packet_ns": {way: Samples(values).summary() for way, values in costs.items()},
        "copy_ns": {way: asdict(copy) for way, copy in copy_costs(costs).items()},
    }
    report.show(options.json)


if __name__ == "__main__":
    main()
