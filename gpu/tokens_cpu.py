"""Tokens in NumPy: the definition of etcpipe.gpu.tokens."""

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.parsing_cpu import AH, EXTENSIONS, EXTENSIONS_MAX, FRAGMENT, TCP, UDP
from etcpipe.gpu.tokens import (
    IP,
    META,
    NO_BYTE,
    PACKETS,
    PAYLOAD,
    RAW_LEN,
    TOKENS,
    TRANSPORT,
)

_NOWHERE = -1
_UDP_HEADER = 8


def tok(flows: FlowBatch, shown: np.ndarray) -> np.ndarray:
    """Return (flows, 10, 72) float32.

    Args:
        shown: (flows, packets, 3), the view seq of the same flows: sizes, directions and gaps
            of the packets that count.

    Raises:
        ValueError: regrouping kept fewer bytes a packet.
    """
    if flows.raw.shape[2] < RAW_LEN:
        raise ValueError(f"the flows keep {flows.raw.shape[2]} bytes a packet, tok needs {RAW_LEN}")
    rows = np.zeros((len(flows), PACKETS, TOKENS + len(META)), np.float32)
    rows[..., :TOKENS] = NO_BYTE
    shown = shown[:, :PACKETS]
    flow, rank = np.nonzero(shown[..., 1])
    packets = flows.packets[flow, rank]
    headers = packets["ip_len"].astype(np.int64) - packets["payload_len"]
    rows[flow, rank, :TOKENS] = _tokens(
        flows.raw[flow, rank, :RAW_LEN],
        np.minimum(packets["raw_len"], RAW_LEN),
        packets["ip_len"],
        headers,
        flows.key["protocol"][flow],
    )
    direction = shown[..., 1]
    before = np.cumsum(direction != 0, axis=1) - 1
    rows[:, : shown.shape[1], TOKENS : TOKENS + 3] = shown
    rows[flow, rank, TOKENS + 3] = _set_bits(packets["tcp_flags"]) / 8
    rows[flow, rank, TOKENS + 4] = packets["payload_len"] / 1500
    rows[flow, rank, TOKENS + 5] = headers / 64
    rows[flow, rank, TOKENS + 6] = before[flow, rank] / 10
    rows[flow, rank, TOKENS + 7] = _turns(direction)[flow, rank] / 10
    return rows


def _tokens(
    raw: np.ndarray, kept: np.ndarray, ip_len: np.ndarray, headers: np.ndarray, protocol: np.ndarray
) -> np.ndarray:
    """Return (packets, 64) float32.

    Args:
        raw: (packets, RAW_LEN) uint8 from the IP header on, kept of them valid.
        headers: (packets,) bytes from the IP header to the payload.
    """
    source = np.full((len(raw), TOKENS), _NOWHERE)
    places = np.where(is_ipv6(raw)[:, None], _ipv6_places(), np.arange(TRANSPORT))
    source[:, IP:TRANSPORT] = places
    transport = transport_at(raw, kept)
    is_tcp, is_udp = protocol == TCP, protocol == UDP
    source[is_tcp, TRANSPORT:PAYLOAD] = transport[is_tcp, None] + np.arange(20)
    udp = (headers - _UDP_HEADER)[is_udp, None]
    source[is_udp, TRANSPORT : TRANSPORT + 4] = udp + np.arange(4)
    source[is_udp, TRANSPORT + 16 : TRANSPORT + 20] = udp + np.array([6, 7, 4, 5])
    has_payload = is_tcp | is_udp
    source[has_payload, PAYLOAD:] = headers[has_payload, None] + np.arange(TOKENS - PAYLOAD)
    there = (source >= 0) & (source < kept[:, None])
    tokens = np.take_along_axis(raw, np.where(there, source, 0), axis=1).astype(np.float32)
    tokens[~there] = NO_BYTE
    tokens[:, 2] = ip_len >> 8 & 0xFF
    tokens[:, 3] = ip_len & 0xFF
    tokens[:, 9] = protocol
    return tokens


def _ipv6_places() -> np.ndarray:
    """Return the positions in an IPv6 header of the fields of an IPv4 header."""
    places = np.full(TRANSPORT, _NOWHERE)
    # version, traffic class, flow label (in the place of the id), hop limit
    places[[0, 1, 4, 5, 8]] = [0, 1, 2, 3, 7]
    return places


def is_ipv6(raw: np.ndarray) -> np.ndarray:
    """Return (packets,) bool, of bytes from the IP header on."""
    return raw[:, 0] >> 4 == 6


def transport_at(raw: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return (packets,) where the transport header begins, if there is one.

    Args:
        raw: (packets, ...) uint8 from the IP header on, kept of them valid.
    """
    return np.where(is_ipv6(raw), _behind_extensions(raw, kept), (raw[:, 0] & 0x0F) * 4)


def _behind_extensions(raw: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return (packets,) where what follows the extension headers of IPv6 begins."""
    row, at, kind = np.arange(len(raw)), np.full(len(raw), 40), raw[:, 6]
    for _ in range(EXTENSIONS_MAX):
        more = np.isin(kind, EXTENSIONS) & (at + 2 <= kept)
        next_kind, length = raw[row, at * more], raw[row, at * more + 1].astype(np.int64)
        size = np.where(kind == AH, (length + 2) * 4, (length + 1) * 8)
        at = at + np.where(kind == FRAGMENT, 8, size) * more
        kind = np.where(more, next_kind, kind)
    return at


def _set_bits(flags: np.ndarray) -> np.ndarray:
    return np.unpackbits(flags[:, None], axis=1).sum(axis=1)


def _turns(direction: np.ndarray) -> np.ndarray:
    """Return (flows, packets), how often the direction changed up to each packet."""
    turns = np.zeros(direction.shape)
    last = np.zeros(len(direction))
    for rank in range(direction.shape[1]):
        here = direction[:, rank]
        changed = (here != 0) & (last != 0) & (here != last)
        turns[:, rank] = turns[:, rank - 1] + changed if rank else 0
        last = np.where(here != 0, here, last)
    return turns
