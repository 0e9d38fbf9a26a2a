"""What a packet costs on its whole way, and what draining the ring costs the consumer.

The lab's client sends through the router with sender.c. All of a packet's way, from the
sender's system call over two veth pairs and forwarding to a route that swallows it, is work
of the sender's processor; so its time a packet is the cost of the way.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

import bed as beds
import common
import numpy as np
import paired
from packet_cost import NO_DEVICE, undisturbed

from etcpipe.kernel import first_packets, netns, programs
from etcpipe.kernel.build import Build
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.lab.network import ip
from etcpipe.layout import CONSTANTS
from etcpipe.ring import BATCH_MAX, Ring

HERE = Path(__file__).parent
SENDER_CPU = 0
FRAME = 124
GATHER = 256
NONE, EMPTY, TAP = "no program", "empty tc program", "etcpipe, past the first N"
SWALLOWED = -5  # the address of the server's /24 that the server drops
RING_SIZE = 8192
PACKETS_A_FLOW = 60  # in a drain; all of them are among the first N
TIMEOUT_S = 60.0


@dataclass
class Drain:
    """Drains of the ring, one a repeat, each while the sender sent at its fastest.

    Attributes:
        sent_kpps: thousand packets a second of the sender.
        cpu_ns: consumer's processor time a packet, GATHER bytes of each copied together; its
            notes for the latencies are not in it.
        full_cpu_ns: the same of a ring that was full before, nobody sending.
        p50_ms, p99_ms: from the tracker to the consumer.
        batch: packets a call.
        missing: packets that the tracker selected, neither arrived nor counted as lost.
        lost: counted as lost, by reason.
        pause_ms: longest time from a batch to the next; the ring holds RING_SIZE packets.
    """

    sent_kpps: list[float] = field(default_factory=list)
    cpu_ns: list[float] = field(default_factory=list)
    full_cpu_ns: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    lost: list[dict[str, int]] = field(default_factory=list)
    pause_ms: list[float] = field(default_factory=list)


class Sender:
    """sender.c, compiled, and the way of its packets: client, router, swallowed."""

    def __init__(self, bed: beds.Bed, work: Path):
        work.mkdir(parents=True, exist_ok=True)
        path = work / "sender"
        common.run(["gcc", "-O2", "-Wall", "-o", path, HERE / "sender.c"])
        network = bed.network
        swallowed = str(ip_interface(f"{bed.server_address}/24").network[SWALLOWED])
        self._router, self._swallowed = network.router, swallowed
        ip(network.server, f"route add blackhole {swallowed}/32")
        server, router = _link(network.server, "wan0"), _link(network.router, network.device)
        ip(network.router, f"neigh replace {swallowed} lladdr {server['address']} dev lab1")
        source = _ipv4(_link(network.client, "wan0"))
        self._argv = ["ip", "netns", "exec", network.client]
        self._argv += ["taskset", "-c", str(SENDER_CPU), "chrt", "-f", "1"]
        self._argv += [str(path), "wan0", router["address"], source, swallowed, str(FRAME)]

    def swallow_early(self) -> None:
        """Have the router drop what is sent once it is tracked, so that more can be sent."""
        ip(self._router, f"route add blackhole {self._swallowed}/32")

    def send(self, flows: int, packets: int) -> float:
        """Return ns a packet."""
        return self._ns(common.run([*self._argv, flows, packets]).output)

    @contextmanager
    def sending(self, flows: int, packets: int) -> Iterator[subprocess.Popen]:
        """Send while the block runs; the sender has ended when the block has."""
        command = [*self._argv, str(flows), str(packets)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def ns(self, process: subprocess.Popen) -> float:
        """Return ns a packet of a sender that has ended."""
        return self._ns(process.stdout.read())

    @staticmethod
    def _ns(output: str) -> float:
        sent, took_ns, _ = map(int, output.split())
        return took_ns / sent


def measure_path(repeats: int, packets: int, work: Path) -> dict[str, list[float]]:
    """Return ns a packet of one flow, a value a repeat, by what the router's device carries."""
    costs: dict[str, list[float]] = {NONE: [], EMPTY: [], TAP: []}
    with beds.bed() as bed, _tracker(bed) as tracker, beds.loaded_empty(work) as empty:
        sender = Sender(bed, work)
        programs_of = {EMPTY: empty, TAP: tracker}
        for repeat, case in paired.shuffled(list(costs), repeats):
            common.progress(f"path {repeat + 1}/{repeats}")
            program = programs_of.get(case)
            with beds.attached(bed, program) if program else nullcontext():
                costs[case].append(sender.send(1, packets))
    return costs


