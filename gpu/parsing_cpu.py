"""The packet parser of bpf/parsing.h and etcpipe/native/link.h in Python, for the definitions.

Written from the protocols' specifications, to be read beside the C code and to test it; not used
where speed matters.
"""

from dataclasses import dataclass, replace

from etcpipe.gpu.decap_cpu import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPES_VLAN,
    PPP_ETHERTYPES,
    VLAN_TAGS_MAX,
    LaterFragment,
    Unparsable,
    decap,
    decap_link,
)
from etcpipe.gpu.decap_cpu import need as _need
from etcpipe.gpu.decap_cpu import number as _u16
from etcpipe.layout import CONSTANTS

VLAN_NONE = CONSTANTS["VLAN_NONE"]
DECAP, KEY_VLAN, KEY_TUNNEL = (
    CONSTANTS[f"PARSE_{name}"] for name in ("DECAP", "KEY_VLAN", "KEY_TUNNEL")
)
TUNNELS_MAX = 2
OFFSET_MAX = 0x3FFF  # of IP and transport headers

LINK_NULL, LINK_ETHERNET, LINK_LOOP, LINK_SLL, LINK_SLL2 = 0, 1, 108, 113, 276
LINKS_RAW = (12, 14, 101, 228, 229)
LINKS_PPP = (9, 50, 104)  # 104 is Cisco's HDLC
CISCO_HDLC = (0x0F00, 0x8F00)  # unicast, multicast
PPP_FRAMING = 0xFF03

HOPOPTS, TCP, UDP, ROUTING, FRAGMENT, AH, DSTOPTS, SCTP = 0, 6, 17, 43, 44, 51, 60, 132
EXTENSIONS = (HOPOPTS, ROUTING, FRAGMENT, AH, DSTOPTS)
EXTENSIONS_MAX = 6


@dataclass(frozen=True)
class Packet:
    """A parsed packet; offsets count from the first byte of the frame."""

    ip_version: int
    protocol: int
    source: bytes  # 16 bytes, IPv4 mapped
    destination: bytes
    sport: int
    dport: int
    ip_len: int
    payload_len: int
    network: int
    transport: int
    payload: int
    tcp_window: int
    tcp_flags: int
    ttl: int
    zones: tuple[int, int] = (0, 0)  # VLAN ids
    tunnel: int = 0

    @property
    def from_b(self) -> bool:
        """Was the packet sent by end b of its canonical key?"""
        return _end(self.source, self.sport) > _end(self.destination, self.dport)

    @property
    def key(self) -> tuple[bytes, bytes, int, int, int, int, int, int, int]:
        """The fields of a FLOW_KEY without its padding: the smaller end is a."""
        ends = [(self.source, self.sport), (self.destination, self.dport)]
        a, b = reversed(ends) if self.from_b else ends
        ports = a[1], b[1]
        return a[0], b[0], *ports, self.protocol, self.ip_version, *self.zones, self.tunnel


def parse(
    frame: bytes, wire_len: int, link_type: int, options: int = 0, vlan: int = VLAN_NONE
) -> Packet:
    """Parse a captured frame.

    Args:
        options: PARSE_ bits, see etcpipe.parsing.
        vlan: TCI of the tag that the kernel took out of the frame.

    Raises:
        Unparsable: not an IP packet with readable headers, or a later fragment.
    """
    ethertype, network, tags = _link(frame, link_type)
    zones = _zones(vlan, tags) if options & KEY_VLAN else (0, 0)
    tunnel = 0
    if options & DECAP:
        ethertype, network, tunnel = decap_link(frame, ethertype, network)
    depth = TUNNELS_MAX if options & DECAP else 0
    packet = _packet(frame, wire_len, ethertype, network, tunnel, depth)
    return replace(packet, zones=zones, tunnel=packet.tunnel if options & KEY_TUNNEL else 0)


def _packet(
    frame: bytes, wire_len: int, ethertype: int, network: int, tunnel: int, depth: int
) -> Packet:
    """Return the packet at `network`, or the one inside its tunnel if that can be parsed."""
    if wire_len < network or network > OFFSET_MAX:
        raise Unparsable
    if ethertype == ETHERTYPE_IPV4:
        packet = _ipv4(frame, network, wire_len - network)
    elif ethertype == ETHERTYPE_IPV6:
        packet = _ipv6(frame, network, wire_len - network)
    else:
        raise Unparsable
    packet = replace(packet, tunnel=tunnel)
    if not depth:
        return packet
    try:
        inner, at, id_ = decap(
            frame, packet.protocol, packet.transport, packet.payload, packet.dport
        )
        return _packet(frame, wire_len, inner, at, id_ or tunnel, depth - 1)
    except LaterFragment:
        raise
    except Unparsable:
        return packet


def _zones(vlan: int, tags: list[int]) -> tuple[int, int]:
    """Return the VLAN ids of a key; a tag that repeats the outer one is the same tag."""
    outer = vlan if vlan != VLAN_NONE else tags[0] if tags else VLAN_NONE
    inner = [tag for tag in tags if tag != outer]
    return outer & 0xFFF if outer != VLAN_NONE else 0, inner[-1] & 0xFFF if inner else 0


