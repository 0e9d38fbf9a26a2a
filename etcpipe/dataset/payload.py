"""What the first payload of a flow is: data sets of encrypted traffic hold plaintext too.

It goes by the first bytes, as protocols tell themselves apart: a TLS or DTLS record, a QUIC
long header, SSH's banner. Text and DNS are plain. The rest is "binary": encrypted or not,
nobody can tell by looking.

Sources: RFC 8446 5.1, RFC 9147 4, RFC 9000 17.2, RFC 4253 4.2, RFC 1035 4.1.
"""

import numpy as np

from etcpipe.batch import FlowBatch

KINDS = ("none", "encrypted", "plain", "binary")
_NONE, _ENCRYPTED, _PLAIN, _BINARY = range(4)

# Bytes of a packet that are looked at: headers, and the first of the payload.
PEEK = 160
_PRINTABLE = frozenset(b"\t\r\n") | frozenset(range(32, 127))
_DNS_PORTS = frozenset({53, 5353, 5355})


def kinds(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) uint8, index into KINDS.

    Args:
        flows: with PEEK bytes a packet or more, under no mask.
    """
    has_payload = (flows.packets["present"] != 0) & (flows.packets["payload_len"] > 0)
    found = np.full(len(flows), _NONE, np.uint8)
    for i in np.flatnonzero(has_payload.any(axis=1)):
        rank = int(has_payload[i].argmax())
        packet, key = flows.packets[i, rank], flows.key[i]
        header = int(packet["ip_len"]) - int(packet["payload_len"])
        payload = flows.raw[i, rank, header : int(packet["raw_len"])].tobytes()
        is_dns = bool(_DNS_PORTS & {int(key["a_port"]), int(key["b_port"])})
        found[i] = _kind(payload, is_dns)
    return found


def _kind(payload: bytes, is_dns: bool) -> int:
    """Return the index of what a first payload is; its first bytes are enough."""
    if not payload:
        return _NONE
    is_tls = payload[0] in (20, 21, 22, 23) and payload[1:2] in (b"\x03", b"\xfe")
    is_quic = payload[0] & 0xC0 == 0xC0 and payload[1:5] in (b"\0\0\0\x01", b"\x6b\x33\x43\xcf")
    if is_tls or is_quic or payload.startswith(b"SSH-"):
        return _ENCRYPTED
    printable = sum(byte in _PRINTABLE for byte in payload) / len(payload)
    return _PLAIN if is_dns or (len(payload) >= 4 and printable >= 0.9) else _BINARY
