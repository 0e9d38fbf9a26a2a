"""Which packets a row holds, when it is closed and what is counted, in all backends."""

import pytest
from frames import ACK, CWR, FIN, PSH, START, batch, ether, ipv4, ipv6, rows_of, split, tcp, udp

from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.gpu.regroup import BACKENDS, GRACE_NS, Regroup
from etcpipe.layout import CONSTANTS

DEPTH, IDLE = CONSTANTS["READY_DEPTH"], CONSTANTS["READY_IDLE"]
END, EVICTED = CONSTANTS["READY_END"], CONSTANTS["READY_EVICTED"]
GRACE = GRACE_NS / 1e9

pytestmark = pytest.mark.parametrize("device", ["cpu", "reference"])


def packet(flow_id=1, rank=0, at=0.0, size=100, **columns):
    """A TCP packet of `size` IP bytes."""
    frame = ether(ipv4(6, tcp(bytes(size - 40))))
    return {"frame": frame, "flow_id": flow_id, "rank": rank, "at": at, **columns}


def counted(regroup):
    """The counters that moved, without their prefix."""
    names = regroup.counters.items()
    return {name.removeprefix("REGROUP_").lower(): value for name, value in names if value}


def sizes(flows):
    """Packet sizes of each row, 0 where there is none."""
    return flows.packets["ip_len"].tolist()


def test_interleaved_flows_come_apart(device):
    order = [(flow, rank) for rank in range(3) for flow in (1, 2, 3)]
    packets = [packet(flow, rank, size=100 * flow + rank) for flow, rank in order]
    flows = Regroup(3, device=device).add(batch(packets))
    assert flows.flow_id.tolist() == [1, 2, 3]
    assert sizes(flows) == [[100, 101, 102], [200, 201, 202], [300, 301, 302]]
    assert flows.reason.tolist() == [DEPTH] * 3
    assert flows.lost.tolist() == [0, 0, 0]


def test_a_flow_over_three_batches_is_one_row(device):
    whole = batch([packet(rank=i, at=i / 10, size=100 + i) for i in range(5)])
    regroup = Regroup(5, device=device)
    first, second, third = (regroup.add(part) for part in split(whole, [2, 2, 1]))
    assert (len(first), len(second)) == (0, 0)
    assert sizes(third) == [[100, 101, 102, 103, 104]]
    assert third.ready_ns.tolist() == [START + 400_000_000]


def test_what_a_packet_brings_is_kept(device):
    frame = ether(ipv4(6, tcp(b"data", flags=PSH | ACK, window=77), ttl=5))
    given = {"direction": 1, "vlan": 0x2005, "ifindex": 9}
    flows = Regroup(1, device=device).add(batch([packet(7) | {"frame": frame} | given]))
    fields = dict(zip(flows.packets.dtype.names, flows.packets[0, 0].item(), strict=True))
    assert fields == {
        "timestamp_ns": START, "ip_len": 44, "payload_len": 4, "tcp_window": 77, "raw_len": 0,
        "tcp_flags": 0x18, "ttl": 5, "direction": 1, "present": 1,
    }  # fmt: skip
    key = flows.key[0]
    assert key["a_addr"].tobytes()[10:] == bytes([255, 255, 10, 0, 0, 1])
    assert (key["a_port"], key["b_port"], key["protocol"]) == (40000, 443, 6)
    # end a sent it, towards the initiator: so end b opened the flow
    assert (flows.initiator[0], flows.vlan[0], flows.ifindex[0]) == (1, 0x2005, 9)
    assert flows.raw.shape == (1, 1, 0)


def test_both_directions_are_one_row_with_one_key(device):
    there = ipv6(17, udp(b"?", sport=50000, dport=2048))
    back = ipv6(17, udp(b"!!", sport=2048, dport=50000), "2001:db8::2", "2001:db8::1")
    packets = [
        packet() | {"frame": ether(there)},
        packet(rank=1) | {"frame": ether(back, vlans=[5]), "direction": 1},
    ]
    flows = Regroup(2, device=device).add(batch(packets))
    assert sizes(flows) == [[49, 50]]
    assert flows.packets["direction"].tolist() == [[0, 1]]
    assert (flows.initiator[0], flows.key["ip_version"][0]) == (0, 6)
    assert (flows.key["a_port"][0], flows.key["b_port"][0]) == (50000, 2048)


