"""Tunnels around packets, for tests: what goes between an outer IP header and a packet."""

import struct

import captures

PORTS = {"vxlan": 4789, "vxlan-linux": 8472, "geneve": 6081, "gtpu": 2152}


def ethertype(packet: bytes) -> int:
    return 0x86DD if packet[0] >> 4 == 6 else 0x0800


def gre(packet: bytes, *, key: int | None = None, flags: int = 0, protocol: int = 0) -> bytes:
    """Return GRE around a packet; flags 0x8000 and 0x1000 add a checksum and a number."""
    flags |= 0x2000 if key is not None else 0
    words = b"\0\0\0\0" if flags & 0x8000 else b""
    words += struct.pack(">I", key) if key is not None else b""
    words += b"\0\0\0\7" if flags & 0x1000 else b""
    return struct.pack(">HH", flags, protocol or ethertype(packet)) + words + packet


def teb(packet: bytes, *, key: int | None = None, vlans: tuple[int, ...] = ()) -> bytes:
    """Return GRE around an Ethernet frame, as NVGRE and gretap do it."""
    return gre(captures.ether(packet, vlans), key=key, protocol=0x6558)


def vxlan(packet: bytes, vni: int = 7, flags: int = 8) -> bytes:
    return vxlan_frame(captures.ether(packet), vni, flags)


def vxlan_frame(frame: bytes, vni: int = 7, flags: int = 8) -> bytes:
    """Return VXLAN around an Ethernet frame."""
    return struct.pack(">B3xI", flags, vni << 8) + frame


def geneve(packet: bytes, vni: int = 7, *, options: int = 0, version: int = 0) -> bytes:
    head = struct.pack(">BBHI", version << 6 | options, 0, 0x6558, vni << 8)
    return head + bytes(4 * options) + captures.ether(packet)


def gtpu(packet: bytes, teid: int = 7, *, extensions: int = 0, kind: int = 255) -> bytes:
    """Return GTP-U around a packet, with PDU session containers (4 bytes each) in between."""
    flags = 0x34 if extensions else 0x30
    chain = b"".join(bytes([1, 0, 9, 0x85 if i else 0]) for i in reversed(range(extensions)))
    optional = struct.pack(">HBB", 1, 0, 0x85) + chain if extensions else b""
    return struct.pack(">BBHI", flags, kind, len(optional + packet), teid) + optional + packet


def udp(payload: bytes, port: int) -> bytes:
    """Return an outer IP packet, UDP to a tunnel's port."""
    return captures.udp(payload, "192.0.2.1", "192.0.2.2", 50000, port)


def ip(protocol: int, payload: bytes) -> bytes:
    """Return an outer IP packet of any protocol."""
    return captures.ip(protocol, payload, "192.0.2.1", "192.0.2.2")


def mpls(packet: bytes, *labels: int) -> bytes:
    """Return an Ethernet frame with MPLS labels; the last one is the bottom."""
    last = len(labels) - 1
    stack = b"".join(
        struct.pack(">I", label << 12 | (i == last) << 8 | 64) for i, label in enumerate(labels)
    )
    return bytes(12) + b"\x88\x47" + stack + packet


def pppoe(packet: bytes, session: int = 7, code: int = 0) -> bytes:
    """Return an Ethernet frame of a PPPoE session."""
    protocol = 0x57 if packet[0] >> 4 == 6 else 0x21
    head = struct.pack(">BBHHH", 0x11, code, session, len(packet) + 2, protocol)
    return bytes(12) + b"\x88\x64" + head + packet
