"""Sort and scan: the kernels against the definition, and the definition against captures."""

import random

import captures
import pytest
from cuda_device import ON, device
from cuda_shim import ShimDevice, library
from frames import ACK, FIN, RST, SYN, batch, ether, ipv4, ipv6, rows_of, split, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_agree import MORE, ORDERS
from test_regroup_agree import LINK_HEADERS, cuts, random_frame, random_packets

from etcpipe.batch import PacketBatch
from etcpipe.capture import Capture
from etcpipe.gpu import flow_sort_gpu
from etcpipe.gpu.flow_sort import FlowRules, SortRegroup
from etcpipe.gpu.regroup import Regroup
from etcpipe.layout import COUNT_RULES

OPTIONS = {"first_n": 6, "raw_len": 50, "wait_s": 0.5, "slots": 4096, "max_rows": 2000}
RULES = FlowRules(flows_max=1000, establish_ns=10**8, idle_ns=10**9, tombstone_ns=3 * 10**8)


def outputs(on, batches: list[PacketBatch], seed: int = 1, rules: FlowRules = RULES, lib=None):
    """All that comes out: the rows of each call, the last ones, and the counters."""
    regroup = SortRegroup(**OPTIONS, rules=rules, device="reference")
    if on != "reference":
        where = ShimDevice(seed, lib) if lib else device(on, seed)
        regroup._backend = flow_sort_gpu.Backend(regroup.settings, rules, where)
    rows = [rows_of([regroup.add(part)]) for part in batches]
    return rows, rows_of([regroup.flush()]), regroup.counters


def segment(flow: int, flags: int = ACK, payload: bytes = b"x", back: bool = False) -> bytes:
    """A frame of flow number `flow`."""
    host = f"10.{flow >> 8 & 255}.{flow & 255}.1"
    ends = ("192.0.2.1", host) if back else (host, "192.0.2.1")
    ports = {"sport": 443, "dport": 1024 + flow} if back else {"sport": 1024 + flow, "dport": 443}
    return ether(ipv4(6, tcp(payload, flags=flags, **ports), *ends))


def conversation(seed: int, packets: int, flows: int, pause_s: float = 0.01) -> PacketBatch:
    """Packets of some tuples, both ways, with handshakes, ends, silences and things unreadable."""
    rng = random.Random(seed)
    now, found = 0.0, []
    for _ in range(packets):
        now += rng.choice([0.0, 1e-5, 1e-3, pause_s])
        flags = rng.choice([ACK] * 8 + [SYN, SYN | ACK, FIN | ACK, RST])
        payload = rng.choice([b"", b"abc", rng.randbytes(200)])
        frame = segment(rng.randrange(flows), flags, payload, rng.random() < 0.4)
        if rng.random() < 0.1:
            frame = random_frame(rng, 1)
        found.append({"frame": frame, "at": max(0.0, now - rng.choice([0, 0, 0, 0.0005]))})
    return batch(found)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_order_of_flows(on, order):
    packets = batch([{"frame": segment(flow), "at": i / 1e5} for i, flow in enumerate(order)])
    assert outputs(on, [packets]) == outputs("reference", [packets])


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("rule", COUNT_RULES.values(), ids=COUNT_RULES)
@pytest.mark.parametrize("flows", [3, 60, 700])
def test_conversations(on, flows, rule):
    rng = random.Random(flows)
    batches = split(conversation(flows, 1500, flows), cuts(rng, 1500))[:30]
    rules = FlowRules(1000, rule, RULES.establish_ns, RULES.idle_ns, RULES.tombstone_ns)
    expected = outputs("reference", batches, rules=rules)
    assert expected[2]["FLOWS_RESTARTED"] > 10 or flows > 60
    assert outputs(on, batches, flows, rules) == expected


@pytest.mark.parametrize("on", ON)
def test_a_table_that_is_full_refuses_new_flows_until_old_ones_are_silent(on):
    batches = split(conversation(7, 1200, 200, pause_s=0.05), [400, 300, 500])
    rules = FlowRules(40, RULES.count_rule, RULES.establish_ns, RULES.idle_ns, 10**8)
    expected = outputs("reference", batches, rules=rules)
    assert expected[2]["PACKETS_TABLE_FULL"] > 100
    assert expected[2]["FLOWS_CREATED"] > 60
    assert outputs(on, batches, rules=rules) == expected


@pytest.mark.parametrize("seed", range(4))
def test_keys_with_the_same_hash_are_told_apart(seed):
    three_bits = library(("-DHASH_BITS=3",))
    batches = split(conversation(seed, 1000, 50), [500, 500])
    assert outputs("shim", batches, seed, lib=three_bits) == outputs("reference", batches)


