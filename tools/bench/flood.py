"""A flood of spoofed SYNs against the flow table: what becomes of flows that are alive.

    python tools/bench/flood.py [--syns N] [--established N] [--flows TABLE ...] [--json]

A program counts up a SYN's source address and hands it to the tracker, so that the kernel
sees one new flow a run (BPF_PROG_TEST_RUN, no wire). Between two bursts each established
flow sends one packet, and every slot of the verdict array is given to another flow, as if
as many new flows had been judged. Lost: the flow had to be made anew, or its verdict, whose
action marks its packets, was not found.

The flows are opened among others that end, as in traffic. Without those others the kernel
takes 1 of 129 of them while the table fills for the first time: where 128 neighbours of its
list are all in use it frees the next one regardless (kernel/bpf/bpf_lru_list.c).
"""

import argparse
import ctypes
import json
import os
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from packet_cost import table_bytes

from etcpipe.kernel import bpf, programs, status
from etcpipe.kernel.build import FILTER_SLOTS, Build, Loaded
from etcpipe.kernel.ebpf import (
    ADD,
    ALU,
    ALU32,
    EXIT,
    JGT,
    JMP,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    Assembler,
    K,
    X,
)
from etcpipe.kernel.flow_table import FlowTable
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.sweeper import Sweeper
from etcpipe.layout import ACTION
from etcpipe.policy.rules import verdict_words

NO_DEVICE = 0x7FFFFFF0
SLOTS = 65536
BURSTS = (10_000, 60_000, 500_000)  # SYNs between two packets of an established flow
SOURCE_AT, PORT_AT = 26, 34
TAIL_CALL, XDP_PASS = 12, 2
SYN, ACK = 0x02, 0x10
ACTION_MARK, LABEL = 2, np.zeros(1)


@dataclass
class Result:
    """One flood; lost are sums over all bursts."""

    table: int
    burst: int
    syns: int
    established: int
    touches: int
    flows_lost: int
    verdicts_lost: int
    flows_created: int
    table_full: int
    table_bytes_before: int
    table_bytes_after: int
    ns_a_syn: float
    sweep_ms: float
    ended: int
    us_an_end: float


def tcp_frame(flags: int, port: int, payload: bytes = b"") -> bytes:
    """Return a TCP segment between fixed addresses, its checksums left out."""
    tcp = port.to_bytes(2, "big") + b"\x01\xbb" + bytes(8) + bytes([0x50, flags]) + bytes(6)
    total = (20 + len(tcp) + len(payload)).to_bytes(2, "big")
    ip = b"\x45\0" + total + bytes(4) + b"\x40\x06\0\0" + bytes([198, 18, 0, 1, 198, 19, 0, 1])
    return bytes(12) + b"\x08\0" + ip + tcp + payload


def generator(loaded: Loaded) -> int:
    """Return a program that makes each run's packet one of a new source."""
    code = Assembler()
    code.move(R6, R1)
    code.load(4, R2, R6, 0)
    code.load(4, R3, R6, 4)
    code.move(R4, R2)
    code.emit(ALU | ADD | K, R4, value=PORT_AT)
    code.jump("end", JMP | JGT | X, R4, R3)
    code.load(4, R5, R2, SOURCE_AT)
    code.emit(ALU32 | ADD | K, R5, value=1)
    code.store(4, R2, SOURCE_AT, R5)
    code.move(R1, R6)
    code.map(R2, loaded.maps["filters_xdp"])
    code.constant(R3, FILTER_SLOTS.index("FILTER_MATCHED"))
    code.call(TAIL_CALL)
    code.label("end")
    code.constant(R0, XDP_PASS)
    code.emit(JMP | EXIT)
    return bpf.program_load(code.assemble(), bpf.PROGRAM_XDP, "syn_flood", bpf.ATTACH_XDP)


