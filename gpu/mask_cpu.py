"""The raw view in Python: the definition that etcpipe/native/mask.c must equal byte for byte.

A packet is divided into named spans (the fields of FIELDS in etcpipe.gpu.mask); the mask's rule for
the name decides what becomes of a span. Outside of spans, header bytes are zero and payload bytes
are hidden.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from etcpipe.gpu.mask import HIDDEN, HIDE, KEEP, RULES, SHOWN_EXTENSIONS, ZERO
from etcpipe.gpu.parsing_cpu import FRAGMENT, TCP, UDP, Packet, extension_len

RECORD_TYPES = range(20, 25)
RECORD_LEN_MAX = 16384 + 2048
HANDSHAKE, CLIENT_HELLO, SERVER_HELLO = 22, 1, 2
MESSAGE_TYPES = {0, 1, 2, 3, 4, 5, 6, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 67, 254}
SESSION_ID_MAX = 32


class Span(NamedTuple):
    """A field of the raw view: its start and length there, and the bits that belong to it."""

    name: str
    at: int
    len: int
    bits: int = 0xFF


@dataclass(frozen=True)
class Segment:
    """One packet on the wire: a whole frame, or a segment of a super-packet."""

    ip_len: int
    payload_len: int
    payload_at: int
    tcp_flags: int
    rewritten: bool


def segments(packet: Packet, segment_len: int) -> list[Segment]:
    """Return the packets that a captured frame becomes on the wire."""
    if not segment_len or packet.payload_len <= segment_len:
        return [Segment(packet.ip_len, packet.payload_len, 0, packet.tcp_flags, False)]
    headers = packet.ip_len - packet.payload_len
    found = []
    for at in range(0, packet.payload_len, segment_len):
        payload_len = min(segment_len, packet.payload_len - at)
        flags = packet.tcp_flags
        if at + payload_len < packet.payload_len:
            flags &= ~0x09  # FIN and PSH are on the last segment
        if at:
            flags &= ~0x80  # CWR is on the first
        found.append(Segment(headers + payload_len, payload_len, at, flags, True))
    return found


def raw_view(frame: bytes, packet: Packet, segment: Segment, room: int, mask: str) -> bytes:
    """Return the raw view of a packet on the wire, at most `room` bytes.

    Args:
        frame: what was captured.
        packet: the frame, parsed.
        segment: one of its segments().
        mask: "none", "standard" or "strict".
    """
    headers = frame[packet.network : packet.payload]
    start = packet.payload + segment.payload_at
    header_len = packet.payload - packet.network
    payload = frame[start : start + max(0, segment.ip_len - header_len)]
    if mask == "none":
        view = bytearray(headers + payload)
        size = min(room, segment.ip_len, len(view))
    else:
        view = _masked(headers, payload, packet, segment, RULES[mask])
        size = min(room, segment.ip_len)
    if segment.rewritten:
        _rewrite(view, packet, segment)
    return bytes(view[:size])


def _masked(
    headers: bytes, payload: bytes, packet: Packet, segment: Segment, rules: dict[str, str]
) -> bytearray:
    header_len = packet.payload - packet.network
    there = bytearray(headers.ljust(header_len, b"\0") + payload)
    payload_len = max(0, segment.ip_len - header_len)
    view = bytearray(header_len) + bytearray([HIDDEN] * payload_len)
    spans = [*header_spans(headers, packet)]
    if packet.protocol == TCP:
        spans += [span._replace(at=span.at + header_len) for span in tls_spans(payload)]
    for name, at, length, bits in spans:
        rule = rules[name]
        for i in range(at, min(at + length, len(view))):
            if rule == KEEP and i < len(there):
                view[i] = there[i] & bits
            elif rule != KEEP:
                view[i] = {ZERO: 0, HIDE: HIDDEN}[rule]
    return view


def _rewrite(view: bytearray, packet: Packet, segment: Segment) -> None:
    """Set the lengths and flags that a segment of a super-packet has on the wire."""
    transport = packet.transport - packet.network
    if packet.ip_version == 4:
        view[2:4] = _low16(segment.ip_len)
    else:
        view[4:6] = _low16(segment.ip_len - 40)
    if packet.protocol == UDP:
        view[transport + 4 : transport + 6] = _low16(segment.payload_len + 8)
    else:
        view[transport + 13] = segment.tcp_flags


def _low16(number: int) -> bytes:
    return (number & 0xFFFF).to_bytes(2, "big")


def header_spans(headers: bytes, packet: Packet) -> Iterator[Span]:
    """Yield the fields of the headers, which begin with the IP header's first byte."""
    transport = packet.transport - packet.network
    end = packet.payload - packet.network
    yield from (_ipv4_spans if packet.ip_version == 4 else _ipv6_spans)(headers, transport)
    if packet.protocol == TCP:
        yield Span("tcp.ports", transport, 4)
        yield Span("tcp.seq_ack", transport + 4, 8)
        yield Span("tcp.offset_flags", transport + 12, 2)
        yield Span("tcp.window", transport + 14, 2)
        yield Span("tcp.checksum", transport + 16, 2)
        yield Span("tcp.urgent", transport + 18, 2)
        yield from _option_spans(headers, transport + 20, end, "tcp")
    elif packet.protocol == UDP:
        yield Span("udp.ports", transport, 4)
        yield Span("udp.length", transport + 4, 2)
        yield Span("udp.checksum", transport + 6, 2)


