"""The views in NumPy: the definition of every column that views.py declares.

Columns about a whole flow are in features_cpu.py. Arrays here are (packets, ..., flows),
flows last, so that the short axis is reduced by whole-array operations.
"""

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.features_cpu import Packets
from etcpipe.gpu.views import VIEWS, View

_IMAGE_HEADER = 80


def seq(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 30, 3) float32: size, direction, gap; zeros where a rank has no packet."""
    shape = VIEWS["seq"].shape
    packets = Packets(flows, min(depth, shape[0]))
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
    taken = Packets(flows, depth).taken[:ranks].T
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
    flow, rank = np.nonzero(Packets(flows, depth).taken[:ranks].T)
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
