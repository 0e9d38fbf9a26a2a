"""The columns of every view, by hand and against a slow definition written apart."""

import math
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcpipe.batch import FlowBatch
from etcpipe.gpu.views import MASKS, VIEWS, compute, schema_hash
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

STATS = VIEWS["stats"]
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
START_NS = 1_700_000_000_123_456_789


def packet(ms=0, size=100, direction=0, flags=ACK, window=0, ttl=0):
    """One packet, ms after START_NS; None in a flow stands for a lost one."""
    return {
        "timestamp_ns": START_NS + round(ms * 1e6),
        "ip_len": size,
        "payload_len": max(size - 40, 0),
        "tcp_window": window,
        "tcp_flags": flags,
        "ttl": ttl,
        "direction": direction,
        "present": 1,
    }


def flow_batch(flows, protocol=6, ports=(40000, 443), raw_len=0):
    """Return a FlowBatch of the given flows, each a list of packets; end a opened them."""
    ranks = max(len(flow) for flow in flows)
    packets = np.zeros((len(flows), ranks), PACKET_FIELDS)
    for row, flow in zip(packets, flows, strict=True):
        for rank, fields in enumerate(flow):
            for name, value in (fields or {}).items():
                row[name][rank] = value
    key = np.zeros(len(flows), FLOW_KEY)
    key["protocol"], key["a_port"], key["b_port"] = protocol, *ports
    zeros = {name: np.zeros(len(flows), dtype) for name, dtype in
             [("initiator", "u1"), ("vlan", "u2"), ("ifindex", "u4"), ("lost", "u2"),
              ("reason", "u1"), ("ready_ns", "u8")]}  # fmt: skip
    return FlowBatch(
        flow_id=np.arange(1, len(flows) + 1, dtype="u8"),
        key=key,
        packets=packets,
        raw=np.zeros((len(flows), ranks, raw_len), "u1"),
        **zeros,
    )


def stats_of(flow, depth=10, **options):
    """Return column name -> value of one flow, all 67 columns."""
    names = STATS.column_names("none")
    return dict(
        zip(names, compute(STATS, flow_batch([flow], **options), depth, names)[0], strict=True)
    )


def test_the_67_candidates_in_order():
    names = STATS.column_names("none")
    assert len(names) == len(set(names)) == 67
    assert names[:13] == (
        "dur", "proto", "s_port", "d_port", "s_load", "d_load", "s_pkt_cnt", "d_pkt_cnt",
        "s_iat_mean", "d_iat_mean", "tcp_rtt", "syn_ack", "ack_dat",
    )  # fmt: skip
    assert names[25:28] == ("s_iat_sum", "d_iat_sum", "s_iat_min")
    assert names[35:38] == ("s_winsize_sum", "d_winsize_sum", "s_winsize_mean")
    assert names[-9:] == (
        "d_ttl_std", "cwr_cnt", "ece_cnt", "urg_cnt", "ack_cnt", "psh_cnt", "rst_cnt", "syn_cnt",
        "fin_cnt",
    )  # fmt: skip


def test_masks_leave_out_what_identifies():
    strict, standard = STATS.column_names("strict"), STATS.column_names("standard")
    assert len(strict) == 41 and len(standard) == 53
    assert not [name for name in strict if "port" in name or "ttl" in name or "win" in name]
    assert [name for name in standard if name not in strict] == [
        column.name for column in STATS.columns if "winsize" in column.name
    ]


