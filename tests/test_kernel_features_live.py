"""Features that the kernel's own programs gather, against the definition on the same packets."""

import mmap
import socket
import struct
import threading
from pathlib import Path
from time import sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import NEEDS_FETCH_ADD, Bench, Wire, bench
from real_captures import real_captures
from test_kernel_features import FEATURES, NAMES, assert_equal
from waiting import stop_after

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.capture import Capture
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import compute
from etcpipe.kernel import netns
from etcpipe.kernel.features_plan import FeaturePlan, plan_for
from etcpipe.kernel.features_rows import Gathered
from etcpipe.kernel.features_source import ROUND_S, FeatureSource
from etcpipe.layout import CONSTANTS
from etcpipe.live import attach as live

pytestmark = pytest.mark.root

SHIPPED = ["tap.plain.bpf.o", pytest.param("tap.v3.bpf.o", marks=NEEDS_FETCH_ADD)]
OBJECTS = [
    ("bcc", ""),
    ("libbpf", "tap.plain.bpf.o"),
    pytest.param("libbpf", "tap.v3.bpf.o", marks=NEEDS_FETCH_ADD),
]

# With these each packet's size and time are kept, so that the packets can be had again.
ALL_PACKETS = ("s_bytes_med", "gap_med")
OPEN, TOLD = 0, 1


def frames_of(path: Path) -> list[bytes]:
    """Return the first packets of all flows; none if some are not there whole."""
    frames = []
    for batch in Capture([path], first_n=64, count="all"):
        if batch.link_type != 1 or (batch.captured < batch.wire_len).any():
            return []
        frames += [batch.frame(i).tobytes() for i in range(len(batch))]
    return frames


RECORDINGS = [
    path
    for path in [path for path in real_captures() if 1000 < path.stat().st_size < 300_000][::7]
    if frames_of(path)
]


def table_of(tap: Bench, plan: FeaturePlan) -> np.ndarray:
    """Return the entries of all flows that counted a packet."""
    length = plan.slots * plan.bytes
    memory = mmap.mmap(tap.loaded.maps["features"], length + -length % mmap.PAGESIZE)
    entries = np.frombuffer(memory, plan.dtype, plan.slots).copy()
    memory.close()
    return entries[entries["flow_id"] > 0]


def defined(path: Path, depth: int, entries: np.ndarray, plan: FeaturePlan) -> FlowBatch:
    """Return the same flows as captures give them, their packets at the kernel's times."""
    never = dict.fromkeys(("idle_timeout_s", "establish_timeout_s", "tombstone_timeout_s"), 1e9)
    capture, regroup = Capture([path], depth, "all", **never), Regroup(depth, wait_s=86400)
    flows = concatenate([*(regroup.add(batch) for batch in capture), regroup.flush()])
    by_key = {entry["key"].tobytes(): row for row, entry in enumerate(entries)}
    order = np.array([by_key[key.tobytes()] for key in flows.key], np.intp)
    assert sorted(order.tolist()) == list(range(len(entries)))
    first = plan.series["times"]
    present = flows.packets["present"] != 0
    times = entries["words"][order][:, first : first + depth]
    flows.packets["timestamp_ns"][present] = times[present]
    return flows.select(np.argsort(order))


@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_the_kernel_s_columns_are_the_definition_s(path: Path, program: str) -> None:
    random = np.random.default_rng(path.stat().st_size)
    depth = int(random.integers(1, 51))
    chosen = NAMES if program == "tc_track" else tuple(random.choice(NAMES, 9, replace=False))
    columns = tuple(dict.fromkeys((*chosen, *ALL_PACKETS)))
    how = dict(capture="features", features=columns, first_n=depth, count="all", max_flows=1024)
    frames = frames_of(path)
    with bench("libbpf", idle_timeout_s=86400, wait_s=86400, **how) as tap:
        for frame in frames:
            tap.run(program, frame)
        plan = plan_for(columns, depth, 86400, 1024)
        entries = table_of(tap, plan)
        counters = tap.counters()
    if counters["FLOWS_RESTARTED"]:
        pytest.skip("a tuple is used twice")
    assert counters["PACKETS_GATHERED"] == counters["PACKETS_FIRST_N"]
    flows = defined(path, depth, entries, plan)
    assert_equal(
        Gathered(entries, plan).rows(columns), compute(FEATURES, flows, depth, columns), columns
    )
    told = flows.packets["present"].sum(axis=1) == depth
    assert (entries["status"] == np.where(told, TOLD, OPEN)).all()
    assert counters["FLOWS_GATHERED"] == told.sum()


