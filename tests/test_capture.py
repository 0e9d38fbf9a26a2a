"""Capture files of every kind, read whole."""

import os
import signal
import threading
from contextlib import contextmanager

import captures
import numpy as np
import pytest
from captures import ACK, CLIENT6, PSH, SERVER6, SYN, ether, pcap, pcapng, tcp, udp, write

from etcpipe.batch import FlowBatch
from etcpipe.capture import Capture
from etcpipe.layout import CONSTANTS

S = 10**9
START = 1_700_000_000 * S
VLAN_NONE = CONSTANTS["VLAN_NONE"]

# A short conversation: the client asks twice, the server answers once.
TALK = [
    (START, ether(tcp(flags=SYN))),
    (
        START + 10,
        ether(tcp(flags=SYN | ACK, src="10.0.0.2", dst="10.0.0.1", sport=443, dport=40000)),
    ),
    (START + 2_000, ether(tcp(100, PSH | ACK))),
    (START + 3_000, ether(tcp(1000, src="10.0.0.2", dst="10.0.0.1", sport=443, dport=40000))),
    (START + 5_000, ether(tcp(7, PSH | ACK))),
]


def read(*paths, **settings):
    """Return (capture, its rows as tuples, records of all flows)."""
    capture = Capture(paths, **settings)
    rows = [
        (
            int(batch.flow_id[i]),
            int(batch.rank[i]),
            int(batch.direction[i]),
            int(batch.timestamp_ns[i]),
            int(batch.wire_len[i]),
            batch.frame(i).tobytes(),
        )
        for batch in capture
        for i in range(len(batch))
    ]
    return capture, rows, capture.finish()


EXPECTED = [
    (1, 0, 0, START + 2_000, 154, TALK[2][1]),
    (1, 1, 1, START + 3_000, 1054, TALK[3][1]),
    (1, 2, 0, START + 5_000, 61, TALK[4][1]),
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda order: pcap(TALK, order=order, nanoseconds=True), id="pcap ns"),
        pytest.param(lambda order: pcapng(TALK, order=order, digits=9), id="pcapng ns"),
    ],
)
def test_nanoseconds_in_either_byte_order(tmp_path, make, order):
    capture, rows, records = read(write(tmp_path / "a", make(order)))
    assert rows == EXPECTED
    assert records["state"]["packets"].tolist() == [[3, 2]]
    assert records["state"]["bytes"].tolist() == [[54 + 154 + 61, 54 + 1054]]
    assert records["reason"].tolist() == [CONSTANTS["END_SOURCE"]]
    assert capture.warnings == []


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_microseconds_in_either_byte_order(tmp_path, make, order):
    _, rows, records = read(write(tmp_path / "a", make(TALK, order=order)))
    assert rows == EXPECTED
    # the SYN+ACK, 10 ns later, falls on the same microsecond
    assert records["state"][["first_ns", "last_ns"]].tolist() == [(START, START + 5_000)]


@pytest.mark.parametrize("digits", [3, 6, 9])
def test_pcapng_time_resolution(tmp_path, digits):
    packets = [(START + 7_000_000, ether(udp(5)))]
    _, rows, _ = read(write(tmp_path / "a", pcapng(packets, digits=digits)))
    assert rows[0][3] == START + 7_000_000


