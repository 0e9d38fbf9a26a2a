"""Nothing that names a flow, host or moment survives the strict mask; without a mask it does.

Each case is one field in two versions of a packet. The masked views must be equal, the
unmasked ones must differ, so that each case shows that it can fail.
"""

import pytest
from frames import (
    client_hello,
    ether,
    extension,
    ipv4,
    ipv6,
    message,
    record,
    server_hello,
    server_name,
    tcp,
    udp,
)
from test_mask import view

HOP_BY_HOP, DESTINATION = 0, 60


def in_ipv4(**fields):
    return ether(ipv4(17, udp(b"data"), **fields))


def in_ipv6(**fields):
    return ether(ipv6(17, udp(b"data"), **fields))


def in_tcp(payload=b"data", **fields):
    return ether(ipv4(6, tcp(payload, **fields)))


def in_udp(payload=b"data", **fields):
    return ether(ipv4(17, udp(payload, **fields)))


def in_hello(extensions=b"", **fields):
    return in_tcp(record(22, client_hello(extensions, **fields)))


def timestamps(value):
    return b"\x01\x01\x08\x0a" + value.to_bytes(8, "big")


def dns(name):
    return bytes.fromhex("123401000001000000000000") + bytes([len(name)]) + name + b"\0\0\1\0\1"


def quic(connection):
    return b"\xc3\0\0\0\1\x08" + connection + b"\0\0\x40\x40" + b"\x11" * 64


PLANTED = {
    "ethernet addresses": (in_ipv4(), b"\x02" * 12 + in_ipv4()[12:]),
    "ipv4 source": (in_ipv4(src="10.1.2.3"), in_ipv4(src="192.0.2.77")),
    "ipv4 destination": (in_ipv4(dst="10.1.2.3"), in_ipv4(dst="192.0.2.77")),
    "ipv4 id": (in_ipv4(ident=1), in_ipv4(ident=0xBEEF)),
    "ipv4 ttl": (in_ipv4(ttl=64), in_ipv4(ttl=57)),
    "ipv4 tos": (in_ipv4(tos=0), in_ipv4(tos=0xB8)),
    "ipv4 option": (
        in_ipv4(options=b"\x44\x08\x05\0\0\0\0\x01"),
        in_ipv4(options=b"\x44\x08\x05\0\0\0\0\x02"),
    ),
    "ipv6 source": (in_ipv6(src="2001:db8::5"), in_ipv6(src="fd00::7")),
    "ipv6 destination": (in_ipv6(dst="2001:db8::5"), in_ipv6(dst="fd00::7")),
    "ipv6 traffic class": (in_ipv6(), in_ipv6(traffic_class=0xB8)),
    "ipv6 flow label": (in_ipv6(), in_ipv6(flow_label=0xBEEF5)),
    "ipv6 hop limit": (in_ipv6(hop_limit=64), in_ipv6(hop_limit=57)),
    "ipv6 hop-by-hop": (
        in_ipv6(extensions=[(HOP_BY_HOP, b"\0\x01\x04\0\0\0\x01")]),
        in_ipv6(extensions=[(HOP_BY_HOP, b"\0\x01\x04\0\0\0\x02")]),
    ),
    "ipv6 destination option": (
        in_ipv6(extensions=[(DESTINATION, b"\x01" + b"\x11" * 14)]),
        in_ipv6(extensions=[(DESTINATION, b"\x01" + b"\x22" * 14)]),
    ),
    "tcp source port": (in_tcp(sport=40000), in_tcp(sport=50001)),
    "tcp destination port": (in_tcp(dport=443), in_tcp(dport=22)),
    "tcp sequence number": (in_tcp(seq=1), in_tcp(seq=0xDEADBEEF)),
    "tcp acknowledgement": (in_tcp(ack=1), in_tcp(ack=0xDEADBEEF)),
    "tcp window": (in_tcp(window=1), in_tcp(window=65535)),
    "tcp checksum": (in_tcp(check=1), in_tcp(check=0xBEEF)),
    "tcp urgent pointer": (in_tcp(urgent=0), in_tcp(urgent=0xBEEF)),
    "tcp timestamps": (in_tcp(options=timestamps(1)), in_tcp(options=timestamps(2**63))),
    "udp ports": (in_udp(sport=1, dport=2), in_udp(sport=50000, dport=853)),
    "udp checksum": (in_udp(check=1), in_udp(check=0xBEEF)),
    "server name": (
        in_hello(server_name(b"www.example")),
        in_hello(server_name(b"ads.example")),
    ),
    "alpn": (
        in_hello(extension(16, b"\0\x03\x02h2")),
        in_hello(extension(16, b"\0\x03\x02h3")),
    ),
    "client random": (in_hello(random=b"\x11" * 32), in_hello(random=b"\x22" * 32)),
    "session id": (in_hello(session_id=b"\x11" * 32), in_hello(session_id=b"\x22" * 32)),
    "key share": (in_hello(extension(51, b"\x11" * 38)), in_hello(extension(51, b"\x22" * 38))),
    "encrypted hello": (
        in_hello(extension(0xFE0D, b"\x11" * 200)),
        in_hello(extension(0xFE0D, b"\x22" * 200)),
    ),
    "ticket and psk": (
        in_hello(extension(35, b"\x11" * 20) + extension(41, b"\x11" * 40)),
        in_hello(extension(35, b"\x22" * 20) + extension(41, b"\x22" * 40)),
    ),
    "server session": (
        in_tcp(record(22, server_hello(b"", session_id=b"\x11" * 32))),
        in_tcp(record(22, server_hello(b"", session_id=b"\x22" * 32))),
    ),
    "certificate": (
        in_tcp(record(22, message(11, b"CN=www.example"))),
        in_tcp(record(22, message(11, b"CN=ads.example"))),
    ),
    "new session ticket": (
        in_tcp(record(22, message(4, b"\x11" * 50))),
        in_tcp(record(22, message(4, b"\x22" * 50))),
    ),
    "ciphertext": (in_tcp(record(23, b"\x11" * 50)), in_tcp(record(23, b"\x22" * 50))),
    "alert": (in_tcp(record(21, b"\x02\x28")), in_tcp(record(21, b"\x01\x00"))),
    "http": (in_tcp(b"GET / HTTP/1.1\r\nHost: a"), in_tcp(b"GET / HTTP/1.1\r\nHost: b")),
    "dns": (in_udp(dns(b"www")), in_udp(dns(b"ads"))),
    "quic connection id": (in_udp(quic(b"\x11" * 8)), in_udp(quic(b"\x22" * 8))),
    "another protocol": (ether(ipv4(47, b"\x11" * 30)), ether(ipv4(47, b"\x22" * 30))),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("field", PLANTED)
def test_the_field_does_not_survive(field, device):
    one, other = PLANTED[field]
    assert len(one) == len(other)
    assert view(one, device) == view(other, device)
    if field != "ethernet addresses":  # those are in no view at all
        assert view(one, device, "none") != view(other, device, "none")


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_lengths_survive(device):
    for size in range(64):
        assert len(view(in_tcp(bytes(size)), device)) == 40 + size
        assert len(view(in_udp(bytes(size)), device)) == 28 + size
        # one byte of name more is one byte of view more, and no other name is like it
        name = view(in_hello(server_name(b"n" * (size + 1))), device)
        assert name == view(in_hello(server_name(b"m" * (size + 1))), device)
        assert len(name) == 40 + 5 + len(client_hello(server_name(b"n" * (size + 1))))
