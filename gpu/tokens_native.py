"""The view `tok` in C (etcpipe/native/tokens.c), bit for bit equal to etcpipe.gpu.tokens_cpu."""

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.gpu.packets_native import KeptPackets
from etcpipe.gpu.tokens import META, PACKETS, RAW_LEN, TOKENS

_GAP = TOKENS + [name for name, _, _ in META].index("gap")


def tok(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 10, 72) float32 of the first `depth` packets that are present.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    packets = KeptPackets(flows, depth, "tok", RAW_LEN)
    rows = np.empty((len(flows), PACKETS, TOKENS + len(META)), np.float32)
    gaps_us = np.empty((len(flows), PACKETS))
    _native.view_tok(*packets.arguments, _native.address(rows), _native.address(gaps_us))
    rows[:, :, _GAP] = np.log1p(gaps_us) / 16
    return rows
