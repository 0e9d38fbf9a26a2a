"""Bits: headers as nPrint lays them out, for trees and networks. Each column is one bit.

A packet is the parts below in nPrint's order, each at its greatest length, and a field has
the same columns in every packet: 0 or 1, highest bit first, or ABSENT where the packet has no
such header, field or option. `nprint -4 -6 -t -u -p 24` writes the same columns under the same
names.

Differences from nPrint:
    bytes are masked as those of the view raw (gpu/mask.py): what a mask makes zero in a header
        is zeros here, and a payload that it hides is ones. nPrint shows all that there is;
    packets are those that count, the first PACKETS of a flow beside each other, and a packet
        that never came is ABSENT;
    TCP and UDP stand in their places behind extension headers of IPv6, which have no columns;
    there is no ICMP, as it makes no flows here;
    what a capture cut off is ABSENT.

Source: Holland et al., New Directions in Automated Traffic Analysis, CCS 2021, section 3.
"""

PACKETS = 10
ABSENT = -1

# The parts in order, each with nPrint's fields and their lengths in bits.
PARTS: dict[str, tuple[tuple[str, int], ...]] = {
    "ipv4": (
        *(("ver", 4), ("hl", 4), ("tos", 8), ("tl", 16), ("id", 16)),
        *(("rbit", 1), ("dfbit", 1), ("mfbit", 1), ("foff", 13)),
        *(("ttl", 8), ("proto", 8), ("cksum", 16), ("src", 32), ("dst", 32), ("opt", 320)),
    ),
    "ipv6": (
        *(("ver", 4), ("tc", 8), ("fl", 20), ("len", 16), ("nh", 8), ("hl", 8)),
        *(("src", 128), ("dst", 128)),
    ),
    "tcp": (
        *(("sprt", 16), ("dprt", 16), ("seq", 32), ("ackn", 32), ("doff", 4), ("res", 3)),
        *((flag, 1) for flag in ("ns", "cwr", "ece", "urg", "ackf", "psh", "rst", "syn", "fin")),
        *(("wsize", 16), ("cksum", 16), ("urp", 16), ("opt", 320)),
    ),
    "udp": (("sport", 16), ("dport", 16), ("len", 16), ("cksum", 16)),
    "payload": (("bit", 192),),
}
# Length of each part in bytes, and of all parts together.
LENGTHS = {part: sum(bits for _, bits in fields) // 8 for part, fields in PARTS.items()}
BYTES = sum(LENGTHS.values())
# Room for the longest IPv4 and TCP headers and the payload behind them.
RAW_LEN = LENGTHS["ipv4"] + LENGTHS["tcp"] + LENGTHS["payload"]


def column_texts() -> list[tuple[str, str, str]]:
    """Return name, unit and formula of each bit of a packet."""
    return [
        (f"{part}_{field}_{i}", "", f"bits of `{part}_{field}`, {ABSENT}: none")
        for part, fields in PARTS.items()
        for field, bits in fields
        for i in range(bits)
    ]
