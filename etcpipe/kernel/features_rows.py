"""A model's rows from what the kernel gathered: the last steps, which need fractions.

gpu/features_cpu.py defines every column. Those of which the kernel keeps whole numbers are
finished here, in the definition's own order of operations, so that their bits are the same; a
deviation from the sum of squares may differ by one unit in the last place. Where the plan has
a series, the packets are put together again and the definition itself computes the column.
"""

from functools import cached_property

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu import features_cpu
from etcpipe.gpu.features import MISSING
from etcpipe.gpu.features_packets_cpu import NS
from etcpipe.gpu.features_states import FLAGS, SIDES
from etcpipe.kernel.features_plan import (
    CONSTANTS,
    HANDSHAKE,
    QUANTITY_WORDS,
    SIZES,
    TIMES,
    FeaturePlan,
    kept_for,
)
from etcpipe.layout import PACKET_FIELDS

_TCP = 6


class Gathered:
    """Some flows' entries, as the kernel left them.

    Args:
        entries: (flows,) of the plan's dtype.
    """

    def __init__(self, entries: np.ndarray, plan: FeaturePlan) -> None:
        self.entries = entries
        self.plan = plan
        ranks = np.ascontiguousarray(entries["ranks"]).view(np.uint8).reshape(len(entries), 2, 8)
        bits = np.unpackbits(ranks, axis=2, bitorder="little")[:, :, : plan.depth]
        self._of_side = bits.astype(np.bool_)  # (flows, 2, depth)
        self._count = bits.sum(axis=2, dtype=np.int64).T  # (2, flows)

    @cached_property
    def flows(self) -> FlowBatch:
        """The flows with as much of their packets as was kept: at least which there were."""
        entries = self.entries
        present = self._of_side[:, 0] | self._of_side[:, 1]
        highest = self.plan.depth - present[:, ::-1].argmax(axis=1)
        return FlowBatch(
            flow_id=entries["flow_id"].copy(),
            key=entries["key"].copy(),
            initiator=entries["initiator"].copy(),
            vlan=entries["vlan"].copy(),
            ifindex=entries["ifindex"].copy(),
            packets=self._packets(present),
            raw=np.zeros((len(entries), self.plan.depth, 0), np.uint8),
            lost=(highest - present.sum(axis=1)).astype(np.uint16),
            reason=entries["reason"].copy(),
            ready_ns=entries["ready_ns"].copy(),
        )

    def rows(self, columns: tuple[str, ...]) -> np.ndarray:
        """Return (flows, columns) float32."""
        in_series = tuple(name for name in columns if kept_for(name) & {SIZES, TIMES})
        table = np.empty((len(self.entries), len(columns)), np.float32)
        if in_series:
            computed = features_cpu.rows(self.flows, self.plan.depth, in_series)
            for i, name in enumerate(in_series):
                table[:, columns.index(name)] = computed[:, i]
        for i, name in enumerate(columns):
            if name not in in_series:
                table[:, i] = self._column(name)
        return table

    def _packets(self, present: np.ndarray) -> np.ndarray:
        packets = np.zeros(present.shape, PACKET_FIELDS)
        packets["present"] = present
        packets["direction"] = self._of_side[:, 1]
        packets["timestamp_ns"][:, 0] = self.entries["first_ns"]
        if SIZES in self.plan.series:
            sizes = np.where(present, self._series(SIZES), 0)
            for name, first, bits in (
                ("ip_len", 0, CONSTANTS["FEATURE_PAYLOAD_SHIFT"]),
                ("payload_len", CONSTANTS["FEATURE_PAYLOAD_SHIFT"], 16),
                ("tcp_window", CONSTANTS["FEATURE_WINDOW_SHIFT"], 16),
                ("ttl", CONSTANTS["FEATURE_TTL_SHIFT"], 8),
            ):
                packets[name] = sizes >> np.uint64(first) & np.uint64((1 << bits) - 1)
        if TIMES in self.plan.series:
            packets["timestamp_ns"] = np.where(present, self._series(TIMES), 0)
        return packets

    def _series(self, name: str) -> np.ndarray:
        start = self.plan.series[name]
        return self.entries["words"][:, start : start + self.plan.depth]

    def _word(self, name: str, side: int) -> np.ndarray:
        return self.entries["words"][:, self.plan.at[name] + side]

    def _column(self, name: str) -> np.ndarray:
        if name in HANDSHAKE:
            return self._between(*HANDSHAKE[name])
        if name.removesuffix("_cnt") in FLAGS:
            shift = np.uint64(8 * (len(FLAGS) - 1 - FLAGS.index(name.removesuffix("_cnt"))))
            ours, theirs = (self._word("FLAGS", side) >> shift & np.uint64(0xFF) for side in (0, 1))
            return ours + theirs
        side, _, rest = name.partition("_")
        if side not in SIDES or rest in ("port", "load", "pkt_cnt") or rest.endswith("_share"):
            return self._total(name)
        quantity, _, statistic = rest.partition("_")
        return self._statistic(_side(side), quantity, statistic)

    def _dur_ns(self) -> np.ndarray:
        last_side = (self.entries["ranks"][:, 1] > self.entries["ranks"][:, 0]).astype(np.intp)
        last = self.entries["last_ns"][np.arange(len(self.entries)), last_side]
        return np.maximum((last - self.entries["first_ns"]).view(np.int64), 0).astype(np.float64)

    def _total(self, name: str) -> np.ndarray:
        """Return a column that looks at the whole flow."""
        if name == "dur":
            return self._dur_ns() / NS
        if name == "proto":
            return self.entries["key"]["protocol"]
        if name.endswith("_port"):
            ports = [self.entries["key"][end] for end in ("a_port", "b_port")]
            opener, other = ports if name == "s_port" else ports[::-1]
            return np.where(self.entries["initiator"] == 1, other, opener)
        if name.endswith("_share"):
            return self._share(name)
        side = _side(name[0])
        if name.endswith("_pkt_cnt"):
            return self._count[side]
        dur_ns = self._dur_ns()
        load = 8 * self._word("BYTES_SUM", side) / np.maximum(dur_ns, 1) * NS
        return np.where(dur_ns > 0, load, MISSING)

    def _share(self, name: str) -> np.ndarray:
        parts = self._count
        if name == "d_bytes_share":
            parts = [self._word("BYTES_SUM", side) for side in (0, 1)]
        ours, theirs = (np.asarray(part, np.float64) for part in parts)
        both = ours + theirs
        return np.where(both > 0, theirs / np.maximum(both, 1), MISSING)

    def _statistic(self, side: int, quantity: str, statistic: str) -> np.ndarray:
        word, scale = QUANTITY_WORDS[quantity], NS if quantity == "iat" else 1.0
        count = self._count[side]
        if quantity == "iat":
            count = np.maximum(count - 1, 0)
        elif quantity == "winsize":
            count = count * (self.entries["key"]["protocol"] == _TCP)
        if statistic in ("min", "max"):
            value = self._word(f"{word}_{statistic.upper()}", side).astype(np.float64)
            return np.where(count > 0, value / scale, MISSING)
        total = self._word(f"{word}_SUM", side)
        if statistic == "sum":
            return total.astype(np.float64) / scale
        divisor = np.maximum(count, 1)
        if statistic == "mean":
            value = total.astype(np.float64) / divisor
        else:
            squares = self._word(f"{word}_SQUARES", side).astype(np.int64)
            value = np.sqrt((divisor * squares - total.astype(np.int64) ** 2).astype(np.float64))
            value /= divisor
        return np.where(count > 0, value / scale, MISSING)

    def _between(self, start: tuple[str, int], end: tuple[str, int]) -> np.ndarray:
        began, ended = self._word(*start), self._word(*end)
        took_ns = np.maximum((ended - began).view(np.int64), 0)
        return np.where(ended > 0, took_ns / NS, MISSING)


def _side(letter: str) -> int:
    return tuple(SIDES).index(letter)
