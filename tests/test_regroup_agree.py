"""The C equals the definition in Python, and rows do not depend on how packets are batched."""

import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tunnels
from frames import (
    batch,
    client_hello,
    ether,
    extension,
    ipv4,
    ipv6,
    message,
    record,
    rows_of,
    server_hello,
    server_name,
    split,
    tcp,
    udp,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from etcpipe.gpu.regroup import Regroup

LINK_HEADERS = {
    0: b"\x02\0\0\0",
    1: None,
    9: b"\0\x21",
    12: b"",
    14: b"",
    50: b"\xff\x03\0\x21",
    101: b"",
    104: b"\x8f\0\x08\0",
    108: b"\0\0\0\x02",
    228: b"",
    229: b"",
}


def random_payload(rng):
    """Something that is TLS, nearly TLS, or not."""
    body = rng.randbytes(rng.choice([1, 2, 40, 300]))
    extensions = b"".join(
        extension(rng.choice([0, 10, 13, 16, 43, 51]), rng.randbytes(rng.randrange(12)))
        for _ in range(rng.randrange(6))
    )
    hello = rng.choice([client_hello, server_hello])(extensions + server_name(b"a.example"))
    payload = rng.choice(
        [
            body,
            record(23, body),
            record(22, hello),
            record(22, hello + message(11, body) + message(14, b"")) + record(20, b"\1"),
            record(22, body) + record(21, b"\1\0"),
        ]
    )
    if rng.random() < 0.2:
        at = rng.randrange(len(payload))
        payload = payload[:at] + rng.randbytes(1) + payload[at + 1 :]
    return payload[: rng.randrange(1, len(payload) + 1)] if rng.random() < 0.2 else payload


def random_packet(rng):
    """An IP packet that parses, or nearly."""
    payload = random_payload(rng)
    words = rng.randrange(11)
    options = rng.choice([rng.randbytes(4 * words), b"\x01\x01\x08\x0a" + rng.randbytes(8)])
    ports = {"sport": rng.randrange(65536), "dport": rng.choice([22, 53, 443, 1024, 65535])}
    segment, protocol = rng.choice(
        [
            (tcp(payload, options=options, flags=rng.randrange(256), **ports), 6),
            (udp(payload, **ports), 17),
            (payload, rng.randrange(256)),
        ]
    )
    ends = [rng.choice(["10.0.0.1", "10.0.0.2", "192.0.2.9"]) for _ in range(2)]
    if rng.random() < 0.6:
        total = rng.choice([None, None, 0, 30, 65535])
        options = rng.randbytes(4 * rng.randrange(3))
        return ipv4(protocol, segment, *ends, options=options, total=total)
    chain = [(0, b"\0" + rng.randbytes(6)), (44, bytes(3) + rng.randbytes(4)),
             (43, b"\x01" + rng.randbytes(14)), (51, b"\x02" + rng.randbytes(14))]  # fmt: skip
    chain = rng.sample(chain, rng.randrange(4))
    return ipv6(protocol, segment, *(f"2001:db8::{end}" for end in ends), extensions=chain)


def random_tunnel(rng, packet):
    """The packet inside something."""
    return rng.choice(
        [
            lambda: tunnels.ip(47, tunnels.gre(packet, key=rng.choice([None, 5]))),
            lambda: tunnels.ip(47, tunnels.teb(packet, key=5, vlans=(3,))),
            lambda: tunnels.udp(tunnels.vxlan(packet), rng.choice([4789, 8472])),
            lambda: tunnels.udp(tunnels.geneve(packet, options=rng.randrange(64)), 6081),
            lambda: tunnels.udp(tunnels.gtpu(packet, extensions=rng.randrange(6)), 2152),
            lambda: tunnels.ip(4 if packet[0] >> 4 == 4 else 41, packet),
        ]
    )()


def random_frame(rng, link_type):
    packet = random_packet(rng)
    if rng.random() < 0.3:
        packet = random_tunnel(rng, packet)
    if link_type == 1:
        frame = ether(packet, vlans=[5, 6, 7][: rng.choice([0, 0, 1, 2, 3])])
    else:
        frame = LINK_HEADERS[link_type] + packet
    if rng.random() < 0.1:
        at = rng.randrange(len(frame))
        frame = frame[:at] + rng.randbytes(1) + frame[at + 1 :]
    return frame


def random_packets(rng, n, flows, link_type=1, depth=6):
    """Interleaved flows with losses, duplicates, reordering, pauses and reused slots."""
    ranks, packets, now = {}, [], 0.0
    base = rng.randrange(1, 1 << 47)
    for i in range(n):
        now += rng.choice([0.0, 1e-6, 1e-3, 1e-2])
        flow_id = base + i * flows // n + rng.randrange(flows)
        rank = ranks.get(flow_id, 0)
        ranks[flow_id] = rank + rng.choice([1, 1, 1, 1, 2, 0])
        frame = random_frame(rng, link_type)
        cut = rng.choice([len(frame), len(frame), len(frame), rng.randrange(len(frame) + 1)])
        packets.append(
            {
                "frame": frame[:cut],
                "wire_len": rng.choice([len(frame), len(frame), 60, 70000]),
                "flow_id": flow_id,
                "rank": min(rank, depth + 1),
                "at": max(0.0, now - rng.choice([0, 0, 0, 0.001])),
                "direction": rng.randrange(2),
                "vlan": rng.choice([0xFFFF, 5]),
                "segment_len": rng.choice([0, 0, 0, 0, 1, 100, 65535]),
                "ifindex": rng.randrange(1, 5),
            }
        )
    for i in range(len(packets) - 1):
        if rng.random() < 0.1:
            packets[i], packets[i + 1] = packets[i + 1], packets[i]
    return batch(packets, link_type)


def cuts(rng, n):
    """Sizes of batches that are n packets together."""
    sizes = []
    while sum(sizes) < n:
        sizes.append(min(rng.choice([1, 2, 7, 64, 1024]), n - sum(sizes)))
    return sizes


def outputs(device, batches, **options):
    """All that comes out: the rows of each call, the last ones, and the counters."""
    regroup = Regroup(device=device, **options)
    rows = [rows_of([regroup.add(part)]) for part in batches]
    return rows, rows_of([regroup.flush()]), regroup.counters


@pytest.mark.parametrize("mask", ["strict", "standard", "none"])
@pytest.mark.parametrize("flows", [1, 7, 300])
@pytest.mark.parametrize("seed", range(4))
def test_native_equals_the_definition(seed, flows, mask):
    rng = random.Random(f"{seed} {flows} {mask}")
    packets = random_packets(rng, 1025, flows)
    options = {
        "first_n": rng.choice([1, 3, 6]),
        "raw_len": rng.choice([0, 1, 33, 1000]),
        "slots": rng.choice([3, 64, 1 << 20]),
        "max_rows": rng.choice([2, 50, 1000]),
        "wait_s": rng.choice([0.005, 0.2]),
        "mask": mask,
        "parse": rng.choice([0, 7]),
    }
    batches = split(packets, cuts(rng, 1025))
    assert outputs("cpu", batches, **options) == outputs("reference", batches, **options)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_threads_equal_the_definition_but_for_the_order_of_rows(seed, threads):
    rng = random.Random(f"{seed} {threads}")
    packets = random_packets(rng, 1025, 100)
    options = {"first_n": 6, "raw_len": 33, "slots": rng.choice([10, 64, 1000]), "wait_s": 0.05}
    batches = split(packets, cuts(rng, 1025))

    def by_flow(rows):
        return sorted(rows, key=lambda row: (row["flow_id"], row["reason"]))

    calls, last, counters = outputs("reference", batches, **options)
    sharded = outputs("cpu", batches, threads=threads, **options)
    assert [by_flow(rows) for rows in sharded[0]] == [by_flow(rows) for rows in calls]
    assert by_flow(sharded[1]) == by_flow(last)
    assert sharded[2] == counters
    assert counters["REGROUP_EVICTED"] > 0 or options["slots"] == 1000


def test_threads_that_a_child_process_lacks_are_not_waited_for():
    packets = random_packets(random.Random(1), 300, 20)
    options = {"first_n": 6, "raw_len": 33, "wait_s": 0.05, "threads": 3}
    regroup = Regroup(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, the point
        child = os.fork()
    if not child:
        rows = rows_of([regroup.add(packets)])
        del regroup
        os._exit(len(rows))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == len(rows_of([regroup.add(packets)])) > 0


@pytest.mark.parametrize("link_type", LINK_HEADERS)
def test_native_equals_the_definition_on_every_link_type(link_type):
    packets = random_packets(random.Random(link_type), 500, 40, link_type)
    options = {"first_n": 6, "raw_len": 600, "wait_s": 0.1}
    native = outputs("cpu", [packets], **options)
    assert native == outputs("reference", [packets], **options)
    assert native[2]["REGROUP_STORED"] > 50


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("seed", range(5))
def test_rows_do_not_depend_on_the_batches(device, seed):
    rng = random.Random(seed)
    # each flow's packets in order, flows interleaved, some pauses above the waiting time
    events = []
    for flow in range(1, 61):
        at = flow / 10
        for rank in range(rng.randrange(1, 9)):
            at += rng.expovariate(3)
            events.append({"at": at, "flow_id": flow, "rank": rank})
    events = sorted((e for e in events if e["at"] < 6), key=lambda e: e["at"])
    packets = batch([{"frame": random_frame(rng, 1), **event} for event in events])
    seen = []
    for sizes in ([len(events)], [1] * len(events), cuts(rng, len(events))):
        calls, last, counters = outputs(
            device, split(packets, sizes), first_n=6, raw_len=100, wait_s=1.0
        )
        rows = sorted((row for call in [*calls, last] for row in call), key=lambda r: r["flow_id"])
        seen.append((rows, counters["REGROUP_STORED"], counters["REGROUP_LOST"]))
    assert {row["reason"][0] for row in seen[0][0]} == {0, 1, 2}
    assert seen[0] == seen[1] == seen[2]


@settings(max_examples=150, deadline=None)
@given(
    frame=st.binary(max_size=200),
    wire_len=st.integers(0, 2**32 - 1),
    link_type=st.sampled_from([*LINK_HEADERS, 113, 276, 9999]),
    mask=st.sampled_from(["strict", "standard", "none"]),
    parse=st.integers(0, 7),
    segment_len=st.sampled_from([0, 1, 1448, 65535]),
)
def test_garbage_is_read_alike(frame, wire_len, link_type, mask, parse, segment_len):
    columns = {"wire_len": wire_len, "flow_id": 1, "segment_len": segment_len}
    packets = batch([{"frame": frame, **columns}], link_type)
    options = {"first_n": 3, "raw_len": 128, "mask": mask, "parse": parse}
    assert outputs("cpu", [packets], **options) == outputs("reference", [packets], **options)


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from([ether(ipv4(6, tcp())), ether(ipv6(17, udp())), ether(ipv4(132, b""))]),
    damage=st.lists(st.tuples(st.integers(12, 120), st.integers(0, 255)), max_size=6),
    payload=st.binary(max_size=60),
    tls=st.booleans(),
    captured=st.integers(0, 200),
)
def test_damaged_packets_are_read_alike(start, damage, payload, tls, captured):
    frame = bytearray(start[:54] + (b"\x16\x03\x01\x00\x20\x01" if tls else b"") + payload)
    for at, value in damage:
        if at < len(frame):
            frame[at] = value
    columns = {"wire_len": len(frame), "flow_id": 1}
    packets = batch([{"frame": bytes(frame[:captured]), **columns}])
    options = {"first_n": 1, "raw_len": 128}
    assert outputs("cpu", [packets], **options) == outputs("reference", [packets], **options)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 300))
