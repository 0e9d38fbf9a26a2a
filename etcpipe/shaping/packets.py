"""The packets of many flows as one table, in the order in which they are sent."""

from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.mask import HIDDEN
from etcpipe.layout import PACKET_FIELDS

# No packet grows beyond what a segment holds on Ethernet.
PAYLOAD_MAX = 1460

_UDP = 17
_UDP_HEADER = 8
_IPV6_HEADER = 40


@dataclass(frozen=True)
class Packets:
    """Packets of flows: by flow, then by time.

    Attributes:
        flow: (packets,) int64, row of the flow.
        time_ns: (packets,) int64, since the flow's first packet, never smaller than the
            one before in the flow.
        fields: (packets,) PACKET_FIELDS; its clock is not kept up, time_ns is.
        raw: (packets, L) uint8, bytes from the IP header on, as masks left them.
        protocol: (packets,) uint8.
        is_masked: payload is HIDDEN in raw, and so is what is added to it.
    """

    flow: np.ndarray
    time_ns: np.ndarray
    fields: np.ndarray
    raw: np.ndarray
    protocol: np.ndarray
    is_masked: bool

    def __len__(self) -> int:
        return len(self.flow)

    @property
    def payload_len(self) -> np.ndarray:
        """(packets,) int64."""
        return self.fields["payload_len"].astype(np.int64)

    @property
    def opens(self) -> np.ndarray:
        """(packets,) bool, the first one of each flow."""
        return np.diff(self.flow, prepend=-1) != 0

    def take(self, index: np.ndarray) -> "Packets":
        """Return some packets, or some more than once."""
        return replace(
            self,
            flow=self.flow[index],
            time_ns=self.time_ns[index],
            fields=self.fields[index],
            raw=self.raw[index],
            protocol=self.protocol[index],
        )

    def in_order(self) -> "Packets":
        """Return them sorted by flow and time; what came at once keeps its order."""
        order = np.lexsort((self.time_ns, self.flow))
        return self.take(order)

    def at(self, time_ns: np.ndarray) -> "Packets":
        """Return them at other times, sorted."""
        return replace(self, time_ns=np.maximum(time_ns, 0).astype(np.int64)).in_order()

    def gaps_ns(self) -> np.ndarray:
        """Return (packets,) int64 since the packet before in the flow, 0 for the first."""
        return np.where(self.opens, 0, np.diff(self.time_ns, prepend=0))

    def with_gaps(self, gaps_ns: np.ndarray) -> "Packets":
        """Return them in this order with other gaps; a flow's first packet stays where it is."""
        first = np.flatnonzero(self.opens)
        total = np.cumsum(np.where(self.opens, self.time_ns, gaps_ns.astype(np.int64)))
        number = np.cumsum(self.opens) - 1
        return replace(self, time_ns=total - total[first][number] + self.time_ns[first][number])

    def with_payload(self, payload_len: np.ndarray, rng: np.random.Generator) -> "Packets":
        """Return them with payloads of other lengths; bytes that are new tell nothing.

        Args:
            payload_len: (packets,) int; where it is what it was, nothing changes.
        """
        changed = np.flatnonzero(payload_len != self.payload_len)
        fields, raw = self.fields.copy(), self.raw.copy()
        header = (fields["ip_len"].astype(np.int64) - fields["payload_len"])[changed]
        fields["payload_len"][changed] = payload_len[changed]
        fields["ip_len"][changed] = header + payload_len[changed]
        length = raw.shape[1]
        if length:
            before = fields["raw_len"][changed].astype(np.int64)[:, None]
            after = np.minimum(fields["ip_len"][changed], length).astype(np.int64)[:, None]
            place = np.arange(length)
            filling = self._filling((len(changed), length), rng)
            grown = np.where((place >= before) & (place < after), filling, raw[changed])
            raw[changed] = np.where(place < after, grown, 0)
            fields["raw_len"][changed] = after[:, 0]
            _write_lengths(raw, changed, fields["ip_len"][changed], header, self.protocol[changed])
        return replace(self, fields=fields, raw=raw)

    def without_content(self, chosen: np.ndarray, rng: np.random.Generator) -> "Packets":
        """Return them with nothing left in the payload of some, as of dummies or further parts.

        Args:
            chosen: (packets,) bool.
        """
        raw = self.raw.copy()
        index = np.flatnonzero(chosen)
        header = (self.fields["ip_len"].astype(np.int64) - self.fields["payload_len"])[index]
        place = np.arange(raw.shape[1])
        is_payload = (place >= header[:, None]) & (place < self.fields["raw_len"][index][:, None])
        raw[index] = np.where(
            is_payload, self._filling((len(index), raw.shape[1]), rng), raw[index]
        )
        return replace(self, raw=raw)

    def _filling(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        if self.is_masked:
            return np.full(shape, HIDDEN, np.uint8)
        return rng.integers(0, 256, shape, np.uint8)


def _write_lengths(
    raw: np.ndarray, index: np.ndarray, ip_len: np.ndarray, header: np.ndarray, protocol: np.ndarray
) -> None:
    """Write lengths into the headers of some packets, as far as raw shows them."""
    if raw.shape[1] < _IPV6_HEADER + _UDP_HEADER:
        return
    version = raw[index, 0] >> 4
    for number, place, less in ((4, 2, 0), (6, 4, _IPV6_HEADER)):
        chosen = version == number
        _write_be16(raw, index[chosen], np.full(chosen.sum(), place), ip_len[chosen] - less)
    # a header of options that reach beyond what raw shows is left alone
    udp = (protocol == _UDP) & (header + _UDP_HEADER <= raw.shape[1])
    start = header[udp] - _UDP_HEADER
    _write_be16(raw, index[udp], start + 4, ip_len[udp] - start)


def _write_be16(raw: np.ndarray, index: np.ndarray, place: np.ndarray, value: np.ndarray) -> None:
    raw[index, place] = value >> 8
    raw[index, place + 1] = value & 0xFF


def from_flows(flows: FlowBatch, is_masked: bool) -> Packets:
    """Return the packets that are present."""
    flow, rank = np.nonzero(flows.packets["present"])
    fields = flows.packets[flow, rank]
    clock = fields["timestamp_ns"].astype(np.int64)
    opens = np.diff(flow, prepend=-1) != 0
    since = clock - clock[opens][np.cumsum(opens) - 1]
    packets = Packets(
        flow, since, fields, flows.raw[flow, rank], flows.key["protocol"][flow], is_masked
    )
    return packets.at(since)


def to_flows(packets: Packets, flows: FlowBatch, first_n: int, wait_s: float) -> FlowBatch:
    """Return rows of the first packets of flows, up to the first gap above the waiting time.

    Args:
        flows: the rows that the packets came from.
    """
    is_late = packets.gaps_ns() > int(wait_s * 1e9)
    number = np.cumsum(packets.opens) - 1
    late = np.cumsum(is_late)
    is_cut = late > late[packets.opens][number]
    start = np.flatnonzero(packets.opens)
    rank = np.arange(len(packets)) - start[number]
    kept = np.flatnonzero(~is_cut & (rank < first_n))
    rows = np.zeros((len(flows), first_n), PACKET_FIELDS)
    raw = np.zeros((len(flows), first_n, flows.raw.shape[2]), np.uint8)
    fields = packets.fields[kept]
    began = _first_ns(flows)[packets.flow[kept]]
    fields["timestamp_ns"] = began + packets.time_ns[kept].astype(np.uint64)
    where = packets.flow[kept], rank[kept]
    rows[where], raw[where] = fields, packets.raw[kept]
    return replace(flows, packets=rows, raw=raw)


def _first_ns(flows: FlowBatch) -> np.ndarray:
    first = (flows.packets["present"] != 0).argmax(axis=1)
    return flows.packets["timestamp_ns"][np.arange(len(flows)), first]