class Flood:
    """A table, its established flows, and the packet that goes on counting."""

    def __init__(self, loaded: Loaded, established: int):
        self._loaded = loaded
        self._generator = generator(loaded)
        self._frames = [tcp_frame(ACK, 1024 + i, b"x" * 20) for i in range(established)]
        self._syn = ctypes.create_string_buffer(tcp_frame(SYN, 1), 54)
        self._judged = 0

    def close(self) -> None:
        os.close(self._generator)

    def counters(self) -> dict[str, int]:
        return status.counters(self._loaded.maps["packet_counters"])

    def touch(self) -> tuple[int, int]:
        """Send a packet of each established flow; return how many flows and verdicts were lost."""
        before = self.counters()
        for frame in self._frames:
            bpf.test_run(self._loaded.programs["tc_track"], frame)
        after = self.counters()
        moved = {name: after[name] - before[name] for name in after}
        return moved["FLOWS_CREATED"], len(self._frames) - moved["PACKETS_ACTED"]

    def open(self) -> None:
        """Open the established flows, and beside each one that nobody answers."""
        for i, frame in enumerate(self._frames):
            for packet in (tcp_frame(SYN, 1024 + i), frame, tcp_frame(SYN, 32768 + i)):
                bpf.test_run(self._loaded.programs["tc_track"], packet)

    def judge(self) -> None:
        """Give every flow of the table a verdict with an action, as a consumer does."""
        action = np.zeros(1, ACTION)
        action["flags"], action["mark"], action["mark_mask"] = ACTION_MARK, 7, 0xFF
        bpf.update(self._loaded.maps["actions"], np.ones(1, np.uint32), action)
        _, states = FlowTable(self._loaded.maps).entries()
        for flow_id in states["flow_id"]:
            self._store(int(flow_id) % SLOTS, int(flow_id), action=1)

    def take_slots(self) -> None:
        """Give the slots of established flows to flows of later ids."""
        self._judged += 1
        for slot in range(4 * len(self._frames)):
            flow_id = (1 << 40) + self._judged * SLOTS + slot
            self._store(slot, flow_id)

    def _store(self, slot: int, flow_id: int, action: int = 0) -> None:
        word = verdict_words(np.array([flow_id], np.uint64), LABEL, np.array([action]))
        bpf.update(self._loaded.maps["verdicts"], np.array([slot], np.uint32), word)

    def burst(self, n: int) -> float:
        """Send SYNs of n new sources; return ns, as the kernel took them."""
        address = int.from_bytes(self._syn.raw[SOURCE_AT : SOURCE_AT + 4], "little")
        took_ns = n * bpf.time_run(self._generator, self._syn.raw, n)
        address = (address + n) & 0xFFFFFFFF  # the kernel worked on a copy
        self._syn[SOURCE_AT : SOURCE_AT + 4] = address.to_bytes(4, "little")
        return took_ns

    def sweep(self, establish_s: float) -> tuple[float, int]:
        """Return ms of a round over the full table, and how many half-open flows it ended."""
        settings = TapSettings(establish_timeout_s=establish_s)
        sweeper = Sweeper(FlowTable(self._loaded.maps), settings)
        started = time.perf_counter()
        sweeper.sweep()
        return 1e3 * (time.perf_counter() - started), sweeper.counters["FLOWS_ENDED"]


def run(table: int, burst: int, syns: int, established: int) -> Result:
    """Return what one flood did."""
    settings = TapSettings(max_flows=table, slots=SLOTS, policy=True, loader="libbpf")
    loaded = programs.load(Build(settings, 1, NO_DEVICE))
    flood = Flood(loaded, established)
    try:
        flood.open()
        flood.touch()
        flood.judge()
        flood.touch()
        start, size = flood.counters(), table_bytes(loaded)
        lost, touches, took_ns = [0, 0], 0, 0.0
        for _ in range(syns // burst):
            took_ns += flood.burst(burst)
            flood.take_slots()
            lost = [a + b for a, b in zip(lost, flood.touch(), strict=True)]
            touches += established
        end = flood.counters()
        sweep_ms, _ = flood.sweep(establish_s=3600)
        time.sleep(0.05)  # the sweeper grants the packets' clock some slack
        end_ms, ended = flood.sweep(establish_s=0.001)
        return Result(
            table=table,
            burst=burst,
            syns=syns // burst * burst,
            established=established,
            touches=touches,
            flows_lost=lost[0],
            verdicts_lost=lost[1],
            flows_created=end["FLOWS_CREATED"] - start["FLOWS_CREATED"] - lost[0],
            table_full=end["PACKETS_TABLE_FULL"] - start["PACKETS_TABLE_FULL"],
            table_bytes_before=size,
            table_bytes_after=table_bytes(loaded),
            ns_a_syn=round(took_ns / (syns // burst * burst), 1),
            sweep_ms=round(sweep_ms, 1),
            ended=ended,
            us_an_end=round(1e3 * (end_ms - sweep_ms) / max(ended, 1), 2),
        )
    finally:
        flood.close()
        loaded.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--syns", type=int, default=5_000_000)
    parser.add_argument("--established", type=int, default=1000)
    parser.add_argument("--flows", type=int, nargs="+", default=[65536, 1 << 20])
    parser.add_argument("--bursts", type=int, nargs="+", default=BURSTS)
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    for table in options.flows:
        for burst in options.bursts:
            result = run(table, burst, options.syns, options.established)
            if options.json:
                print(json.dumps(asdict(result)), flush=True)
            else:
                print(" ".join(f"{name}={n:,}" for name, n in asdict(result).items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
