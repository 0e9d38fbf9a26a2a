"""What of a packet is in the raw view under each mask, byte by byte."""

import pytest
from frames import (
    ACK,
    CWR,
    FIN,
    PSH,
    batch,
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

from etcpipe.gpu.mask import FIELDS, KEEP, RULES, ZERO
from etcpipe.gpu.regroup import Regroup

pytestmark = pytest.mark.parametrize("device", ["cpu", "reference"])

# Where things begin in a view of IPv4 and TCP without options.
TCP_AT, PAYLOAD_AT = 20, 40
TIMESTAMPS = bytes.fromhex("0101080a1122334455667788")
ZEROED, HIDDEN = "00", "ff"
NAME = b"planted-name.example"


def view(frame, device, mask="strict", room=1500, link_type=1, **columns):
    """Return the valid bytes of a frame's raw view, having checked that zeros follow."""
    given = batch([{"frame": frame, "flow_id": 1, **columns}], link_type)
    flows = Regroup(1, raw_len=room, mask=mask, device=device).add(given)
    row, valid = flows.raw[0, 0].tobytes(), int(flows.packets["raw_len"][0, 0])
    assert row[valid:] == bytes(room - valid)
    return row[:valid]


def payload_view(payload, device, **columns):
    """Return the raw view of a TCP payload under the strict mask."""
    return view(ether(ipv4(6, tcp(payload))), device, **columns)[PAYLOAD_AT:]


def test_ipv4_and_tcp_keep_lengths_protocol_flags_and_option_kinds(device):
    segment = tcp(
        b"hidden", sport=4567, dport=8443, seq=0x11111111, ack=0x22222222, flags=PSH | ACK,
        window=0x3333, check=0x4444, urgent=0x5555, options=TIMESTAMPS,
    )  # fmt: skip
    packet = ipv4(6, segment, "198.51.100.7", "203.0.113.9", tos=0xB8, ident=0x6666, ttl=57)
    expected = [
        "4500003a 00004000 00060000 00000000 00000000",  # version, length 58, DF, TCP
        "00000000 00000000 00000000 80180000 00000000",  # header length, PSH ACK
        "0101080a 00000000 00000000",  # no-op, no-op, timestamps of length 10
        6 * HIDDEN,
    ]
    assert view(ether(packet), device) == bytes.fromhex("".join(expected))


def test_standard_shows_the_window_and_nothing_else(device):
    frame = ether(ipv4(6, tcp(b"hidden", window=0x3333, options=TIMESTAMPS)))
    strict, standard = (bytearray(view(frame, device, mask)) for mask in ("strict", "standard"))
    assert standard[TCP_AT + 14 : TCP_AT + 16] == b"\x33\x33"
    standard[TCP_AT + 14 : TCP_AT + 16] = b"\0\0"
    assert standard == strict


def test_ipv6_and_udp_keep_lengths_and_the_chain_of_headers(device):
    extensions = [(0, b"\x00\x05\x02\x07\x07\x07\x07"), (44, b"\x99\x00\x01\x12\x34\x56\x78")]
    packet = ipv6(
        17, udp(b"hidden", check=0xABCD), traffic_class=0xB8, flow_label=0x12345, hop_limit=57,
        extensions=extensions,
    )  # fmt: skip
    expected = [
        "60000000 001e 00 00" + 32 * ZEROED,  # version, length 30, next: hop-by-hop
        "2c000000 00000000",  # next: fragment, length 0
        "11000000 00000000",  # next: UDP
        "00000000 000e 0000" + 6 * HIDDEN,  # length 14
    ]
    assert view(ether(packet), device) == bytes.fromhex("".join(expected))


def test_ipv4_options_keep_kind_and_length(device):
    options = bytes.fromhex("01 070704c6336407 00000000")
    shown = view(ether(ipv4(17, udp(b"x"), options=options)), device)
    assert shown[0] == 0x48
    assert shown[20:32].hex() == "01070700" + "00" * 8


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("0800" + "11" * 6, id="length 0"),
        pytest.param("0801" + "11" * 6, id="length 1"),
        pytest.param("08ff" + "11" * 6, id="longer than the header"),
        pytest.param("0004111102041111", id="behind the end of options"),
    ],
)
def test_what_is_no_option_is_zero(device, options):
    segment = tcp(b"x", options=bytes.fromhex(options))
    shown = view(ether(ipv4(6, segment)), device)
    assert shown[PAYLOAD_AT:] == bytes(8) + b"\xff"


