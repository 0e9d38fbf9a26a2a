"""Forward mode in a test bed of client - box - server: everything passes, nothing is changed."""

import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import captures
import numpy as np
import pytest
from command import ROOT
from kernel_fixtures import NEEDS_FORWARD, mapped, run
from waiting import until

from etcpipe import policy
from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import journal, netns, tap
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.tap import TapSettings
from etcpipe.layout import FLOW_KEY
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

pytestmark = [pytest.mark.root, NEEDS_FORWARD]

ICMP = socket.IPPROTO_ICMP
CLIENT, SERVER = "10.88.0.1", "10.88.0.2"
FAR_END = "gro on tx off txvlan off tx-vlan-stag-hw-insert off"
SETTLE_S = 0.3
PORT = 4433
SOL_PACKET, PACKET_AUXDATA = 263, 8


class Bed:
    """A client's and a server's device, c0 and s0, and between them the box's p0 and p1."""

    def __init__(self, name: str):
        self.client, self.box, self.server = self.namespaces = [f"{name}{end}" for end in "cbs"]
        for namespace in self.namespaces:
            run(f"ip netns add {namespace}")
            # neither host says a word that a test does not ask for
            self.shell(namespace, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
        for end, device, port, address in (
            (self.client, "c0", "p0", CLIENT),
            (self.server, "s0", "p1", SERVER),
        ):
            run(f"ip -n {self.box} link add {port} type veth peer name {device} netns {end}")
            run(f"ip -n {self.box} link set {port} up")
            run(f"ip -n {end} addr add {address}/24 dev {device}")
            run(f"ip -n {end} link set {device} up")
            self.shell(end, f"ethtool -K {device} {FAR_END}")
        # told a little later
        until(lambda: run(f"ip -n {self.box} link show").count("state UP") == 2)

    @staticmethod
    def shell(namespace: str, command: str) -> str:
        return run(f"nsenter --net=/run/netns/{namespace} {command}")

    def ping(self, time_to_live: int) -> int:
        """Send an echo request; returns the time to live of the answer."""
        echo = struct.pack(">BBHHH", 8, 0, ~0x0803 & 0xFFFF, 1, 2)
        with self.socket_in(self.client, socket.AF_INET, socket.SOCK_RAW, ICMP) as raw:
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, time_to_live)
            raw.sendto(echo, (SERVER, 0))
            return raw.recv(100)[8]

    def links(self) -> list[str]:
        """Return what the box's devices are like, but for their numbers and counters."""
        return run(f"ip -n {self.box} -d link show").splitlines()

    @contextmanager
    def socket_in(self, namespace: str, *kind: int) -> Iterator[socket.socket]:
        with netns.enter(namespace):
            opened = socket.socket(*kind)
        with opened:
            opened.settimeout(5)
            yield opened

    def close(self) -> None:
        for namespace in self.namespaces:
            run(f"ip netns del {namespace}")


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed(f"etcw{os.getpid()}")
    try:
        yield bed
    finally:
        bed.close()


class Wire:
    """The box as a wire, and what came to its consumer."""

    def __init__(self, forward: Forward, ring: Ring | RingBuffer):
        self.forward, self.ring = forward, ring
        self.packets: list[tuple[int, int, int]] = []  # flow id, rank, direction
        self.frames: list[bytes] = []

    def drain(self, quiet_s: float = SETTLE_S) -> None:
        end = monotonic() + quiet_s
        while monotonic() < end:
            batch = self.ring.receive()
            for row in range(len(batch)):
                numbers = batch.flow_id[row], batch.rank[row], batch.direction[row]
                self.packets.append(tuple(map(int, numbers)))
                self.frames.append(bytes(batch.frame(row)))
            if len(batch):
                end = monotonic() + quiet_s

    def counters(self) -> dict[str, int]:
        return {name: n for name, n in self.forward.counters().items() if n}

    def ranks(self) -> list[int]:
        return [rank for _, rank, _ in self.packets]

    def verdicts(self, first_port: int, to_port: int, action: int) -> None:
        """Give the UDP flow between two ports a verdict with an action."""
        key = np.zeros(1, FLOW_KEY)
        key["a_addr"], key["b_addr"] = (
            np.frombuffer(mapped(address), np.uint8) for address in (CLIENT, SERVER)
        )
        key["a_port"], key["b_port"] = first_port, to_port
        key["protocol"], key["ip_version"] = socket.IPPROTO_UDP, 4
        flow_id = self.forward.records(key)["flow_id"]
        word = policy.verdict_words(flow_id, np.array([0]), np.array([action], np.uint8))
        self.forward.verdicts[int(flow_id[0]) % len(self.forward.verdicts)] = word[0]


