"""Makes traffic from recorded flows, to measure the cost of processing it.

Frames are rebuilt from the packet fields in a FlowBatch: the same ports, lengths, flags and gaps,
with documentation addresses (RFC 5737) and without payload. Flows begin at a given rate, evenly
spread over time, and interleave as in live traffic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.layout import CONSTANTS

FAR_NS = 10_000_000_000
FRAME_ROOM = 96
_ETHERNET, _IP, _TCP, _UDP = 14, 20, 20, 8
_IPPROTO_TCP = 6
_START_NS = 1_000_000_000


@dataclass(frozen=True)
class Traffic:
    """Packets in order of time.

    Attributes:
        batch: all packets.
        flows: number of flows that begin.
        lasts_ns: the time over which they begin.
        generations: further packets belong to flows that began so many times earlier at most.
    """

    batch: PacketBatch
    flows: int
    lasts_ns: int
    generations: int

    @property
    def first_id(self) -> int:
        """The lowest id of the flows that began since the traffic first came."""
        return 1 + self.generations * self.flows

    def batches(self) -> Iterator[PacketBatch]:
        """Yield the packets, BATCH_MAX at a time, without copying."""
        for start in range(0, len(self.batch), CONSTANTS["BATCH_MAX"]):
            yield part_of(self.batch, start, start + CONSTANTS["BATCH_MAX"])

    def come_again(self) -> None:
        """Make them what comes next: flows that began go on, as many others begin."""
        self.batch.flow_id[:] += np.uint64(self.flows)
        self.batch.timestamp_ns[:] += np.uint64(self.lasts_ns)


def part_of(batch: PacketBatch, start: int, end: int) -> PacketBatch:
    """Return packets start .. end - 1 of a batch without copying."""
    columns: dict[str, Any] = {
        name: column[start:end]
        for name, column in vars(batch).items()
        if isinstance(column, np.ndarray) and name != "memory"
    }
    return PacketBatch(memory=batch.memory, link_type=batch.link_type, **columns)


def traffic_of(flows: FlowBatch, depth: int, flows_per_s: float, seed: int = 0) -> Traffic:
    """Return the first packets of flows as they would come at a rate of new flows.

    A packet that comes after the time over which flows begin, len(flows) / flows_per_s, comes
    as much after its beginning instead, as one of a flow that began earlier: so packets of old
    and new flows come at once, as they do in the long run. After `generations` times
    come_again() every flow is whole. Packets more than FAR_NS after their flow's first are left
    out.

    Args:
        depth: packets of a flow, the first ones that are present.
    """
    present = flows.packets["present"] != 0
    present &= np.cumsum(present, axis=1) <= depth
    flow, rank = np.nonzero(present)
    place = (np.cumsum(present, axis=1) - 1)[flow, rank]
    packets = flows.packets[flow, rank]
    offset_ns = _offsets(packets["timestamp_ns"], flow)
    near = np.flatnonzero(offset_ns <= FAR_NS)
    flow, place, packets, offset_ns = flow[near], place[near], packets[near], offset_ns[near]
    lasts_ns = max(int(len(flows) / flows_per_s * 1e9), 1)
    starts = np.sort(np.random.default_rng(seed).integers(0, lasts_ns, len(flows)))
    earlier, since_ns = np.divmod(starts[flow] + offset_ns, lasts_ns)
    generation = earlier.max(initial=0) - earlier
    ids = 1 + flow + generation.astype(np.int64) * len(flows)
    order = np.lexsort((place, flow, since_ns))
    memory, captured = _frames(flows, packets[order], flow[order])
    n = len(order)
    batch = PacketBatch(
        memory=memory,
        offset=np.arange(n, dtype=np.uint64) * np.uint64(FRAME_ROOM),
        captured=captured,
        wire_len=packets["ip_len"][order] + np.uint32(_ETHERNET),
        timestamp_ns=(_START_NS + since_ns[order]).astype(np.uint64),
        flow_id=ids[order].astype(np.uint64),
        rank=place[order].astype(np.uint16),
        direction=np.ascontiguousarray(packets["direction"][order]),
        vlan=np.full(n, CONSTANTS["VLAN_NONE"], np.uint16),
        segment_len=np.zeros(n, np.uint16),
        ifindex=np.zeros(n, np.uint32),
    )
    return Traffic(batch, len(flows), lasts_ns, int(generation.max(initial=0)))


def _offsets(timestamp_ns: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return ns since each packet's flow began; a step back in time is none."""
    begins = np.r_[True, flow[1:] != flow[:-1]]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(flow)), 0))
    offset_ns = timestamp_ns.astype(np.int64) - timestamp_ns[first].astype(np.int64)
    offset_ns = np.clip(offset_ns, 0, FAR_NS + 1)
    apart = flow * (FAR_NS + 2)  # keeps flows apart in one running maximum
    return np.maximum.accumulate(offset_ns + apart) - apart


def _frames(
    flows: FlowBatch, packets: np.ndarray, flow: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return memory with a frame every FRAME_ROOM bytes, and (packets,) bytes of each."""
    n = len(packets)
    rows = np.zeros((n, FRAME_ROOM), np.uint8)
    is_tcp = flows.key["protocol"][flow] == _IPPROTO_TCP
    towards = packets["direction"] == 1
    opened_by_b = (flows.initiator[flow] == 1) ^ towards
    a_port, b_port = (flows.key[name][flow].astype(np.uint16) for name in ("a_port", "b_port"))
    headers = packets["ip_len"].astype(np.int64) - packets["payload_len"] - _IP
    tcp_len = np.clip(headers, _TCP, 60) // 4 * 4
    _put16(rows, 12, np.full(n, 0x0800))
    rows[:, 14] = 0x45
    _put16(rows, 16, packets["ip_len"])
    rows[:, 22] = packets["ttl"]
    rows[:, 23] = flows.key["protocol"][flow]
    rows[:, 26:30] = np.where(opened_by_b[:, None], (198, 51, 100, 1), (192, 0, 2, 1))
    rows[:, 30:34] = np.where(opened_by_b[:, None], (192, 0, 2, 1), (198, 51, 100, 1))
    _put16(rows, 34, np.where(opened_by_b, b_port, a_port))
    _put16(rows, 36, np.where(opened_by_b, a_port, b_port))
    _put16(rows, 38, np.where(is_tcp, 0, packets["payload_len"] + _UDP))  # TCP: sequence number
    rows[:, 46] = np.where(is_tcp, tcp_len << 2, 0)
    rows[:, 47] = np.where(is_tcp, packets["tcp_flags"], 0)
    _put16(rows, 48, np.where(is_tcp, packets["tcp_window"], 0))
    captured = _ETHERNET + _IP + np.where(is_tcp, tcp_len, _UDP)
    return rows.reshape(-1), captured.astype(np.uint32)


def _put16(rows: np.ndarray, at: int, values: np.ndarray) -> None:
    rows[:, at] = values.astype(np.uint32) >> 8
    rows[:, at + 1] = values.astype(np.uint32) & 0xFF