def test_other_protocols_are_hidden_behind_the_ip_header(device):
    shown = view(ether(ipv4(132, bytes(range(1, 41)))), device)
    assert shown[9] == 132
    assert shown[20:] == b"\xff" * 40


def test_none_shows_the_packet_as_it_is(device):
    packet = ipv6(6, tcp(b"plain", options=TIMESTAMPS, window=7), flow_label=5)
    assert view(ether(packet, vlans=[1, 2]), device, "none") == packet


@pytest.mark.parametrize("mask", ["none", "strict"])
def test_ethernet_padding_is_cut_by_the_ip_length(device, mask):
    packet = ipv4(6, tcp(b"\0"))  # 41 bytes; the frame has 5 more, of 0xee
    shown = view(ether(packet), device, mask)
    assert len(shown) == 41
    assert 0xEE not in shown


def test_the_view_is_cut_at_its_room(device):
    packet = ipv4(6, tcp(bytes(100), flags=PSH))
    whole = view(ether(packet), device)
    assert len(whole) == 140
    for room in (1, 3, 33, 41, 139):
        assert view(ether(packet), device, room=room) == whole[:room]
        assert view(ether(packet), device, "none", room=room) == packet[:room]


def test_payload_that_was_not_captured_is_hidden_all_the_same(device):
    packet = ipv4(6, tcp(bytes(100)))
    frame, cut = ether(packet), ether(packet)[:80]
    assert view(cut, device, wire_len=len(frame)) == view(frame, device)
    assert view(cut, device, "none", wire_len=len(frame)) == packet[: 80 - 14]


def test_options_that_were_not_captured_are_zero(device):
    packet = ipv4(6, tcp(b"pay", options=TIMESTAMPS))
    frame = ether(packet)
    shown = view(frame[: 14 + 40 + 4], device, wire_len=len(frame))
    assert shown[PAYLOAD_AT:].hex() == "0101080a" + "00" * 8 + "ff" * 3


@pytest.mark.parametrize("link_type, header", [(101, 0), (0, 4), (108, 4), (276, 20), (113, 16)])
def test_every_link_type_gives_the_same_view(device, link_type, header):
    packet = ipv4(6, tcp(b"data", flags=PSH))
    frame = {
        101: b"",
        0: b"\x02\0\0\0",
        108: b"\0\0\0\x02",
        276: b"\x08\x00" + bytes(18),
        113: bytes(14) + b"\x08\x00",
    }[link_type] + packet
    assert len(frame) == header + len(packet)
    shown = view(frame, device, link_type=link_type)
    assert shown == view(ether(packet), device)


# -- TLS ---------------------------------------------------------------------------------


def test_a_client_hello_shows_what_is_offered_and_not_to_whom(device):
    groups = extension(10, bytes.fromhex("0004001d0017"))
    key_share = extension(51, b"\xcc" * 38)
    payload = record(22, client_hello(server_name(NAME) + groups + key_share), 0x0301)
    expected = [
        "16 0301 00a4",  # handshake record, TLS 1.0, 164 bytes
        "01 0000a0",  # ClientHello, 160 bytes
        "0303" + 32 * ZEROED + "20" + 32 * ZEROED,  # version, random, session id
        "0006 1301 1302 1303" + "01 00",  # cipher suites, compression
        "0051",  # bytes of extensions
        "0000 0019" + 25 * ZEROED,  # server_name
        "000a 0006 0004 001d 0017",  # supported_groups
        "0033 0026" + 38 * ZEROED,  # key_share
    ]
    assert payload_view(payload, device) == bytes.fromhex("".join(expected))


