"""With segmentation offloads on, models get what the wire carries, packet for packet.

A tapped end whose stack sends and receives super-packets (TSO, GRO, UDP GSO); behind it a
bridge whose far port has all of that off, so that a capture there shows the wire's packets.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import captures
import numpy as np
import pytest
from kernel_fixtures import run

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.capture import Capture
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

pytestmark = pytest.mark.root

NEAR, END, PORT = "10.78.0.1", "10.78.0.2", 5001
NEAR6, END6 = "fd00:78::1", "fd00:78::2"
FIRST_N, RAW_LEN, NEVER_S = 40, 1500, 86400.0
SIZE = 400_000
UDP_SEGMENT, SO_RCVBUFFORCE, ETH_P_ALL = 103, 33, 3
TCP_PSH = 0x08
OFF = "tso off gso off gro off tx-udp-segmentation off"


class Path3:
    """near (tapped, offloads on) - a bridge - end (a wire's packets)."""

    def __init__(self) -> None:
        name = f"etco{os.getpid()}"
        self.near, self.middle, self.end = f"{name}n", f"{name}m", f"{name}e"
        for namespace in (self.near, self.middle, self.end):
            run(f"ip netns add {namespace}")
            self.shell(namespace, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
        self.pair((self.near, "tap0"), (self.middle, "left"))
        self.pair((self.end, "end0"), (self.middle, "right"))
        run(f"ip -n {self.middle} link add bridge type bridge mcast_snooping 0")
        for device in ("left", "right"):
            run(f"ip -n {self.middle} link set {device} master bridge")
        run(f"ip -n {self.middle} link set bridge up")
        self.shell(self.middle, f"ethtool -K right {OFF}")
        self.shell(self.end, f"ethtool -K end0 {OFF}")
        self.shell(self.near, "ethtool -K tap0 gro on")
        for namespace, device, *addresses in (
            (self.near, "tap0", NEAR, NEAR6),
            (self.end, "end0", END, END6),
        ):
            for address in addresses:
                suffix = "/64 nodad" if ":" in address else "/24"
                run(f"ip -n {namespace} addr add {address}{suffix} dev {device}")

    @staticmethod
    def shell(namespace: str, command: str) -> str:
        return run(f"nsenter --net=/run/netns/{namespace} {command}")

    @staticmethod
    def pair(one: tuple[str, str], other: tuple[str, str]) -> None:
        run(f"ip -n {one[0]} link add {one[1]} type veth peer name {other[1]} netns {other[0]}")
        for namespace, device in (one, other):
            run(f"ip -n {namespace} link set {device} up")

    def close(self) -> None:
        for namespace in (self.near, self.middle, self.end):
            run(f"ip netns del {namespace}")


@pytest.fixture
def path() -> Iterator[Path3]:
    path = Path3()
    try:
        yield path
    finally:
        path.close()


@contextmanager
def wire_capture(path: Path3, file: Path) -> Iterator[None]:
    """Write what passes the end's device into a file, once the block is left."""
    frames: list[tuple[int, bytes]] = []
    with netns.enter(path.end):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        sniffer.bind(("end0", ETH_P_ALL))
    sniffer.settimeout(0.3)
    leaving = threading.Event()

    def sniff() -> None:
        while True:
            try:
                frame = sniffer.recv(70_000)
                frames.append((time.time_ns(), frame))
            except TimeoutError:
                if leaving.is_set():
                    return

    thread = threading.Thread(target=sniff)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()
        sniffer.close()
    assert max(len(frame) for _, frame in frames) <= 1514, "the end's device shows super-packets"
    captures.write(file, captures.pcap(frames))


def tcp_transfer(path: Path3, near: str, end: str) -> None:
    """Send many bytes from the tapped end to the other and back."""
    family = socket.AF_INET6 if ":" in near else socket.AF_INET
    payload = np.random.default_rng(5).bytes(SIZE)
    with netns.enter(path.near):
        server = socket.create_server((near, PORT), family=family)

    def serve() -> None:
        with server.accept()[0] as peer:
            peer.sendall(payload)
            while peer.recv(65536):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    with netns.enter(path.end):
        client = socket.socket(family)
    with client, server:
        client.settimeout(30)
        client.connect((near, PORT))
        received = 0
        while received < SIZE:
            received += len(client.recv(65536))
        client.sendall(payload[::-1])
        client.shutdown(socket.SHUT_WR)
        thread.join(30)


def udp_transfer(path: Path3, near: str, end: str) -> None:
    """Send two super-packets of UDP (UDP_SEGMENT), of ten and of three and a half segments."""
    family = socket.AF_INET6 if ":" in near else socket.AF_INET
    with netns.enter(path.near):
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with netns.enter(path.end):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((end, PORT))
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        payload = np.random.default_rng(6).bytes(10_000)
        sender.sendto(payload, (end, PORT))
        sender.sendto(payload[:3_500], (end, PORT))
        time.sleep(0.1)


def live(path: Path3, capture: str, mask: str, transfer) -> tuple[FlowBatch, dict[str, int]]:
    settings = TapSettings(first_n=FIRST_N, mode="tc", capture=capture)
    with ExitStack() as stack:
        tap = stack.enter_context(Tap("tap0", settings, netns=path.near))
        if capture == "ringbuf":
            ring = stack.enter_context(RingBuffer(tap.records_fd, settings.ringbuf_bytes, 0.3))
        else:
            with netns.enter(path.near):
                ring = stack.enter_context(Ring(tap.mirror_ifindex, idle_s=0.3))
            tap.bind(ring.fd)
        tap.set_filter(f"port {PORT}")  # what else is on the wire is not counted below
        tap.start()
        transfer()
        regroup = Regroup(FIRST_N, raw_len=RAW_LEN, wait_s=NEVER_S, mask=mask)
        rows = []
        while len(batch := ring.receive()):
            assert not batch.segment_len.any()
            rows.append(regroup.add(batch))
        flows = concatenate([*rows, regroup.flush()])
        assert not any(ring.statistics().values())
        return flows, tap.counters()


def offline(file: Path, mask: str) -> tuple[FlowBatch, int]:
    """Return the flows of the wire's packets, and how many packets there were."""
    capture = Capture([file], first_n=FIRST_N)
    regroup = Regroup(FIRST_N, raw_len=RAW_LEN, wait_s=NEVER_S, mask=mask)
    rows = [regroup.add(batch, capture.clock_ns()) for batch in capture]
    return concatenate([*rows, regroup.flush()]), capture.counters["PACKETS_SEEN"]


def of_port(flows: FlowBatch) -> FlowBatch:
    """Keep the transfer's flow; neighbours greet each other beside it."""
    return flows.select((flows.key["a_port"] == PORT) | (flows.key["b_port"] == PORT))


def by_content(flows: FlowBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return packets without their times and bytes without their transport checksums.

    The device computes that checksum behind the tap. Merging on the way between the tap and
    the end (GRO) moves PSH to the last packet of what it merged. Packets of the two directions
    may overtake each other there too: each direction is compared in its order.
    """
    packets, raw = flows.packets[0].copy(), flows.raw[0].copy()
    packets["timestamp_ns"] = 0
    ip_version, protocol = flows.key["ip_version"][0], flows.key["protocol"][0]
    at = (20 if ip_version == 4 else 40) + (16 if protocol == 6 else 6)
    raw[:, at : at + 2] = 0
    if protocol == 6:
        packets["tcp_flags"] &= ~np.uint8(TCP_PSH)
        raw[:, at - 3] &= ~np.uint8(TCP_PSH)
    order = np.argsort(packets["direction"], kind="stable")
    return packets[order], raw[order]


@pytest.mark.parametrize("mask", ["strict", "none"])
@pytest.mark.parametrize("capture", ["afxdp", "ringbuf"])
@pytest.mark.parametrize(
    "ends", [pytest.param((NEAR, END), id="IPv4"), pytest.param((NEAR6, END6), id="IPv6")]
)
@pytest.mark.parametrize("transfer", [tcp_transfer, udp_transfer])
def test_models_get_the_packets_of_the_wire(path, tmp_path, transfer, ends, capture, mask):
    file = tmp_path / "wire.pcap"

    def send() -> None:
        with wire_capture(path, file):
            transfer(path, *ends)

    flows, counted = live(path, capture, mask, send)
    of_wire, n_packets = offline(file, mask)
    seen, expected = of_port(flows), of_port(of_wire)

    ours = counted["PACKETS_SEEN"] - counted["PACKETS_FILTERED"]
    assert ours < n_packets * 0.8, "there were no super-packets"
    assert counted["PACKETS_FIRST_N"] == counted["PACKETS_CLONED"]
    assert len(seen) == len(expected) == 1
    assert (seen.lost[0], seen.key[0]) == (0, expected.key[0])
    for ours, theirs in zip(by_content(seen), by_content(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    seen.packets["timestamp_ns"] = expected.packets["timestamp_ns"]
    if (seen.packets["direction"] == expected.packets["direction"]).all():
        view = VIEWS["seq"]
        assert (
            compute(view, seen, FIRST_N, None).tobytes()
            == compute(view, expected, FIRST_N, None).tobytes()
        )