def extension_len(kind: int, header: bytes) -> int:
    """Return the bytes of an IPv6 extension header of a kind, from its first two bytes."""
    if kind == FRAGMENT:
        return 8
    return (header[1] + 2) * 4 if kind == AH else (header[1] + 1) * 8


def _end(address: bytes, port: int) -> tuple[int, int, int]:
    # As in C, which compares addresses as two little-endian words: any total order will do.
    return int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little"), _be(port)


def _be(port: int) -> int:
    # ... and ports in network order.
    return int.from_bytes(port.to_bytes(2, "big"), "little")


def _link(frame: bytes, link_type: int) -> tuple[int, int, list[int]]:
    """Return the ethertype, where the network header begins, and the VLAN tags before it."""
    if link_type == LINK_ETHERNET:
        return _ethernet(frame, 12)
    if link_type == LINK_SLL:
        return _ethernet(frame, 14)
    if link_type == LINK_SLL2:
        return _u16(_need(frame, 0, 20), 0), 20, []
    if link_type in (LINK_NULL, LINK_LOOP):
        _need(frame, 0, 4)
        return _by_version(frame, 4), 4, []
    if link_type in LINKS_PPP:
        return _ppp(frame)
    if link_type in LINKS_RAW:
        return _by_version(frame, 0), 0, []
    raise Unparsable


def _ppp(frame: bytes) -> tuple[int, int, list[int]]:
    """Return the same for PPP, with or without framing, and for Cisco HDLC."""
    number = _u16(_need(frame, 0, 2), 0)
    if number in CISCO_HDLC:
        return _u16(_need(frame, 2, 2), 0), 4, []
    at = 2 if number == PPP_FRAMING else 0
    return PPP_ETHERTYPES.get(_u16(_need(frame, at, 2), 0), 0), at + 2, []


def _ethernet(frame: bytes, at: int) -> tuple[int, int, list[int]]:
    """Return the ethertype behind any VLAN tags, the first one of which is at `at`, and these."""
    ethertype = _u16(_need(frame, at, 2), 0)
    at += 2
    tags: list[int] = []
    while len(tags) < VLAN_TAGS_MAX and ethertype in ETHERTYPES_VLAN:
        tag = _need(frame, at, 4)
        tags.append(_u16(tag, 0))
        ethertype = _u16(tag, 2)
        at += 4
    return ethertype, at, tags


def _by_version(frame: bytes, at: int) -> int:
    version = frame[at] >> 4 if at < len(frame) else 0
    return {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(version, 0)


def _ipv4(frame: bytes, network: int, network_len: int) -> Packet:
    header = _need(frame, network, 20)
    header_len = (header[0] & 15) * 4
    total = _u16(header, 2)
    if not total or total > network_len:
        total = network_len
    if header[0] >> 4 != 4 or header_len < 20 or total < header_len:
        raise Unparsable
    if _u16(header, 6) & 0x1FFF:
        raise LaterFragment
    mapped = bytes(10) + b"\xff\xff"
    source, destination = mapped + header[12:16], mapped + header[16:20]
    ip = {"ip_version": 4, "ttl": header[8], "source": source, "destination": destination}
    return _transport(frame, network, network + header_len, header[9], total, ip)


def _ipv6(frame: bytes, network: int, network_len: int) -> Packet:
    header = _need(frame, network, 40)
    if header[0] >> 4 != 6:
        raise Unparsable
    total = _u16(header, 4) + 40
    if total == 40 or total > network_len:
        total = network_len
    kind, at = header[6], network + 40
    for _ in range(EXTENSIONS_MAX):
        if kind not in EXTENSIONS:
            break
        extension = _need(frame, at, 8)
        if kind == FRAGMENT and _u16(extension, 2) & 0xFFF8:
            raise LaterFragment
        at += extension_len(kind, extension)
        kind = extension[0]
        if at - network - 40 > OFFSET_MAX:
            raise Unparsable
    source, destination = header[8:24], header[24:40]
    ip = {"ip_version": 6, "ttl": header[7], "source": source, "destination": destination}
    return _transport(frame, network, at, kind, total, ip)


def _transport(
    frame: bytes, network: int, transport: int, protocol: int, ip_len: int, ip: dict
) -> Packet:
    sport = dport = header_len = window = flags = 0
    if transport > OFFSET_MAX:
        raise Unparsable
    if protocol == TCP:
        header = _need(frame, transport, 20)
        header_len = (header[12] >> 4) * 4
        if header_len < 20:
            raise Unparsable
        window, flags = _u16(header, 14), header[13]
    elif protocol == UDP:
        _need(frame, transport, 8)
        header_len = 8
    if protocol in (TCP, UDP, SCTP):
        ports = _need(frame, transport, 4)
        sport, dport = _u16(ports, 0), _u16(ports, 2)
    payload = transport + header_len
    headers = payload - network
    return Packet(
        **ip,
        protocol=protocol,
        sport=sport,
        dport=dport,
        ip_len=ip_len,
        payload_len=ip_len - headers if header_len and ip_len > headers else 0,
        network=network,
        transport=transport,
        payload=payload,
        tcp_window=window,
        tcp_flags=flags,
    )