def test_a_server_hello_and_its_flight_show_structure_only(device):
    hello = server_hello(extension(43, b"\x03\x04") + extension(51, b"\xcc" * 36))
    payload = record(22, hello + message(11, b"CN=" + NAME))
    payload += record(20, b"\x01") + record(23, b"\xdd" * 30)
    expected = [
        "16 0303 0095",  # handshake record, 149 bytes
        "02 000076" + "0303" + 32 * ZEROED + "20" + 32 * ZEROED,  # ServerHello to session id
        "1301 00" + "002e",  # cipher suite, compression, bytes of extensions
        "002b 0002 0304",  # supported_versions
        "0033 0024" + 36 * ZEROED,  # key_share
        "0b 000017" + 23 * ZEROED,  # Certificate
        "14 0303 0001" + HIDDEN,  # change_cipher_spec
        "17 0303 001e" + 30 * HIDDEN,  # application data
    ]
    assert payload_view(payload, device) == bytes.fromhex("".join(expected))


@pytest.mark.parametrize("kind", [10, 11, 13, 27, 28, 43, 45])
def test_extensions_of_code_points_are_shown(device, kind):
    shown = payload_view(record(22, client_hello(extension(kind, b"\x5a\x5b\x5c"))), device)
    assert shown.endswith(b"\x5a\x5b\x5c")


@pytest.mark.parametrize("kind", [0, 5, 14, 16, 17, 18, 21, 23, 35, 41, 42, 44, 50, 51, 65037])
def test_extensions_of_names_keys_and_tickets_are_zero(device, kind):
    shown = payload_view(record(22, client_hello(extension(kind, b"\x5a\x5b\x5c"))), device)
    assert shown.endswith(kind.to_bytes(2, "big") + b"\x00\x03" + bytes(3))


@pytest.mark.parametrize("cut", range(1, 120))
def test_a_hello_that_goes_on_in_the_next_packet_is_shown_up_to_there(device, cut):
    payload = record(22, client_hello(server_name(NAME) + extension(10, b"\0\x02\0\x1d")))
    whole = payload_view(payload, device)
    shown = payload_view(payload[:cut], device)
    # a header that is cut in two is not parsed, so it stays hidden
    parsed = 0 if cut < 5 else 5 if cut < 9 else cut
    assert shown == whole[:parsed] + b"\xff" * (cut - parsed)


def test_the_rest_of_a_hello_in_the_next_packet_is_hidden(device):
    payload = record(22, client_hello(server_name(NAME)))
    assert payload_view(payload[90:], device) == b"\xff" * len(payload[90:])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(bytes(8) + b"\x9c" * 32, id="TLS 1.2 Finished, zero nonce"),
        pytest.param(b"\x9c" * 40, id="unknown message type"),
        pytest.param(message(20, b"\x9c" * 12)[:-1], id="message longer than the record"),
        pytest.param(message(20, b"\x9c" * 12) + b"\x14\0", id="too little left for a message"),
    ],
)
def test_a_handshake_record_that_messages_do_not_fill_is_hidden(device, body):
    shown = payload_view(record(22, body), device)
    assert shown == record(22, body)[:5] + b"\xff" * len(body)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x19\x03\x03\x00\x05hello", id="content type 25"),
        pytest.param(b"\x17\x02\x03\x00\x05hello", id="major version 2"),
        pytest.param(b"\x17\x03\x05\x00\x05hello", id="minor version 5"),
        pytest.param(b"\x17\x03\x03\x00\x00hello", id="length 0"),
        pytest.param(b"\x17\x03\x03\x48\x01hello", id="length above 2^14 + 2048"),
        pytest.param(b"\x17\x03\x03\x00", id="shorter than a record header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: " + NAME, id="HTTP"),
    ],
)
def test_what_is_no_tls_record_is_hidden(device, payload):
    assert payload_view(payload, device) == b"\xff" * len(payload)


