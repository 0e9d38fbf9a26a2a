"""The columns of the view features: by hand, against a slow definition, and C against NumPy."""

import math
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_views import flow_batch, packet, packets, slow_stats, some_flows

from etcpipe.batch import concatenate
from etcpipe.capture import Capture
from etcpipe.gpu import features_cpu, features_native
from etcpipe.gpu.features import FEATURE_COLUMNS, FIRST_K, STATS_COLUMNS, closure, fields_read
from etcpipe.gpu.features_states import STATES
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute, schema_hash
from etcpipe.layout import PACKET_FIELDS
from etcpipe.model import load
from etcpipe.model_file import Description

NAMES = tuple(column.name for column in FEATURE_COLUMNS)
LAB = sorted((Path(__file__).parent / "data" / "lab").glob("*.pcap"))
any_columns = st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique=True).map(tuple)


def features_of(flow, depth=10, **options):
    """Return column name -> value of one flow, all columns of the view."""
    rows = compute(VIEWS["features"], flow_batch([flow], **options), depth, NAMES)
    return dict(zip(NAMES, rows[0].tolist(), strict=True))


def lab_flows(first_n):
    """Return the flows of the lab's recordings."""
    ready = []
    for path in LAB:
        regroup = Regroup(first_n)
        with_clock = Capture([path], first_n=first_n, count="all")
        ready += [regroup.add(batch, with_clock.clock_ns()) for batch in with_clock]
        ready.append(regroup.flush())
    return concatenate([part for part in ready if len(part)])


def test_the_columns_of_stats_come_first():
    assert NAMES[:67] == VIEWS["stats"].column_names("none")
    assert len(NAMES) == len(set(NAMES)) == 112