def test_time_after_2038(tmp_path):
    late = 4_000_000_000 * S  # a pcap file's seconds are 32 bits without a sign
    _, rows, _ = read(write(tmp_path / "a", pcap([(late, ether(udp(5)))])))
    assert rows[0][3] == late


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(udp(20), id="IPv4"),
        pytest.param(udp(20, src=CLIENT6, dst=SERVER6), id="IPv6"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("link_type", [0, 1, 9, 12, 14, 50, 101, 104, 108, 113, 228, 229, 276])
def test_link_types(tmp_path, link_type, order, packet):
    frame = captures.link(packet, link_type, order)
    file = write(tmp_path / "a", pcap([(START, frame)], link_type, order=order))
    capture = Capture([file])
    (batch,) = list(capture)
    assert batch.link_type in (link_type, 12)  # libpcap gives one number to all raw IP
    assert batch.frame(0).tobytes() == frame
    (record,) = capture.finish()
    assert record["key"]["ip_version"] == packet[0] >> 4
    assert record["key"]["protocol"] == 17
    assert sorted(record["key"][["a_port", "b_port"]].tolist()) == [443, 40000]
    assert record["state"]["bytes"].tolist() == [len(frame), 0]


@pytest.mark.parametrize("link_type", [captures.PPP, captures.PPP_HDLC, captures.CISCO_HDLC])
@pytest.mark.parametrize(
    "header",
    ["0021", "ff030021", "0f000800", "8f000800"],
    ids=["PPP", "framed PPP", "Cisco HDLC", "Cisco HDLC multicast"],
)
def test_serial_lines_by_their_first_bytes(tmp_path, link_type, header):
    frame = bytes.fromhex(header) + udp(20)
    capture, rows, _ = read(write(tmp_path / "a", pcap([(START, frame)], link_type)))
    assert [row[-1] for row in rows] == [frame]
    assert capture.counters["PACKETS_TRACKED"] == 1


@pytest.mark.parametrize(
    "header", ["c021", "ff03c021", "0f008035"], ids=["LCP", "framed LCP", "SLARP"]
)
def test_control_packets_of_serial_lines_are_not_ip(tmp_path, header):
    frame = bytes.fromhex(header) + udp(20)
    capture, rows, _ = read(write(tmp_path / "a", pcap([(START, frame)], captures.PPP)))
    assert rows == []
    assert capture.counters["PACKETS_NOT_IP"] == 1


def test_cooked_capture_with_vlan_tag(tmp_path):
    packet = udp(20)
    tagged = captures.link(packet, captures.SLL)[:14] + b"\x81\x00\x20\x05\x08\x00" + packet
    capture = Capture([write(tmp_path / "a", pcap([(START, tagged)], captures.SLL))])
    (batch,) = list(capture)
    assert batch.vlan.tolist() == [0x2005]


@pytest.mark.parametrize(
    ("vlans", "expected"), [((), VLAN_NONE), ((0x2005,), 0x2005), ((7, 0x2005), 7)]
)
def test_outer_vlan_tag(tmp_path, vlans, expected):
    capture = Capture([write(tmp_path / "a", pcap([(START, ether(udp(20), vlans))]))])
    (batch,) = list(capture)
    assert batch.vlan.tolist() == [expected]
    assert capture.counters["PACKETS_TRACKED"] == 1


def test_snapped_frames_keep_their_wire_length(tmp_path):
    file = write(tmp_path / "a", pcap([(START, ether(tcp(1000)))], snap_len=96))
    _, rows, records = read(file)
    assert rows[0][4:] == (1054, ether(tcp(1000))[:96])
    assert records["state"]["bytes"].tolist() == [[1054, 0]]


def test_frames_are_cut_to_the_snap_length_of_live_traffic(tmp_path):
    frame = ether(udp(5000))
    _, rows, _ = read(write(tmp_path / "a", pcap([(START, frame)])))
    assert rows[0][4:] == (len(frame), frame[: CONSTANTS["SNAP_LEN_DEFAULT"]])


def test_flows_live_on_from_file_to_file(tmp_path):
    first = write(tmp_path / "a", pcap(TALK[:3]))
    second = write(tmp_path / "b", pcapng(TALK[3:]))
    _, rows, records = read(first, second)
    assert rows == EXPECTED
    assert len(records) == 1


def test_batches_do_not_mix_link_types(tmp_path):
    first = write(tmp_path / "a", pcap(TALK[2:4]))
    cooked = captures.link(tcp(7, PSH | ACK), captures.SLL)
    second = write(tmp_path / "b", pcap([(START + 5_000, cooked)], captures.SLL))
    capture = Capture([first, second])
    seen = [(batch.link_type, batch.rank.tolist()) for batch in capture if len(batch)]
    assert seen == [(1, [0, 1]), (113, [2])]


def test_batches_hold_at_most_1024_packets(tmp_path):
    packets = [(START + i, ether(udp(5, sport=1 + i))) for i in range(2500)]
    capture = Capture([write(tmp_path / "a", pcap(packets))])
    sizes, ids = [], []
    for batch in capture:
        sizes.append(len(batch))
        ids += batch.flow_id.tolist()
    assert sizes == [1024, 1024, 452]
    assert ids == list(range(1, 2501))


def test_only_the_first_n_come_out(tmp_path):
    packets = [(START + i, ether(udp(5))) for i in range(50)]
    capture, rows, records = read(write(tmp_path / "a", pcap(packets)), first_n=3)
    assert [row[1] for row in rows] == [0, 1, 2]
    assert records["state"]["counted"].tolist() == [50]
    assert capture.counters["PACKETS_FIRST_N"] == 3


@pytest.mark.parametrize(("count", "ranks"), [("payload", 3), ("all", 5), ("non_ack", 4)])
def test_count_rules(tmp_path, count, ranks):
    packets = [
        (START, ether(tcp(flags=SYN))),
        (START + 1, ether(tcp(flags=ACK))),
        (START + 2, ether(tcp(5, PSH | ACK))),
        (START + 3, ether(tcp(5, PSH | ACK))),
        (START + 4, ether(tcp(5, captures.FIN | ACK))),
    ]
    _, rows, _ = read(write(tmp_path / "a", pcap(packets)), count=count)
    assert [row[1] for row in rows] == list(range(ranks))


def test_filter_takes_packets_out(tmp_path):
    packets = [(START + i, ether(udp(5, dport=port))) for i, port in enumerate([53, 443, 53])]
    file = write(tmp_path / "a", pcap(packets))
    capture, _, records = read(file, filter="udp port 53")
    assert capture.counters["PACKETS_SEEN"] == 2
    assert records["state"]["packets"].tolist() == [[2, 0]]


def test_pipe(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(pcap(TALK),))
    writer.start()
    capture, rows, _ = read(fifo)
    writer.join()
    assert rows == EXPECTED
    assert capture.progress == (len(pcap(TALK)), None)


@contextmanager
def alarm(handler):
    """Run the handler on a signal that comes soon."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe():
    """The path of a pipe, and the descriptor that writes to it."""
    reader, writer = os.pipe()
    yield f"/dev/fd/{reader}", writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("there", [0, 10, 24, 30], ids="{} bytes".format)
def test_interrupt_ends_the_wait_for_a_pipe(pipe, there):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    path, writer = pipe
    os.write(writer, pcap(TALK)[:there])
    with alarm(interrupt), pytest.raises(KeyboardInterrupt):
        list(Capture([path]))


def test_packets_of_a_pipe_are_not_held_until_more_come(pipe):
    def interrupt(number, frame):
        raise TimeoutError

    path, writer = pipe
    os.write(writer, pcap(TALK))
    batches = Capture([path]).ahead()
    rows = 0
    with alarm(interrupt):
        while rows < len(EXPECTED):
            rows += len(next(batches))
        after = next(batches)
    assert (rows, len(after)) == (len(EXPECTED), 0)


def test_other_signals_do_not_damage_a_pipe(tmp_path, pipe):
    path, writer = pipe
    content = pcap(TALK)
    os.write(writer, content[:100])  # in the middle of a packet

    def write_the_rest(number, frame):
        os.write(writer, content[100:])
        end = os.open(os.devnull, os.O_WRONLY)
        os.dup2(end, writer)  # closes the pipe
        os.close(end)

    with alarm(write_the_rest):
        capture, rows, _ = read(path)
    assert rows == EXPECTED
    assert capture.warnings == []


def test_progress_reaches_the_whole(tmp_path):
    files = [write(tmp_path / "a", pcap(TALK)), write(tmp_path / "b", pcapng(TALK))]
    size = sum(file.stat().st_size for file in files)
    calls = []
    capture, _, _ = read(*files, on_progress=lambda *progress: calls.append(progress))
    assert capture.progress == (size, size)
    assert calls[-1] == (size, size)


def flows_with(**columns):
    """Return a FlowBatch of which only some columns matter."""
    names = FlowBatch.__dataclass_fields__
    return FlowBatch(**{name: columns.get(name, np.empty(0)) for name in names})


def test_records_of_flows_so_far(tmp_path):
    packets = [(START + i, ether(udp(5, sport=port))) for i, port in enumerate([1, 2, 1])]
    file = write(tmp_path / "a", pcap(packets))
    keys = read(file)[2]["key"]
    capture = Capture([file])
    list(capture)
    states = capture.records(flows_with(flow_id=np.array([1, 2]), key=keys))
    assert states["flow_id"].tolist() == [1, 2]
    assert states["packets"].tolist() == [[2, 0], [1, 0]]
    # a flow of the same tuple that is no longer, or not yet
    states = capture.records(flows_with(flow_id=np.array([1, 77]), key=keys))
    assert states["flow_id"].tolist() == [1, 0]


def test_clock_is_the_last_packets(tmp_path):
    capture = Capture([write(tmp_path / "a", pcap(TALK))])
    assert capture.clock_ns() is None
    list(capture)
    assert capture.clock_ns() == START + 5_000


def test_what_came_through_a_pipe_is_not_held_back():
    stream = pcap(TALK)
    last = len(pcap(TALK[-1:])) - len(pcap([]))
    with fed_by_hand() as feed:
        feed(stream[:-last])
        packets = (1 for batch in Capture(["-"]) for _ in range(len(batch)))
        assert next(packets) + next(packets) == 2  # the writer has not sent the rest
        feed(stream[-last:])
        assert next(packets) == 1  # nor closed


@contextmanager
def fed_by_hand():
    """Make standard input a pipe; yields what writes into it."""
    inner, outer = os.pipe()
    before = os.dup(0)
    os.dup2(inner, 0)
    os.close(inner)
    try:
        yield lambda data: os.write(outer, data)
    finally:
        os.close(outer)
        os.dup2(before, 0)
        os.close(before)
