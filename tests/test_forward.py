"""Forward mode in a test bed of client - box - server: everything passes, nothing is changed."""

import platform
import signal
import socket
import struct
import subprocess
import sys

import captures
import pytest
from command import ROOT
from kernel_fixtures import NEEDS_FORWARD, run
from waiting import until
from wires import CLIENT, PORT, SERVER, SETTLE_S, connected, exchange, transferred, udp, wire

from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import journal, netns, status
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.tap import TapSettings
from etcpipe.policy import rules as policy

pytestmark = [pytest.mark.root, NEEDS_FORWARD]

SOL_PACKET, PACKET_AUXDATA = 263, 8
MODES = ["xdp", "tc"]
WAYS = [(mode, capture) for mode in MODES for capture in ("afxdp", "ringbuf")]


@pytest.mark.parametrize(("mode", "capture"), WAYS)
def test_time_to_live_is_untouched_and_arp_passes(bed, mode, capture):
    with wire(bed, mode, capture=capture) as box:
        assert bed.ping(time_to_live=1) == 64  # a router would have ended it
        counters = box.counters()
    # two echoes; the client asks for the server's address, and its answer teaches both
    assert counters["PACKETS_NOT_IP"] == 2
    assert counters["PACKETS_SEEN"] == 4
    assert counters["PACKETS_TRACKED"] == 2


@pytest.mark.parametrize(("mode", "capture"), WAYS)
def test_datagrams_pass_both_ways_and_the_first_n_are_captured(bed, mode, capture):
    with wire(bed, mode, capture=capture) as box, udp(bed) as (client, server):
        bed.ping(64)
        exchange(client, server, 7)
        exchange(server, client, 20)
        box.drain()
        counters = box.counters()
    assert [(rank, direction) for _, rank, direction in box.packets] == [
        (rank, int(rank >= 7)) for rank in range(10)
    ]
    assert [frame[42] for frame in box.frames] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    assert counters["PACKETS_FIRST_N"] == counters["PACKETS_CLONED"] == 10
    assert counters["PACKETS_TRACKED"] == 2 + 27
    assert counters.get("PACKETS_NOT_FORWARDED", 0) == 0
    assert counters.get("MIRROR_DROPPED", 0) == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_frame_arrives_as_it_was_sent(bed, mode):
    sent = captures.ether(captures.udp(b"x" * 100, CLIENT, SERVER), [100, 200])
    with wire(bed, mode) as box:
        with netns.enter(bed.server):
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            receiver.bind(("s0", 0))
        with netns.enter(bed.client):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("c0", 0))
        with sender, receiver:
            receiver.settimeout(20)
            receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sender.send(sent)
            frame, ancillary, _, _ = receiver.recvmsg(2000, 100)
        box.drain()
    # the receiving stack takes the outer tag off the frame and tells it beside
    tci, protocol = struct.unpack_from("HH", ancillary[0][2], 16)
    assert frame[:12] + struct.pack(">HH", protocol, tci) + frame[12:] == sent
    # where TC has the frame, the kernel has taken the outer tag off; the batch tells it beside
    captured = sent if mode == "xdp" else sent[:12] + sent[16:]
    assert box.frames == [captured]
    assert box.vlans == [100]


