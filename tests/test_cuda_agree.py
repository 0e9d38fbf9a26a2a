"""The kernels equal the definition in Python, byte for byte, in whatever order threads run."""

import random

import pytest
from cuda_device import ON, device
from frames import batch, ether, ipv4, ipv6, rows_of, split, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_regroup_agree import LINK_HEADERS, cuts, random_frame, random_packets

from etcpipe.batch import PacketBatch
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend

OPTIONS = {"first_n": 6, "raw_len": 100, "slots": 64, "max_rows": 2000, "wait_s": 0.2}
MASKS = ("strict", "standard", "none")
MORE = pytest.mark.exhaustive


def outputs(
    on: str, batches: list[PacketBatch], seed: int = 1, blocks: int | None = None, **options
):
    """All that comes out: the rows of each call, the last ones, and the counters."""
    regroup = Regroup(**{**OPTIONS, **options}, device="reference")
    if on != "reference":
        regroup._backend = Backend(regroup.settings, device(on, seed), blocks)
    rows = [rows_of([regroup.add(part)]) for part in batches]
    return rows, rows_of([regroup.flush()]), regroup.counters


def flows_in(order: list[int], first_n: int = 6, **columns) -> PacketBatch:
    """A batch with packets of the flows in this order, each flow's ranks from 0 on."""
    ranks: dict[int, int] = {}
    packets = []
    for i, flow in enumerate(order):
        rank = ranks.get(flow, 0)
        ranks[flow] = rank + 1
        frame = random_frame(random.Random(i), 1)
        given = {"frame": frame, "flow_id": flow, "rank": rank, "at": i * 1e-5}
        packets.append(given | columns)
    return batch(packets)


def interleaved(flows: int, packets: int) -> list[int]:
    """Flow ids in random order."""
    rng = random.Random(flows)
    return [rng.randrange(1, flows + 1) for _ in range(packets)]


ORDERS = {
    "round robin": [1 + i % 40 for i in range(1024)],
    "contiguous": [1 + i // 8 for i in range(1024)],
    "interleaved": interleaved(100, 1024),
    "one flow": [1] * 1024,
    "1024 flows": list(range(1, 1025)),
    "1023 packets": interleaved(200, 1023),
    "1025 packets": interleaved(200, 1025),
    "one packet": [1],
}


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_order_of_flows(on, order):
    packets = flows_in(order)
    assert outputs(on, [packets]) == outputs("reference", [packets])


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("sizes", [[300, 300], [200, 1, 399], [1] * 30 + [570]], ids=str)
def test_flows_over_several_batches(on, sizes):
    batches = split(flows_in(interleaved(90, 600)), sizes)
    assert outputs(on, batches) == outputs("reference", batches)


@pytest.mark.parametrize("on", ON)
def test_a_slot_is_used_again_and_again(on):
    packets = flows_in([1 + 4 * (i // 5) + i % 2 for i in range(500)])
    expected = outputs("reference", [packets], slots=4)
    assert expected[2]["REGROUP_EVICTED"] > 50
    assert outputs(on, [packets], slots=4) == expected


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("max_rows", [1, 2, 40])
def test_a_full_table_evicts_the_same_rows(on, max_rows):
    batches = split(flows_in(interleaved(70, 400)), [250, 150])
    expected = outputs("reference", batches, max_rows=max_rows)
    assert expected[2]["REGROUP_POOL_FULL"] > 10
    assert outputs(on, batches, max_rows=max_rows) == expected


@pytest.mark.parametrize("on", ON)
def test_a_trickle_is_closed_by_the_clock(on):
    packets = [
        {
            "frame": ether(ipv4(17, udp(b"x" * i))),
            "flow_id": 1 + i % 7,
            "rank": i // 7,
            "at": i / 20,
        }
        for i in range(40)
    ]
    batches = split(batch(packets), [1] * 40)
    expected = outputs("reference", batches)
    assert sum(len(rows) for rows in expected[0]) > 5
    assert outputs(on, batches) == expected


@pytest.mark.parametrize("on", ON)
def test_directions_ports_and_versions(on):
    ends = [(40000, 443), (443, 40000), (1023, 1024), (65535, 1), (0, 0)]
    packets = []
    for i, (sport, dport) in enumerate(ends * 2):
        for back in (False, True):
            ports = (dport, sport) if back else (sport, dport)
            segment = tcp(b"abc", sport=ports[0], dport=ports[1])
            hosts = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
            packet = ipv4(6, segment, *hosts)
            if i >= len(ends):
                packet = ipv6(6, segment, *(f"2001:db8::{host}" for host in hosts))
            columns = {"flow_id": i + 1, "rank": int(back), "direction": int(back)}
            packets.append({"frame": ether(packet, vlans=[5] * (i % 3)), **columns})
    whole = batch(packets)
    assert outputs(on, [whole], first_n=2) == outputs("reference", [whole], first_n=2)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(i, marks=MORE) for i in range(3, 12))])
def test_random_packets(on, seed):
    rng = random.Random(f"cuda {seed}")
    n = rng.choice([300, 1025, 1500])
    options = {
        "first_n": rng.choice([1, 3, 6]),
        "raw_len": rng.choice([0, 1, 33, 1000]),
        "slots": rng.choice([3, 64, 1 << 20]),
        "max_rows": rng.choice([2, 50, 1000, 5000]),
        "wait_s": rng.choice([0.005, 0.2]),
        "mask": MASKS[seed % 3],
        "parse": rng.choice([0, 7]),
    }
    batches = split(random_packets(rng, n, rng.choice([1, 7, 300])), cuts(rng, n))[:40]
    got = outputs(on, batches, seed, rng.choice([1, 3, None]), **options)
    assert got == outputs("reference", batches, **options)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("link_type", LINK_HEADERS)
def test_every_link_type(on, link_type):
    packets = random_packets(random.Random(link_type), 300, 40, link_type)
    assert outputs(on, [packets]) == outputs("reference", [packets])


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("raw_len", [7, 8, 15, 16, 17, 511, 512, 513, 1000, 1500])
def test_bytes_are_copied_at_any_alignment(on, raw_len):
    rng = random.Random(raw_len)
    packets = [
        {"frame": ether(ipv4(17, udp(rng.randbytes(size)))), "flow_id": i + 1}
        for i, size in enumerate([0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 495, 496, 497, 999, 1472])
    ]
    whole = batch(packets)
    assert len({int(at) % 16 for at in whole.offset}) > 8
    options = {"raw_len": raw_len, "mask": "none"}
    assert outputs(on, [whole], **options) == outputs("reference", [whole], **options)


@pytest.mark.parametrize("on", ON)
@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=200), min_size=1, max_size=20),
    wire_len=st.integers(0, 2**32 - 1),
    link_type=st.sampled_from([*LINK_HEADERS, 113, 276, 9999]),
    mask=st.sampled_from(MASKS),
    parse=st.integers(0, 7),
    segment_len=st.sampled_from([0, 1, 1448, 65535]),
)
def test_garbage_is_read_alike(on, frames, wire_len, link_type, mask, parse, segment_len):
    columns = {"wire_len": wire_len, "segment_len": segment_len}
    packets = batch(
        [{"frame": frame, "flow_id": i + 1, **columns} for i, frame in enumerate(frames)], link_type
    )
    options = {"first_n": 3, "raw_len": 128, "mask": mask, "parse": parse}
    assert outputs(on, [packets], **options) == outputs("reference", [packets], **options)