def test_four_packets_by_hand():
    stats = stats_of(
        [
            packet(0, 100, window=10, ttl=64),
            packet(10, 1500, 1, ACK | PSH, window=200, ttl=50),
            packet(30, 300, window=30, ttl=64),
            packet(100, 200, flags=ACK | FIN | RST, window=20, ttl=61),
        ]
    )
    expected = {
        "dur": 0.1, "proto": 6, "s_port": 40000, "d_port": 443,
        "s_load": 48000, "d_load": 120000, "s_pkt_cnt": 3, "d_pkt_cnt": 1,
        "s_bytes_sum": 600, "s_bytes_mean": 200, "s_bytes_min": 100, "s_bytes_max": 300,
        "s_bytes_med": 200, "s_bytes_std": math.sqrt(20000 / 3),
        "d_bytes_sum": 1500, "d_bytes_med": 1500, "d_bytes_std": 0,
        "s_iat_sum": 0.1, "s_iat_mean": 0.05, "s_iat_min": 0.03, "s_iat_max": 0.07,
        "s_iat_med": 0.05, "s_iat_std": 0.02,
        "d_iat_sum": 0, "d_iat_mean": -1, "d_iat_min": -1, "d_iat_max": -1, "d_iat_std": -1,
        "s_winsize_sum": 60, "s_winsize_med": 20, "d_winsize_max": 200,
        "s_ttl_min": 61, "s_ttl_mean": 63, "d_ttl_med": 50,
        "ack_cnt": 4, "psh_cnt": 1, "fin_cnt": 1, "rst_cnt": 1, "syn_cnt": 0, "urg_cnt": 0,
        "tcp_rtt": -1, "syn_ack": -1, "ack_dat": -1,
    }  # fmt: skip
    assert {name: stats[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_handshake_times():
    handshake = [
        packet(0, 60, flags=SYN),
        packet(0.5, 60, flags=SYN),
        packet(20, 60, 1, SYN | ACK),
        packet(23, 52, flags=ACK),
        packet(24, 600, flags=ACK | PSH),
    ]
    stats = stats_of(handshake)
    assert stats["syn_ack"] == pytest.approx(0.020)
    assert stats["ack_dat"] == pytest.approx(0.003)
    assert stats["tcp_rtt"] == pytest.approx(0.023)
    assert stats["syn_cnt"] == 3
    cut = stats_of(handshake, depth=3)
    assert (cut["tcp_rtt"], cut["ack_dat"]) == (-1, -1)
    assert cut["syn_ack"] == pytest.approx(0.020)


def test_depth_counts_packets_that_are_present():
    flow = [packet(0, 100), None, packet(10, 300), packet(20, 700)]
    assert stats_of(flow, depth=2)["s_bytes_sum"] == 400
    assert stats_of(flow, depth=2)["dur"] == pytest.approx(0.01)
    assert stats_of(flow, depth=3)["s_bytes_sum"] == 1100
    with pytest.raises(ValueError, match="at least one packet"):
        stats_of(flow, depth=0)


def test_a_clock_that_steps_back_gives_no_negative_time():
    stats = stats_of([packet(10), packet(5)])
    assert (stats["dur"], stats["s_iat_sum"], stats["s_iat_min"]) == (0, 0, 0)
    assert stats["s_load"] == -1


def test_udp_has_no_window():
    stats = stats_of([packet(0, flags=0), packet(1, flags=0)], protocol=17)
    assert (stats["s_winsize_sum"], stats["s_winsize_mean"]) == (0, -1)


def test_flow_without_packets_is_missing_not_nan():
    stats = stats_of([None, None])
    assert (stats["dur"], stats["s_pkt_cnt"], stats["s_bytes_sum"]) == (-1, 0, 0)
    assert (stats["s_bytes_mean"], stats["s_load"], stats["tcp_rtt"]) == (-1, -1, -1)


def test_unknown_column_is_refused():
    with pytest.raises(ValueError, match="no such stats column: s_colour"):
        compute(STATS, flow_batch([[packet()]]), 1, ["dur", "s_colour"])


def slow_stats(flow, depth, protocol, ports):
    """The 67 columns of one flow in plain Python, as docs/features.md describes them."""
    shown = [p for p in flow if p is not None][:depth]
    values = {"proto": protocol, "s_port": ports[0], "d_port": ports[1]}
    dur = max(shown[-1]["timestamp_ns"] - shown[0]["timestamp_ns"], 0) / 1e9 if shown else -1
    values["dur"] = dur
    for side, direction in (("s", 0), ("d", 1)):
        mine = [p for p in shown if p["direction"] == direction]
        times = [p["timestamp_ns"] for p in mine]
        samples = {
            "bytes": [p["ip_len"] for p in mine],
            "iat": [max(later - sooner, 0) / 1e9 for sooner, later in pairwise(times)],
            "winsize": [p["tcp_window"] for p in mine] if protocol == 6 else [],
            "ttl": [p["ttl"] for p in mine],
        }
        values[f"{side}_pkt_cnt"] = len(mine)
        values[f"{side}_load"] = 8 * sum(samples["bytes"]) / dur if dur > 0 else -1
        for quantity, sample in samples.items():
            values |= {
                f"{side}_{quantity}_sum": sum(sample),
                f"{side}_{quantity}_mean": statistics.fmean(sample) if sample else -1,
                f"{side}_{quantity}_min": min(sample, default=-1),
                f"{side}_{quantity}_max": max(sample, default=-1),
                f"{side}_{quantity}_med": statistics.median(sample) if sample else -1,
                f"{side}_{quantity}_std": statistics.pstdev(sample) if sample else -1,
            }
    for bit, flag in enumerate(("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")):
        values[f"{flag}_cnt"] = sum(p["tcp_flags"] >> bit & 1 for p in shown)
    return values | slow_handshake(shown)


def slow_handshake(shown):
    steps = [(0, SYN), (1, SYN | ACK), (0, ACK)]
    times = []
    for p in shown:
        if len(times) < 3 and (p["direction"], p["tcp_flags"] & (SYN | ACK)) == steps[len(times)]:
            times.append(p["timestamp_ns"])
    pairs = {"syn_ack": (0, 1), "tcp_rtt": (0, 2), "ack_dat": (1, 2)}
    return {
        name: max(times[end] - times[start], 0) / 1e9 if end < len(times) else -1
        for name, (start, end) in pairs.items()
    }


packets = st.builds(
    packet,
    ms=st.floats(0, 3000),
    size=st.integers(20, 65535),
    direction=st.integers(0, 1),
    flags=st.integers(0, 255),
    window=st.integers(0, 65535),
    ttl=st.integers(0, 255),
)
some_flows = st.lists(
    st.lists(st.one_of(packets, packets, packets, st.none()), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=150)
@given(flows=some_flows, depth=st.integers(1, 12), protocol=st.sampled_from([6, 17]))
def test_stats_are_what_the_slow_definition_says(flows, depth, protocol):
    names = STATS.column_names("none")
    rows = compute(STATS, flow_batch(flows, protocol), depth, names)
    assert rows.dtype == np.float32
    for row, flow in zip(rows, flows, strict=True):
        slow = slow_stats(flow, depth, protocol, (40000, 443))
        expected = np.array([slow[name] for name in names])
        np.testing.assert_allclose(row, expected, rtol=2e-6, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(flows=some_flows, depth=st.integers(1, 12))
def test_a_row_has_the_same_bits_in_any_batch(flows, depth):
    """Training computes rows in batches of other sizes than serving does."""
    for view in (STATS, VIEWS["seq"]):
        together = compute(view, flow_batch(flows), depth)
        ranks = max(len(flow) for flow in flows)
        for row, flow in zip(together, flows, strict=True):
            alone = compute(view, flow_batch([flow + [None] * (ranks - len(flow))]), depth)
            assert alone[0].tobytes() == row.tobytes()


def test_subset_of_columns_is_the_same_numbers():
    flows = flow_batch([[packet(0), packet(7, 900, 1), packet(9, 50)]] * 3)
    every = compute(STATS, flows, 3, STATS.column_names("none"))
    for i, column in enumerate(STATS.columns):
        assert (compute(STATS, flows, 3, [column.name])[:, 0] == every[:, i]).all()


def test_seq_by_hand():
    rows = compute(VIEWS["seq"], flow_batch([[packet(0, 150), None, packet(1, 1500, 1)]]), 10)
    assert rows.shape == (1, 30, 3) and rows.dtype == np.float32
    gap = math.log1p(1000) / 16
    np.testing.assert_allclose(rows[0, :3], [[0.1, 1, 0], [0, 0, 0], [1, -1, gap]], rtol=1e-6)
    assert not rows[0, 3:].any()


def test_raw_is_what_regrouping_kept():
    flows = flow_batch([[packet(0), packet(1)], [packet(0), None]], raw_len=1000)
    flows.raw[:] = 7
    rows = compute(VIEWS["raw"], flows, 1)
    assert rows.shape == (2, 10, 1000) and rows.dtype == np.uint8
    assert (rows[:, 0] == 7).all() and not rows[:, 1:].any()
    with pytest.raises(ValueError, match="raw needs 1000"):
        compute(VIEWS["raw"], flow_batch([[packet()]]), 1)


@pytest.mark.parametrize("name", ["packet", "raw1500"])
def test_views_of_longer_packets_show_1500_bytes(name):
    flows = flow_batch([[packet(0), packet(1)]], raw_len=1500)
    flows.raw[0, :2] = np.arange(1500) % 251
    shown = min(VIEWS[name].packets, 2)
    rows = compute(VIEWS[name], flows, 10)
    assert rows.shape == (1, *VIEWS[name].shape)
    assert (rows[0, :shown] == np.arange(1500) % 251).all() and not rows[0, shown:].any()
    with pytest.raises(ValueError, match=f"{name} needs 1500"):
        compute(VIEWS[name], flow_batch([[packet()]], raw_len=1000), 1)


def test_image_puts_headers_and_payload_at_fixed_places():
    """Cut by lengths, not by looking for the payload's bytes, which headers hold too."""
    flows = flow_batch([[packet(0, 45), None, packet(1, 460)]], raw_len=400)
    flows.raw[0, 0, :45] = np.arange(1, 46)
    flows.raw[0, 2] = 9
    flows.packets["raw_len"] = [[45, 0, 400]]
    rows = compute(VIEWS["image"], flows, 10)
    assert rows.shape == (1, 5, 320) and rows.dtype == np.uint8
    assert rows[0, 0, :41].tolist() == [*range(1, 41), 0]
    assert rows[0, 0, 80:86].tolist() == [41, 42, 43, 44, 45, 0]
    assert not rows[0, [1, 3, 4]].any()
    assert rows[0, 2, :41].tolist() == [9] * 40 + [0] and (rows[0, 2, 80:] == 9).all()


def test_schema_hash_changes_with_the_meaning():
    names = STATS.column_names()
    hashes = [
        schema_hash(STATS, 10),
        schema_hash(STATS, 9),
        schema_hash(STATS, 10, columns=names[:-1]),
        schema_hash(STATS, 10, columns=names[::-1]),
        schema_hash(VIEWS["seq"], 10),
        *(schema_hash(STATS, 10, mask) for mask in MASKS if mask != "strict"),
    ]
    assert len(set(hashes)) == len(hashes)
    assert schema_hash(STATS, 10) == schema_hash(STATS, 10, columns=names)


def test_the_page_of_features_is_current():
    root = Path(__file__).parent.parent
    tool = [sys.executable, str(root / "tools" / "features_doc.py")]
    printed = subprocess.run(tool, capture_output=True, text=True, check=True, cwd=root).stdout
    assert (root / "docs" / "features.md").read_text() == printed, (
        "run tools/features_doc.py > docs/features.md"
    )
