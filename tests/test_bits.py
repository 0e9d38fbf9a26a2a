"""Bits, by hand: the columns of nPrint, of bytes that are masked."""

import numpy as np
import pytest
from frames import ACK, PSH, batch, ether, ipv4, ipv6, record, tcp, udp
from test_tokens import random_flows

from etcpipe.batch import rows_of as allocate
from etcpipe.gpu import bits_cpu, bits_native
from etcpipe.gpu.bits import ABSENT, RAW_LEN
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute

BITS = VIEWS["bits"]
NAMES = BITS.column_names()


def rows_of(*frames, mask="none", first_n=10, depth=10, raw_len=RAW_LEN, wire_len=None):
    packets = [
        {"frame": frame, "flow_id": 1, "rank": i, "at": i / 1000} for i, frame in enumerate(frames)
    ]
    if wire_len:
        packets[0]["wire_len"] = wire_len
    regroup = Regroup(first_n, raw_len, mask=mask)
    regroup.add(batch(packets))
    return compute(BITS, regroup.flush(), depth)[0]


def field(row, name):
    """The number that a field's bits are; None where it has none."""
    found = [int(row[i]) for i, column in enumerate(NAMES) if column.rpartition("_")[0] == name]
    assert found
    if set(found) == {ABSENT}:
        return None
    return int("".join(map(str, found)), 2)


def part(row, name):
    """The bits of a part that are there, which are its first ones."""
    found = [int(row[i]) for i, column in enumerate(NAMES) if column.startswith(f"{name}_")]
    there = [bit for bit in found if bit != ABSENT]
    assert found[: len(there)] == there
    return there


def test_parts_are_as_long_as_nprint_has_them():
    lengths = {
        name: sum(column.startswith(f"{name}_") for column in NAMES)
        for name in ("ipv4", "ipv6", "tcp", "udp")
    }
    assert lengths == {"ipv4": 480, "ipv6": 320, "tcp": 480, "udp": 64}
    assert BITS.shape == (10, 480 + 320 + 480 + 64 + 8 * 24) == (10, len(NAMES))
    assert (NAMES[0], NAMES[4], NAMES[479]) == ("ipv4_ver_0", "ipv4_hl_0", "ipv4_opt_319")
    assert (NAMES[800], NAMES[1280], NAMES[1344]) == ("tcp_sprt_0", "udp_sport_0", "payload_bit_0")


def test_tcp_over_ipv4_with_options():
    hello = record(22, bytes(100))
    segment = tcp(
        hello, sport=0x1234, dport=443, flags=PSH | ACK, window=0x5678, options=b"\1" * 12
    )
    row = rows_of(ether(ipv4(6, segment, options=b"\1" * 8, ttl=61)))[0]
    ip_len = 28 + 32 + 105
    expected = {"ver": 4, "hl": 7, "tl": ip_len, "ttl": 61, "proto": 6, "src": 0x0A000001}
    assert {name: field(row, f"ipv4_{name}") for name in expected} == expected
    expected = {"sprt": 0x1234, "dprt": 443, "doff": 8, "ackf": 1, "psh": 1, "syn": 0, "fin": 0}
    assert {name: field(row, f"tcp_{name}") for name in expected} == expected
    assert field(row, "tcp_wsize") == 0x5678
    assert (len(part(row, "ipv4")), len(part(row, "tcp"))) == (8 * 28, 8 * 32)
    assert part(row, "ipv4")[160:] == [0, 0, 0, 0, 0, 0, 0, 1] * 8
    assert part(row, "ipv6") == part(row, "udp") == []
    assert part(row, "payload")[:40] == [int(bit) for bit in f"{0x1603030064:040b}"]


def test_udp_over_ipv4():
    row = rows_of(ether(ipv4(17, udp(b"\7" * 10, sport=0x1234, dport=443, check=0x9ABC))))[0]
    expected = {"sport": 0x1234, "dport": 443, "len": 18, "cksum": 0x9ABC}
    assert {name: field(row, f"udp_{name}") for name in expected} == expected
    assert part(row, "tcp") == part(row, "ipv6") == []
    assert part(row, "payload") == [0, 0, 0, 0, 0, 1, 1, 1] * 10


