"""Tokens in C (etcpipe/native/tokens.c): the bits of etcpipe.gpu.tokens_cpu."""

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.gpu.tokens import META, PACKETS, RAW_LEN, TOKENS
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

_GAP = TOKENS + [name for name, _, _ in META].index("gap")


def tok(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 10, 72) float32 of the first `depth` packets that are present.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    if flows.raw.shape[2] < RAW_LEN:
        raise ValueError(f"the flows keep {flows.raw.shape[2]} bytes a packet, tok needs {RAW_LEN}")
    keys = np.ascontiguousarray(flows.key, FLOW_KEY)
    packets = np.ascontiguousarray(flows.packets, PACKET_FIELDS)
    raw = np.ascontiguousarray(flows.raw, np.uint8)
    rows = np.empty((len(flows), PACKETS, TOKENS + len(META)), np.float32)
    gaps_us = np.empty((len(flows), PACKETS))
    fields = keys.ctypes.data, packets.ctypes.data
    addresses = (_native.address(array) for array in (raw, rows, gaps_us))
    _native.tokens_compute(*fields, *addresses, *raw.shape, depth)
    rows[:, :, _GAP] = np.log1p(gaps_us) / 16
    return rows
