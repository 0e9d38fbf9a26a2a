"""Tokens: the fields of a packet in fixed places, for networks that attend to them.

A packet is 64 bytes and 8 numbers, and a field is always in the same place, whatever options or IP
version come before it. So the view is float32 [packets, 72]: 64 tokens, each a byte's value or
NO_BYTE if the packet has no such byte, followed by the numbers of META.

    0  .. 19   IP header: the fixed part of IPv4; the fields of IPv6 are in the places of
               IPv4's, its payload length as a total length, without addresses
    20 .. 39   the fixed part of the TCP header; of UDP, ports and checksum are in TCP's
               places, and the length is in that of the urgent pointer
    40 .. 63   the first bytes of payload, among them TLS record and message headers

The bytes are masked as those of the view raw (gpu/mask.py).
"""

TOKENS = 64
PATCH = 8  # bytes that a network combines into one token
NO_BYTE = 256
PACKETS = 10
# Start of each part.
IP, TRANSPORT, PAYLOAD = 0, 20, 40
# Room for the longest IPv4 and TCP headers and the payload behind them.
RAW_LEN = 60 + 60 + TOKENS - PAYLOAD

# Places of the fields that carry information under the strict mask, by kind; the others are always
# zero there.
LEARNABLE = {
    "ip_version_and_header_length": (0,),
    "ip_length": (2, 3),
    "ip_fragment": (6, 7),
    "protocol": (9,),
    "tcp_offset_and_flags": (32, 33),
    "udp_length": (38, 39),
    "payload": tuple(range(PAYLOAD, TOKENS)),
}

# Name, unit and formula of the numbers that follow the tokens.
META = (
    ("size", "1500 byte", "IP length / 1500"),
    ("direction", "", "+1 from the initiator, -1 towards it, 0: no packet"),
    ("gap", "", "log(1 + microseconds since the previous packet) / 16, 0 for the first"),
    ("flags", "8", "how many TCP flags are set / 8"),
    ("payload", "1500 byte", "payload length / 1500"),
    ("headers", "64 byte", "(IP length - payload length) / 64"),
    ("rank", "10", "packets before this one / 10"),
    ("burst", "10", "changes of direction before this packet / 10"),
)


def column_texts() -> list[tuple[str, str, str]]:
    """Return name, unit and formula of each number of a packet."""
    parts = (("ip", IP, TRANSPORT), ("transport", TRANSPORT, PAYLOAD), ("payload", PAYLOAD, TOKENS))
    tokens = [
        (f"{part}_{i}", "", f"byte {i} of its {part} part, {NO_BYTE}: none")
        for part, first, end in parts
        for i in range(end - first)
    ]
    return [*tokens, *META]
