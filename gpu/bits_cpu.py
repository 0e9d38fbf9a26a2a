"""Bits in NumPy: the definition of etcpipe.gpu.bits."""

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.bits import ABSENT, BYTES, LENGTHS, PACKETS, RAW_LEN
from etcpipe.gpu.features_packets_cpu import Packets
from etcpipe.gpu.parsing_cpu import TCP, UDP
from etcpipe.gpu.tokens_cpu import is_ipv6, transport_at

_NOWHERE = -1


def bits(flows: FlowBatch, depth: int) -> np.ndarray:
    """Return (flows, 10, 1536) int8: 0, 1, or ABSENT.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    if flows.raw.shape[2] < RAW_LEN:
        raise ValueError(
            f"the flows keep {flows.raw.shape[2]} bytes a packet, bits needs {RAW_LEN}"
        )
    flow, rank = np.nonzero(Packets(flows, depth).taken[:PACKETS].T)
    packets, raw = flows.packets[flow, rank], flows.raw[flow, rank, :RAW_LEN]
    kept = np.minimum(packets["raw_len"], RAW_LEN)
    headers = packets["ip_len"].astype(np.int64) - packets["payload_len"]
    source = _sources(raw, kept, headers, flows.key["protocol"][flow])
    there = (source >= 0) & (source < kept[:, None])
    octets = np.take_along_axis(raw, np.where(there, source, 0), axis=1)
    rows = np.full((len(flows), PACKETS, 8 * BYTES), ABSENT, np.int8)
    rows[flow, rank] = np.where(
        np.repeat(there, 8, axis=1), np.unpackbits(octets, axis=1).view(np.int8), ABSENT
    )
    return rows


def _sources(
    raw: np.ndarray, kept: np.ndarray, headers: np.ndarray, protocol: np.ndarray
) -> np.ndarray:
    """Return (packets, BYTES) int64, the position of each byte of the parts in raw, or _NOWHERE.

    Args:
        headers: (packets,) bytes from the IP header to the payload.
    """
    is_six = is_ipv6(raw)
    transport = transport_at(raw, kept)
    is_tcp, is_udp = protocol == TCP, protocol == UDP
    nothing, udp = np.zeros(len(raw), np.int64), headers - LENGTHS["udp"]
    starts_ends = {
        "ipv4": (nothing, np.where(is_six, 0, transport)),
        "ipv6": (nothing, np.where(is_six, LENGTHS["ipv6"], 0)),
        "tcp": (transport, np.where(is_tcp, headers, 0)),
        "udp": (udp, np.where(is_udp, headers, 0)),
        "payload": (headers, np.where(is_tcp | is_udp, RAW_LEN, 0)),
    }
    parts = []
    for part, length in LENGTHS.items():
        start, end = starts_ends[part]
        places = start[:, None] + np.arange(length)
        parts.append(np.where(places < end[:, None], places, _NOWHERE))
    return np.concatenate(parts, axis=1)