@contextmanager
def _tracker(bed: beds.Bed) -> Iterator[int]:
    """Load the tracker for the router's device; the copies of the flow's first N fail."""
    with netns.enter(bed.router):
        ifindex = socket.if_nametoindex(bed.device)
    loaded = programs.load(Build(TapSettings(), ifindex, NO_DEVICE, with_xdp=False))
    try:
        yield loaded.programs["tc_track"]
    finally:
        loaded.close()


def measure_drain(repeats: int, packets: int, work: Path) -> Drain:
    """Return what draining cost; every packet is among the first N of its flow."""
    drain = Drain()
    settings = TapSettings(mode="tc", first_n=CONSTANTS["FIRST_N_MAX"])
    with beds.bed() as bed:
        sender = Sender(bed, work)
        sender.swallow_early()
        for repeat in range(repeats):
            common.progress(f"drain {repeat + 1}/{repeats}")
            with netns.enter(bed.router), Tap(bed.device, settings) as tap:
                with Ring(tap.mirror_ifindex, ring_size=RING_SIZE) as ring:
                    tap.bind(ring.fd)
                    tap.start()
                    _drain_once(tap, ring, sender, packets, drain)
    return drain


def _drain_full(ring: Ring, sender: Sender, flows: int, drain: Drain) -> int:
    """Fill most of the ring, then drain it. Returns packets that arrived."""
    sender.send(flows, min(flows, RING_SIZE // 2))
    arrived, rows = 0, np.empty((BATCH_MAX, GATHER), np.uint8)
    rows.fill(0)  # else the kernel's time to find its memory would be in this short measure
    with undisturbed(os.cpu_count() - 1):
        started = time.thread_time_ns()
        while len(batch := ring.receive(deadline_s=0.0)):
            batch.heads(rows)
            arrived += len(batch)
        drain.full_cpu_ns.append((time.thread_time_ns() - started) / arrived)
    return arrived


def _drain_once(tap: Tap, ring: Ring, sender: Sender, packets: int, drain: Drain) -> None:
    flows = -(-packets // PACKETS_A_FLOW)
    before = _drain_full(ring, sender, flows, drain)
    rows = np.zeros((BATCH_MAX, GATHER), np.uint8)
    stamps, ends, arrived, used_ns = np.zeros(packets, np.uint64), [], 0, 0
    with sender.sending(flows, packets) as process, undisturbed(os.cpu_count() - 1):
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            started = time.thread_time_ns()
            batch = ring.receive()
            n = len(batch.heads(rows))
            used_ns += time.thread_time_ns() - started
            if n:
                stamps[arrived : arrived + n] = batch.timestamp_ns
                arrived += n
                ends.append((time.monotonic_ns(), arrived))
            elif process.poll() is not None:
                break
        drain.sent_kpps.append(1e6 / sender.ns(process))
    counters = tap.counters()
    counters |= {f"RING_{name.upper()}": n for name, n in ring.statistics().items()}
    lost = first_packets.lost(counters)
    p50, p99 = np.percentile(_waits(stamps, ends), [50, 99]) / 1e6
    drain.cpu_ns.append(used_ns / arrived)
    drain.p50_ms.append(float(p50))
    drain.p99_ms.append(float(p99))
    drain.batch.append(arrived / len(ends))
    drain.lost.append(lost)
    drain.missing.append(counters["PACKETS_FIRST_N"] - before - arrived - sum(lost.values()))
    drain.pause_ms.append(float(np.diff([done for done, _ in ends]).max(initial=0) / 1e6))


def _waits(stamps: np.ndarray, ends: list[tuple[int, int]]) -> np.ndarray:
    """Return ns from each packet's stamp to when its batch was done."""
    done, arrived = np.array(ends, np.uint64).T
    return np.repeat(done, np.diff(arrived, prepend=0).astype(int)) - stamps[: arrived[-1]]


def _link(namespace: str, device: str) -> dict:
    shown = common.run(["ip", "-n", namespace, "-j", "addr", "show", "dev", device])
    return json.loads(shown.output)[0]


def _ipv4(link: dict) -> str:
    return next(a["local"] for a in link["addr_info"] if a["family"] == "inet")
