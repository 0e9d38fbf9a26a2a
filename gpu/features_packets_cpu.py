"""The first packets of flows as arrays, and statistics over them, in NumPy.

Arrays are (packets, ..., flows), flows last, so that the short axis is reduced by whole-array
operations. Values are whole numbers (bytes, nanoseconds) in float64, exact up to 2**53, until
the last step. Sums that are not exact are added up packet by packet in rank order, so that a row is
bit for bit the same whatever batch it is computed in.
"""

from functools import reduce

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.features import MISSING

NS = 1e9
_TCP = 6
_FAR = 1e300  # sorts after every value


class Packets:
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
        """Return the time of one packet of each flow, whose rank is given for each flow."""
        return self.time_ns[rank, np.arange(len(rank))]

    def gaps(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ns since the previous chosen packet (0 if none), and whether there is one."""
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


def first_rank(chosen: np.ndarray) -> np.ndarray:
    """Return the first rank that is chosen, or how many ranks there are if none is."""
    return np.where(chosen.any(axis=0), chosen.argmax(axis=0), len(chosen))


def statistics(values: np.ndarray, mask: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
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
    ordered = ~mask * _FAR  # where() takes three times as long as this
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
