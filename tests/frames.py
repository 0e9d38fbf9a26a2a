"""Packets with every header field to choose, TLS messages, and batches of them, for tests."""

import ipaddress
import struct
from collections.abc import Sequence

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.layout import CONSTANTS

FIN, SYN, RST, PSH, ACK, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x80
SECOND = 10**9
START = 1_700_000_000 * SECOND


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2 + len(data) % 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    protocol: int,
    payload: bytes,
    src: str = "10.0.0.1",
    dst: str = "10.0.0.2",
    *,
    tos: int = 0,
    ident: int = 1,
    fragment: int = 0x4000,
    ttl: int = 64,
    options: bytes = b"",
    total: int | None = None,
) -> bytes:
    """Return an IPv4 packet with its true checksum."""
    total = 20 + len(options) + len(payload) if total is None else total
    ends = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    first = 0x45 + len(options) // 4

    def header(check: int) -> bytes:
        fields = (first, tos, total, ident, fragment, ttl, protocol, check)
        return struct.pack(">BBHHHBBH", *fields) + ends + options

    return header(checksum(header(0))) + payload


def ipv6(
    protocol: int,
    payload: bytes,
    src: str = "2001:db8::1",
    dst: str = "2001:db8::2",
    *,
    traffic_class: int = 0,
    flow_label: int = 0,
    hop_limit: int = 64,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Return an IPv6 packet; an extension is its number and its bytes behind `next header`."""
    kinds = [kind for kind, _ in extensions] + [protocol]
    between = b"".join(
        bytes([after]) + body for (_, body), after in zip(extensions, kinds[1:], strict=True)
    )
    word = 6 << 28 | traffic_class << 20 | flow_label
    header = struct.pack(">IHBB", word, len(between + payload), kinds[0], hop_limit)
    ends = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return header + ends + between + payload


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 443,
    seq: int = 1,
    ack: int = 1,
    flags: int = ACK,
    window: int = 1000,
    check: int = 0,
    urgent: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return a TCP segment."""
    offset = (5 + len(options) // 4) << 4
    fields = (sport, dport, seq, ack, offset, flags, window, check, urgent)
    return struct.pack(">HHIIBBHHH", *fields) + options + payload


def udp(payload: bytes = b"", *, sport: int = 40000, dport: int = 443, check: int = 0) -> bytes:
    """Return a UDP datagram."""
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), check) + payload


def ether(packet: bytes, vlans: Sequence[int] = ()) -> bytes:
    """Return an Ethernet frame, padded to 60 bytes with what a driver may leave there."""
    tags = b"".join(struct.pack(">HH", 0x8100, tci) for tci in vlans)
    ethertype = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    frame = bytes(range(12)) + tags + struct.pack(">H", ethertype) + packet
    return frame + b"\xee" * (60 - len(frame))


def record(kind: int, body: bytes, version: int = 0x0303) -> bytes:
    """Return a TLS record."""
    return struct.pack(">BHH", kind, version, len(body)) + body


def message(kind: int, body: bytes) -> bytes:
    """Return a TLS handshake message."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    """Return a TLS extension."""
    return struct.pack(">HH", kind, len(body)) + body


def server_name(name: bytes) -> bytes:
    """Return the server_name extension (RFC 6066, 3)."""
    entry = b"\0" + struct.pack(">H", len(name)) + name
    return extension(0, struct.pack(">H", len(entry)) + entry)


def client_hello(
    extensions: bytes,
    *,
    random: bytes = b"\xaa" * 32,
    session_id: bytes = b"\xbb" * 32,
    ciphers: bytes = bytes.fromhex("130113021303"),
) -> bytes:
    """Return a ClientHello message."""
    body = b"\x03\x03" + random + bytes([len(session_id)]) + session_id
    body += struct.pack(">H", len(ciphers)) + ciphers + b"\x01\x00"
    return message(1, body + struct.pack(">H", len(extensions)) + extensions)


def server_hello(extensions: bytes, *, session_id: bytes = b"\xbb" * 32) -> bytes:
    """Return a ServerHello message."""
    body = b"\x03\x03" + b"\xaa" * 32 + bytes([len(session_id)]) + session_id + b"\x13\x01\x00"
    return message(2, body + struct.pack(">H", len(extensions)) + extensions)


def batch(packets: Sequence[dict], link_type: int = 1) -> PacketBatch:
    """Return a PacketBatch of {frame, flow_id, rank, ...}; times are in seconds after START."""
    columns = {name: np.zeros(len(packets), dtype) for name, dtype in DTYPES.items()}
    memory = bytearray()
    for i, packet in enumerate(packets):
        values = {"vlan": CONSTANTS["VLAN_NONE"], "wire_len": len(packet["frame"]), **packet}
        frame, seconds = values.pop("frame"), values.pop("at", 0)
        values["timestamp_ns"] = START + round(seconds * SECOND)
        values["offset"], values["captured"] = len(memory), len(frame)
        memory += frame
        for name, value in values.items():
            columns[name][i] = value
    return PacketBatch(np.frombuffer(bytes(memory), np.uint8), link_type=link_type, **columns)


def split(whole: PacketBatch, sizes: Sequence[int]) -> list[PacketBatch]:
    """Return a batch as several, of the given sizes."""
    ends = np.cumsum(sizes)
    return [
        PacketBatch(
            whole.memory,
            link_type=whole.link_type,
            **{name: getattr(whole, name)[end - size : end] for name in DTYPES},
        )
        for size, end in zip(sizes, ends, strict=True)
    ]


def rows_of(batches: Sequence[FlowBatch]) -> list[dict[str, bytes]]:
    """Return the rows of some FlowBatches as bytes by column, to compare exactly."""
    return [
        {name: column[i].tobytes() for name, column in vars(flows).items()}
        for flows in batches
        for i in range(len(flows))
    ]