@pytest.mark.parametrize("extensions", [[], [(0, bytes(7)), (60, b"\1" + bytes(14))]])
def test_tcp_over_ipv6_has_its_place_behind_extensions(extensions):
    segment = tcp(b"\5" * 30, sport=0x1234, flags=ACK)
    frame = ether(
        ipv6(6, segment, traffic_class=0xAB, flow_label=0xCDEF0, hop_limit=9, extensions=extensions)
    )
    row = rows_of(frame)[0]
    length = 50 + sum(1 + len(body) for _, body in extensions)
    expected = {"ver": 6, "tc": 0xAB, "fl": 0xCDEF0, "len": length, "hl": 9}
    assert {name: field(row, f"ipv6_{name}") for name in expected} == expected
    assert part(row, "ipv4") == [] and len(part(row, "ipv6")) == 320
    assert (field(row, "tcp_sprt"), field(row, "tcp_ackf")) == (0x1234, 1)
    assert part(row, "payload") == [0, 0, 0, 0, 0, 1, 0, 1] * 24


def test_a_vlan_tag_moves_nothing():
    packet = ipv4(17, udp(b"\7" * 10))
    tagged = ether(packet, [7])
    assert np.array_equal(rows_of(tagged), rows_of(ether(packet)))


def test_what_the_capture_cut_is_absent():
    row = rows_of(ether(ipv4(17, udp(b"\7" * 100)))[: 14 + 28 + 6], wire_len=142)[0]
    assert len(part(row, "udp")) == 64 and len(part(row, "payload")) == 8 * 6


def test_packets_that_never_came_or_are_beyond_depth_are_absent():
    frame = ether(ipv4(6, tcp(b"a")))
    assert (rows_of(frame)[1:] == ABSENT).all()
    rows = rows_of(frame, frame, frame, depth=2)
    assert (rows[:2, 0] == 0).all() and (rows[2:] == ABSENT).all()


def test_what_strict_hides_is_zero_in_headers_and_ones_in_payload():
    """Shown are versions, lengths, protocols, flags, and which options there are."""
    segment = tcp(
        b"\x5a" * 40, seq=99, window=77, check=5, flags=PSH | ACK, options=b"\x08\x0a" + b"\7" * 10
    )
    frames = [
        ether(ipv4(6, segment, tos=4, ttl=9, ident=9)),
        ether(ipv4(17, udp(b"\x5a" * 40, check=5), ident=8, ttl=9)),
        ether(ipv6(6, segment, traffic_class=9, flow_label=77)),
    ]
    kept = {
        *("ipv4_ver", "ipv4_hl", "ipv4_tl", "ipv4_dfbit", "ipv4_proto"),
        *("ipv6_ver", "ipv6_len", "ipv6_nh"),
        *("tcp_doff", "tcp_ackf", "tcp_psh", "udp_len", "tcp_opt", "payload_bit"),
    }
    for frame in frames:
        row = rows_of(frame, mask="strict")[0]
        shown = {NAMES[i].rpartition("_")[0] for i in np.flatnonzero(row == 1)}
        assert shown <= kept
        assert set(part(row, "payload")) == {1}
        options = part(row, "tcp")[160:]
        assert options in ([], [int(bit) for bit in f"{0x080A << 80:096b}"])


def test_flows_that_keep_too_few_bytes_are_refused():
    flows = allocate(1, 10, RAW_LEN - 1)
    for made in (bits_native, bits_cpu):
        with pytest.raises(ValueError, match="bits needs 144"):
            made.bits(flows, 10)


@pytest.mark.parametrize("depth", [1, 3, 10, 12])
@pytest.mark.parametrize("ranks", [1, 4, 12])
def test_c_has_the_bits_of_the_definition(depth, ranks):
    flows = random_flows(300, np.random.default_rng(depth * 100 + ranks), ranks)
    defined, made = bits_cpu.bits(flows, depth), bits_native.bits(flows, depth)
    assert made.dtype == defined.dtype == np.int8
    assert made.shape == defined.shape == (300, 10, 1536)
    assert set(np.unique(made).tolist()) == {-1, 0, 1}
    differs = np.argwhere(made != defined)
    assert not len(differs), differs[:5]


def test_no_flows_have_no_rows():
    assert bits_native.bits(allocate(0, 10, RAW_LEN), 10).shape == (0, 10, 1536)
