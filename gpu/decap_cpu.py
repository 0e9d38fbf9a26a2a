"""Tunnels in Python: the definition of bpf/decap.h, see etcpipe.gpu.parsing_cpu.

Each function takes a frame and where a header begins, and returns what is inside: an
ethertype (0: nothing that can be parsed), where it begins, the tunnel's id (0: none).
"""

Inner = tuple[int, int, int]

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
ETHERTYPES_VLAN = (0x8100, 0x88A8)
ETHERTYPE_MPLS, ETHERTYPE_PPPOE, ETHERTYPE_BRIDGED = 0x8847, 0x8864, 0x6558
PPP_ETHERTYPES = {0x0021: ETHERTYPE_IPV4, 0x0057: ETHERTYPE_IPV6}
VLAN_TAGS_MAX = 2
MPLS_LABELS_MAX, GTP_EXTENSIONS_MAX = 6, 4
IPIP, UDP, IPV6, GRE = 4, 17, 41, 47
NOTHING: Inner = (0, 0, 0)


class Unparsable(Exception):
    """A header is cut short or contradicts itself, or the packet is not IP."""


class LaterFragment(Unparsable):
    """A fragment without ports."""


def need(frame: bytes, at: int, size: int) -> bytes:
    """Return bytes of a frame that must be there."""
    if at + size > len(frame):
        raise Unparsable
    return frame[at : at + size]


def number(data: bytes, at: int, size: int = 2) -> int:
    """Return a number in network order."""
    return int.from_bytes(data[at : at + size], "big")


def decap(frame: bytes, protocol: int, transport: int, payload: int, dport: int) -> Inner:
    """Return what an IP packet carries, by its protocol and destination port."""
    if protocol == IPIP:
        return ETHERTYPE_IPV4, transport, 0
    if protocol == IPV6:
        return ETHERTYPE_IPV6, transport, 0
    if protocol == GRE:
        return _gre(frame, transport)
    if protocol == UDP:
        return UDP_TUNNELS.get(dport, lambda frame, at: NOTHING)(frame, payload)
    return NOTHING


def decap_link(frame: bytes, ethertype: int, at: int, tunnel: int = 0) -> Inner:
    """Return what an ethertype announces: IP itself, or IP behind MPLS labels or PPPoE."""
    if ethertype == ETHERTYPE_MPLS:
        return _mpls(frame, at, tunnel)
    if ethertype == ETHERTYPE_PPPOE:
        header = need(frame, at, 8)
        protocol = number(header, 6) if header[:2] == b"\x11\0" else 0
        inner = PPP_ETHERTYPES.get(protocol, 0)
        return inner, at + 8, number(header, 2) or tunnel
    return ethertype, at, tunnel


def _ip(frame: bytes, at: int, tunnel: int) -> Inner:
    version = need(frame, at, 1)[0] >> 4
    return {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(version, 0), at, tunnel


def _ethernet(frame: bytes, at: int, tunnel: int) -> Inner:
    ethertype = number(need(frame, at, 14), 12)
    at += 14
    for _ in range(VLAN_TAGS_MAX):
        if ethertype not in ETHERTYPES_VLAN:
            break
        ethertype = number(need(frame, at, 4), 2)
        at += 4
    return decap_link(frame, ethertype, at, tunnel)


def _carried(frame: bytes, at: int, ethertype: int, tunnel: int) -> Inner:
    if ethertype == ETHERTYPE_BRIDGED:
        return _ethernet(frame, at, tunnel)
    return decap_link(frame, ethertype, at, tunnel)


def _gre(frame: bytes, at: int) -> Inner:
    header = need(frame, at, 4)
    flags, at, tunnel = number(header, 0), at + 4, 0
    if flags & ~0xB000:
        return NOTHING
    for flag in (0x8000, 0x2000, 0x1000):  # checksum, key, sequence number
        if flags & flag:
            word = number(need(frame, at, 4), 0, 4)
            tunnel = word if flag == 0x2000 else tunnel
            at += 4
    return _carried(frame, at, number(header, 2), tunnel)


def _vxlan(frame: bytes, at: int) -> Inner:
    header = need(frame, at, 8)
    return _ethernet(frame, at + 8, number(header, 4, 3)) if header[0] & 8 else NOTHING


def _geneve(frame: bytes, at: int) -> Inner:
    header = need(frame, at, 8)
    if header[0] >> 6:
        return NOTHING
    behind = at + 8 + (header[0] & 0x3F) * 4
    return _carried(frame, behind, number(header, 2), number(header, 4, 3))


def _gtp(frame: bytes, at: int) -> Inner:
    header = need(frame, at, 8)
    if header[0] >> 4 != 3 or header[1] != 255:
        return NOTHING
    at += 8
    if header[0] & 7:
        following = need(frame, at, 4)[3]
        at += 4
        if header[0] & 4:
            at = _gtp_extensions(frame, at, following)
    return _ip(frame, at, number(header, 4, 4))


def _gtp_extensions(frame: bytes, at: int, following: int) -> int:
    for _ in range(GTP_EXTENSIONS_MAX):
        if not following:
            break
        units = need(frame, at, 1)[0]
        if not units:
            raise Unparsable
        at += units * 4
        following = need(frame, at - 1, 1)[0]
    if following:
        raise Unparsable
    return at


def _mpls(frame: bytes, at: int, tunnel: int) -> Inner:
    for _ in range(MPLS_LABELS_MAX):
        entry = number(need(frame, at, 4), 0, 4)
        at += 4
        if entry & 0x100:
            return _ip(frame, at, entry >> 12 or tunnel)
    return NOTHING


UDP_TUNNELS = {2152: _gtp, 4789: _vxlan, 8472: _vxlan, 6081: _geneve}