def source_of(tap: Bench, plan: FeaturePlan) -> FeatureSource:
    maps = tap.loaded.maps
    return FeatureSource(maps["packet_records"], 1 << 24, maps["features"], plan)


def gathering(loader: str, object_name: str = "", **settings: object):
    how = dict(capture="features", features=("s_bytes_sum", "d_bytes_sum", "dur"), max_flows=64)
    return bench(loader, object_name, **(how | dict(first_n=3) | settings))


def frame(port: int, size: int = 10) -> bytes:
    return captures.ether(captures.udp(size, sport=port))


@pytest.mark.parametrize(("loader", "object_name"), OBJECTS)
def test_a_row_is_told_once_with_the_last_packet(loader, object_name):
    with gathering(loader, object_name) as tap:  # bcc compiles for seconds: both programs of one
        for port, program in ((4000, "tc_track"), (4001, "xdp_track")):
            before = tap.counters()
            plan = plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 3, 1.0, 64)
            for size in (10, 20, 30, 40):
                tap.run(program, frame(port, size))
            with source_of(tap, plan) as source:
                rows = source.receive()
                assert len(source.receive()) == len(source.rest()) == 0
            after = tap.counters()
            moved = {name: n - before[name] for name, n in after.items() if "GATHER" in name}
            assert rows["key"]["a_port"].tolist() == [port]
            totals = Gathered(rows, plan).rows(("s_bytes_sum", "d_bytes_sum"))
            assert totals[0].tolist() == [144, 0]
            assert rows["reason"].tolist() == [CONSTANTS["READY_DEPTH"]]
            assert rows["ranks"].tolist() == [[7, 0]]
            told = {"PACKETS_GATHERED": 3, "FLOWS_GATHERED": 1}
            assert {name: n for name, n in moved.items() if n} == told


@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
def test_a_packet_after_the_waiting_time_closes_the_row_and_is_not_in_it(program):
    with gathering("libbpf", wait_s=0.02) as tap:
        plan = plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 3, 0.02, 64)
        tap.run(program, frame(4000, 10))
        sleep(0.03)
        tap.run(program, frame(4000, 20))
        with source_of(tap, plan) as source:
            rows = source.receive()
        assert tap.counters()["PACKETS_GATHERED_LATE"] == 1
    assert Gathered(rows, plan).rows(("s_bytes_sum",))[0].tolist() == [38]
    assert rows["reason"][0] == CONSTANTS["READY_IDLE"]
    assert rows["ready_ns"][0] == rows["first_ns"][0] + 20_000_000


def test_a_silent_flow_is_found_once_without_a_packet():
    with gathering("libbpf", wait_s=0.2) as tap:
        patient, plan = (
            plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 3, wait_s, 64) for wait_s in (60, 0.2)
        )
        tap.run("tc_track", frame(4000, 10))
        with source_of(tap, patient) as source:
            sleep(ROUND_S)
            assert len(source.receive()) == 0
        with source_of(tap, plan) as source:
            sleep(0.5)
            rows = source.receive()
            assert rows["reason"].tolist() == [CONSTANTS["READY_IDLE"]]
            sleep(0.5)
            tap.run("tc_track", frame(4000, 20))
            assert len(source.receive()) == len(source.rest()) == 0
        with source_of(tap, plan) as later:  # another consumer of the same tap
            assert len(later.rest()) == 0


@pytest.mark.parametrize("object_name", SHIPPED)
@pytest.mark.parametrize("depth", [2, 5])
def test_a_super_packet_is_the_packets_of_the_wire(object_name: str, depth: int) -> None:
    columns = ("s_bytes_sum", "s_bytes_min", "s_bytes_max", "s_payload_sum", "s_pkt_cnt")
    columns += ("ack_cnt", "psh_cnt", "fin_cnt", "cwr_cnt", "dur", "pkt2_size", "s_iat_med")
    flags = captures.ACK | captures.PSH | captures.FIN | 0x80  # CWR
    # struct __sk_buff: gso_segs at byte 164, gso_size at 176
    context = bytearray(184)
    struct.pack_into("<I", context, 164, 3)
    struct.pack_into("<I", context, 176, 1000)
    with gathering("libbpf", object_name, features=columns, first_n=depth) as tap:
        plan = plan_for(columns, depth, 1.0, 64)
        tap.run("tc_track", captures.ether(captures.tcp(2500, flags)), bytes(context))
        with source_of(tap, plan) as source:
            rows = np.concatenate([source.receive(), source.rest()], dtype=plan.dtype)
        counters = tap.counters()
    # 40 bytes of headers each; FIN and PSH are on the third, CWR on the first
    whole = [2620, 540, 1040, 2500, 3, 3, 1, 1, 1, 0, 1040, 0]
    first_two = [2080, 1040, 1040, 2000, 2, 2, 0, 0, 1, 0, 1040, 0]
    assert Gathered(rows, plan).rows(columns).tolist() == [first_two if depth == 2 else whole]
    assert counters["PACKETS_GATHERED"] == counters["PACKETS_FIRST_N"] == min(depth, 3)


