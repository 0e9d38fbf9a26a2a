"""The tap on live traffic: every packet passes, and every copy arrives or is accounted for."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic, monotonic_ns

import captures
import numpy as np
import pytest
from captures import ACK, PSH, SYN
from kernel_fixtures import LINUX, NEEDS_TCX, Wire, consumer, kill, mapped, run
from waiting import until

from etcpipe.kernel import netns
from etcpipe.kernel.links import MIRROR_SINCE
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import CONSTANTS, FLOW_KEY
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

pytestmark = pytest.mark.root

NEAR, FAR = "10.77.0.1", "10.77.0.2"
NEAR6, FAR6 = "fd00:77::1", "fd00:77::2"
SOL_PACKET, PACKET_VNET_HDR = 263, 15
WITHIN_S = 20  # comes what is sent, on a busy machine too
WAYS = [
    pytest.param({"mode": "tc", "hook": "tcx"}, id="tc by tcx", marks=NEEDS_TCX),
    pytest.param({"mode": "tc", "hook": "clsact"}, id="tc by clsact"),
    pytest.param({"mode": "xdp"}, id="xdp"),
    pytest.param({"mode": "tc", "capture": "ringbuf"}, id="tc into a ring buffer"),
    pytest.param({"mode": "xdp", "capture": "ringbuf"}, id="xdp into a ring buffer"),
]
AFXDP = WAYS[:3]
# seconds of compiling each; test_bcc.py has two other ways
BCC = [
    pytest.param({"loader": "bcc", **way}, id=name, marks=pytest.mark.exhaustive)
    for name, way in {
        "tc by bcc": {"mode": "tc"},
        "ring buffer by bcc": {"mode": "tc", "capture": "ringbuf"},
        "xdp by bcc": {"mode": "xdp", "capture": "ringbuf"},
    }.items()
]


@dataclass
class Packet:
    """A mirrored packet, kept beyond its batch."""

    meta: dict[str, int]
    frame: bytes


@dataclass
class Consumer:
    """A tap and its socket, and what came through them."""

    tap: Tap
    ring: Ring | RingBuffer
    packets: list[Packet] = field(default_factory=list)

    def drain(self, quiet_s: float = 0.3) -> list[Packet]:
        """Receive until nothing came for a while and all copies are here; returns all packets."""
        end, latest = monotonic() + quiet_s, monotonic() + WITHIN_S
        while monotonic() < end or (self.is_missing_copies() and monotonic() < latest):
            batch = self.ring.receive()
            for row in range(len(batch)):
                names = ("flow_id", "rank", "direction", "wire_len", "vlan", "segment_len")
                meta = {name: int(getattr(batch, name)[row]) for name in names}
                meta["timestamp_ns"] = int(batch.timestamp_ns[row])
                meta["ifindex"] = int(batch.ifindex[row])
                self.packets.append(Packet(meta, batch.frame(row).tobytes()))
                end = monotonic() + quiet_s
        return self.packets

    def is_missing_copies(self) -> bool:
        """Is a copy still on its way? On a busy machine that takes longer than a while."""
        return len(self.packets) < self.tap.counters()["PACKETS_CLONED"] - self._gone()

    def _gone(self) -> int:
        """Return how many copies did not reach the consumer."""
        if self.tap.settings.capture == "ringbuf":
            return 0
        counted, lost = self.tap.counters(), self.ring.statistics()
        reasons = [counted["PACKETS_NO_CONSUMER"], counted["PACKETS_POP_FAILED"]]
        return sum(reasons) + lost["rx_dropped"] + lost["rx_ring_full"]

    def assert_exact(self) -> None:
        """Every packet that counts was copied or counted, every copy arrived or was counted."""
        counted = self.tap.counters()
        assert counted["PACKETS_FIRST_N"] == sum(
            counted[name]
            for name in (
                "PACKETS_CLONED",
                "PACKETS_CLONE_FAILED",
                "PACKETS_PUSH_FAILED",
                "PACKETS_RINGBUF_FULL",
            )
        )
        if self.tap.settings.capture == "ringbuf":
            assert counted["PACKETS_CLONED"] == len(self.packets)
            return
        arrived = ("PACKETS_REDIRECTED", "PACKETS_NO_CONSUMER", "PACKETS_POP_FAILED")
        assert counted["PACKETS_CLONED"] == sum(counted[name] for name in arrived)
        lost = self.ring.statistics()
        losses = [lost["rx_dropped"], lost["rx_ring_full"]]  # dropped: the fill ring was empty
        assert counted["PACKETS_REDIRECTED"] == len(self.packets) + sum(losses)
        assert counted["PACKETS_FOREIGN"] == 0


@contextmanager
def consume(wire: Wire, way: dict | None = None, **settings: object) -> Iterator[Consumer]:
    if (way or {}).get("loader") == "bcc":
        pytest.importorskip("bcc", reason="no python3-bpfcc")
    chosen = TapSettings(**(way or {}), **settings)
    if chosen.capture == "afxdp" and LINUX < MIRROR_SINCE:
        pytest.skip("capture by AF_XDP needs a newer Linux")
    with ExitStack() as stack:
        tap = stack.enter_context(Tap(wire.device, chosen, netns=wire.near))
        if chosen.capture == "ringbuf":
            ring = stack.enter_context(RingBuffer(tap.records_fd, chosen.ringbuf_bytes, 0.05))
        else:
            with netns.enter(wire.near):
                ring = stack.enter_context(Ring(tap.mirror_ifindex, idle_s=0.05))
            tap.bind(ring.fd)
        tap.start()
        yield Consumer(tap, ring)


def flow_key(a: str, b: str, a_port: int, b_port: int, protocol: int) -> np.ndarray:
    key = np.zeros(1, FLOW_KEY)
    key["a_addr"], key["b_addr"] = (np.frombuffer(mapped(end), np.uint8) for end in (a, b))
    key["a_port"], key["b_port"], key["protocol"] = a_port, b_port, protocol
    key["ip_version"] = 6 if ":" in a else 4
    return key


@pytest.mark.parametrize("way", [*WAYS, *BCC])
def test_the_first_n_of_each_flow_arrive_with_their_ranks(wire: Wire, way: dict) -> None:
    before = monotonic_ns()
    with consume(wire, way) as live, wire.raw() as sender:
        for i in range(15):
            for port in (1001, 1002, 1003):
                packet = captures.udp(bytes([i]) * 100, FAR, NEAR, port, 9)
                sender.send(captures.ether(packet))
        packets = live.drain()
        live.assert_exact()
        state = live.tap.records(flow_key(NEAR, FAR, 9, 1002, 17))[0]

    ours = [p for p in packets if p.frame[23:24] == b"\x11" and p.frame[36:38] == b"\0\x09"]
    for port in (1001, 1002, 1003):
        flow = [p for p in ours if p.frame[34:36] == port.to_bytes(2, "big")]
        assert [p.meta["rank"] for p in flow] == list(range(10))
        assert [p.frame[-1] for p in flow] == list(range(10))
        assert len({p.meta["flow_id"] for p in flow}) == 1
    assert len({p.meta["flow_id"] for p in ours}) == 3
    assert {p.meta["direction"] for p in ours} == {0}
    assert {(p.meta["wire_len"], len(p.frame)) for p in ours} == {(142, 142)}
    assert {p.meta["vlan"] for p in ours} == {CONSTANTS["VLAN_NONE"]}
    assert {p.meta["segment_len"] for p in ours} == {0}
    assert {p.meta["ifindex"] for p in ours} == {2}
    times = [p.meta["timestamp_ns"] for p in ours]
    assert before < min(times) and max(times) < monotonic_ns() and times == sorted(times)
    assert state["packets"].tolist() == [15, 0]
    assert state["bytes"].tolist() == [15 * 142, 0]
    assert (state["counted"], state["lost"]) == (15, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("near", [NEAR, NEAR6])
def test_a_tcp_transfer_both_ways(wire: Wire, way: dict, near: str) -> None:
    with consume(wire, way, first_n=20) as live:
        received = transfer(wire, near, up=3_000, down=300_000)
        packets = live.drain()
        live.assert_exact()

    assert received == (3_000, 300_000)
    port = (5001).to_bytes(2, "big")
    offset = 34 if near == NEAR else 54
    ours = [
        p
        for p in packets
        if port in (p.frame[offset : offset + 2], p.frame[offset + 2 : offset + 4])
    ]
    ranks = [p.meta["rank"] for p in ours]
    # super-packets too (TSO of the near stack) come as the packets that they are on the wire
    assert ranks == list(range(20))
    assert {p.meta["segment_len"] for p in ours} == {0}
    assert {p.meta["wire_len"] for p in ours if len(p.frame) > 1000} == {1514}
    assert all(p.meta["wire_len"] == len(p.frame) for p in ours)
    assert {p.meta["direction"] for p in ours} == {0, 1}
    # the far end opened the flow: what its port sent is direction 0
    for packet in ours:
        sent_by_server = packet.frame[offset : offset + 2] == port
        assert packet.meta["direction"] == int(sent_by_server)


def transfer(wire: Wire, near: str, up: int, down: int) -> tuple[int, int]:
    """Send so many bytes each way over TCP; returns how many arrived."""
    family = socket.AF_INET6 if ":" in near else socket.AF_INET
    with netns.enter(wire.near):
        server = socket.create_server((near, 5001), family=family)
    counts = [0]

    def serve() -> None:
        with server.accept()[0] as end:
            counts[0] = read_all(end)
            end.sendall(bytes(down))

    thread = threading.Thread(target=serve)
    thread.start()
    with netns.enter(wire.far):
        client = socket.socket(family, socket.SOCK_STREAM)
    with client, server:
        client.settimeout(WITHIN_S)
        client.connect((near, 5001))
        client.sendall(bytes(up))
        client.shutdown(socket.SHUT_WR)
        answered = read_all(client)
        thread.join(WITHIN_S)
    return counts[0], answered


def read_all(end: socket.socket) -> int:
    end.settimeout(WITHIN_S)
    return sum(len(part) for part in iter(lambda: end.recv(65536), b""))


@pytest.mark.parametrize("way", WAYS)
def test_vlan_tags_are_told(wire: Wire, way: dict) -> None:
    """XDP sees tags in the frame, TC beside it at ingress, and in it as a raw socket sent it."""
    with consume(wire, way) as live:
        with wire.raw() as arriving, wire.raw(wire.device) as leaving:
            arriving.send(captures.ether(captures.udp(b"y" * 90, FAR, NEAR, 1001, 9), [7]))
            arriving.send(captures.ether(captures.udp(b"z" * 80, FAR, NEAR, 1002, 9), [0x2064, 9]))
            leaving.send(captures.ether(captures.udp(b"x" * 100, NEAR, FAR, 1003, 9), [11]))
        packets = live.drain()
        live.assert_exact()
        keys = [flow_key(NEAR, FAR, 9, 1001, 17), flow_key(NEAR, FAR, 9, 1002, 17)]
        keys.append(flow_key(NEAR, FAR, 1003, 9, 17))
        states = live.tap.records(np.concatenate(keys))

    tags = {p.frame[-1:]: (p.meta["vlan"], p.meta["wire_len"]) for p in packets}
    assert (tags[b"y"], tags[b"z"], tags[b"x"]) == ((7, 136), (0x2064, 130), (11, 146))
    assert states["bytes"][:, 0].tolist() == [136, 130, 146]


def test_frames_are_cut_to_the_snap_length(wire: Wire) -> None:
    with consume(wire, snap_len=200) as live, wire.raw() as sender:
        sender.send(captures.ether(captures.udp(bytes(range(256)) * 4, FAR, NEAR, 1001, 9)))
        sender.send(captures.ether(captures.udp(b"short", FAR, NEAR, 1001, 9)))
        packets = [p for p in live.drain() if p.frame[23:24] == b"\x11"]
        live.assert_exact()

    assert [(p.meta["wire_len"], len(p.frame)) for p in packets] == [(1066, 200), (47, 47)]
    assert packets[0].frame[42:] == bytes(range(158))


def test_headers_that_are_not_linear_are_read(wire: Wire) -> None:
    for namespace, device in ((wire.near, wire.device), (wire.far, wire.peer)):
        run(f"ip -n {namespace} link set {device} mtu 9000")
    # struct virtio_net_hdr: hdr_len bytes of a large frame are linear, the rest is in pages
    virtio = struct.pack("<BBHHHH", 0, 0, 14, 0, 0, 0)
    frame = captures.ether(captures.udp(bytes(5000), NEAR, FAR, 1001, 9))
    with consume(wire, {"mode": "tc"}) as live, wire.raw(wire.device) as sender:
        sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sender.send(virtio + frame)
        packets = [p for p in live.drain() if p.meta["wire_len"] == len(frame)]
        live.assert_exact()

        assert live.tap.counters()["PACKETS_MALFORMED"] == 0
    assert [p.frame for p in packets] == [frame[:1600]]


@pytest.mark.parametrize("way", AFXDP)
def test_a_burst_beyond_the_ring_loses_copies_but_no_count(wire: Wire, way: dict) -> None:
    with ExitStack() as stack:
        tap = stack.enter_context(Tap(wire.device, TapSettings(**way), netns=wire.near))
        with netns.enter(wire.near):
            ring = stack.enter_context(
                Ring(tap.mirror_ifindex, frames=1024, ring_size=1024, idle_s=0.05)
            )
        tap.bind(ring.fd)
        tap.start()
        live = Consumer(tap, ring)
        sender = stack.enter_context(wire.raw())
        for port in range(1000, 5000):
            sender.send(captures.ether(captures.udp(b"x" * 10, FAR, NEAR, port, 9)))
        live.drain()
        live.assert_exact()
        counted = tap.counters()

    assert counted["PACKETS_FIRST_N"] >= 4000
    assert len(live.packets) < 4000


@pytest.mark.skipif(LINUX < MIRROR_SINCE, reason="capture by AF_XDP needs a newer Linux")
def test_without_a_consumer_copies_are_counted_and_dropped(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as tap, wire.raw() as sender:
        tap.start()
        for _ in range(12):
            sender.send(captures.ether(captures.udp(b"x", FAR, NEAR, 1001, 9)))
        until(lambda: tap.counters()["PACKETS_NO_CONSUMER"] == 10)

        counted = tap.counters()
        assert (counted["PACKETS_CLONED"], counted["PACKETS_REDIRECTED"]) == (10, 0)


def test_an_adopted_tap_delivers_to_the_next_socket(wire: Wire) -> None:
    kill(consumer(wire.device, wire.near))
    with consume(wire) as live, wire.raw() as sender:
        assert live.tap.adopted
        for _ in range(3):
            sender.send(captures.ether(captures.udp(b"x" * 50, FAR, NEAR, 1001, 9)))
        packets = [p for p in live.drain() if p.frame.endswith(b"x" * 50)]
        live.assert_exact()

    assert [p.meta["rank"] for p in packets] == [0, 1, 2]


def test_traffic_passes_as_before(wire: Wire) -> None:
    with netns.enter(wire.near):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netns.enter(wire.far):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client, consume(wire, {"mode": "tc"}) as live:
        server.bind((NEAR, 9))
        server.settimeout(2)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for i in range(200):
            client.sendto(i.to_bytes(2, "big"), (NEAR, 9))
        payloads = [int.from_bytes(server.recv(100), "big") for _ in range(200)]
        live.drain()
        live.assert_exact()

    assert payloads == list(range(200))


def test_a_syn_ack_tells_who_began(wire: Wire) -> None:
    with consume(wire) as live, wire.raw() as sender:
        sender.send(captures.ether(captures.tcp(b"", SYN | ACK, FAR, NEAR, 443, 4000)))
        sender.send(captures.ether(captures.tcp(b"answer", PSH | ACK, FAR, NEAR, 443, 4000)))
        packets = [p for p in live.drain() if p.frame.endswith(b"answer")]

    assert [(p.meta["rank"], p.meta["direction"]) for p in packets] == [(0, 1)]
