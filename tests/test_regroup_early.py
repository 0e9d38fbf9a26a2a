"""Early rows: what a cascade sees of a flow that goes on; on a GPU, see test_cuda_early.py."""

import random

import numpy as np
import pytest
from frames import START, batch, ether, ipv4, rows_of, split, tcp
from test_regroup_agree import cuts, random_packets

from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.layout import CONSTANTS

MS = 1_000_000


@pytest.fixture(params=["cpu", "reference"])
def device(request):
    return request.param


def packet(flow_id=1, rank=0, at=0.0, size=100, **columns):
    frame = ether(ipv4(6, tcp(bytes(size - 40))))
    return {"frame": frame, "flow_id": flow_id, "rank": rank, "at": at, **columns}


def sizes(flows):
    return flows.packets["ip_len"].tolist()


def test_a_flow_has_a_row_at_each_depth(device):
    regroup = Regroup(4, depths=(1, 3), device=device)
    closed = regroup.add(batch([packet(rank=i, at=i / 1000, size=100 + i) for i in range(4)]))
    depth, early = regroup.take_early()
    assert depth.tolist() == [1, 3]
    assert sizes(early) == [[100, 0, 0, 0], [100, 101, 102, 0]]
    assert early.flow_id.tolist() == [1, 1]
    assert (early.ready_ns - START).tolist() == [0, 2 * MS]
    assert early.reason.tolist() == [CONSTANTS["READY_DEPTH"]] * 2
    assert early.lost.tolist() == [0, 0]
    assert sizes(closed) == [[100, 101, 102, 103]]
    assert len(regroup.take_early().flows) == 0


def test_early_rows_wait_until_they_are_taken(device):
    regroup = Regroup(4, depths=(1,), device=device)
    regroup.add(batch([packet(1)]))
    regroup.add(batch([]))
    regroup.add(batch([packet(2), packet(3)]))
    assert regroup.take_early().flows.flow_id.tolist() == [1, 2, 3]


def test_a_short_flow_has_the_rows_that_it_reached(device):
    regroup = Regroup(10, depths=(1, 3), device=device)
    regroup.add(batch([packet(rank=0), packet(rank=1)]))
    assert regroup.take_early().depth.tolist() == [1]
    assert sizes(regroup.flush())[0][:3] == [100, 100, 0]
    assert len(regroup.take_early().flows) == 0


def test_what_a_rank_overtook_in_its_batch_is_in_the_row(device):
    regroup = Regroup(5, depths=(3,), device=device)
    order = [(2, 3), (0, 1), (3, 4), (1, 2)]
    regroup.add(batch([packet(rank=rank, at=at / 1000, size=100 + rank) for rank, at in order]))
    _, early = regroup.take_early()
    assert sizes(early) == [[100, 101, 102, 0, 0]]
    assert (early.ready_ns - START).tolist() == [3 * MS]  # rank 3 was later, and is not in it


def test_a_row_at_a_depth_may_have_a_hole_and_a_lost_last_rank_makes_none(device):
    regroup = Regroup(9, depths=(2, 4), device=device)
    regroup.add(batch([packet(rank=0), packet(rank=3), packet(rank=5)]))
    depth, early = regroup.take_early()
    assert depth.tolist() == [4]
    assert (sizes(early)[0][:6], early.lost.tolist()) == ([100, 0, 0, 100, 0, 0], [2])


def test_a_super_packet_reaches_several_depths_at_once(device):
    regroup = Regroup(5, depths=(1, 2, 3), device=device)
    regroup.add(batch([packet(size=40 + 30, segment_len=10)]))
    depth, early = regroup.take_early()
    assert depth.tolist() == [1, 2, 3]
    assert sizes(early) == [[50, 0, 0, 0, 0], [50, 50, 0, 0, 0], [50, 50, 50, 0, 0]]


def test_a_flow_whose_place_is_needed_keeps_its_early_rows(device):
    regroup = Regroup(4, depths=(1,), slots=2, device=device)
    closed = regroup.add(batch([packet(1, size=101), packet(3, size=103)]))
    assert closed.flow_id.tolist() == [1]
    early = regroup.take_early().flows
    assert (early.flow_id.tolist(), sizes(early)) == ([1, 3], [[101, 0, 0, 0], [103, 0, 0, 0]])


