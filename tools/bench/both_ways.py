"""What a known flow's packet costs while another processor has packets, too, and whose.

Two threads at real-time priority, one a processor, run the tracker at the same time, each on
packets of one direction (BPF_PROG_TEST_RUN, see packet_cost.py). Where both have the same
flows, each waits for the memory that the other wrote last; where each has flows of its own,
none does. A router meets the first: data on one processor, acknowledgments on another.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import packet_cost
from common import Samples, Table
from packet_cost import NO_DEVICE, SMALL, SOURCE_AT, WALK

from etcpipe.kernel import bpf, libbpf, programs
from etcpipe.kernel.build import Build, Loaded
from etcpipe.kernel.settings import TapSettings

FLOWS = (1, 32, 128)
ALONE, OTHERS, SAME = "alone", "beside other flows", "beside their answers"
CASES = (ALONE, OTHERS, SAME)
PROGRAMS = {"xdp_find": "floor: parser and look-up", "xdp_track": "known flow past N"}
DESTINATION_AT = SOURCE_AT[4] + 4
CHUNK = 2000  # runs of the other processor between two looks at whether it may stop

Costs = dict[tuple[str, int, str], list[int]]  # net ns by program, flows and case


class Pair:
    """The programs, loaded, and two processors; a context manager."""

    def __enter__(self) -> "Pair":
        with ExitStack() as stack:
            handle = packet_cost.load_floors(SMALL)
            stack.callback(libbpf.library().bpf_object__close, handle)
            self._tap: Loaded = programs.load(
                Build(TapSettings(first_n=1, max_flows=SMALL), NO_DEVICE, NO_DEVICE)
            )
            stack.callback(self._tap.close)
            self._pass, self._find, self._walk = (
                packet_cost.program(handle, f"xdp_{name}") for name in ("pass", "find", "walk")
            )
            self._walks = packet_cost.map_of(handle, "walks")
            self._targets = packet_cost.map_of(handle, "xdp_targets")
            there = packet_cost.tcp_frame(4)
            self._frames = (there, packet_cost.answer_to(there))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self) -> None:
        """Put all flows into the tables; twice, as the first packet is one of the N."""
        flows = 2 * max(FLOWS)
        for name in PROGRAMS:
            packet_cost.target(self._targets, self._program(name))
            packet_cost.set_walk(self._walks, walks_of(flows))
            bpf.time_run(self._walk, self._frames[0], 2 * flows)

    def measure(self, name: str, flows: int, case: str, runs: int) -> int:
        """Return net ns a packet of the first processor."""
        packet_cost.set_walk(self._walks, walks_of(flows, flows if case == OTHERS else 0))
        packet_cost.target(self._targets, self._pass)
        floor = bpf.time_run(self._walk, self._frames[0], runs)
        packet_cost.target(self._targets, self._program(name))
        if case == ALONE:
            return bpf.time_run(self._walk, self._frames[0], runs) - floor
        with self._answers():
            return bpf.time_run(self._walk, self._frames[0], runs) - floor

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Let the other processor run the other direction for the length of the block."""
        runs_there, may_stop = threading.Event(), threading.Event()

        def answer() -> None:
            with packet_cost.undisturbed(1):
                while not may_stop.is_set():
                    bpf.time_run(self._walk, self._frames[1], CHUNK)
                    runs_there.set()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            runs_there.wait()
            yield
        finally:
            may_stop.set()
            thread.join()

    def _program(self, name: str) -> int:
        return self._find if name == "xdp_find" else self._tap.programs[name]


def walks_of(flows: int, others: int = 0) -> np.ndarray:
    """Return WALK by processor: the first changes sources, the others destinations.

    Args:
        flows: of each processor, one after the other.
        others: the first flow of the other processors; the first one begins with 0.
    """
    walks = np.zeros(bpf.possible_cpus(), WALK)
    walks["state"], walks["flows"] = 1, flows
    walks["first"], walks["address_at"] = others, DESTINATION_AT
    walks[0]["first"], walks[0]["address_at"] = 0, SOURCE_AT[4]
    return walks


def measure(repeats: int, runs: int) -> Costs:
    """Return net ns a packet in each repeat."""
    cases = [(name, flows, case) for name in PROGRAMS for flows in FLOWS for case in CASES]
    costs: Costs = {case: [] for case in cases}
    with Pair() as pair, packet_cost.undisturbed(0):
        pair.fill()
        for _ in range(repeats):
            for name, flows, case in cases:
                costs[name, flows, case].append(pair.measure(name, flows, case, runs))
    return costs


def table(costs: Costs) -> Table:
    """Return what was measured."""
    result = Table(
        "A packet's cost while the other processor has packets, ns",
        ["what", *CASES],
    )
    for name, what in PROGRAMS.items():
        for flows in FLOWS:
            found = [Samples(costs[name, flows, case]) for case in CASES]
            values = [f"{min(cost.values)} ({cost.median:.0f})" for cost in found]
            result.rows.append([f"{what}, {flows:,} flows", *values])
    return result
