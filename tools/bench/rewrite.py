"""Gives copies of recorded packets other addresses and ports, whole recordings at a time.

The flows of a copy stay what they were: within it, one address always becomes the same
other one and two ports never become one.
"""

import numpy as np

ETHERNET = 14
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
TCP, UDP, ICMPV6 = 6, 17, 58
# Where a protocol keeps the checksum that covers the addresses, from its header on.
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}
SYN, SYN_ACK, PSH_ACK = 0x02, 0x12, 0x18
# Record headers of a handshake (RFC 8446, 5.1: hello messages) and of application data.
TLS_HELLO = np.array([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0], np.uint8)
TLS_DATA = np.array([23, 3, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8)
EPHEMERAL = 0x8000  # ports from here on are a client's own choice


class Template:
    """A recording, with the places where its addresses, ports and checksums stand."""

    def __init__(self, image: np.ndarray, frame: np.ndarray, captured: np.ndarray):
        """Find the places.

        Args:
            image: (bytes,) uint8, holds all frames.
            frame: (packets,) int64, where each Ethernet frame begins in image.
            captured: (packets,) int64, bytes of it that are there.
        """
        self._image = image
        whole = captured >= ETHERNET + 20
        ethertype = np.zeros(len(frame), np.int64)
        ethertype[whole] = _word(image, frame[whole] + 12)
        v4 = frame[ethertype == ETHERTYPE_IPV4] + ETHERNET
        v6 = frame[(ethertype == ETHERTYPE_IPV6) & (captured >= ETHERNET + 40)] + ETHERNET
        v4_l4 = v4 + (image[v4] & 15).astype(np.int64) * 4
        first = (_word(image, v4 + 6) & 0x1FFF) == 0  # later fragments have no ports
        end = np.zeros(len(image) + 1, np.int64)
        end[frame] = frame + captured
        self._groups = [
            _Group(image, v4, v4 + 12, 4, np.where(first, image[v4 + 9], 0), v4_l4, v4 + 10, end),
            _Group(image, v6, v6 + 8, 16, image[v6 + 6], v6 + 40, None, end),
        ]

    def copy(self, seed: int) -> np.ndarray:
        """Return (bytes,) uint8, the image with other addresses and ephemeral ports."""
        image = self._image.copy()
        for group in self._groups:
            group.change(image, seed)
        return image


class _Group:
    """The packets of one IP version."""

    def __init__(self, image, header, address, size, protocol, l4, ip_checksum, end):
        # 24 bits of an IPv4 address and 64 of an IPv6 one change: what comes before them
        # says whether an address is private, multicast, and so on.
        limit = end[header - ETHERNET]
        first_word = {4: 0, 16: 8}[size]
        words = np.arange(first_word, size, 2)
        self._source = address[:, None] + words
        self._destination = address[:, None] + size + words
        known = np.isin(protocol, list(CHECKSUM_AT))
        field = np.zeros(len(header), np.int64)
        for number, at in CHECKSUM_AT.items():
            field[protocol == number] = at
        checksum = l4 + field
        self._summed = known & (checksum + 2 <= limit)
        has_ports = np.isin(protocol, (TCP, UDP)) & (l4 + 4 <= limit)
        self._udp = (protocol == UDP)[self._summed]
        self._checksum = checksum[self._summed]
        self._ip_checksum = ip_checksum
        self._has_ports = has_ports
        self._ports = l4[has_ports][:, None] + np.array([0, 2])

    def change(self, image: np.ndarray, seed: int) -> None:
        if not len(self._source):
            return
        places = np.concatenate([self._source, self._destination])
        old = _word(image, places)
        new = _other_addresses(old, seed)
        _put(image, places, new)
        change = _difference(old, new)
        packets = len(self._source)
        addresses = change[:packets] + change[packets:]
        if self._ip_checksum is not None:
            _adjust(image, self._ip_checksum, addresses)
        old = _word(image, self._ports)
        shift = seed * 7919 % EPHEMERAL
        new = np.where(old >= EPHEMERAL, EPHEMERAL + (old - EPHEMERAL + shift) % EPHEMERAL, old)
        _put(image, self._ports, new)
        ports = np.zeros(packets, np.int64)
        ports[self._has_ports] = _difference(old, new)
        self._adjust_transport(image, (addresses + ports)[self._summed])

    def _adjust_transport(self, image: np.ndarray, change: np.ndarray) -> None:
        unused = self._udp & (_word(image, self._checksum) == 0)
        _adjust(image, self._checksum[~unused], change[~unused])
        zero = self._udp & ~unused & (_word(image, self._checksum) == 0)
        _put(image, self._checksum[zero], np.full(zero.sum(), 0xFFFF))


def tls_like_flows(flows: int, packets: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Return (flows, packets, size) uint8: a TCP handshake to port 443, then TLS records.

    The client and the server take turns; every packet behind the handshake has payload,
    the start of one TLS record. Addresses and ports are random, checksums are right.
    """
    frames = np.zeros((flows, packets, size), np.uint8)
    ip = frames[:, :, ETHERNET:]
    frames[:, :, 12:14] = 8, 0
    ip[:, :, 0], ip[:, :, 8], ip[:, :, 9] = 0x45, 64, TCP
    ip_len = np.where(np.arange(packets) < 2, 40, size - ETHERNET)
    _store(ip[:, :, 2:4], ip_len)
    _store_endpoints(ip, random)
    payload = size - ETHERNET - 40
    _store(ip[:, :, 26:28], 1 + np.maximum(np.arange(packets) - 1, 0) // 2 * payload)
    ip[:, :, 32], ip[:, :, 33] = 5 << 4, PSH_ACK
    ip[:, 0, 33], ip[:, 1, 33] = SYN, SYN_ACK
    _store(ip[:, :, 34:36], 64240)
    ip[:, 2:4, 40:] = np.resize(TLS_HELLO, payload)
    ip[:, 4:, 40:] = np.resize(TLS_DATA, payload)
    _store(ip[:, :, 10:12], _checksum(ip[:, :, :20]))
    pseudo = np.zeros((flows, packets, 4), np.uint8)
    pseudo[:, :, 1] = TCP
    _store(pseudo[:, :, 2:4], ip_len - 20)
    _store(ip[:, :, 36:38], _checksum(np.concatenate([pseudo, ip[:, :, 12:]], axis=2)))
    return frames


def _store_endpoints(ip: np.ndarray, random: np.random.Generator) -> None:
    """Give (flows, packets, bytes) IPv4 and TCP headers two ends that take turns."""
    flows = len(ip)
    client = 10 << 24 | random.integers(1 << 24, size=flows)
    server = 198 << 24 | 18 << 16 | random.integers(1 << 16, size=flows)
    port = random.integers(EPHEMERAL, 1 << 16, size=flows)
    for turn, ends in enumerate([(client, port, server, 443), (server, 443, client, port)]):
        packets = ip[:, turn::2]
        source, source_port, destination, destination_port = (
            np.asarray(value)[..., None] for value in ends
        )
        for at, address in ((12, source), (16, destination)):
            _store(packets[:, :, at : at + 2], address >> 16)
            _store(packets[:, :, at + 2 : at + 4], address & 0xFFFF)
        _store(packets[:, :, 20:22], source_port)
        _store(packets[:, :, 22:24], destination_port)


def _word(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    return image[at].astype(np.int64) << 8 | image[at + 1]


def _put(image: np.ndarray, at: np.ndarray, word: np.ndarray) -> None:
    image[at], image[at + 1] = word >> 8, word & 0xFF


def _store(field: np.ndarray, word: np.ndarray | int) -> None:
    field[..., 0], field[..., 1] = np.asarray(word) >> 8, np.asarray(word) & 0xFF


def _other_addresses(words: np.ndarray, seed: int) -> np.ndarray:
    """Return (addresses, words) other words, the same for the same address and seed."""
    mixed = np.full(len(words), seed, np.uint64)
    for column in words.T:
        mixed = _mix(mixed ^ column.astype(np.uint64))
    new = np.empty_like(words)
    for i in range(words.shape[1]):
        new[:, i] = (mixed >> np.uint64(16 * i)) & np.uint64(0xFFFF)
    if words.shape[1] == 2:  # IPv4: its first octet stays
        new[:, 0] = words[:, 0] & 0xFF00 | new[:, 0] & 0xFF
    return new


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)


def _difference(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return (new + (~old & 0xFFFF)).sum(axis=1)


def _adjust(image: np.ndarray, at: np.ndarray, change: np.ndarray) -> None:
    """Change checksums for words that changed: RFC 1624, equation 3."""
    _put(image, at, ~_fold((~_word(image, at) & 0xFFFF) + change) & 0xFFFF)


def _checksum(octets: np.ndarray) -> np.ndarray:
    return ~_fold((octets[..., 0::2].astype(np.int64) << 8 | octets[..., 1::2]).sum(-1)) & 0xFFFF


def _fold(total: np.ndarray) -> np.ndarray:
    for _ in range(3):
        total = (total & 0xFFFF) + (total >> 16)
    return total
