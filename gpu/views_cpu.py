"""The views in NumPy: the definition of every column that views.py declares.

Arrays here are (packets, ..., flows), flows last, so that the short axis is reduced by
whole-array operations. Values are whole numbers (bytes, nanoseconds) in float64, exact up
to 2**53, until the last step, and what is not exact is summed packet by packet in rank
order: a row has the same bits in whatever batch it is computed.
"""

from functools import reduce

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.views import MISSING, VIEWS, View

_TCP = 6
_NS = 1e9
_SYN, _ACK = 0x02, 0x10
_FLAGS = ("cwr", "ece", "urg", "ack", "psh", "rst", "syn", "fin")  # from the highest bit down
_HANDSHAKE = {"tcp_rtt", "syn_ack", "ack_dat"}
_SCALE = {"bytes": 1.0, "iat": _NS, "winsize": 1.0, "ttl": 1.0}
_IMAGE_HEADER = 80
_FAR = 1e300  # sorts behind every value


def stats(flows: FlowBatch, depth: int, columns: tuple[str, ...]) -> np.ndarray:
    """Return (flows, columns) float32.

    Raises:
        ValueError: an unknown column.
    """
    unknown = set(columns) - {column.name for column in VIEWS["stats"].columns}
    if unknown:
        raise ValueError(f"no such stats column: {', '.join(sorted(unknown))}")
    packets = _Packets(flows, depth)
    values = packets.totals(flows) | packets.sides(columns)
    if _HANDSHAKE & set(columns):
        values |= packets.handshake()
    rows = np.empty((len(flows), len(columns)), np.float32)
    for i, name in enumerate(columns):
        rows[:, i] = values[name]
    return rows


