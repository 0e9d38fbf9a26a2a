"""How many flows a core judges without loss, by trials on buckets of flows."""

import time
from functools import partial

import numpy as np
import pytest
from test_tune_cost import Model, batch_of, flow_of

from etcpipe.gpu.regroup import Regroup
from etcpipe.tune.cost import Profiler
from etcpipe.tune.profile import traffic_of
from etcpipe.tune.zero_loss import BUCKETS, _buckets, search

FLOW_S = 100e-6  # of processor time, that each flow is made to take


def slow_judge(flows):
    """Take FLOW_S of processor time for each flow."""
    until = time.thread_time() + FLOW_S * len(flows)
    while time.thread_time() < until:
        pass


def traffic(rate, flows=2000, packets=1):
    return traffic_of(batch_of([flow_of(packets)] * flows), packets, rate)


@pytest.mark.slow
def test_a_core_does_what_its_time_per_flow_allows():
    offered = 20_000
    found = search(
        traffic(offered), partial(Regroup, 1, wait_s=0.05), slow_judge, seconds=0.2, ring=64
    )
    assert 5_000 < found.flows_per_s <= 1 / FLOW_S
    assert found.flows_per_s == pytest.approx(offered * found.buckets / BUCKETS, rel=0.1)
    done = {trial.buckets: trial for trial in found.trials}
    assert not done[found.buckets].lost
    assert set(done[found.buckets + 1].lost) == {"RING_FULL"}


def test_all_buckets_are_kept_where_the_core_has_time():
    found = search(traffic(1000), partial(Regroup, 1, wait_s=0.05), len, seconds=0.1)
    assert found.buckets == BUCKETS
    assert found.flows_per_s == pytest.approx(1000)
    assert found.trials[-1].busy < 0.9


def test_nothing_is_kept_where_every_packet_is_lost():
    found = search(traffic(100_000), partial(Regroup, 1, wait_s=0.05), len, seconds=0.1, ring=0)
    assert (found.flows_per_s, found.buckets) == (0, 0)


def test_flows_without_room_are_a_loss():
    make = partial(Regroup, 4, wait_s=1.0, max_rows=8)
    found = search(traffic(1000, packets=3), make, len, seconds=0.2)
    assert all(set(trial.lost) == {"REGROUP_POOL_FULL"} for trial in found.trials if trial.lost)
    assert found.buckets < BUCKETS / 4


def test_buckets_are_of_flows_not_of_packets():
    found = traffic(10_000, flows=300, packets=5)
    buckets = _buckets(found)
    found.come_again()
    assert (buckets == _buckets(found)).all()
    ids = found.batch.flow_id % np.uint64(found.flows)
    assert all(len(set(buckets[ids == one].tolist())) == 1 for one in set(ids.tolist()))
    assert len(set(buckets.tolist())) > 200


@pytest.mark.slow
def test_a_point_has_a_throughput():
    profiler = Profiler(batch_of([flow_of(4, gap_ms=1)] * 50), wait_s=0.05)
    found = profiler.throughput(("dur", "s_bytes_sum"), 3, Model(), seconds=0.05)
    assert 1_000 < found.flows_per_s < 20_000_000
    assert found.packets_per_s == pytest.approx(3 * found.flows_per_s, rel=0.1)
