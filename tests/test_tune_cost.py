"""What a point of the search costs: traffic to measure on, timing, cache, the profiler."""

import json
import time

import numpy as np
import pytest
from test_views import packet

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.errors import OutputError, UnsupportedError, UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS, READY_REASONS
from etcpipe.tune.cache import Cache
from etcpipe.tune.cost import Profiler
from etcpipe.tune.instructions import SOFTWARE_TASK_CLOCK, Counter, instructions_of
from etcpipe.tune.profile import traffic_of
from etcpipe.tune.timing import Stopwatch

HEADERS = 40  # of test_views.packet: IPv4 and TCP without options


class Model:
    """Counts how often it runs."""

    def __init__(self):
        self.calls = 0

    def infer(self, rows):
        self.calls += 1
        return rows[:, :1] * 2


def batch_of(flows, protocol=6):
    """Return a FlowBatch of flows, each a list of packets or None; end a opened them."""
    ranks = max(map(len, flows))
    packets = np.zeros((len(flows), ranks), PACKET_FIELDS)
    for row, flow in zip(packets, flows, strict=True):
        for rank, fields in enumerate(flow):
            for name, value in (fields or {}).items():
                row[name][rank] = value
    key = np.zeros(len(flows), FLOW_KEY)
    key["protocol"], key["a_port"], key["b_port"] = protocol, 40000, 443
    n = len(flows)
    return FlowBatch(
        flow_id=np.arange(1, n + 1, dtype="u8"),
        key=key,
        initiator=np.zeros(n, "u1"),
        vlan=np.full(n, 0xFFFF, "u2"),
        ifindex=np.zeros(n, "u4"),
        packets=packets,
        raw=np.zeros((n, ranks, 0), "u1"),
        lost=np.zeros(n, "u2"),
        reason=np.zeros(n, "u1"),
        ready_ns=np.zeros(n, "u8"),
    )


def flow_of(n, gap_ms=10, start_ms=0):
    return [packet(start_ms + i * gap_ms, HEADERS + 10 * i + 1, i % 2) for i in range(n)]


def regrouped(traffic, depth, times):
    """Return the flows that come out when the traffic comes so many times."""
    regroup = Regroup(depth)
    ready = []
    for _ in range(times):
        ready += [regroup.add(batch) for batch in traffic.batches()]
        traffic.come_again()
    return concatenate([part for part in ready if len(part)])


def test_traffic_has_the_packets_of_the_flows():
    flows = batch_of([flow_of(4), flow_of(6, gap_ms=3), flow_of(1)])
    traffic = traffic_of(flows, depth=4, flows_per_s=100)
    found = regrouped(traffic, depth=4, times=traffic.generations + 3)
    # those that began before lack their first packets
    whole = found.packets[found.packets["present"].all(axis=1)]
    assert len(whole) and len(traffic.batch) == 4 + 4 + 1
    kept = ["ip_len", "payload_len", "tcp_flags", "tcp_window", "ttl", "direction", "present"]
    expected = [flows.packets[i, :4][kept].tolist() for i in (0, 1)]
    assert [row[kept].tolist() in expected for row in whole] == [True] * len(whole)
    gaps_ms = np.diff(whole["timestamp_ns"].astype(np.int64), axis=1) // 1_000_000
    assert {tuple(row) for row in gaps_ms.tolist()} == {(10, 10, 10), (3, 3, 3)}


def test_traffic_of_udp_has_its_lengths():
    flows = batch_of([[packet(0, 128, flags=0) | {"payload_len": 100}]], protocol=17)
    found = regrouped(traffic_of(flows, 1, 1000), depth=1, times=1)
    assert found.packets["payload_len"].tolist() == [[100]]


def test_packets_that_come_late_belong_to_flows_that_began_earlier():
    flows = batch_of([flow_of(2, gap_ms=25)])
    traffic = traffic_of(flows, depth=2, flows_per_s=100)  # one flow each 10 ms
    assert traffic.lasts_ns == 10_000_000
    assert traffic.generations in (2, 3)
    assert sorted(traffic.batch.flow_id.tolist()) == [1, 1 + traffic.generations]


def test_a_packet_long_after_the_first_is_left_out():
    traffic = traffic_of(batch_of([[packet(0), packet(11_000)]]), 2, 100)
    assert len(traffic.batch) == 1


def test_twice_the_work_takes_twice_the_time():
    values = np.random.default_rng(0).random(4000)

    def once():
        return np.sort(values)

    times = Stopwatch().time({"once": once, "twice": lambda: (once(), once())})
    assert times["twice"].p20 / times["once"].p20 == pytest.approx(2, rel=0.25)


def test_wait_is_that_of_the_recorded_gaps():
    profiler = Profiler(batch_of([flow_of(5), flow_of(2)]), wait_s=1.5)
    assert profiler.wait_s(2).tolist() == pytest.approx([0.01, 0.01])
    assert profiler.wait_s(5).tolist() == pytest.approx([0.04, 1.51])


def test_a_flow_that_ended_waits_no_longer():
    flows = batch_of([flow_of(2), flow_of(2)])
    flows.reason[:] = [READY_REASONS.index("end"), READY_REASONS.index("idle")]
    assert Profiler(flows, wait_s=1.5).wait_s(5).tolist() == pytest.approx([0.01, 1.51])


