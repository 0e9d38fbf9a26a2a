"""What a copy to the consumer costs: the sender's time a packet, by the way of the copy.

All of a packet's way is work of the sender's processor (path_cost.py), and of its copy too
up to the ring that it shares with the consumer, which runs on another processor. Every
packet is among the first N of its flow; what is beyond the same run without copies is the
copy's cost. Needs root.
"""

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import bed as beds
import common
from path_cost import PACKETS_A_FLOW, Sender

from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import CONSTANTS
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

PACKETS = 60_000
SENDS = 5
RING_SIZE = 8192
RINGBUF_BYTES = 1 << 26
COPIED = {"first_n": CONSTANTS["FIRST_N_MAX"], "mode": "tc"}
# One packet of a flow's PACKETS_A_FLOW is copied where "none" are.
WAYS = {
    "none": {"first_n": 1, "mode": "tc"},
    "AF_XDP, no consumer": COPIED,
    "AF_XDP": COPIED,
    "ring buffer": {**COPIED, "capture": "ringbuf", "ringbuf_bytes": RINGBUF_BYTES},
}


@contextmanager
def attached(bed: beds.Bed, way: str):
    """Attach a tap and, for the length of the block, drain what it copies."""
    settings = TapSettings(**WAYS[way])
    with netns.enter(bed.router), Tap(bed.device, settings) as tap:
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
    """Return ns a packet by way, a value a repeat: the smallest of SENDS."""
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    flows = -(-packets // PACKETS_A_FLOW)
    with beds.bed() as bed:
        sender = Sender(bed, work)
        for repeat in range(repeats):
            common.progress(f"mirror {repeat + 1}/{repeats}")
            for way, values in costs.items():
                best = []
                for _ in range(SENDS):
                    with attached(bed, way):  # anew: each send's flows are new ones
                        best.append(sender.send(flows, packets))
                values.append(min(best))
    return costs


def copy_costs(costs: dict[str, list[float]]) -> dict[str, float]:
    """Return ns a copy by way: the smallest run beyond the smallest without copies."""
    more = 1 - 1 / PACKETS_A_FLOW
    return {way: (min(v) - min(costs["none"])) / more for way, v in costs.items() if way != "none"}


def main() -> None:
    arguments = common.parser(__doc__.splitlines()[0], repeats=5).parse_args()
    common.need_root()
    packets = PACKETS // 4 if arguments.quick else PACKETS
    with TemporaryDirectory() as work:
        costs = measure(arguments.repeats, packets, Path(work))
    for way, values in costs.items():
        print(f"{way:22} {min(values):8.0f} ns a packet")
    for way, cost in copy_costs(costs).items():
        print(f"{way:22} {cost:8.0f} ns a copy")


if __name__ == "__main__":
    main()