def test_five_packets_by_hand():
    found = features_of(
        [
            packet(0, 100),
            packet(10, 1500, 1),
            packet(30, 1000, 1),
            packet(100, 140),
            packet(101, 120),
        ]
    )
    expected = {
        "s_payload_sum": 240, "d_payload_max": 1460, "d_payload_mean": 1210, "s_payload_med": 80,
        "gap_mean": 0.02525, "gap_min": 0.001, "gap_max": 0.07, "gap_med": 0.015,
        "d_pkt_share": 0.4, "d_bytes_share": 2500 / 2860,
        "burst_cnt": 3, "s_burst_pkts_max": 2, "d_burst_pkts_max": 2,
        "s_burst_bytes_max": 260, "d_burst_bytes_max": 2500,
        # bins of 128 bytes: 100 and 120 in one, 140 in the next; 1500 and 1000 in two
        "s_size_entropy": math.log2(3) - 2 / 3, "d_size_entropy": 1,
        "pkt1_size": 100, "pkt2_size": -1500, "pkt5_size": 120, "pkt6_size": -1,
        "pkt2_gap": 0.01, "pkt4_gap": 0.07, "pkt5_gap": 0.001, "pkt6_gap": -1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_one_packet_has_no_gap_and_nobody_answered():
    found = features_of([packet(0, 100)])
    missing = {"gap_mean", "gap_med", "gap_std", "pkt2_size", "pkt2_gap", "d_size_entropy"}
    assert {name: found[name] for name in missing} == dict.fromkeys(missing, -1)
    zero = {
        "d_payload_sum",
        "d_burst_pkts_max",
        "d_burst_bytes_max",
        "d_pkt_share",
        "s_size_entropy",
    }
    assert {name: found[name] for name in zero} == dict.fromkeys(zero, 0)
    assert (found["burst_cnt"], found["s_burst_pkts_max"]) == (1, 1)


def test_packets_are_numbered_without_those_that_were_lost():
    found = features_of([None, packet(5, 100), None, packet(7, 200, 1)], depth=2)
    assert (found["pkt1_size"], found["pkt2_size"], found["pkt3_size"]) == (100, -200, -1)
    assert found["pkt2_gap"] == pytest.approx(0.002)


def slow_features(flow, depth):
    """Our columns of one flow in plain Python, as docs/features.md describes them."""
    shown = [p for p in flow if p is not None][:depth]
    times = [p["timestamp_ns"] for p in shown]
    gaps = [max(later - sooner, 0) / 1e9 for sooner, later in pairwise(times)]
    values = {f"gap_{name}": -1 for name in ("mean", "min", "max", "med", "std")}
    if gaps:
        values |= {"gap_mean": np.mean(gaps), "gap_min": min(gaps), "gap_max": max(gaps)}
        values |= {"gap_med": np.median(gaps), "gap_std": np.std(gaps)}
    sizes = {side: [p["ip_len"] for p in shown if p["direction"] == side] for side in (0, 1)}
    total = sum(sizes[0]) + sum(sizes[1])
    values["d_pkt_share"] = len(sizes[1]) / len(shown) if shown else -1
    values["d_bytes_share"] = sum(sizes[1]) / total if total else -1
    bursts = [(side, list(run)) for side, run in groupby(shown, lambda p: p["direction"])]
    values["burst_cnt"] = len(bursts)
    for letter, side in (("s", 0), ("d", 1)):
        mine = [run for direction, run in bursts if direction == side]
        in_bytes = [sum(p["ip_len"] for p in run) for run in mine]
        values[f"{letter}_burst_pkts_max"] = max(map(len, mine), default=0)
        values[f"{letter}_burst_bytes_max"] = max(in_bytes, default=0)
        shares = [
            n / len(sizes[side]) for n in Counter(min(x // 128, 15) for x in sizes[side]).values()
        ]
        entropy = -sum(share * math.log2(share) for share in shares)
        values[f"{letter}_size_entropy"] = entropy if sizes[side] else -1
        payloads = [p["payload_len"] for p in shown if p["direction"] == side]
        values[f"{letter}_payload_sum"] = sum(payloads)
        values[f"{letter}_payload_std"] = np.std(payloads) if payloads else -1
    for k in range(1, FIRST_K + 1):
        p = shown[k - 1] if k <= len(shown) else None
        values[f"pkt{k}_size"] = p["ip_len"] * (-1) ** p["direction"] if p else -1
        if k > 1:
            values[f"pkt{k}_gap"] = gaps[k - 2] if p else -1
    return values


@settings(deadline=None, max_examples=100)
@given(flows=some_flows, depth=st.integers(1, 12))
def test_our_columns_are_what_the_slow_definition_says(flows, depth):
    rows = compute(VIEWS["features"], flow_batch(flows), depth, NAMES)
    for row, flow in zip(rows, flows, strict=True):
        slow = slow_features(flow, depth)
        found = [row[NAMES.index(name)] for name in slow]
        np.testing.assert_allclose(found, list(slow.values()), rtol=2e-6, atol=1e-6)


long_flows = st.lists(
    st.lists(st.one_of(packets, packets, packets, st.none()), min_size=1, max_size=64),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=300)
@given(
    flows=long_flows,
    depth=st.integers(1, 64),
    protocol=st.sampled_from([6, 17]),
    columns=any_columns,
)
def test_c_gives_the_bits_of_numpy_for_any_columns_at_any_depth(flows, depth, protocol, columns):
    batch = flow_batch(flows, protocol)
    batch.initiator[::2] = 1
    found = features_native.rows(batch, depth, columns)
    assert found.tobytes() == features_cpu.rows(batch, depth, columns).tobytes()


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 17, 49, 50, 64])
def test_c_gives_the_bits_of_numpy_on_captures(depth):
    flows = lab_flows(first_n=64)
    assert len(flows) > 100
    every = features_cpu.rows(flows, depth, NAMES)
    assert features_native.rows(flows, depth, NAMES).tobytes() == every.tobytes()
    rng = np.random.default_rng(depth)
    for _ in range(20):
        chosen = rng.permutation(len(NAMES))[: rng.integers(1, 20)]
        found = features_native.rows(flows, depth, tuple(NAMES[i] for i in chosen))
        assert found.tobytes() == every[:, chosen].tobytes()


def test_rows_of_a_part_that_is_not_contiguous():
    flows = lab_flows(first_n=10).select(slice(None, None, 3))
    found, expected = (one.rows(flows, 7, NAMES) for one in (features_native, features_cpu))
    assert found.tobytes() == expected.tobytes()
    assert features_native.rows(flows.select(slice(0)), 7, NAMES).shape == (0, 112)


def test_slow_stats_hold_in_the_view_features_too():
    flow = [packet(0, 100), packet(3, 1200, 1), packet(9, 60)]
    found, slow = features_of(flow), slow_stats(flow, 10, 6, (40000, 443))
    assert {name: found[name] for name in slow} == pytest.approx(slow, rel=2e-6)


def test_every_column_says_what_it_needs():
    for column in FEATURE_COLUMNS:
        assert column.needs and set(column.needs) <= set(STATES), column.name
    fields = {field for state in STATES.values() for field in state.reads}
    assert fields <= set(PACKET_FIELDS.names)


def test_states_of_some_columns_are_shared_and_closed():
    assert closure(["s_bytes_mean", "s_load"]) == ("first_ns", "last_ns", "s_count", "s_bytes_sum")
    assert closure(["tcp_rtt"]) == ("syn_ns", "answer_ns", "ack_ns")
    assert closure(["proto"]) == ("protocol",)
    assert fields_read(["proto"]) == ()
    assert fields_read(["d_iat_max", "s_bytes_sum"]) == ("direction", "ip_len", "timestamp_ns")
    with pytest.raises(KeyError):
        closure(["colour"])


def test_few_columns_are_less_work_than_all():
    few = features_native.plan_of(("s_bytes_sum", "d_bytes_sum"))
    every = features_native.plan_of(tuple(column.name for column in STATS_COLUMNS))
    assert len(few.lanes) == 2 and len(every.lanes) == 8
    assert few.lanes["kinds"].tolist() == [1, 1]
    assert bin(few.parts).count("1") == 1  # what follows from sums of bytes


def test_an_unknown_column_of_features_is_refused():
    with pytest.raises(ValueError, match="no such features column: s_colour"):
        compute(VIEWS["features"], flow_batch([[packet()]]), 1, ["s_colour"])


def test_a_model_may_take_columns_of_features(tmp_path):
    trees = pytest.importorskip("etcpipe.training.trees")
    columns = ("pkt1_size", "d_payload_std", "burst_cnt", "gap_max", "dur")
    schema = schema_hash(VIEWS["features"], 50, "strict", columns)
    description = Description("own", ("a", "b"), "features", columns, schema, first_n=50)
    flows = lab_flows(first_n=50)
    rows = compute(VIEWS["features"], flows, 50, columns)
    fitted = trees.fit(rows, (rows[:, 0] > 300).astype(int), 2, seed=1, rounds=3)
    file = tmp_path / "own.onnx"
    file.write_bytes(trees.to_onnx(fitted, len(columns), description))
    loaded = load(file)
    said = loaded.infer(loaded.rows(flows)).argmax(axis=1)
    assert (said == fitted.scores(rows).argmax(axis=1)).all()
    assert 0 < said.sum() < len(said)