def test_latency_with_a_shorter_wait_is_that_of_what_came_before_the_gap():
    flows = batch_of([[packet(0), packet(10), packet(310)], flow_of(3)])
    profiler = Profiler(flows, wait_s=1.0)
    assert profiler.wait_s(3).tolist() == pytest.approx([0.31, 0.02])
    assert profiler.wait_s(3, 0.2).tolist() == pytest.approx([0.21, 0.02])
    assert profiler.wait_s(2, 0.2).tolist() == pytest.approx([0.01, 0.01])
    cost = profiler.measure(("dur",), 3, Model(), wait_s=0.2)
    assert cost.wait_s == pytest.approx((0.21 + 0.02) / 2)
    # a row that fell silent comes out GRACE_NS later, half of them here
    assert cost.latency_s == pytest.approx(cost.wait_s + 0.1 / 2 + cost.alone_ns / 1e9)


def test_a_point_costs_its_parts_and_more_packets_cost_more():
    profiler = Profiler(batch_of([flow_of(20)] * 10))
    shallow, deep = (profiler.measure(("dur", "s_bytes_std"), n, Model()) for n in (1, 20))
    parts = deep.regroup_ns + deep.extract_ns + deep.infer_ns
    assert deep.cpu_ns == pytest.approx(parts)
    assert deep.regroup_ns > shallow.regroup_ns > 0
    assert deep.latency_s == pytest.approx(0.19 + deep.alone_ns / 1e9)


def test_a_point_is_measured_once(tmp_path):
    flows = batch_of([flow_of(3)] * 4)
    file, model = tmp_path / "cost.jsonl", Model()
    first = Profiler(flows, cache=Cache(file, "x")).measure(("dur", "proto"), 3, model, "tree")
    if first.is_disturbed:
        pytest.skip("the machine is too busy to measure")
    calls = model.calls
    again = Profiler(flows, cache=Cache(file, "x")).measure(("proto", "dur"), 3, model, "tree")
    assert again == first and model.calls == calls
    Profiler(flows, cache=Cache(file, "x")).measure(("dur", "proto"), 2, model, "tree")
    assert model.calls > calls


def test_points_measured_later_have_the_same_reference(tmp_path):
    flows, file = batch_of([flow_of(3)] * 4), tmp_path / "cost.jsonl"
    first, second = (
        Profiler(flows, cache=Cache(file, "x")).measure(("dur",), 3, Model()) for _ in range(2)
    )
    assert second.reference_ns == first.reference_ns


def test_cache_of_other_data_or_cut_short_is_not_read(tmp_path):
    file = tmp_path / "cost.jsonl"
    Cache(file, "a").put("point", {"cpu_ns": 1.0})
    with file.open("a") as lines:
        lines.write(json.dumps({"key": "no origin"}) + '\n{"of": "cut')
    assert Cache(file, "a").get("point") == {"cpu_ns": 1.0}
    assert len(Cache(file, "b")) == 0
    assert len(Cache()) == 0


def test_cache_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        Cache(tmp_path / "no" / "such", "a").put("point", {})


@pytest.mark.parametrize(
    ("columns", "depth", "said"),
    [
        ((), 1, "no feature is left"),
        (("colour",), 1, "no such stats column: colour"),
        (("dur",), 4, "depth 4: the flows were read with 1 to 3 packets"),
        (("dur",), 0, "depth 0"),
    ],
)
def test_a_point_that_cannot_be_is_refused(columns, depth, said):
    profiler = Profiler(batch_of([flow_of(3)]))
    with pytest.raises(UsageError, match=said):
        profiler.measure(columns, depth, Model())


def test_nothing_to_measure_on_is_said():
    with pytest.raises(UsageError, match="no flow has a packet"):
        Profiler(batch_of([[None]]))


def test_every_view_of_columns_can_be_measured():
    profiler = Profiler(batch_of([flow_of(3)]), view="features")
    cost = profiler.measure(VIEWS["features"].column_names("none")[-5:], 2, Model())
    assert cost.extract_ns > 0


def test_a_counter_counts_this_thread():
    """By a clock that every machine has; instructions take hardware."""
    try:
        counter = Counter(SOFTWARE_TASK_CLOCK)
    except UnsupportedError as error:
        pytest.skip(str(error))
    with counter:
        before, began = counter.read(), time.thread_time_ns()
        sum(range(1_000_000))
        counted, took = counter.read() - before, time.thread_time_ns() - began
    assert counted == pytest.approx(took, rel=0.1)


def test_more_work_takes_more_instructions():
    once = instructions_of(lambda: sum(range(10_000)), 1)
    if once is None:
        pytest.skip("instructions cannot be counted here")
    again = instructions_of(lambda: sum(range(10_000)), 1)
    tenfold = instructions_of(lambda: sum(range(100_000)), 1)
    assert again == pytest.approx(once, rel=0.02)
    assert 8 < tenfold / once < 12


def test_a_machine_without_counters_says_so(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    with pytest.raises(UnsupportedError, match="no performance counters on abacus"):
        Counter()
    assert instructions_of(lambda: None, 1) is None