@contextmanager
def wire(bed: Bed, **settings: object) -> Iterator[Wire]:
    chosen = TapSettings(forward="p1", **settings)
    with netns.enter(bed.box), Forward("p0", chosen) as forward:
        if chosen.capture == "ringbuf":
            ring = RingBuffer(forward.records_fd, chosen.ringbuf_bytes)
        else:
            ring = Ring(forward.mirror_ifindex)
        with ring:
            if chosen.capture != "ringbuf":
                forward.bind(ring.fd)
            forward.start()
            yield Wire(forward, ring)


WAYS = ["afxdp", "ringbuf"]


@contextmanager
def udp(bed: Bed) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket that talks to a server's, both told of each other."""
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    with bed.socket_in(bed.client, *kind) as client, bed.socket_in(bed.server, *kind) as server:
        client.bind((CLIENT, PORT + 1))
        server.bind((SERVER, PORT))
        client.connect((SERVER, PORT))
        server.connect((CLIENT, PORT + 1))
        yield client, server


def exchange(sender: socket.socket, receiver: socket.socket, n: int) -> None:
    """Send datagrams one by one, each of which must arrive."""
    for i in range(n):
        sender.send(bytes([i]))
        assert receiver.recv(100) == bytes([i])


@pytest.mark.parametrize("capture", WAYS)
def test_time_to_live_is_untouched_and_arp_passes(bed, capture):
    with wire(bed, capture=capture) as box:
        assert bed.ping(time_to_live=1) == 64  # a router would have ended it
        counters = box.counters()
    # two echoes; the client asks for the server's address, and its answer teaches both
    assert counters["PACKETS_NOT_IP"] == 2
    assert counters["PACKETS_SEEN"] == 4
    assert counters["PACKETS_TRACKED"] == 2


@pytest.mark.parametrize("capture", WAYS)
def test_datagrams_pass_both_ways_and_the_first_n_are_captured(bed, capture):
    with wire(bed, capture=capture) as box, udp(bed) as (client, server):
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


def test_a_frame_arrives_as_it_was_sent(bed):
    sent = captures.ether(captures.udp(b"x" * 100, CLIENT, SERVER), [100, 200])
    with wire(bed) as box:
        with netns.enter(bed.server):
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            receiver.bind(("s0", 0))
        with netns.enter(bed.client):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("c0", 0))
        with sender, receiver:
            receiver.settimeout(5)
            receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sender.send(sent)
            frame, ancillary, _, _ = receiver.recvmsg(2000, 100)
        box.drain()
    # the receiving stack takes the outer tag off the frame and tells it beside
    tci, protocol = struct.unpack_from("HH", ancillary[0][2], 16)
    assert frame[:12] + struct.pack(">HH", protocol, tci) + frame[12:] == sent
    assert [bytes(frame) for frame in box.frames] == [sent]


@pytest.mark.parametrize("capture", WAYS)
def test_tcp_passes_both_ways_and_the_account_is_exact(bed, capture):
    size = 3_000_000
    with wire(bed, capture=capture) as box:
        with bed.socket_in(bed.server, socket.AF_INET) as listener:
            listener.bind((SERVER, PORT))
            listener.listen()
            with bed.socket_in(bed.client, socket.AF_INET) as client:
                client.connect((SERVER, PORT))
                server, _ = listener.accept()
                with server:
                    server.settimeout(5)
                    for sender, receiver in ((client, server), (server, client)):
                        assert transferred(sender, receiver, size) == size
        box.drain()
        counters = box.counters()
    assert sorted(box.ranks()) == list(range(10))
    assert counters["PACKETS_FIRST_N"] == 10
    assert counters["PACKETS_TRACKED"] == counters["PACKETS_SEEN"] - counters["PACKETS_NOT_IP"]
    assert counters["FLOWS_CREATED"] == 1