@pytest.mark.parametrize(("mode", "capture"), WAYS)
def test_tcp_passes_both_ways_and_the_account_is_exact(bed, mode, capture):
    size = 3_000_000
    with wire(bed, mode, capture=capture) as box:
        with connected(bed) as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                assert transferred(sender, receiver, size) == size
        box.drain()
        counters = box.counters()
    assert sorted(box.ranks()) == list(range(10))
    assert counters["PACKETS_FIRST_N"] == 10
    assert counters["PACKETS_TRACKED"] == counters["PACKETS_SEEN"] - counters["PACKETS_NOT_IP"]
    assert counters["FLOWS_CREATED"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_drops_past_the_stack(bed, mode):
    with wire(bed, mode, policy=True) as box, udp(bed) as (client, server):
        rules = policy.parse('[[rule]]\nclass = "a"\naction = {drop = true}')
        box.forward.set_actions(rules.actions())
        exchange(client, server, 12)
        box.verdicts(PORT + 1, PORT, action=1)
        client.send(b"gone")
        server.settimeout(SETTLE_S)
        with pytest.raises(TimeoutError):
            server.recv(100)
        assert box.counters()["PACKETS_POLICY_DROP"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_a_filter_does_not_want_is_forwarded_all_the_same(bed, mode):
    with wire(bed, mode) as box, udp(bed) as (client, server):
        box.forward.set_filter("tcp")
        exchange(client, server, 3)
        unwanted = box.counters()
        box.forward.set_filter(f"udp port {PORT}")
        exchange(server, client, 2)
        box.drain()
    assert unwanted["PACKETS_FILTERED"] == 3 + 2  # ARP, too
    assert "PACKETS_TRACKED" not in unwanted
    assert box.ranks() == [0, 1]


DOWN = [
    pytest.param("ip -n {server} link set s0 down", id="far end"),
    pytest.param("ip -n {box} link set p1 down", id="port"),
]


@pytest.mark.parametrize("command", DOWN)
def test_what_the_other_port_does_not_take_is_counted(bed, command):
    with wire(bed) as box, udp(bed) as (client, server):
        exchange(client, server, 10)  # past the first N
        run(command.format(box=bed.box, server=bed.server))
        for _ in range(5):
            client.send(b"gone")
        until(lambda: box.counters()["PACKETS_NOT_FORWARDED"] >= 5)
        assert box.counters()["PACKETS_NOT_FORWARDED"] == 5


@pytest.mark.parametrize("settings", [{"mode": "xdp"}, {"mode": "tc"}, {"hook": "clsact"}])
def test_links_are_as_found_afterwards(bed, settings):
    before = bed.links()
    with wire(bed, **{"mode": "tc", **settings}):
        assert bed.links() != before
    assert bed.links() == before
    with netns.enter(bed.box):
        inode = netns.inode()
    assert not (journal.RUN / str(inode)).exists()
    assert not (journal.PINS / str(inode)).exists()


KILLED = """
import sys, time
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.tap import TapSettings
settings = TapSettings(forward="p1", mode=sys.argv[2])
with Forward("p0", settings, netns=sys.argv[1]) as forward:
    forward.start()
    print("ready", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("mode", MODES)
def test_the_wire_outlives_its_consumer_and_is_adopted(bed, mode):
    command = [sys.executable, "-c", KILLED, bed.box, mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process, udp(bed) as (client, server):
        assert process.stdout and process.stdout.readline() == "ready\n"
        exchange(client, server, 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        exchange(client, server, 3)
        with wire(bed, "auto") as box:
            assert (box.forward.adopted, box.forward.mode) == (True, mode)
            exchange(server, client, 4)
            box.drain()
            counters = box.counters()
    assert box.ranks() == [8, 9]
    assert counters["PACKETS_NO_CONSUMER"] == 8
    assert counters["FLOWS_CREATED"] == 1


def test_detach_ends_it(bed):
    with wire(bed) as box:
        assert status.detach("p0", bed.box)
        assert not box.forward.alive()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("port", ["p0", "p1"])
def test_detach_where_a_port_is_gone(bed, port, mode):
    with wire(bed, mode):
        run(f"ip -n {bed.box} link del {port}")
        assert status.detach("p0", bed.box)
    assert "etcm" not in run(f"ip -n {bed.box} link show")


REFUSALS = [
    pytest.param("p0", "", UsageError, "p0 cannot forward to itself", id="itself"),
    pytest.param("nope", "", DataplaneError, "no device nope here", id="no device"),
    pytest.param(
        "p1", "ip -n {box} link set p1 mtu 1400", UsageError, "MTU 1500 and p1 1400", id="MTU"
    ),
    pytest.param(
        "p1",
        "nsenter --net=/run/netns/{server} ethtool -K s0 gro off tx on txvlan on",
        UnsupportedError,
        "cannot forward by XDP: through p1: at its far end, ethtool -K s0 gro on tx off txvlan off",
        id="far end",
    ),
]


@pytest.mark.parametrize(("other", "command", "error", "message"), REFUSALS)
def test_what_cannot_forward_is_said_and_nothing_is_left(bed, other, command, error, message):
    if command:
        run(command.format(box=bed.box, server=bed.server))
    before = bed.links()
    with pytest.raises(error, match=message):
        Forward("p0", TapSettings(forward=other, mode="xdp"), netns=bed.box).__enter__()
    assert bed.links() == before


@pytest.mark.parametrize("capture", ["afxdp", "ringbuf"])
def test_an_older_kernel_is_refused(bed, monkeypatch, capture):
    monkeypatch.setattr(platform, "release", lambda: "5.10.0-32-amd64")
    before = bed.links()
    settings = TapSettings(forward="p1", mode="xdp", capture=capture)
    with pytest.raises(UnsupportedError, match=r"XDP that forwards needs Linux 5\.14, this is 5"):
        Forward("p0", settings, netns=bed.box).__enter__()
    assert bed.links() == before


def test_a_port_of_another_wire_is_named(bed):
    with wire(bed), pytest.raises(DataplaneError, match="p0 is tapped itself"):
        Forward("p1", TapSettings(forward="p0"), netns=bed.box).__enter__()


@pytest.mark.parametrize("settings", [{"queues": 2}, {"loader": "bcc"}])
def test_settings_that_a_wire_by_xdp_lacks(settings):
    with pytest.raises(UsageError, match="--forward --mode xdp: "):
        TapSettings(forward="p1", mode="xdp", **settings)
