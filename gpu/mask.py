"""What a model may see of a packet: the raw view and its masks.

The raw view of a packet is a row of uint8, its bytes from the IP header on. Ethernet padding
is cut off by the IP length, and the row is zero behind its valid bytes. Fields are found by
parsing, never at fixed columns, and they are masked while the bytes are copied from the frame,
so no unmasked byte ever reaches a tensor.

Three masks: "strict" (default), "standard" (as strict, but with the TCP window), "none"
(bytes as they are). FIELDS is the rule of the first two, field by field:

    KEEP    the field's bytes as they are
    ZERO    zeros instead of the field
    HIDE    0xff instead of the field: only its length remains visible

Lengths stay true, because masked bytes are still counted: the view of a packet is min(L, IP length)
bytes long, even if less of its payload was captured. With "none" it ends where the captured bytes
end, since no value stands for an unknown byte.

The TLS fields are those at the start of a TCP segment's payload. What does not parse as TLS
there (continued records, QUIC, DNS, HTTP, ...) is payload. A segment of a super-packet looks
as it does on the wire: its own lengths and flags, its part of the payload.

Sources: Sweet Danger of Sugar (SIGCOMM 2025, 10.1145/3718958.3750498) and SoK: Decoding the
Enigma (S&P 2025, arXiv 2503.20093) for what models learn from these fields.
"""

from typing import NamedTuple

MASKS = ("none", "standard", "strict")
KEEP, ZERO, HIDE = "keep", "zero", "hide"
HIDDEN = 0xFF

# TLS extensions whose body is a list of code points and says nothing of user, host or session.
SHOWN_EXTENSIONS = {
    10: "supported_groups",
    11: "ec_point_formats",
    13: "signature_algorithms",
    27: "compress_certificate",
    28: "record_size_limit",
    43: "supported_versions",
    45: "psk_key_exchange_modes",
}


class Field(NamedTuple):
    """A parsed field and the rule of each mask for it."""

    name: str
    strict: str
    standard: str
    why: str


def _field(name: str, rule: str, why: str, standard: str | None = None) -> Field:
    return Field(name, rule, standard or rule, why)


FIELDS = (
    _field("ipv4.version_ihl", KEEP, "header layout"),
    _field("ipv4.tos", ZERO, "set by the path, and by etcpipe's own policy"),
    _field("ipv4.total_length", KEEP, "packet size"),
    _field("ipv4.id", ZERO, "counts per host: tells which flows were recorded together"),
    _field("ipv4.fragment", KEEP, "flags; the offset of a tracked packet is 0"),
    _field("ipv4.ttl", ZERO, "capture path and system; in a test bed it is the class"),
    _field("ipv4.protocol", KEEP, "TCP or UDP"),
    _field("ipv4.checksum", ZERO, "gives back the sum of the masked addresses"),
    _field("ipv4.addresses", ZERO, "who, not what"),
    _field("ipv4.option_kind", KEEP, "kind and length of an option"),
    _field("ipv4.option_value", ZERO, "may hold addresses and times"),
    _field("ipv6.version", KEEP, "header layout"),
    _field("ipv6.traffic_class", ZERO, "as ipv4.tos"),
    _field("ipv6.flow_label", ZERO, "random, the same through a flow"),
    _field("ipv6.payload_length", KEEP, "packet size"),
    _field("ipv6.next_header", KEEP, "TCP, UDP or an extension header"),
    _field("ipv6.hop_limit", ZERO, "as ipv4.ttl"),
    _field("ipv6.addresses", ZERO, "who, not what"),
    _field("ipv6.extension_header", KEEP, "next header and length"),
    _field("ipv6.extension_content", ZERO, "may hold addresses and times"),
    _field("tcp.ports", ZERO, "name the service in old data sets, and nothing in new traffic"),
    _field("tcp.seq_ack", ZERO, "random start and time: 97 % accuracy fell to 20 % without"),
    _field("tcp.offset_flags", KEEP, "header length and flags"),
    _field("tcp.window", ZERO, "system and moment", standard=KEEP),
    _field("tcp.checksum", ZERO, "covers the masked addresses and ports"),
    _field("tcp.urgent", ZERO, "unused, or anything"),
    _field("tcp.option_kind", KEEP, "kind and length of an option"),
    _field("tcp.option_value", ZERO, "timestamps give host and moment"),
    _field("udp.ports", ZERO, "as tcp.ports"),
    _field("udp.length", KEEP, "payload size"),
    _field("udp.checksum", ZERO, "as tcp.checksum"),
    _field("tls.record_header", KEEP, "content type, version, length"),
    _field("tls.message_header", KEEP, "handshake type and length"),
    _field("tls.message_body", ZERO, "certificates, keys, tickets; but see tls.hello"),
    _field("tls.hello_version", KEEP, "in a ClientHello or ServerHello, as what follows"),
    _field("tls.hello_random", ZERO, "random"),
    _field("tls.hello_session_id_length", KEEP, "resumption or not"),
    _field("tls.hello_session_id", ZERO, "random, the same through a session"),
    _field("tls.hello_ciphers", KEEP, "what the program offers or takes"),
    _field("tls.hello_compression", KEEP, "what the program offers or takes"),
    _field("tls.extensions_length", KEEP, "size"),
    _field("tls.extension_header", KEEP, "type and length"),
    _field("tls.extension_shown", KEEP, ", ".join(SHOWN_EXTENSIONS.values())),
    _field("tls.extension_body", ZERO, "server name, ALPN, key share, ECH, tickets, all others"),
    _field("payload", HIDE, "ciphertext holds its length only, plaintext names the class"),
)

# Rule of each field by mask; "none" masks nothing and is left out.
RULES = {
    "standard": {field.name: field.standard for field in FIELDS},
    "strict": {field.name: field.strict for field in FIELDS},
}
