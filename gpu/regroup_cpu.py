"""Regrouping in Python, packet by packet: the definition of etcpipe.gpu.regroup."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.gpu.mask_cpu import raw_view, segments
from etcpipe.gpu.parsing_cpu import Packet, Unparsable, parse
from etcpipe.gpu.regroup import COUNTERS, EXPIRE_MAX, GRACE_NS, EarlyRows, Settings
from etcpipe.layout import CONSTANTS, FLOW_KEY, PACKET_FIELDS

DEPTH, IDLE = CONSTANTS["READY_DEPTH"], CONSTANTS["READY_IDLE"]
KEY_NUMBERS = ("a_port", "b_port", "protocol", "ip_version", "zone", "inner_zone", "tunnel")
END, EVICTED = CONSTANTS["READY_END"], CONSTANTS["READY_EVICTED"]


@dataclass
class Row:
    """The packets of one flow, by rank."""

    flow_id: int
    key: tuple
    initiator: int
    vlan: int
    ifindex: int
    packets: dict[int, tuple] = field(default_factory=dict)
    raw: dict[int, bytes] = field(default_factory=dict)
    last_ns: int = 0
    reason: int = END

    @property
    def lost(self) -> int:
        """Number of ranks below the highest one that have not arrived."""
        return max(self.packets) + 1 - len(self.packets)

    def until(self, depth: int) -> "Row":
        """Return an early copy of the row: the ranks below depth, ready when the newest came."""
        packets = {rank: fields for rank, fields in self.packets.items() if rank < depth}
        newest = max(fields[0] for fields in packets.values())
        return replace(self, packets=packets, last_ns=newest, reason=DEPTH)


class Backend:
    """See etcpipe.gpu.regroup."""

    def __init__(self, settings: Settings):
        self._set = settings
        self._owners: dict[int, int] = {}  # slot -> the newest flow id in it
        self._pending: OrderedDict[int, Row] = OrderedDict()  # least recently updated first
        self._closed: list[Row] = []
        self._due: list[tuple[int, Row]] = []  # early rows of this batch, by depth
        self._early: list[tuple[int, Row]] = []
        self._clock_ns = 0
        self._counters = dict.fromkeys(COUNTERS, 0)

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        for i in range(len(batch)):
            self._count(self._packet(batch, i))
        for flow_id in map(int, batch.flow_id):
            row = self._pending.get(flow_id)
            if row and self._set.first_n - 1 in row.packets:
                self._close(row, DEPTH)
        self._early += [(depth, row.until(depth)) for depth, row in self._due]
        self._due.clear()
        newest = int(batch.timestamp_ns.max(initial=0))
        self._clock_ns = max(self._clock_ns, newest)
        return self.expire(newest if now_ns is None else now_ns)

    def expire(self, now_ns: int) -> FlowBatch:
        for row in list(self._pending.values())[:EXPIRE_MAX]:
            if now_ns - row.last_ns <= self._set.wait_ns + GRACE_NS:
                break
            self._close(row, IDLE)
        return self._take()

    def flush(self) -> FlowBatch:
        for row in list(self._pending.values()):
            self._close(row, IDLE if self._is_idle(row, self._clock_ns) else END)
        return self._take()

    def take_early(self) -> EarlyRows:
        early, self._early = self._early, []
        depth = np.array([depth for depth, _ in early], np.uint8)
        return EarlyRows(depth, self._batch([row for _, row in early]))

    def leave(self, flow_id: np.ndarray) -> None:
        for one in flow_id.tolist():
            row = self._pending.pop(one, None)
            if row:
                self._count("REGROUP_LEFT")
                self._count("REGROUP_LOST", row.lost)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _packet(self, batch: PacketBatch, i: int) -> str:
        """Take one packet; return what became of it."""
        flow_id, rank, now = int(batch.flow_id[i]), int(batch.rank[i]), int(batch.timestamp_ns[i])
        owner = self._owners.get(flow_id % self._set.slots, 0)
        row = self._pending.get(flow_id)
        if flow_id == 0:
            return "REGROUP_UNPARSED"
        if flow_id < owner:
            return "REGROUP_STRAGGLERS"
        if flow_id == owner and row is None:
            return "REGROUP_LATE"
        if row and self._is_idle(row, now):
            self._close(row, IDLE)
            return "REGROUP_LATE"
        if rank >= self._set.first_n:
            return "REGROUP_BEYOND"
        try:
            frame, packet = parse_packet(batch, i, self._set.parse)
        except Unparsable:
            return "REGROUP_UNPARSED"
        row = row or self._open(batch, i, packet)
        return self._store(row, batch, i, frame, packet)

    def _store(self, row: Row, batch: PacketBatch, i: int, frame: bytes, packet: Packet) -> str:
        new = []
        parts = segments(packet, int(batch.segment_len[i]))
        for rank, part in enumerate(parts[: self._set.first_n], int(batch.rank[i])):
            if rank >= self._set.first_n or rank in row.packets:
                continue
            raw = raw_view(frame, packet, part, self._set.raw_len, self._set.mask)
            row.raw[rank] = raw
            row.packets[rank] = (
                int(batch.timestamp_ns[i]),
                part.ip_len,
                part.payload_len,
                packet.tcp_window,
                len(raw),
                part.tcp_flags,
                packet.ttl,
                int(batch.direction[i]),
                1,
            )
            new.append(rank)
        if not new:
            return "REGROUP_DUPLICATES"
        row.last_ns = max(row.last_ns, int(batch.timestamp_ns[i]))
        self._pending.move_to_end(row.flow_id)
        self._due += [(rank + 1, row) for rank in new if rank + 1 in self._set.depths]
        if len(row.packets) == self._set.first_n:
            self._close(row, DEPTH)
        return "REGROUP_STORED"

    def _open(self, batch: PacketBatch, i: int, packet: Packet) -> Row:
        flow_id, now = int(batch.flow_id[i]), int(batch.timestamp_ns[i])
        slot = flow_id % self._set.slots
        older = self._pending.get(self._owners.get(slot, 0))
        if older:
            self._make_room(older, now, "REGROUP_EVICTED")
        if len(self._pending) >= self._set.max_rows:
            self._make_room(next(iter(self._pending.values())), now, "REGROUP_POOL_FULL")
        row = Row(
            flow_id,
            packet.key,
            int(packet.from_b) ^ int(batch.direction[i]),
            int(batch.vlan[i]),
            int(batch.ifindex[i]),
        )
        self._owners[slot] = flow_id
        self._pending[flow_id] = row
        self._count("REGROUP_FLOWS")
        return row

    def _make_room(self, row: Row, now: int, counter: str) -> None:
        self._close(row, IDLE if self._is_idle(row, now) else EVICTED)
        if row.reason == EVICTED:
            self._count(counter)

    def _is_idle(self, row: Row, now: int) -> bool:
        return now - row.last_ns > self._set.wait_ns

    def _close(self, row: Row, reason: int) -> None:
        # a row that has its last rank is complete, whatever closes it
        row.reason = DEPTH if self._set.first_n - 1 in row.packets else reason
        del self._pending[row.flow_id]
        self._closed.append(row)
        self._count("REGROUP_LOST", row.lost)

    def _count(self, name: str, n: int = 1) -> None:
        self._counters[name] += n

    def _take(self) -> FlowBatch:
        rows, self._closed = self._closed, []
        return self._batch(rows)

    def _batch(self, rows: list[Row]) -> FlowBatch:
        n, first_n, raw_len = len(rows), self._set.first_n, self._set.raw_len
        packets = np.zeros((n, first_n), PACKET_FIELDS)
        raw = np.zeros((n, first_n, raw_len), np.uint8)
        for i, row in enumerate(rows):
            for rank, fields in row.packets.items():
                packets[i, rank] = fields
                raw[i, rank, : len(row.raw[rank])] = np.frombuffer(row.raw[rank], np.uint8)
        wait = self._set.wait_ns
        return FlowBatch(
            flow_id=np.array([row.flow_id for row in rows], np.uint64),
            key=_keys(rows),
            initiator=np.array([row.initiator for row in rows], np.uint8),
            vlan=np.array([row.vlan for row in rows], np.uint16),
            ifindex=np.array([row.ifindex for row in rows], np.uint32),
            packets=packets,
            raw=raw,
            lost=np.array([row.lost for row in rows], np.uint16),
            reason=np.array([row.reason for row in rows], np.uint8),
            ready_ns=np.array(
                [row.last_ns + (wait if row.reason == IDLE else 0) for row in rows], np.uint64
            ),
        )


def parse_packet(batch: PacketBatch, i: int, options: int) -> tuple[bytes, Packet]:
    start, captured = int(batch.offset[i]), int(batch.captured[i])
    if start + captured > len(batch.memory):
        raise Unparsable
    frame = batch.memory[start : start + captured].tobytes()
    wire_len, vlan = int(batch.wire_len[i]), int(batch.vlan[i])
    return frame, parse(frame, wire_len, batch.link_type, options, vlan)


def _keys(rows: list[Row]) -> np.ndarray:
    keys = np.zeros(len(rows), FLOW_KEY)
    for key, row in zip(keys, rows, strict=True):
        a, b, *rest = row.key
        key["a_addr"], key["b_addr"] = list(a), list(b)
        for name, value in zip(KEY_NUMBERS, rest, strict=True):
            key[name] = value
    return keys
