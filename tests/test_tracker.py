"""The flow table for captures against a model of its rules in plain Python."""

import random

import captures
import numpy as np
import pytest
from captures import ACK, FIN, PSH, RST, SYN, ether, pcap, tcp, udp, write
from hypothesis import given, settings
from hypothesis import strategies as st

from etcpipe.capture import Capture
from etcpipe.layout import END_REASONS

S = 10**9
START = 1_700_000_000 * S
IDLE_S, ESTABLISH_S, TOMBSTONE_S = 120, 5, 30


class Model:
    """What the rules say: a dictionary of open flows, and the list of those that ended."""

    def __init__(self, first_n=10, idle_s=IDLE_S):
        self.first_n, self.idle_ns = first_n, idle_s * S
        self.flows, self.ended, self.rows = {}, [], []
        self.created = 0

    def packet(self, now, packet, wire_len):
        source, destination, protocol, flags, payload = packet
        key = (*sorted([source, destination]), protocol)
        flow = self.flows.get(key)
        syn, answer = flags & (SYN | ACK) == SYN, flags & (SYN | ACK) == SYN | ACK
        if flow and (self.is_silent(flow, now) or (flow["closed"] and syn)):
            self.end(key, now)
            flow = None
        if not flow:
            self.created += 1
            flow = self.flows[key] = {
                "id": self.created,
                "initiator": destination if answer else source,
                "first": now,
                "packets": [0, 0],
                "bytes": [0, 0],
                "counted": 0,
                "fins": set(),
                "seen": 0,
                "closed": False,
            }
        direction = int(source != flow["initiator"])
        flow["last"] = now
        flow["packets"][direction] += 1
        flow["bytes"][direction] += wire_len
        flow["seen"] |= flags
        if flags & FIN:
            flow["fins"].add(direction)
        flow["closed"] |= bool(flags & RST) or len(flow["fins"]) == 2
        if payload:
            if flow["counted"] < self.first_n:
                self.rows.append((flow["id"], flow["counted"], direction, now, wire_len))
            flow["counted"] += 1

    def is_silent(self, flow, now):
        limit = ESTABLISH_S * S if self.is_half_open(flow) else self.idle_ns
        return now - flow["last"] > (TOMBSTONE_S * S if flow["closed"] else limit)

    def is_half_open(self, flow):
        return bool(flow["seen"] & SYN) and not flow["seen"] & ACK

    def end(self, key, now, last=False):
        flow = self.flows.pop(key)
        silence = "establish" if self.is_half_open(flow) else "idle"
        over = self.is_silent(flow, now) or not last
        flow["reason"] = "closed" if flow["closed"] else silence if over else "source"
        self.ended.append(flow)

    def finish(self, now):
        for key in list(self.flows):
            self.end(key, now, last=True)
        return sorted(map(summary, self.ended))


def summary(flow):
    names = ("id", "first", "last", "packets", "bytes", "counted", "reason")
    return tuple(flow[name] for name in names)


def summaries(records):
    """Return the same of FLOW_RECORDs."""
    state = records["state"]
    reasons = [END_REASONS[reason] for reason in records["reason"]]
    names = ("flow_id", "first_ns", "last_ns", "packets", "bytes", "counted")
    columns = [state[name].tolist() for name in names]
    return sorted(zip(*columns, reasons, strict=True))


def frame_of(packet):
    (src, sport), (dst, dport), protocol, flags, payload = packet
    ends = dict(src=f"10.0.0.{src}", dst=f"10.0.0.{dst}", sport=sport, dport=dport)
    return ether(tcp(payload, flags, **ends) if protocol == 6 else udp(payload, **ends))


def compare(path, packets, **arguments):
    """Run both over (time, packet) pairs; assert that rows and records are the same."""
    model = Model(**arguments)
    frames = [(now, frame_of(packet)) for now, packet in packets]
    for (now, packet), (_, frame) in zip(packets, frames, strict=True):
        model.packet(now, packet, len(frame))
    capture = Capture(
        [write(path, pcap(frames, nanoseconds=True))],
        first_n=model.first_n,
        idle_timeout_s=model.idle_ns / S,
    )
    rows, parts = [], []
    names = ("flow_id", "rank", "direction", "timestamp_ns", "wire_len")
    for batch in capture:
        rows += zip(*(getattr(batch, name).tolist() for name in names), strict=True)
        parts.append(capture.ended())
    parts.append(capture.finish())
    assert rows == model.rows
    assert summaries(np.concatenate(parts)) == model.finish(packets[-1][0])
    assert capture.counters["FLOWS_CREATED"] + capture.counters["FLOWS_RESTARTED"] == model.created
    assert len(capture.finish()) == 0
    return capture


ENDS = st.tuples(st.integers(1, 3), st.sampled_from([443, 40000, 40001]))
FLAGS = st.sampled_from([SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK])
# A packet to its own sender has no direction: both ends are the same.
PATHS = st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] != ends[1])
TCP = st.tuples(st.just(6), FLAGS, st.sampled_from([0, 0, 1, 100]))
UDP = st.tuples(st.just(17), st.just(0), st.sampled_from([0, 1, 100]))
PACKETS = st.tuples(PATHS, TCP | UDP).map(lambda parts: (*parts[0], *parts[1]))
LIMITS = [limit * S for limit in (ESTABLISH_S, TOMBSTONE_S, IDLE_S)]
GAPS = st.sampled_from([0, 1, 1000, S, *(at + d for at in LIMITS for d in (-1, 0, 1))])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(GAPS, PACKETS), min_size=1, max_size=60), st.integers(1, 12))
def test_random_packets_as_the_model(tmp_path_factory, steps, first_n):
    now, packets = START, []
    for gap, packet in steps:
        now += gap
        packets.append((now, packet))
    capture = compare(tmp_path_factory.getbasetemp() / "random", packets, first_n=first_n)
    assert 1 <= capture.counters["FLOWS_CREATED"] <= len(packets)


