"""Community ids: the same text for a flow in every tool that follows the standard."""

from binascii import b2a_base64
from hashlib import sha1

import numpy as np

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
_WITH_PORTS = (TCP, UDP, SCTP)
# ICMP type and code stand in for ports in the standard; a flow key has neither.
_WITHOUT_ID = (ICMP, ICMPV6)


def community_ids(key: np.ndarray, seed: int = 0) -> list[str | None]:
    """Return the community id, version 1, of each flow.

    Args:
        key: (flows,) FLOW_KEY; the order of its two ends does not matter.
        seed: 0 .. 65535, the same in all tools whose ids are to match.

    Returns:
        One text a flow, "1:" and 28 characters; None for ICMP and ICMPv6, whose ids need
        the type and code of the first packet.

    Source: https://github.com/corelight/community-id-spec, version 1.
    """
    texts = np.empty(len(key), object)
    four = key["ip_version"] == 4
    has_id = ~np.isin(key["protocol"], _WITHOUT_ID)
    has_ports = np.isin(key["protocol"], _WITH_PORTS)
    for width, rows in ((4, four), (16, ~four)):
        texts[rows & has_id & has_ports] = _texts(key[rows & has_id & has_ports], width, seed, 4)
        texts[rows & has_id & ~has_ports] = _texts(key[rows & has_id & ~has_ports], width, seed, 0)
    return texts.tolist()


def _texts(key: np.ndarray, width: int, seed: int, ports_len: int) -> list[str]:
    """Hash seed, low address, high address, protocol, 0, low port, high port."""
    low, low_port, high, high_port = _ordered(key)
    hashed = np.zeros((len(key), 2 + 2 * width + 2 + ports_len), np.uint8)
    hashed[:, :2] = divmod(seed, 256)
    hashed[:, 2 : 2 + width] = low[:, 16 - width :]
    hashed[:, 2 + width : 2 + 2 * width] = high[:, 16 - width :]
    hashed[:, 2 + 2 * width] = key["protocol"]
    if ports_len:
        hashed[:, -4:-2] = low_port.view(np.uint8).reshape(-1, 2)
        hashed[:, -2:] = high_port.view(np.uint8).reshape(-1, 2)
    rows = hashed.view(f"V{hashed.shape[1]}").ravel().tolist()
    return ["1:" + b2a_base64(sha1(row).digest(), newline=False).decode() for row in rows]


def _ordered(key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return address and port of the lower and of the higher end, in network byte order.

    The tracker's own order of the ends is another one: it compares machine words.
    """
    a, b = np.ascontiguousarray(key["a_addr"]), np.ascontiguousarray(key["b_addr"])
    a_port, b_port = key["a_port"], key["b_port"]
    a_high, a_low = a.view(">u8").T
    b_high, b_low = b.view(">u8").T
    same_high, same_low = a_high == b_high, a_low == b_low
    swap = (a_high > b_high) | same_high & ((a_low > b_low) | same_low & (a_port > b_port))
    across = swap[:, np.newaxis]
    return (
        np.where(across, b, a),
        np.where(swap, b_port, a_port).astype(">u2"),
        np.where(across, a, b),
        np.where(swap, a_port, b_port).astype(">u2"),
    )
