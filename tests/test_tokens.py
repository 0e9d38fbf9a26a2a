"""Tokens, by hand: a field is in the same place whatever stands before it."""

import numpy as np
import pytest
from frames import ACK, PSH, batch, ether, ipv4, ipv6, record, tcp, udp

from etcpipe.batch import rows_of as allocate
from etcpipe.gpu import tokens_cpu, tokens_native, views_cpu
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.tokens import LEARNABLE, NO_BYTE, PAYLOAD, RAW_LEN, TOKENS, TRANSPORT
from etcpipe.gpu.views import VIEWS, compute

TOK = VIEWS["tok"]
NONE = [NO_BYTE]


def rows_of(*frames, mask="none", first_n=10, raw_len=RAW_LEN, **columns):
    packets = [
        {"frame": frame, "flow_id": 1, "rank": i, "at": i / 1000}
        | {name: values[i] for name, values in columns.items()}
        for i, frame in enumerate(frames)
    ]
    regroup = Regroup(first_n, raw_len, mask=mask)
    regroup.add(batch(packets))
    return compute(TOK, regroup.flush(), first_n)[0]


def test_tcp_behind_options_of_ip_and_tcp():
    hello = record(22, bytes(100))
    frame = ether(
        ipv4(
            6,
            tcp(hello, sport=0x1234, dport=443, flags=PSH | ACK, window=0x5678, options=b"\1" * 12),
            options=b"\1" * 8,
        )
    )
    tokens = rows_of(frame)[0, :TOKENS].astype(int).tolist()
    assert tokens[0] == 0x47 and tokens[2:4] == [0, 28 + 32 + 105] and tokens[9] == 6
    assert tokens[12:20] == [10, 0, 0, 1, 10, 0, 0, 2]
    assert tokens[TRANSPORT : TRANSPORT + 4] == [0x12, 0x34, 1, 187]
    assert tokens[32:36] == [0x80, PSH | ACK, 0x56, 0x78]
    assert tokens[PAYLOAD:] == [22, 3, 3, 0, 100] + [0] * 19


def test_udp_has_its_fields_where_tcp_has_them():
    tokens = rows_of(ether(ipv4(17, udp(b"\7" * 10, sport=0x1234, dport=443, check=0x9ABC))))
    tokens = tokens[0, :TOKENS].astype(int).tolist()
    assert tokens[9] == 17
    assert tokens[TRANSPORT:PAYLOAD] == [0x12, 0x34, 1, 187, *NONE * 12, 0x9A, 0xBC, 0, 18]
    assert tokens[PAYLOAD:] == [7] * 10 + NONE * 14


EXTENSIONS = [
    pytest.param([], id="none"),
    pytest.param([(0, b"\0" + bytes(6)), (60, b"\1" + bytes(14))], id="two of them"),
    pytest.param([(44, bytes(7))], id="first fragment"),
    pytest.param([(51, b"\4" + bytes(22))], id="authentication"),
]


@pytest.mark.parametrize("extensions", EXTENSIONS)
def test_ipv6_has_its_fields_where_ipv4_has_them(extensions):
    segment = tcp(b"\5" * 30, sport=0x1234, flags=ACK)
    frame = ether(
        ipv6(6, segment, traffic_class=0xAB, flow_label=0xCDEF0, hop_limit=9, extensions=extensions)
    )
    tokens = rows_of(frame)[0, :TOKENS].astype(int).tolist()
    ip_len = 40 + sum(1 + len(body) for _, body in extensions) + 50
    assert tokens[:4] == [0x6A, 0xBC, 0, ip_len]
    assert tokens[4:10] == [0xDE, 0xF0, *NONE * 2, 9, 6]
    assert tokens[10:20] == NONE * 10
    assert tokens[TRANSPORT : TRANSPORT + 4] == [0x12, 0x34, 1, 187]
    assert tokens[33] == ACK and tokens[PAYLOAD:] == [5] * 24


def test_no_header_reaches_beyond_what_is_kept():
    """Extension headers may be longer than the bytes that regrouping keeps."""
    frame = ether(ipv6(6, tcp(b"\5" * 30), extensions=[(60, b"\x20" + bytes(262))]))
    tokens = rows_of(frame)[0, :TOKENS].astype(int).tolist()
    assert tokens[TRANSPORT:] == NONE * 44 and tokens[9] == 6


def test_what_the_capture_cut_is_no_byte():
    frame = ether(ipv4(17, udp(b"\7" * 100)))[: 14 + 28 + 6]
    tokens = rows_of(frame, wire_len=[142])[0, :TOKENS].astype(int).tolist()
    assert tokens[PAYLOAD:] == [7] * 6 + NONE * 18


