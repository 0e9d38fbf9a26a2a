"""Hand-made packets and capture files for tests."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

ETHERNET, NULL, LOOP, RAW, SLL, IPV4, IPV6, SLL2 = 1, 0, 108, 101, 113, 228, 229, 276
PPP, PPP_HDLC, CISCO_HDLC = 9, 50, 104
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

# A packet of a file: (time in nanoseconds, frame), or with its length on the wire.
Packet = tuple[int, bytes] | tuple[int, bytes, int]

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8::2"


def _address(text: str) -> bytes:
    import ipaddress

    return ipaddress.ip_address(text).packed


def ip(
    protocol: int, payload: bytes, src: str = CLIENT, dst: str = SERVER, *, fragment: int = 0
) -> bytes:
    """Return an IPv4 or IPv6 packet, by the addresses; `fragment` is the IPv4 offset field."""
    source, destination = _address(src), _address(dst)
    if len(source) == 16:
        return (
            struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
            + source
            + destination
            + payload
        )
    total = 20 + len(payload)
    header = struct.pack(">BBHHHBBH", 0x45, 0, total, 1, fragment, 64, protocol, 0)
    return header + source + destination + payload


def tcp(
    payload: bytes | int = b"",
    flags: int = ACK,
    src: str = CLIENT,
    dst: str = SERVER,
    sport: int = 40000,
    dport: int = 443,
) -> bytes:
    """Return an IP packet with a TCP segment; a payload may be given by its length."""
    body = bytes(payload) if isinstance(payload, int) else payload
    header = struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1000, 0, 0)
    return ip(6, header + body, src, dst)


def udp(
    payload: bytes | int = b"",
    src: str = CLIENT,
    dst: str = SERVER,
    sport: int = 40000,
    dport: int = 443,
) -> bytes:
    """Return an IP packet with a UDP datagram; a payload may be given by its length."""
    body = bytes(payload) if isinstance(payload, int) else payload
    return ip(17, struct.pack(">HHHH", sport, dport, 8 + len(body), 0) + body, src, dst)


def _ethertype(packet: bytes) -> int:
    return 0x86DD if packet[0] >> 4 == 6 else 0x0800


def ether(packet: bytes, vlans: Sequence[int] = ()) -> bytes:
    """Return an Ethernet frame around an IP packet."""
    tags = b"".join(struct.pack(">HH", 0x8100, tci) for tci in vlans)
    return bytes(12) + tags + struct.pack(">H", _ethertype(packet)) + packet


def link(packet: bytes, link_type: int, order: str = "<") -> bytes:
    """Return a frame of any link type around an IP packet."""
    is_ipv6 = packet[0] >> 4 == 6
    if link_type == ETHERNET:
        return ether(packet)
    if link_type == SLL:
        return struct.pack(">HHH8sH", 0, 1, 6, bytes(8), _ethertype(packet)) + packet
    if link_type == SLL2:
        return struct.pack(">HHIHBB8s", _ethertype(packet), 0, 2, 1, 0, 6, bytes(8)) + packet
    if link_type in (PPP, PPP_HDLC):
        framing = b"\xff\x03" if link_type == PPP_HDLC else b""
        return framing + (b"\0\x57" if is_ipv6 else b"\0\x21") + packet
    if link_type == CISCO_HDLC:
        return struct.pack(">HH", 0x0F00, _ethertype(packet)) + packet
    if link_type == NULL:
        return struct.pack(order + "I", 30 if is_ipv6 else 2) + packet
    if link_type == LOOP:
        return struct.pack(">I", 24 if is_ipv6 else 2) + packet
    return packet


def pcap(
    packets: Iterable[Packet],
    link_type: int = ETHERNET,
    *,
    order: str = "<",
    nanoseconds: bool = False,
    snap_len: int = 262_144,
) -> bytes:
    """Return a pcap file: its header and records, in either byte order."""
    magic, tick = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap_len, link_type)]
    for time_ns, frame, *rest in packets:
        seconds, rest_ns = divmod(time_ns, 10**9)
        wire_len = rest[0] if rest else len(frame)
        captured = frame[:snap_len]
        header = struct.pack(order + "IIII", seconds, rest_ns // tick, len(captured), wire_len)
        parts += [header, captured]
    return b"".join(parts)


def _block(kind: int, body: bytes, order: str) -> bytes:
    body += bytes(-len(body) % 4)
    length = 12 + len(body)
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def pcapng(
    packets: Iterable[Packet], link_type: int = ETHERNET, *, order: str = "<", digits: int = 6
) -> bytes:
    """Return a pcapng file: section, interface (with if_tsresol), enhanced packet blocks."""
    section = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)
    resolution = struct.pack(order + "HHB3xHH", 9, 1, digits, 0, 0)
    interface = struct.pack(order + "HHI", link_type, 0, 262_144) + resolution
    parts = [_block(0x0A0D0D0A, section, order), _block(1, interface, order)]
    for time_ns, frame, *rest in packets:
        ticks = time_ns // 10 ** (9 - digits)
        wire_len = rest[0] if rest else len(frame)
        header = struct.pack(
            order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), wire_len
        )
        parts.append(_block(6, header + frame + bytes(-len(frame) % 4), order))
    return b"".join(parts)


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path
