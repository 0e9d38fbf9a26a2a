"""Several queues of the mirror: each flow stays on one, nothing is lost, order is kept."""

import time
from contextlib import ExitStack
from typing import Any

import captures
import numpy as np
import pytest
from kernel_fixtures import Wire

from etcpipe.batch import PacketBatch
from etcpipe.columns import PacketColumns
from etcpipe.errors import DataplaneError, UsageError
from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.queues import Queues
from etcpipe.ring import BATCH_MAX, Ring

NEAR, FAR = "10.77.0.1", "10.77.0.2"
QUEUES, FLOWS, PACKETS = 3, 60, 10


def send_flows(wire: Wire) -> None:
    with wire.raw() as sender:
        for i in range(PACKETS):
            for port in range(1000, 1000 + FLOWS):
                sender.send(captures.ether(captures.udp(bytes([i]) * 40, FAR, NEAR, port, 9)))


def open_rings(stack: ExitStack, wire: Wire, tap: Tap, idle_s: float = 0.2) -> list[Ring]:
    rings = []
    with netns.enter(wire.near):
        for queue in range(QUEUES):
            rings.append(stack.enter_context(Ring(tap.mirror_ifindex, queue, idle_s=idle_s)))
            tap.bind(rings[queue].fd, queue)
    return rings


@pytest.mark.root
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_a_flow_stays_on_its_queue(wire: Wire, mode: str) -> None:
    with ExitStack() as stack:
        settings = TapSettings(queues=QUEUES, mode=mode)
        tap = stack.enter_context(Tap(wire.device, settings, netns=wire.near))
        rings = open_rings(stack, wire, tap)
        tap.start()
        send_flows(wire)
        of_queue = []
        for ring in rings:
            batches = []
            while len(batch := ring.receive()):
                batches.append((batch.flow_id.copy(), batch.rank.copy()))
            of_queue.append([np.concatenate(column) for column in zip(*batches, strict=True)])
        counted = tap.counters()

    flows = [set(flow_id.tolist()) for flow_id, _ in of_queue]
    assert sum(map(len, flows)) == len(set().union(*flows)) >= FLOWS
    assert min(map(len, flows)) > FLOWS / QUEUES / 2
    assert sum(len(rank) for _, rank in of_queue) == counted["PACKETS_FIRST_N"]
    for flow_id, rank in of_queue:
        for flow in set(flow_id.tolist()):
            ranks = rank[flow_id == flow].tolist()
            assert ranks == list(range(len(ranks)))


@pytest.mark.root
def test_one_reader_gets_the_packets_of_all_queues(wire: Wire) -> None:
    with ExitStack() as stack:
        settings = TapSettings(queues=QUEUES)
        tap = stack.enter_context(Tap(wire.device, settings, netns=wire.near))
        source = stack.enter_context(Queues(open_rings(stack, wire, tap, idle_s=0.05), 0.3))
        tap.start()
        send_flows(wire)
        ranks: dict[int, list[int]] = {}
        while len(batch := source.receive()):
            for flow_id, rank in zip(batch.flow_id.tolist(), batch.rank.tolist(), strict=True):
                ranks.setdefault(flow_id, []).append(rank)
        counted = tap.counters()
        assert source.is_drained
        assert not any(source.statistics().values())

    assert sum(map(len, ranks.values())) == counted["PACKETS_FIRST_N"] >= FLOWS * PACKETS
    assert all(found == list(range(len(found))) for found in ranks.values())


@pytest.mark.root
def test_a_mirror_that_goes_away_ends_the_reader(wire: Wire) -> None:
    with ExitStack() as stack:
        settings = TapSettings(queues=QUEUES)
        tap = stack.enter_context(Tap(wire.device, settings, netns=wire.near))
        source = stack.enter_context(Queues(open_rings(stack, wire, tap, idle_s=0.05), 0.3))
        tap.start()
        wire.shell(wire.near, "ip link del etcm2a")
        with pytest.raises(DataplaneError, match="gone or down"):
            for _ in range(20):
                source.receive()


class FullOnce:
    """A ring with one full batch, and silence after it."""

    def __init__(self) -> None:
        self.sizes = [BATCH_MAX]

    def batch(self, packets: int) -> PacketBatch:
        return PacketColumns(BATCH_MAX).batch(np.zeros(1, np.uint8), packets)

    def receive(self) -> PacketBatch:
        time.sleep(0.01)
        return self.batch(self.sizes.pop() if self.sizes else 0)

    def no_packets(self) -> PacketBatch:
        return self.batch(0)

    def close(self) -> None:
        self.sizes = []


def test_a_queue_that_falls_silent_after_a_full_batch_is_drained() -> None:
    ring: Any = FullOnce()
    with Queues([ring], idle_s=0.3) as source:
        assert len(source.receive()) == BATCH_MAX
        assert not source.is_drained
        assert len(source.receive()) == 0
        assert source.is_drained


class Broken(FullOnce):
    """A ring that fails in a way that nobody thought of."""

    def receive(self) -> PacketBatch:
        raise RuntimeError("a defect")


def test_whatever_ends_a_queue_reaches_the_reader() -> None:
    ring: Any = Broken()
    with Queues([ring], idle_s=5) as source, pytest.raises(RuntimeError, match="a defect"):
        source.receive()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queues": 0}, "queues is 0, must be 1 to 64"),
        ({"queues": 65}, "queues is 65, must be 1 to 64"),
        ({"queues": 2, "capture": "ringbuf"}, "a ring buffer has one"),
        ({"capture": "pcap"}, "capture is 'pcap', must be one of afxdp, ringbuf"),
        ({"ringbuf_bytes": 5000}, "ringbuf_bytes is 5000, must be a power of two"),
        ({"ringbuf_bytes": 1 << 31}, "must be a power of two"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TapSettings(**settings)