def test_numbers_of_packets_by_hand():
    there = ether(ipv4(6, tcp(b"a" * 60, flags=PSH | ACK, options=b"\1" * 12)))
    back = ether(ipv4(6, tcp(b"b" * 1400)))
    rows = rows_of(there, back, back, there, direction=[0, 1, 1, 0])[:, TOKENS:]
    gap = np.log1p(1000) / 16
    expected = [
        [112 / 1500, 1, 0, 2 / 8, 60 / 1500, 52 / 64, 0, 0],
        [1440 / 1500, -1, gap, 1 / 8, 1400 / 1500, 40 / 64, 0.1, 0.1],
        [1440 / 1500, -1, gap, 1 / 8, 1400 / 1500, 40 / 64, 0.2, 0.1],
        [112 / 1500, 1, gap, 2 / 8, 60 / 1500, 52 / 64, 0.3, 0.2],
    ]
    np.testing.assert_allclose(rows[:4], expected, rtol=1e-5)


def test_packets_that_never_came_have_no_bytes():
    rows = rows_of(ether(ipv4(6, tcp(b"a"))))
    assert rows.shape == TOK.shape
    assert (rows[1:, :TOKENS] == NO_BYTE).all() and not rows[1:, TOKENS:].any()


def test_fields_that_strict_hides_are_zero_and_none_of_them_is_learnable():
    segment = tcp(record(23, b"\x5a" * 40), seq=99, window=77, check=5)
    frames = [
        ether(ipv4(6, segment, tos=4, ttl=9)),
        ether(ipv4(17, udp(b"\x5a" * 40, check=5), ident=8, ttl=9)),
        ether(ipv6(6, segment, traffic_class=9, flow_label=77)),
    ]
    learnable = {place for places in LEARNABLE.values() for place in places}
    others = [i for i in range(TOKENS) if i not in learnable]
    for frame in frames:
        hidden = rows_of(frame, mask="strict")[0, others]
        assert set(hidden.tolist()) <= {0, NO_BYTE}
        assert not set(rows_of(frame)[0, others].tolist()) <= {0, NO_BYTE}


def test_flows_that_keep_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match=f"tok needs {RAW_LEN}"):
        rows_of(ether(ipv4(6, tcp(b"a"))), raw_len=RAW_LEN - 1)


def random_flows(flows, rng, ranks=12, raw_len=RAW_LEN + 16):
    """Flows with any bytes, lengths, protocols, holes and times."""
    made = allocate(flows, ranks, raw_len)
    made.key["protocol"] = rng.choice([6, 17, 17, 58], flows)
    made.raw[:] = rng.integers(0, 256, made.raw.shape)
    is_ipv6 = rng.random((flows, ranks)) < 0.5
    made.raw[..., 0] = np.where(is_ipv6, 0x60, 0x40) | rng.integers(0, 16, (flows, ranks))
    made.raw[..., 6] = rng.choice([6, 17, 0, 43, 44, 51, 60], (flows, ranks))
    made.raw[..., 40] = rng.choice([6, 17, 0, 43, 44, 51, 60], (flows, ranks))
    packets = made.packets
    packets["present"] = rng.random((flows, ranks)) < 0.8
    packets["direction"] = rng.integers(0, 2, (flows, ranks))
    packets["ip_len"] = rng.integers(0, 70_000, (flows, ranks))
    packets["payload_len"] = rng.integers(0, 70_000, (flows, ranks))
    near = rng.random((flows, ranks)) < 0.7
    packets["payload_len"][near] = np.maximum(packets["ip_len"][near].astype(int) - 48, 0)
    packets["raw_len"] = rng.choice([0, 1, 20, 40, 41, 64, RAW_LEN, RAW_LEN + 16], (flows, ranks))
    packets["tcp_flags"] = rng.integers(0, 256, (flows, ranks))
    packets["timestamp_ns"] = 10**18 + rng.integers(0, 10**10, (flows, ranks)).cumsum(axis=1)
    backwards = rng.random((flows, ranks)) < 0.1
    packets["timestamp_ns"][backwards] -= 20 * 10**9
    return made


@pytest.mark.parametrize("depth", [1, 3, 10, 12])
@pytest.mark.parametrize("ranks", [1, 4, 12])
def test_c_has_the_bits_of_the_definition(depth, ranks):
    flows = random_flows(500, np.random.default_rng(depth * 100 + ranks), ranks)
    defined = tokens_cpu.tok(flows, views_cpu.seq(flows, depth))
    made = tokens_native.tok(flows, depth)
    assert made.dtype == defined.dtype and made.shape == defined.shape == (500, 10, 72)
    differs = np.argwhere(made.view(np.uint32) != defined.view(np.uint32))
    assert not len(differs), differs[:5]


def test_no_flows_have_no_rows():
    assert tokens_native.tok(allocate(0, 10, RAW_LEN), 10).shape == (0, 10, 72)


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="tok needs 144"):
        tokens_native.tok(allocate(1, 10, 100), 10)