def transferred(sender: socket.socket, receiver: socket.socket, size: int) -> int:
    """Send so many bytes; returns how many arrived."""
    thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
    thread.start()
    n = 0
    while n < size:
        n += len(receiver.recv(1 << 16))
    thread.join()
    return n


def test_a_policy_drops_past_the_stack(bed):
    with wire(bed, policy=True) as box, udp(bed) as (client, server):
        rules = policy.parse('[[rule]]\nclass = "a"\naction = {drop = true}')
        box.forward.set_actions(rules.actions())
        exchange(client, server, 12)
        box.verdicts(PORT + 1, PORT, action=1)
        client.send(b"gone")
        server.settimeout(SETTLE_S)
        with pytest.raises(TimeoutError):
            server.recv(100)
        assert box.counters()["PACKETS_POLICY_DROP"] == 1


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


def test_links_are_as_found_afterwards(bed):
    before = bed.links()
    with wire(bed):
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
with Forward("p0", TapSettings(forward="p1"), netns=sys.argv[1]) as forward:
    forward.start()
    print("ready", flush=True)
    time.sleep(30)
"""


def test_the_wire_outlives_its_consumer_and_is_adopted(bed):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, bed.box], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process, udp(bed) as (client, server):
        assert process.stdout and process.stdout.readline() == "ready\n"
        exchange(client, server, 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        exchange(client, server, 3)
        with wire(bed) as box:
            assert box.forward.adopted
            exchange(server, client, 4)
            box.drain()
            counters = box.counters()
    assert box.ranks() == [8, 9]
    assert counters["PACKETS_NO_CONSUMER"] == 8
    assert counters["FLOWS_CREATED"] == 1


def test_detach_ends_it(bed):
    with wire(bed) as box:
        assert tap.detach("p0", bed.box)
        assert not box.forward.alive()


@pytest.mark.parametrize("port", ["p0", "p1"])
def test_detach_where_a_port_is_gone(bed, port):
    with wire(bed):
        run(f"ip -n {bed.box} link del {port}")
        assert tap.detach("p0", bed.box)
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
        "cannot forward through p1: at its far end, ethtool -K s0 gro on tx off txvlan off",
        id="far end",
    ),
]


@pytest.mark.parametrize(("other", "command", "error", "message"), REFUSALS)
def test_what_cannot_forward_is_said_and_nothing_is_left(bed, other, command, error, message):
    if command:
        run(command.format(box=bed.box, server=bed.server))
    before = bed.links()
    with pytest.raises(error, match=message):
        Forward("p0", TapSettings(forward=other), netns=bed.box).__enter__()
    assert bed.links() == before


@pytest.mark.parametrize("capture", ["afxdp", "ringbuf"])
def test_an_older_kernel_is_refused(bed, monkeypatch, capture):
    monkeypatch.setattr(platform, "release", lambda: "5.10.0-32-amd64")
    before = bed.links()
    with pytest.raises(UnsupportedError, match=r"forward mode needs Linux 5\.14, this is 5"):
        Forward("p0", TapSettings(forward="p1", capture=capture), netns=bed.box).__enter__()
    assert bed.links() == before


def test_a_port_of_another_wire_is_named(bed):
    with wire(bed), pytest.raises(DataplaneError, match="p0 is tapped itself"):
        Forward("p1", TapSettings(forward="p0"), netns=bed.box).__enter__()


@pytest.mark.parametrize("settings", [{"mode": "tc"}, {"queues": 2}, {"loader": "bcc"}])
def test_settings_that_forward_mode_lacks(settings):
    with pytest.raises(UsageError, match="forward mode"):
        TapSettings(forward="p1", **settings)