def test_open_rows_come_at_the_end():
    with gathering("libbpf") as tap:
        plan = plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 3, 1.0, 64)
        for port in range(4000, 4005):
            tap.run("tc_track", frame(port))
        with source_of(tap, plan) as source:
            assert len(source.receive()) == 0
            rows = source.rest()
    assert sorted(rows["key"]["a_port"].tolist()) == [4000, 4001, 4002, 4003, 4004]
    assert set(rows["reason"]) == {CONSTANTS["READY_END"]}


def test_a_newer_flow_in_the_same_place_tells_the_older_one_first():
    with gathering("libbpf", count="all") as tap:
        plan = plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 3, 1.0, 64)
        tap.run("tc_track", frame(4000))
        for _ in range(64):  # one tuple that begins anew each time: more flows than rows
            for flags in (captures.SYN, captures.RST):
                tap.run("tc_track", captures.ether(captures.tcp(b"", flags)))
        tap.run("tc_track", frame(4000, 20))  # known, but its row is another flow's
        with source_of(tap, plan) as source:
            rows = np.concatenate([source.receive(), source.rest()], dtype=plan.dtype)
        counters = tap.counters()
    evicted = rows["reason"] == CONSTANTS["READY_EVICTED"]
    assert len(rows) == len(set(rows["flow_id"].tolist())) == 65
    assert (rows["key"]["protocol"][evicted].tolist(), rows["ranks"][evicted].tolist()) == (
        [17],
        [[1, 0]],
    )
    assert counters["PACKETS_NOT_GATHERED"] == 1


def test_a_full_ring_delays_rows_and_loses_those_whose_place_is_needed():
    page = mmap.PAGESIZE
    with gathering("libbpf", first_n=1, ringbuf_bytes=page) as tap:
        plan = plan_for(("s_bytes_sum", "d_bytes_sum", "dur"), 1, 1.0, 64)
        for port in range(4000, 4100):
            tap.run("tc_track", frame(port))
        maps = tap.loaded.maps
        with FeatureSource(maps["packet_records"], page, maps["features"], plan) as source:
            rows = np.concatenate([source.receive(), source.rest()], dtype=plan.dtype)
        counters = tap.counters()
    assert 0 < counters["FLOWS_GATHERED"] < 64
    assert counters["FLOWS_NOT_GATHERED"] > 0
    assert len(rows) == 100 - counters["FLOWS_NOT_GATHERED"]


@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_the_tap_classifies_without_a_packet_copied(wire: Wire, mode: str) -> None:
    """The same flows by features and by packets get the same verdicts, but for their times."""
    flows, packets = 56, 60

    def send() -> None:
        with netns.enter(wire.far):
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
        for number in range(packets):
            for i, sender in enumerate(senders):
                if number < i:
                    sender.sendto(bytes(100 + 7 * i + number), ("10.77.0.1", 9000))
        for sender in senders:
            sender.close()

    used: list[int] = []
    with live.attach(
        wire.device, capture="features", netns=wire.near, mode=mode, duration_s=60
    ) as tap:
        thread = threading.Thread(target=send)
        thread.start()
        stop_after(tap, lambda: len(used) >= flows - 1)
        for verdicts in tap:
            key = verdicts.flows.key
            ours = (key["a_port"] == 9000) | (key["b_port"] == 9000)
            used += verdicts.packets_used[ours].tolist()
        thread.join()
        counters, lost = tap.counters(), tap.lost()
    assert sorted(used) == sorted(min(i, packets, 50) for i in range(1, flows))
    assert counters["PACKETS_CLONED"] == counters["PACKETS_REDIRECTED"] == 0
    assert counters["PACKETS_GATHERED"] == counters["PACKETS_FIRST_N"]
    assert lost == {}