@pytest.mark.parametrize("packets", [1023, 1024, 1025])
def test_a_packet_each_of_many_flows(device, packets):
    regroup = Regroup(10, device=device)
    flows = regroup.add(batch([packet(i + 1, size=60 + i % 900) for i in range(packets)]))
    assert (len(flows), regroup.pending) == (0, packets)
    flows = regroup.flush()
    assert flows.flow_id.tolist() == list(range(1, packets + 1))
    assert flows.packets["ip_len"][:, 0].tolist() == [60 + i % 900 for i in range(packets)]
    assert not flows.packets["present"][:, 1:].any()
    assert flows.reason.tolist() == [END] * packets
    assert regroup.pending == 0


def test_ranks_out_of_order_find_their_place_within_a_batch(device):
    order = [2, 0, 3, 1]
    flows = Regroup(4, device=device).add(batch([packet(rank=i, size=100 + i) for i in order]))
    assert sizes(flows) == [[100, 101, 102, 103]]
    assert flows.lost.tolist() == [0]


def test_a_lost_rank_is_a_hole(device):
    regroup = Regroup(4, device=device)
    flows = regroup.add(batch([packet(rank=i, size=100 + i) for i in (0, 1, 3)]))
    assert sizes(flows) == [[100, 101, 0, 103]]
    assert flows.packets["present"].tolist() == [[1, 1, 0, 1]]
    assert (flows.lost[0], flows.reason[0]) == (1, DEPTH)
    assert len(regroup.add(batch([packet(rank=2)]))) == 0
    assert counted(regroup) == {"stored": 3, "flows": 1, "lost": 1, "late": 1}


def test_a_row_with_its_last_rank_is_complete_whatever_closes_it(device):
    regroup = Regroup(4, slots=4, wait_s=1.0, device=device)
    gap = [packet(1, rank=0), packet(1, rank=3), packet(1, rank=2, at=2.0)]
    taken = [packet(2, rank=0, at=3), packet(2, rank=3, at=3), packet(6, at=3)]
    flows = regroup.add(batch(gap + taken))
    assert flows.flow_id.tolist() == [1, 2]
    assert flows.reason.tolist() == [DEPTH, DEPTH]
    assert "evicted" not in counted(regroup)


def test_ranks_that_never_came_at_the_end_are_not_lost(device):
    regroup = Regroup(10, device=device)
    regroup.add(batch([packet(rank=0), packet(rank=2)]))
    assert regroup.flush().lost.tolist() == [1]


def test_a_rank_that_comes_twice_is_counted_and_ignored(device):
    regroup = Regroup(2, device=device)
    regroup.add(batch([packet(size=100), packet(size=200)]))
    assert sizes(regroup.flush()) == [[100, 0]]
    assert counted(regroup) == {"stored": 1, "flows": 1, "duplicates": 1}


def test_ranks_beyond_the_depth_are_counted_and_ignored(device):
    regroup = Regroup(2, device=device)
    regroup.add(batch([packet(rank=0), packet(rank=2), packet(rank=65535)]))
    assert regroup.flush().packets.shape == (1, 2)
    assert counted(regroup) == {"stored": 1, "flows": 1, "beyond": 2}


def test_a_flow_comes_out_once(device):
    regroup = Regroup(2, device=device)
    assert len(regroup.add(batch([packet(rank=i) for i in range(2)]))) == 1
    assert len(regroup.add(batch([packet(rank=i) for i in range(2)]))) == 0
    assert len(regroup.flush()) == 0
    assert counted(regroup) == {"stored": 2, "flows": 1, "late": 2}


