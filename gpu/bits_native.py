"""The view `bits` in C (etcpipe/native/bits.c), equal to etcpipe.gpu.bits_cpu."""

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.gpu.bits import BYTES, PACKETS, RAW_LEN
from etcpipe.gpu.packets_native import KeptPackets


def bits(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 10, 1536) int8 of the first `depth` packets that are present.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    packets = KeptPackets(flows, depth, "bits", RAW_LEN)
    rows = np.empty((len(flows), PACKETS, 8 * BYTES), np.int8)
    _native.view_bits(*packets.arguments, _native.address(rows))
    return rows