def test_tls_in_udp_is_hidden(device):
    payload = record(22, client_hello(server_name(NAME)))
    assert view(ether(ipv4(17, udp(payload))), device)[28:] == b"\xff" * len(payload)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param((43, b"\x21"), id="session id of 33 bytes"),
        pytest.param((76, b"\xff\xff"), id="cipher suites beyond the message"),
        pytest.param((84, b"\xff"), id="compression beyond the message"),
        pytest.param((86, b"\xff\xff"), id="extensions beyond the message"),
        pytest.param((90, b"\xff\xff"), id="extension beyond the extensions"),
    ],
)
def test_a_damaged_hello_shows_nothing_behind_the_damage(device, damage):
    at, bad = damage
    payload = bytearray(record(22, client_hello(server_name(NAME))))
    payload[at : at + len(bad)] = bad
    shown = payload_view(bytes(payload), device)
    assert len(shown) == len(payload)
    assert not any(shown[at + len(bad) :])
    assert NAME not in shown


# -- super-packets -----------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["strict", "none"])
@pytest.mark.parametrize("network, protocol", [(ipv4, 6), (ipv4, 17), (ipv6, 6), (ipv6, 17)])
def test_segments_look_as_they_do_on_the_wire(device, mask, network, protocol):
    payload = record(23, bytes(range(200))) + record(23, bytes(range(90)))

    def frame(part, flags):
        body = tcp(part, flags=flags) if protocol == 6 else udp(part)
        return ether(network(protocol, body) if network is ipv6 else ipv4(protocol, body))

    super_frame = frame(payload, PSH | FIN | ACK | CWR)
    parts = [(payload[:205], ACK | CWR), (payload[205:], PSH | FIN | ACK)]
    given = batch([{"frame": super_frame, "flow_id": 1, "segment_len": 205}])
    flows = Regroup(2, raw_len=400, mask=mask, device=device).add(given)
    for rank, part in enumerate(parts):
        expected = bytearray(view(frame(*part), device, mask, room=400))
        if mask == "none" and network is ipv4:
            expected[10:12] = super_frame[24:26]  # the checksum is the frame's own
        valid = flows.packets["raw_len"][0, rank]
        assert flows.raw[0, rank, :valid].tobytes() == expected


# -- the bugs of published preprocessing (facts in the papers named in etcpipe.gpu.mask) ----


def test_no_checksum_gives_back_the_addresses(device):
    """Zeroed addresses beside a true checksum give back the sum of the addresses."""
    packets = [
        ipv4(6, tcp(b"x"), f"10.{i}.3.{255 - i}", f"172.16.{i * 3 % 256}.{i}") for i in range(250)
    ]
    assert len({packet[10:12] for packet in packets}) > 200
    assert len({view(ether(packet), device) for packet in packets}) == 1


@pytest.mark.parametrize("byte", [b"\x00", b"\x45", b"\x06"])
def test_a_payload_of_one_byte_does_not_cut_the_headers(device, byte):
    """Headers were once found by deleting the payload's text from the packet's."""
    shown = view(ether(ipv4(6, tcp(byte))), device)
    assert len(shown) == 41
    assert shown[:4].hex() == "45000029"
    assert view(ether(ipv4(6, tcp(byte))), device, "none")[40:] == byte


def test_options_do_not_shift_fields_out_of_the_mask(device):
    """Ports and numbers were once zeroed at fixed columns, whatever the header's length."""
    segment = {"sport": 0x7777, "dport": 0x7777, "seq": 0x77777777, "ack": 0x77777777}
    for words in range(10):
        packet = ipv4(
            6,
            tcp(b"x", options=bytes.fromhex("fe047777") * words, **segment),
            options=bytes.fromhex("07047777") * words,
        )
        assert 0x77 in packet
        assert 0x77 not in view(ether(packet), device)


# -- the table -----------------------------------------------------------------------------


def test_the_table_names_each_field_once_and_says_why(device):
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    assert all(field.why for field in FIELDS)
    differences = {name for name in names if RULES["strict"][name] != RULES["standard"][name]}
    assert differences == {"tcp.window"}
    assert (RULES["strict"]["tcp.window"], RULES["standard"]["tcp.window"]) == (ZERO, KEEP)