def test_a_gap_closes_the_row_before_the_packet_behind_it(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    times = [0.0, 1.0, 2.000000001, 2.1]  # a gap of wait_s is none, a nanosecond more is one
    flows = regroup.add(batch([packet(rank=i, at=at) for i, at in enumerate(times)]))
    assert flows.packets["present"].sum() == 2
    assert (flows.reason[0], flows.ready_ns[0]) == (IDLE, START + 2 * 10**9)
    assert counted(regroup) == {"stored": 2, "flows": 1, "late": 2}


def test_time_that_runs_backwards_is_no_gap(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    regroup.add(batch([packet(rank=0, at=5.0), packet(rank=1, at=1.0), packet(rank=2, at=5.5)]))
    flows = regroup.flush()
    assert flows.packets["present"].sum() == 3
    assert flows.ready_ns.tolist() == [START + 5_500_000_000]


def test_other_flows_packets_let_an_idle_row_out(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    regroup.add(batch([packet(1), packet(2, at=0.5)]))
    assert len(regroup.add(batch([packet(3, at=1.0 + GRACE)]))) == 0
    flows = regroup.add(batch([packet(3, rank=1, at=1.01 + GRACE)]))
    assert (flows.flow_id.tolist(), flows.reason.tolist()) == ([1], [IDLE])
    assert flows.ready_ns.tolist() == [START + 10**9]


def test_the_clock_lets_idle_rows_out_oldest_first(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    regroup.add(batch([packet(1), packet(2), packet(1, rank=1, at=0.2)]), now_ns=0)
    assert len(regroup.expire(START + 10**9 + GRACE_NS)) == 0
    assert regroup.expire(START + 3 * 10**9).flow_id.tolist() == [2, 1]
    regroup.add(batch([packet(1, rank=2, at=0.3)]))
    assert counted(regroup)["late"] == 1


def test_now_of_the_caller_replaces_the_batchs_clock(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    packets = batch([packet(1), packet(2, at=100.0)])
    assert len(regroup.add(packets, now_ns=START)) == 0
    assert regroup.pending == 2


def test_flush_tells_idle_rows_from_those_cut_off(device):
    regroup = Regroup(10, wait_s=1.0, device=device)
    regroup.add(batch([packet(1), packet(2, at=0.5), packet(3, at=1.05)]))
    flows = regroup.flush()
    assert flows.reason.tolist() == [IDLE, END, END]
    assert flows.ready_ns.tolist() == [START + int(s * 1e9) for s in (1.0, 0.5, 1.05)]


def test_a_newer_flow_takes_a_slot_and_the_older_one_stays_out(device):
    regroup = Regroup(10, slots=4, device=device)
    flows = regroup.add(batch([packet(1, size=111), packet(5, size=222), packet(1, rank=1)]))
    assert (flows.flow_id.tolist(), flows.reason.tolist()) == ([1], [EVICTED])
    assert sizes(flows)[0][:2] == [111, 0]
    assert regroup.flush().flow_id.tolist() == [5]
    assert counted(regroup) == {"stored": 2, "flows": 2, "stragglers": 1, "evicted": 1}


def test_an_idle_row_whose_slot_is_taken_was_not_evicted(device):
    regroup = Regroup(10, slots=4, wait_s=1.0, device=device)
    flows = regroup.add(batch([packet(1), packet(5, at=1.5)]))
    assert flows.reason.tolist() == [IDLE]
    assert "evicted" not in counted(regroup)


def test_a_full_pool_gives_up_the_row_updated_longest_ago(device):
    regroup = Regroup(10, max_rows=2, device=device)
    packets = [packet(1), packet(2), packet(1, rank=1, at=0.1), packet(3, at=0.2)]
    flows = regroup.add(batch(packets))
    assert (flows.flow_id.tolist(), flows.reason.tolist()) == ([2], [EVICTED])
    assert regroup.flush().flow_id.tolist() == [1, 3]
    assert counted(regroup) == {"stored": 4, "flows": 3, "pool_full": 1}


def test_raw_views_bound_the_rows_by_memory(device):
    regroup = Regroup(10, raw_len=100, raw_memory=2500, device=device)
    flows = regroup.add(batch([packet(i + 1) for i in range(5)]))
    assert flows.flow_id.tolist() == [1, 2, 3]
    assert regroup.pending == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"flow_id": 0}, id="no flow"),
        pytest.param({"frame": bytes(14)}, id="not IP"),
        pytest.param({"frame": ether(ipv4(6, tcp()))[:50]}, id="cut inside TCP"),
        pytest.param({"frame": ether(ipv4(6, tcp(), fragment=7))}, id="later fragment"),
        pytest.param({"frame": b""}, id="nothing captured"),
    ],
)
def test_what_cannot_be_read_is_counted_and_opens_no_row(device, change):
    regroup = Regroup(10, device=device)
    regroup.add(batch([packet() | change]))
    assert counted(regroup) == {"unparsed": 1}
    assert regroup.pending == 0


def test_a_frame_outside_the_memory_is_not_read(device):
    packets = batch([packet()])
    for name, value in [("offset", 2**63), ("offset", 1), ("captured", 2**32 - 1)]:
        regroup = Regroup(10, device=device)
        kept = getattr(packets, name).copy()
        getattr(packets, name)[0] = value
        regroup.add(packets)
        getattr(packets, name)[:] = kept
        assert counted(regroup) == {"unparsed": 1}


def test_a_super_packet_is_its_segments(device):
    payload = bytes(2500)
    frame = ether(ipv4(6, tcp(payload, flags=PSH | FIN | ACK | CWR)))
    flows = Regroup(4, device=device).add(
        batch([packet(), packet(rank=1) | {"frame": frame, "segment_len": 1000}])
    )
    assert sizes(flows) == [[100, 1040, 1040, 540]]
    assert flows.packets["payload_len"].tolist() == [[60, 1000, 1000, 500]]
    assert flows.packets["tcp_flags"].tolist() == [[ACK, ACK | CWR, ACK, PSH | FIN | ACK]]


def test_a_super_packet_fills_up_to_the_depth_only(device):
    frame = ether(ipv4(17, udp(bytes(60000))))
    regroup = Regroup(3, device=device)
    flows = regroup.add(batch([packet(rank=1) | {"frame": frame, "segment_len": 1}, packet()]))
    assert sizes(flows) == [[100, 29, 29]]
    assert counted(regroup) == {"stored": 2, "flows": 1}


def test_sixty_four_packets_fill_a_row(device):
    regroup = Regroup(64, device=device)
    flows = regroup.add(batch([packet(rank=i) for i in reversed(range(64))]))
    assert (len(flows), flows.reason[0], flows.lost[0]) == (1, DEPTH, 0)


def test_an_empty_batch_is_fine(device):
    assert len(Regroup(10, device=device).add(batch([]))) == 0


def test_rows_stay_as_they_are_when_the_frames_go(device):
    packets = batch([packet(frame=ether(ipv4(6, tcp(b"secret"))))])
    memory = packets.memory.copy()
    object.__setattr__(packets, "memory", memory)
    flows = Regroup(1, raw_len=64, mask="none", device=device).add(packets)
    before = rows_of([flows])
    memory[:] = 0
    assert rows_of([flows]) == before


@pytest.mark.parametrize(
    "setting",
    [
        {"first_n": 0},
        {"first_n": 65},
        {"raw_len": -1},
        {"raw_len": 65536},
        {"slots": 0},
        {"max_rows": 0},
        {"wait_s": 0.0},
        {"wait_s": float("nan")},
        {"mask": "loose"},
        {"device": "tpu"},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_a_usage_error(device, setting):
    with pytest.raises(UsageError, match=next(iter(setting))):
        Regroup(**{"first_n": 10, "device": device, **setting})


def test_a_device_without_a_backend_says_so(device, monkeypatch):
    monkeypatch.setitem(BACKENDS, "gpu", "regroup_that_is_not_here")
    with pytest.raises(UnsupportedError, match="gpu"):
        Regroup(10, device="gpu")