def test_flows_that_leave_free_their_row_and_say_no_more(device):
    regroup = Regroup(4, depths=(1,), max_rows=2, device=device)
    regroup.add(batch([packet(1), packet(2, rank=2), packet(2)]))
    regroup.take_early()
    regroup.leave(np.array([2, 7, 0, 2], np.uint64))  # 7 is not there, 0 is no flow
    assert regroup.pending == 1
    assert len(regroup.add(batch([packet(3)]))) == 0  # there is room
    late = batch([packet(2, rank=3), packet(2, rank=1)])
    assert len(regroup.add(late)) == 0
    assert regroup.take_early().flows.flow_id.tolist() == [3]
    assert regroup.flush().flow_id.tolist() == [1, 3]
    counters = {name: n for name, n in regroup.counters.items() if n}
    assert counters == {
        "REGROUP_STORED": 4, "REGROUP_FLOWS": 3, "REGROUP_LATE": 2,
        "REGROUP_LEFT": 1, "REGROUP_LOST": 1,
    }  # fmt: skip


def played(regroup, batches, rng):
    """All rows, with flows leaving between the batches, and the counters."""
    calls = []
    for part in batches:
        closed = regroup.add(part)
        depth, early = regroup.take_early()
        calls.append((rows_of([closed]), depth.tolist(), rows_of([early])))
        gone = rng.sample(early.flow_id.tolist(), len(early) // 3)
        regroup.leave(np.array(gone, np.uint64))
    return calls, rows_of([regroup.flush()]), regroup.counters, regroup.pending


@pytest.mark.parametrize("flows", [1, 7, 300])
@pytest.mark.parametrize("seed", range(6))
def test_native_equals_the_definition(seed, flows):
    rng = random.Random(f"early {seed} {flows}")
    packets = random_packets(rng, 1025, flows)
    options = {
        "first_n": 6,
        "depths": rng.choice([(1,), (1, 2, 3, 4, 5), (2, 4), (1, 3)]),
        "raw_len": rng.choice([0, 33, 1000]),
        "slots": rng.choice([3, 64, 1 << 20]),
        "max_rows": rng.choice([2, 50, 1000]),
        "wait_s": rng.choice([0.005, 0.2]),
    }
    batches = split(packets, cuts(rng, 1025))
    native = played(Regroup(**options), batches, random.Random(seed))
    defined = Regroup(**options, device="reference")
    assert native == played(defined, batches, random.Random(seed))
    has_room = options["slots"] > 3 and options["max_rows"] > 2
    assert native[2]["REGROUP_LEFT"] > 0 or flows < 300 or not has_room


@pytest.mark.parametrize("first_n", [10, 11, 64])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_many_packets_equal_the_definition(seed, first_n):
    rng = random.Random(f"long {seed} {first_n}")
    packets = random_packets(rng, 1025, 20, depth=first_n)
    options = {
        "first_n": first_n,
        "depths": [one for one in (5, 9, 10, 30) if one < first_n],
        "raw_len": rng.choice([0, 33]),
        "slots": rng.choice([16, 1 << 20]),
        "max_rows": rng.choice([10, 1000]),
        "wait_s": 0.2,
    }
    batches = split(packets, cuts(rng, 1025))
    native = played(Regroup(**options), batches, random.Random(seed))
    defined = Regroup(**options, device="reference")
    assert native == played(defined, batches, random.Random(seed))
    closed = [row for rows, _, _ in native[0] for row in rows]
    assert any(any(row["packets"][10 * 24 :]) for row in closed) == (first_n > 10)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_make_the_same_rows_in_another_order(threads):
    rng = random.Random(threads)
    batches = split(random_packets(rng, 1025, 100), cuts(rng, 1025))
    options = {"first_n": 6, "depths": (1, 4), "raw_len": 33, "slots": 64, "wait_s": 0.05}

    def early_by_flow(**more):
        regroup = Regroup(**options, **more)
        found = []
        for part in batches:
            regroup.add(part)
            depth, early = regroup.take_early()
            found += zip(depth.tolist(), rows_of([early]), strict=True)
            regroup.leave(early.flow_id[early.flow_id % np.uint64(3) == 0])
        return sorted(found, key=lambda row: (row[1]["flow_id"], row[0])), regroup.counters

    assert early_by_flow(threads=threads) == early_by_flow(device="reference")


def test_early_rows_do_not_depend_on_the_batches(device):
    rng = random.Random(7)
    events = [(flow / 50 + rank / 100, flow, rank) for flow in range(1, 41) for rank in range(5)]
    packets = batch(
        [packet(flow, rank, at, size=60 + rng.randrange(900)) for at, flow, rank in sorted(events)]
    )
    seen = []
    for step in ([200], [1] * 200, cuts(rng, 200)):
        regroup, rows = Regroup(6, depths=(1, 3), device=device), []
        for part in split(packets, step):
            regroup.add(part)
            depth, early = regroup.take_early()
            rows += zip(depth.tolist(), rows_of([early]), strict=True)
        seen.append(rows)
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 80


def test_depths_that_are_none_are_refused():
    for depths in [(0,), (3,), (1, 64)]:
        with pytest.raises(UsageError, match="depths"):
            Regroup(3, depths=depths)