def _ipv4_spans(headers: bytes, end: int) -> Iterator[Span]:
    yield Span("ipv4.version_ihl", 0, 1)
    yield Span("ipv4.tos", 1, 1)
    yield Span("ipv4.total_length", 2, 2)
    yield Span("ipv4.id", 4, 2)
    yield Span("ipv4.fragment", 6, 2)
    yield Span("ipv4.ttl", 8, 1)
    yield Span("ipv4.protocol", 9, 1)
    yield Span("ipv4.checksum", 10, 2)
    yield Span("ipv4.addresses", 12, 8)
    yield from _option_spans(headers, 20, end, "ipv4")


def _ipv6_spans(headers: bytes, end: int) -> Iterator[Span]:
    yield Span("ipv6.traffic_class", 0, 2)
    yield Span("ipv6.version", 0, 1, bits=0xF0)
    yield Span("ipv6.flow_label", 1, 3)
    yield Span("ipv6.payload_length", 4, 2)
    yield Span("ipv6.next_header", 6, 1)
    yield Span("ipv6.hop_limit", 7, 1)
    yield Span("ipv6.addresses", 8, 32)
    kind, at = headers[6], 40
    while at < end and at + 2 <= len(headers):
        size = extension_len(kind, headers[at : at + 2])
        yield Span("ipv6.extension_content", at, size)
        yield Span("ipv6.extension_header", at, 1 if kind == FRAGMENT else 2)
        kind, at = headers[at], at + size


def _option_spans(headers: bytes, at: int, end: int, layer: str) -> Iterator[Span]:
    """Yield options of IPv4 (RFC 791) or TCP (RFC 9293) up to the first that makes no sense."""
    there = min(end, len(headers))
    while at < there and headers[at] != 0:
        if headers[at] == 1:  # no operation
            yield Span(f"{layer}.option_kind", at, 1)
            at += 1
            continue
        size = headers[at + 1] if at + 1 < there else 0
        if size < 2 or at + size > end:
            return
        yield Span(f"{layer}.option_kind", at, 2)
        yield Span(f"{layer}.option_value", at + 2, size - 2)
        at += size


def tls_spans(payload: bytes) -> Iterator[Span]:
    """Yield the fields of the TLS records at the start of a payload (RFC 8446)."""
    at = 0
    while at + 5 <= len(payload):
        kind, major, minor = payload[at : at + 3]
        size = int.from_bytes(payload[at + 3 : at + 5], "big")
        if kind not in RECORD_TYPES or major != 3 or minor > 4 or not 0 < size <= RECORD_LEN_MAX:
            return
        yield Span("tls.record_header", at, 5)
        if kind == HANDSHAKE:
            yield from _messages(payload, at + 5, at + 5 + size)
        at += 5 + size


def _messages(payload: bytes, at: int, end: int) -> list[Span]:
    """Return the handshake messages of a record, nothing unless they fill it exactly.

    An encrypted record does not look like that: its "types" and "lengths" are random.
    """
    spans: list[Span] = []
    while at < end:
        if at + 4 > end:
            return []
        if at + 4 > len(payload):
            return spans  # cut off by the end of the packet, correct up to there
        kind, body = payload[at], at + 4
        size = int.from_bytes(payload[at + 1 : at + 4], "big")
        if kind not in MESSAGE_TYPES or body + size > end:
            return []
        spans += [Span("tls.message_header", at, 4), Span("tls.message_body", body, size)]
        if kind in (CLIENT_HELLO, SERVER_HELLO):
            spans += _Reader(payload, body, body + size).hello(kind)
        at = body + size
    return spans


class _Cut(Exception):
    """A message ends within a structure: it is malformed, or continues in the next packet."""


class _Reader:
    """Reads a hello message field by field and records the spans."""

    def __init__(self, payload: bytes, at: int, end: int):
        self._payload, self._at, self._end = payload, at, end
        self._spans: list[Span] = []

    def hello(self, kind: int) -> list[Span]:
        """Return the fields of a ClientHello or ServerHello (RFC 8446, 4.1.2 and 4.1.3)."""
        try:
            self._hello(kind)
            self._extensions()
        except _Cut:
            pass
        return self._spans

    def _hello(self, kind: int) -> None:
        self._read("tls.hello_version", 2)
        self._read("tls.hello_random", 32)
        session_id_len = self._number("tls.hello_session_id_length", 1)
        if session_id_len > SESSION_ID_MAX:
            raise _Cut
        self._read("tls.hello_session_id", session_id_len)
        if kind == CLIENT_HELLO:
            self._read("tls.hello_ciphers", self._number("tls.hello_ciphers", 2))
            self._read("tls.hello_compression", self._number("tls.hello_compression", 1))
        else:
            self._read("tls.hello_ciphers", 2)
            self._read("tls.hello_compression", 1)

    def _extensions(self) -> None:
        size = self._number("tls.extensions_length", 2)
        if self._at + size > self._end:
            raise _Cut
        self._end = self._at + size
        while True:
            header = self._read("tls.extension_header", 4)
            shown = int.from_bytes(header[:2], "big") in SHOWN_EXTENSIONS
            name = "tls.extension_shown" if shown else "tls.extension_body"
            self._read(name, int.from_bytes(header[2:], "big"))

    def _number(self, name: str, size: int) -> int:
        return int.from_bytes(self._read(name, size), "big")

    def _read(self, name: str, size: int) -> bytes:
        if self._at + size > self._end:
            raise _Cut
        self._spans.append(Span(name, self._at, size))
        start, self._at = self._at, self._at + size
        if self._at > len(self._payload):
            raise _Cut
        return self._payload[start : self._at]