def seq(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 30, 3) float32: size, direction, gap; zeros where a rank has no packet."""
    shape = VIEWS["seq"].shape
    packets = _Packets(flows, min(depth, shape[0]))
    taken = packets.taken[: shape[0]]
    gap_us = packets.gaps(packets.taken)[0][: shape[0]] / 1e3
    direction = packets.field("direction")[: shape[0]]
    rows = np.zeros((len(flows), *shape), np.float32)
    shown = rows[:, : len(taken)]
    shown[..., 0] = np.where(taken, packets.field("ip_len")[: shape[0]] / 1500, 0).T
    shown[..., 1] = np.where(taken, 1.0 - 2.0 * direction, 0).T
    shown[..., 2] = np.where(taken, np.log1p(gap_us) / 16, 0).T
    return rows


def raw(view: View, flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, *view.shape) uint8, bytes as regrouping masked them; zeros beyond depth.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    ranks, length = view.shape
    kept = flows.raw.shape[2]
    if kept < length:
        raise ValueError(f"the flows keep {kept} bytes a packet, {view.name} needs {length}")
    taken = _Packets(flows, depth).taken[:ranks].T
    rows = np.zeros((len(flows), ranks, length), np.uint8)
    rows[:, : taken.shape[1]][taken] = flows.raw[:, :ranks, :length][taken]
    return rows


def image(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 5, 320) uint8: headers begin at byte 0, the payload at byte 80, or zeros.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    view = VIEWS["image"]
    ranks, length = view.shape
    kept = flows.raw.shape[2]
    if kept < view.raw_len:
        raise ValueError(f"the flows keep {kept} bytes a packet, image needs {view.raw_len}")
    flow, rank = np.nonzero(_Packets(flows, depth).taken[:ranks].T)
    packets = flows.packets[flow, rank]
    headers = (packets["ip_len"].astype(np.int64) - packets["payload_len"])[:, None]
    there = np.minimum(packets["raw_len"], view.raw_len)[:, None]
    place = np.arange(length)
    is_header = place < _IMAGE_HEADER
    source = np.where(is_header, place, headers + place - _IMAGE_HEADER)
    is_there = (source < there) & (~is_header | (place < headers))
    raw = flows.raw[flow, rank, : view.raw_len]
    rows = np.zeros((len(flows), ranks, length), np.uint8)
    rows[flow, rank] = np.take_along_axis(raw, np.where(is_there, source, 0), axis=1) * is_there
    return rows


class _Packets:
    """The first packets of a batch of flows: fields as (packets, flows) arrays.

    Attributes:
        taken: bool, the first `depth` packets of each flow that are present.
        sent: taken packets by direction, 0 from the initiator, 1 towards it.
        time_ns: float64, since the flow's first taken packet; meaningless for the others.
    """

    def __init__(self, flows: FlowBatch, depth: int) -> None:
        self._records = flows.packets
        present = self.field("present") != 0
        if depth < len(present):
            present &= np.cumsum(present, axis=0, dtype=np.uint16) <= depth
        self.taken = present
        towards = self.field("direction") == 1
        self.sent = (present & ~towards, present & towards)
        first = self._records["timestamp_ns"][np.arange(len(flows)), present.argmax(axis=0)]
        self.time_ns = (self.field("timestamp_ns") - first).view(np.int64).astype(np.float64)
        self.is_tcp = flows.key["protocol"] == _TCP

    def field(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self._records[name].T)

    def at(self, rank: np.ndarray) -> np.ndarray:
        """Return each flow's time at a rank of its own."""
        return self.time_ns[rank, np.arange(len(rank))]

    def gaps(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ns since the previous chosen packet (0 if none), and where there is one."""
        gaps = np.zeros(chosen.shape)
        has_previous = np.zeros(chosen.shape, bool)
        previous = np.zeros(chosen.shape[1])
        seen = np.zeros(chosen.shape[1], bool)
        for rank, here in enumerate(chosen):
            has_previous[rank] = here & seen
            gaps[rank] = np.maximum(self.time_ns[rank] - previous, 0) * has_previous[rank]
            np.copyto(previous, self.time_ns[rank], where=here)
            seen |= here
        return gaps, has_previous

    def totals(self, flows: FlowBatch) -> dict[str, np.ndarray]:
        """Return the columns that look at the whole flow or count packets."""
        last_rank = len(self.taken) - 1 - self.taken[::-1].argmax(axis=0)
        dur_ns = np.maximum(self.at(last_rank), 0)
        opened_by_b = flows.initiator == 1
        a_port, b_port = flows.key["a_port"], flows.key["b_port"]
        values = {
            "dur": np.where(self.taken.any(axis=0), dur_ns / _NS, MISSING),
            "proto": flows.key["protocol"],
            "s_port": np.where(opened_by_b, b_port, a_port),
            "d_port": np.where(opened_by_b, a_port, b_port),
        }
        length = self.field("ip_len")
        for side, sent in zip("sd", self.sent, strict=True):
            load = 8 * (length * sent).sum(axis=0) / np.maximum(dur_ns, 1) * _NS
            values[f"{side}_load"] = np.where(dur_ns > 0, load, MISSING)
            values[f"{side}_pkt_cnt"] = sent.sum(axis=0)
        bits = np.unpackbits((self.field("tcp_flags") * self.taken)[..., None], axis=-1)
        counts = bits.sum(axis=0, dtype=np.uint16)
        return values | {f"{flag}_cnt": counts[:, i] for i, flag in enumerate(_FLAGS)}

    def sides(self, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return every statistic of the quantities that the columns name, of both sides."""
        wanted = {name.split("_")[1] for name in columns if name[:2] in ("s_", "d_")}
        names, values, masks = [], [], []
        for quantity in (name for name in _SCALE if name in wanted):
            for side, sent in zip("sd", self.sent, strict=True):
                value, mask = self._quantity(quantity, sent)
                names.append((side, quantity))
                values.append(value)
                masks.append(mask)
        if not names:
            return {}
        scale = np.array([_SCALE[quantity] for _, quantity in names])[:, None]
        statistics = _statistics(
            np.stack(values, axis=1, dtype=np.float64), np.stack(masks, axis=1), scale
        )
        return {
            f"{side}_{quantity}_{statistic}": by_row[i]
            for statistic, by_row in statistics.items()
            for i, (side, quantity) in enumerate(names)
        }

    def _quantity(self, name: str, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if name == "iat":
            return self.gaps(sent)
        if name == "winsize":
            return self.field("tcp_window"), sent & self.is_tcp
        return self.field({"bytes": "ip_len", "ttl": "ttl"}[name]), sent

    def handshake(self) -> dict[str, np.ndarray]:
        """Return tcp_rtt, syn_ack and ack_dat; missing where a packet of them is."""
        flags = self.field("tcp_flags")
        syn, ack = flags & _SYN != 0, flags & _ACK != 0
        if not syn.any():  # always so where only packets with payload count
            return dict.fromkeys(_HANDSHAKE, np.full(flags.shape[1], MISSING))
        forward, backward = self.sent
        ranks = np.arange(len(flags))[:, None]
        syn_at = _first(forward & syn & ~ack)
        answer_at = _first(backward & syn & ack & (ranks > syn_at))
        ack_at = _first(forward & ack & ~syn & (ranks > answer_at))
        return {
            "syn_ack": self._between(syn_at, answer_at),
            "tcp_rtt": self._between(syn_at, ack_at),
            "ack_dat": self._between(answer_at, ack_at),
        }

    def _between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        last = len(self.taken) - 1
        took_ns = self.at(np.minimum(end, last)) - self.at(np.minimum(start, last))
        return np.where(end <= last, np.maximum(took_ns, 0) / _NS, MISSING)


def _first(chosen: np.ndarray) -> np.ndarray:
    """Return the first rank that is chosen, or how many ranks there are if none is."""
    return np.where(chosen.any(axis=0), chosen.argmax(axis=0), len(chosen))


def _statistics(values: np.ndarray, mask: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    """Return each statistic of values / scale over the packets in mask, (rows, flows).

    Args:
        values: (packets, rows, flows) float64, none negative.
        mask: of the same shape, bool.
        scale: (rows, 1).
    """
    count = mask.sum(axis=0, dtype=np.intp)
    divisor = np.maximum(count, 1)
    shown = values * mask
    total = shown.sum(axis=0)
    mean = total / divisor
    squares = values - mean
    squares *= mask
    squares *= squares
    ordered = ~mask * _FAR  # where() takes three times as long
    ordered += shown
    ordered.sort(axis=0)
    row, flow = np.ogrid[: mask.shape[1], : mask.shape[2]]
    middle = ordered[(divisor - 1) // 2, row, flow] + ordered[divisor // 2, row, flow]
    results = {
        "mean": mean / scale,
        "min": ordered[0] / scale,
        "max": shown.max(axis=0) / scale,
        "med": middle / 2 / scale,
        "std": np.sqrt(reduce(np.add, squares) / divisor) / scale,
    }
    for result in results.values():
        np.copyto(result, MISSING, where=count == 0)
    return results | {"sum": total / scale}
