"""A shaping at work on rows, with what it costs who shapes."""

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.layout import CONSTANTS
from etcpipe.shaping.packets import Packets, from_flows, to_flows
from etcpipe.shaping.spec import Shaping

FIRST_N_MAX = CONSTANTS["FIRST_N_MAX"]


class Shaper:
    """Changes rows, and sums up what that costs; the same rows give the same twice.

    Args:
        shaping: None changes nothing but the number of packets kept.
        first_n, wait_s: which packets a row keeps afterwards; the rows given to it should
            have more, see packets_wanted().
        mask: under which the bytes were read.
    """

    def __init__(
        self, shaping: Shaping | None, first_n: int, wait_s: float, seed: int, mask: str
    ) -> None:
        self._shaping = shaping
        self._first_n, self._wait_s, self._is_masked = first_n, wait_s, mask != "none"
        self._rng = np.random.default_rng(seed)
        self._before = np.zeros(3)
        self._after = np.zeros(3)

    def __call__(self, flows: FlowBatch) -> FlowBatch:
        """Return the rows of flows as the shaping leaves them, first_n packets each."""
        packets = from_flows(flows, self._is_masked)
        self._before += _totals(packets)
        if self._shaping and len(packets):
            packets = self._shaping(packets, self._rng)
        self._after += _totals(packets)
        return to_flows(packets, flows, self._first_n, self._wait_s)

    def overhead(self) -> dict[str, float]:
        """Return by which part bytes, time and packets grew, of all packets that were read."""
        grown = self._after / np.maximum(self._before, 1) - 1
        return dict(zip(("bytes", "time", "packets"), grown.tolist(), strict=True))


def packets_wanted(first_n: int) -> int:
    """Return how many packets a row needs, so that enough are left where some are lost."""
    return min(3 * first_n, FIRST_N_MAX)


def _totals(packets: Packets) -> np.ndarray:
    """Return bytes, ns from first to last, and the number of packets."""
    last = np.append(packets.opens[1:], True) if len(packets) else np.zeros(0, bool)
    return np.array(
        [packets.fields["ip_len"].sum(), packets.time_ns[last].sum(), len(packets)], float
    )
