"""Flows of packets that have no id, packet by packet: the definition of etcpipe.gpu.flow_sort."""

from dataclasses import dataclass, field, replace

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.gpu import regroup_cpu
from etcpipe.gpu.flow_sort import COUNTERS, SWEEP_SLACK_NS, FlowRules, SweepClock
from etcpipe.gpu.mask_cpu import segments
from etcpipe.gpu.parsing_cpu import TCP, UDP, Packet, Unparsable
from etcpipe.gpu.regroup import Settings
from etcpipe.layout import COUNT_RULES

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@dataclass
class Flow:
    """What is known of a flow; the rules are those of bpf/flows.h."""

    flow_id: int
    from_b: bool  # whether end b is the initiator
    last_ns: int
    counted: int = 0
    flags: list[int] = field(default_factory=lambda: [0, 0])
    closed: bool = False

    def is_silent(self, now_ns: int, rules: FlowRules) -> bool:
        half_open = (self.flags[0] | self.flags[1]) & (SYN | ACK) == SYN
        timeout = rules.establish_ns if half_open else rules.idle_ns
        return now_ns - self.last_ns > (rules.tombstone_ns if self.closed else timeout)

    def restarts(self, packet: Packet, now_ns: int, rules: FlowRules) -> bool:
        opens = packet.tcp_flags & (SYN | ACK) == SYN
        return self.is_silent(now_ns, rules) or (self.closed and opens)

    def update(self, packet: Packet, now_ns: int) -> int:
        """Account a packet and return its direction."""
        direction = int(packet.from_b != self.from_b)
        self.last_ns = now_ns
        if packet.protocol == TCP:
            self.flags[direction] |= packet.tcp_flags
            both = packet.tcp_flags & self.flags[1 - direction]
            self.closed = self.closed or bool(packet.tcp_flags & RST or both & FIN)
        return direction


class Backend(regroup_cpu.Backend):
    """Tracks flows packet by packet, then regroups them."""

    def __init__(self, settings: Settings, rules: FlowRules):
        super().__init__(settings)
        self._rules = rules
        self._flows: dict[tuple, Flow] = {}
        self._last_id = 0
        self._sweep = SweepClock(rules)
        self._flow_counters = dict.fromkeys(COUNTERS, 0)

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        newest = int(batch.timestamp_ns.max(initial=0))
        found = [self._track(batch, i) for i in range(len(batch))]
        self._clock_ns = max(self._clock_ns, newest)
        if self._sweep.is_due(self._clock_ns):
            self._forget_silent()
        at = [i for i, row in enumerate(found) if row]
        tracked = [row for row in found if row]
        columns = {name: getattr(batch, name)[at] for name in DTYPES}
        for n, name in enumerate(("flow_id", "rank", "direction")):
            columns[name] = np.array([row[n] for row in tracked], DTYPES[name])
        return super().add(replace(batch, **columns), newest if now_ns is None else now_ns)

    @property
    def counters(self) -> dict[str, int]:
        return super().counters | self._flow_counters

    def _track(self, batch: PacketBatch, i: int) -> tuple[int, int, int] | None:
        """Return a packet's flow, rank and direction, or None if it is not wanted."""
        try:
            packet, n_segments = self._read(batch, i)
        except Unparsable:
            return 0, 0, 0
        now_ns = int(batch.timestamp_ns[i])
        flow = self._flow_of(packet, now_ns)
        if flow is None:
            self._flow_counters["PACKETS_TABLE_FULL"] += 1
            return None
        direction = flow.update(packet, now_ns)
        if not self._counts(packet):
            return None
        rank = flow.counted
        flow.counted += n_segments
        return (flow.flow_id, rank, direction) if rank < self._set.first_n else None

    def _read(self, batch: PacketBatch, i: int) -> tuple[Packet, int]:
        _, packet = regroup_cpu.parse_packet(batch, i, self._set.parse)
        return packet, len(segments(packet, int(batch.segment_len[i])))

    def _flow_of(self, packet: Packet, now_ns: int) -> Flow | None:
        flow = self._flows.get(packet.key)
        if flow and not flow.restarts(packet, now_ns, self._rules):
            return flow
        if not flow and len(self._flows) >= self._rules.flows_max:
            return None
        self._flow_counters["FLOWS_RESTARTED" if flow else "FLOWS_CREATED"] += 1
        self._last_id += 1
        # the sender of a SYN+ACK is the responder
        answers = packet.tcp_flags & (SYN | ACK) == SYN | ACK
        flow = Flow(self._last_id, packet.from_b != answers, now_ns)
        self._flows[packet.key] = flow
        return flow

    def _counts(self, packet: Packet) -> bool:
        if packet.protocol not in (TCP, UDP):
            return False
        if self._rules.count_rule == COUNT_RULES["all"] or packet.payload_len:
            return True
        opens = packet.tcp_flags & (SYN | RST)
        return self._rules.count_rule == COUNT_RULES["non_ack"] and bool(opens)

    def _forget_silent(self) -> None:
        now_ns = self._clock_ns - SWEEP_SLACK_NS
        kept = {k: f for k, f in self._flows.items() if not f.is_silent(now_ns, self._rules)}
        self._flows = kept