def test_many_flows_as_the_model(tmp_path):
    chosen = random.Random(7)
    now, packets = START, []
    for _ in range(20_000):  # long enough for many rounds of the hand, growth and reuse
        now += chosen.choice([0, 10**6, 10**7, 5 * 10**7])
        if chosen.random() < 1e-4:
            now += 100 * S
        ends = [(chosen.randint(1, 250), chosen.choice([80, 443])) for _ in range(2)]
        flags = chosen.choice([SYN, ACK, PSH | ACK, FIN | ACK, RST])
        packets.append((now, (*ends, 6, flags, chosen.choice([0, 9]))))
    capture = compare(tmp_path / "many", packets, first_n=2, idle_s=20)
    assert capture.counters["FLOWS_RESTARTED"] > 0


def test_out_of_order_times_do_not_end_flows(tmp_path):
    """Packets some milliseconds out of order, as captures of several queues have them."""
    chosen = random.Random(3)
    packets = []
    for i in range(5000):
        now = START + i * 10**8 + chosen.randint(-(10**8), 10**8)
        ends = [(1, 40000 + i % 40), (2, 443)]
        packets.append((now, (*ends, 17, 0, 5)))
    capture = compare(tmp_path / "a", packets, idle_s=5)
    assert capture.counters["FLOWS_CREATED"] == 40


def flows_of(tmp_path, frames, **settings):
    """Return (capture, records, ended before the end) of (time, frame) pairs."""
    capture = Capture([write(tmp_path / "a", pcap(frames, nanoseconds=True))], **settings)
    before = [capture.ended() for _ in capture]
    return capture, capture.finish(), np.concatenate(before)


def test_flow_ends_at_its_idle_timeout_while_others_go_on(tmp_path):
    frames = [(START, ether(udp(5, sport=1)))]
    frames += [(START + i * S // 100, ether(udp(5, sport=2))) for i in range(1, 20_000)]
    _, rest, ended = flows_of(tmp_path, frames, idle_timeout_s=60)
    assert ended["state"]["flow_id"].tolist() == [1]
    assert rest["state"]["flow_id"].tolist() == [2]


def test_closed_flow_keeps_its_stragglers(tmp_path):
    ends = dict(src="10.0.0.2", dst="10.0.0.1", sport=443, dport=40000)
    frames = [
        (START, ether(tcp(flags=SYN))),
        (START + 1, ether(tcp(flags=FIN | ACK))),
        (START + 2, ether(tcp(flags=FIN | ACK, **ends))),
        (START + 3, ether(tcp(flags=ACK))),
        (START + 4, ether(tcp(flags=SYN))),
    ]
    capture, rest, ended = flows_of(tmp_path, frames)
    assert summaries(ended) == [(1, START, START + 3, [3, 1], [162, 54], 0, "closed")]
    assert summaries(rest) == [(2, START + 4, START + 4, [1, 0], [54, 0], 0, "source")]
    assert capture.counters["FLOWS_RESTARTED"] == 1


def test_capture_that_begins_with_the_answer_knows_the_initiator(tmp_path):
    ends = dict(src="10.0.0.2", dst="10.0.0.1", sport=443, dport=40000)
    frames = [(START, ether(tcp(flags=SYN | ACK, **ends))), (START + 1, ether(tcp(7, PSH | ACK)))]
    _, rest, _ = flows_of(tmp_path, frames)
    assert rest["state"]["packets"].tolist() == [[1, 1]]
    assert rest["state"]["initiator"].tolist() == [0]


def test_full_table_refuses_new_flows_and_counts_them(tmp_path):
    frames = [(START + i, ether(udp(5, sport=1 + i % 10))) for i in range(30)]
    capture, rest, _ = flows_of(tmp_path, frames, max_flows=4)
    assert rest["state"]["packets"][:, 0].tolist() == [3] * 4
    assert capture.counters["PACKETS_TABLE_FULL"] == 18
    assert capture.counters["PACKETS_TRACKED"] == 12


def test_full_table_takes_new_flows_in_place_of_silent_ones(tmp_path):
    frames = [(START + i * S, ether(udp(5, sport=1 + i))) for i in range(400)]
    capture, rest, ended = flows_of(tmp_path, frames, max_flows=16, idle_timeout_s=10)
    assert capture.counters["PACKETS_TABLE_FULL"] == 0
    assert len(rest) + len(ended) == 400


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(lambda i: dict(sport=i % 20_000 + 1, dst=f"10.{i // 20_000}.0.1"), id="ports"),
        pytest.param(lambda i: dict(src=f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}"), id="addresses"),
    ],
)
def test_sequential_tuples_are_each_a_flow(tmp_path, ends):
    frames = [(START + i, ether(udp(1, **ends(i)))) for i in range(30_000)]
    capture, rest, _ = flows_of(tmp_path, frames)
    assert len(rest) == capture.counters["FLOWS_CREATED"] == 30_000
    assert sorted(rest["state"]["flow_id"].tolist()) == list(range(1, 30_001))


def test_protocols_without_ports_are_flows_too(tmp_path):
    frames = [(START + i, ether(captures.ip(p, bytes(20)))) for i, p in enumerate([1, 47, 50, 1])]
    _, rest, _ = flows_of(tmp_path, frames)
    assert sorted(rest["key"]["protocol"].tolist()) == [1, 47, 50]
    assert rest["state"]["counted"].tolist() == [0, 0, 0]
    assert rest["key"]["a_port"].tolist() == [0, 0, 0]