@pytest.mark.parametrize("on", ON)
def test_both_directions_and_both_versions_by_hand(on):
    there = ether(ipv6(17, udp(b"?", sport=50000, dport=53), "2001:db8::1", "2001:db8::2"))
    back = ether(ipv6(17, udp(b"!", sport=53, dport=50000), "2001:db8::2", "2001:db8::1"))
    frames = [segment(1, SYN, b""), there, segment(1, SYN | ACK, b"", back=True), back, segment(1)]
    regroup = SortRegroup(2, device="reference")
    if on != "reference":
        regroup._backend = flow_sort_gpu.Backend(regroup.settings, FlowRules(16), device(on))
    full = regroup.add(batch([{"frame": frame} for frame in frames]))
    rest = regroup.flush()
    assert (full.flow_id.tolist(), rest.flow_id.tolist()) == ([2], [1])
    assert full.packets["direction"].tolist() == [[0, 1]]
    assert rest.packets["present"].tolist() == [[1, 0]]
    assert rest.key["a_port"][0] == 1025


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=MORE) for i in range(2, 8))])
def test_packets_with_options_tunnels_and_cuts(on, seed):
    """Packets of which the ring kept a part, super-packets, and times that run backwards."""
    rng = random.Random(f"sort {seed}")
    batches = split(random_packets(rng, 1200, 60), cuts(rng, 1200))[:30]
    expected = outputs("reference", batches)
    assert expected[2]["FLOWS_CREATED"] > 50 < expected[2]["REGROUP_UNPARSED"]
    assert outputs(on, batches, seed) == expected


@pytest.mark.parametrize("on", ON)
@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=120), min_size=1, max_size=20),
    wire_len=st.integers(0, 2**32 - 1),
    link_type=st.sampled_from([*LINK_HEADERS, 9999]),
    segment_len=st.sampled_from([0, 1, 1448, 65535]),
)
def test_garbage_is_read_alike(on, frames, wire_len, link_type, segment_len):
    columns = {"wire_len": wire_len, "segment_len": segment_len}
    packets = batch([{"frame": frame, **columns} for frame in frames], link_type)
    assert outputs(on, [packets]) == outputs("reference", [packets])


@pytest.mark.parametrize("on", ON)
def test_a_trickle_is_closed_by_the_clock(on):
    times = [i / 20 for i in range(40)]
    packets = [{"frame": segment(i % 15), "at": at} for i, at in enumerate(times)]
    batches = split(batch(packets), [1] * 40)
    expected = outputs("reference", batches)
    assert sum(len(rows) for rows in expected[0]) > 10
    assert outputs(on, batches) == expected


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("sizes", [[8], [4, 4], [3, 3, 2], [1] * 8], ids=str)
def test_a_tuple_that_is_used_again_is_another_flow(on, sizes):
    once = [(SYN, b"", False), (ACK, b"one", False), (FIN, b"", False), (FIN, b"", True)]
    again = [(SYN, b"", False), (ACK, b"two", False), (ACK, b"2", True), (RST, b"", False)]
    packets = [{"frame": segment(1, *one), "at": i / 1e3} for i, one in enumerate(once + again)]
    regroup = SortRegroup(6, rules=RULES, device="reference")
    if on != "reference":
        regroup._backend = flow_sort_gpu.Backend(regroup.settings, RULES, device(on))
    parts = [*map(regroup.add, split(batch(packets), sizes)), regroup.flush()]
    directions = {
        int(part.flow_id[i]): part.packets["direction"][i][part.packets["present"][i] != 0].tolist()
        for part in parts
        for i in range(len(part))
    }
    assert directions == {1: [0], 2: [0, 1]}
    counters = regroup.counters
    assert (counters["FLOWS_CREATED"], counters["FLOWS_RESTARTED"]) == (1, 1)


@pytest.mark.parametrize("flows", [5, 100])
def test_the_definition_is_what_captures_do(tmp_path, flows):
    whole = conversation(flows, 2000, flows, pause_s=0.05)
    times = whole.timestamp_ns.tolist()
    records = [(time_ns, whole.frame(i).tobytes()) for i, time_ns in enumerate(times)]
    path = captures.write(tmp_path / "a.pcap", captures.pcap(records, nanoseconds=True))
    capture = Capture(
        [path],
        first_n=OPTIONS["first_n"],
        idle_timeout_s=RULES.idle_ns / 1e9,
        establish_timeout_s=RULES.establish_ns / 1e9,
        tombstone_timeout_s=RULES.tombstone_ns / 1e9,
    )
    rows, sorted_rows = [], []
    by_capture = Regroup(**OPTIONS, device="reference")
    by_sort = SortRegroup(**OPTIONS, rules=RULES, device="reference")
    for part in capture:
        rows += rows_of([by_capture.add(part)])
    rows += rows_of([by_capture.flush()])
    for part in split(whole, [1000, 1000]):
        sorted_rows += rows_of([by_sort.add(part)])
    sorted_rows += rows_of([by_sort.flush()])
    assert len(rows) > 2 * flows
    # a capture notes VLAN tags, and its clock does not move by packets that no row gets
    same = ("flow_id", "key", "initiator", "packets", "raw", "lost")
    assert sorted([row[name] for name in same] for row in rows) == sorted(
        [row[name] for name in same] for row in sorted_rows
    )