def test_payload_shows_nothing_but_zeros_hidden_bytes_and_its_own(payload, room):
    packets = batch([{"frame": ether(ipv4(6, tcp(payload))), "flow_id": 1}])
    flows = Regroup(1, raw_len=40 + room).add(packets)
    shown = flows.raw[0, 0, 40:].tobytes()[: len(payload)]
    there = payload[: len(shown)]
    assert all(a in (0, 0xFF, b) for a, b in zip(shown, there, strict=True))


def test_a_column_of_another_type_is_refused():
    packets = batch([{"frame": b"", "flow_id": 1}])
    for name, column in [
        ("rank", packets.rank.astype(np.uint32)),
        ("rank", np.zeros(2, np.uint16)),
        ("memory", np.zeros((4, 4), np.uint8)),
    ]:
        broken = type(packets)(**{**vars(packets), name: column})
        with pytest.raises(ValueError, match=name):
            Regroup(10).add(broken)


def test_more_idle_rows_than_one_call_returns_come_out_later():
    packets = [{"frame": ether(ipv4(17, udp(b"x"))), "flow_id": i + 1} for i in range(5000)]
    late = batch([{"frame": b"", "flow_id": 0, "at": 100.0}])
    for device in ("cpu", "reference"):
        regroup = Regroup(10, device=device)
        regroup.add(batch(packets))
        assert [len(regroup.add(late)) for _ in range(3)] == [4096, 904, 0]


# In a process of its own: one that ran other tests gives memory that it had before.
PENDING = """
import resource, sys
import numpy as np
from pathlib import Path
from frames import batch, ether, ipv4, udp
from etcpipe.gpu.regroup import Regroup

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

n, rounds = 1000, 100
regroup = Regroup(int(sys.argv[1]))
columns = vars(batch([{"frame": ether(ipv4(17, udp(b"x"))), "flow_id": 1}] * n))
before = resident_bytes()
for i in range(rounds):
    ids = np.arange(i * n + 1, (i + 1) * n + 1, dtype=np.uint64)
    regroup.add(type(batch([]))(**{**columns, "flow_id": ids}))
assert regroup.pending == n * rounds
print((resident_bytes() - before) / regroup.pending)
"""


@pytest.mark.parametrize("first_n", [10, 50])
def test_memory_of_a_pending_flow_is_bounded(first_n):
    """A row of 10 packets is 40 + 48 + 240 bytes, and a slot is 16; more come when needed."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-c", PENDING, str(first_n)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 200 < float(done.stdout) < 400
