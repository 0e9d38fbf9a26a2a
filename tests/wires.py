"""A test bed of client - box - server, and the box as a wire between the two."""

import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import numpy as np
import pytest
from kernel_fixtures import mapped, run
from waiting import until

from etcpipe.kernel import netns
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.tap import TapSettings
from etcpipe.layout import FLOW_KEY
from etcpipe.policy import rules as policy
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

ICMP = socket.IPPROTO_ICMP
CLIENT, SERVER = "10.88.0.1", "10.88.0.2"
PORT = 4433
# what a wire by XDP asks of the far ends of veth devices
FAR_END = "gro on tx off txvlan off tx-vlan-stag-hw-insert off"
SETTLE_S = 0.3
WITHIN_S = 20  # comes what is sent, on a busy machine too


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
        self.vlans: list[int] = []

    def drain(self, quiet_s: float = SETTLE_S) -> None:
        """Receive until nothing came for a while and all copies are here."""
        end, latest = monotonic() + quiet_s, monotonic() + WITHIN_S
        while monotonic() < end or (self._is_missing_copies() and monotonic() < latest):
            batch = self.ring.receive()
            for row in range(len(batch)):
                numbers = batch.flow_id[row], batch.rank[row], batch.direction[row]
                self.packets.append(tuple(map(int, numbers)))
                self.frames.append(bytes(batch.frame(row)))
            self.vlans += batch.vlan.tolist()
            if len(batch):
                end = monotonic() + quiet_s

    def _is_missing_copies(self) -> bool:
        """Is a copy still on its way? On a busy machine that takes longer than a while."""
        counted, lost = Counter(self.counters()), 0
        if isinstance(self.ring, Ring):
            at_ring = self.ring.statistics()
            lost = at_ring["rx_dropped"] + at_ring["rx_ring_full"]
            lost += counted["PACKETS_NO_CONSUMER"] + counted["PACKETS_POP_FAILED"]
        return len(self.packets) < counted["PACKETS_CLONED"] - lost

    def counters(self) -> dict[str, int]:
        return {name: n for name, n in self.forward.counters().items() if n}

    def ranks(self) -> list[int]:
        return [rank for _, rank, _ in self.packets]

    def state(self, protocol: int, from_port: int, to_port: int) -> np.ndarray:
        """Return the FLOW_STATE of the flow between a client's and a server's port."""
        key = np.zeros(1, FLOW_KEY)
        key["a_addr"], key["b_addr"] = (
            np.frombuffer(mapped(address), np.uint8) for address in (CLIENT, SERVER)
        )
        key["a_port"], key["b_port"] = from_port, to_port
        key["protocol"], key["ip_version"] = protocol, 4
        return self.forward.records(key)[0]

    def verdicts(self, from_port: int, to_port: int, action: int) -> None:
        """Give the UDP flow between two ports a verdict with an action."""
        flow_id = self.state(socket.IPPROTO_UDP, from_port, to_port)["flow_id"].reshape(1)
        word = policy.verdict_words(flow_id, np.array([0]), np.array([action], np.uint8))
        self.forward.verdicts[int(flow_id[0]) % len(self.forward.verdicts)] = word[0]


@contextmanager
def wire(bed: Bed, mode: str = "xdp", **settings: object) -> Iterator[Wire]:
    chosen = TapSettings(forward="p1", mode=mode, **settings)
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


@contextmanager
def connected(bed: Bed) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection's two ends, the client's first."""
    with bed.socket_in(bed.server, socket.AF_INET) as listener:
        listener.bind((SERVER, PORT))
        listener.listen()
        with bed.socket_in(bed.client, socket.AF_INET) as client:
            client.connect((SERVER, PORT))
            server, _ = listener.accept()
            with server:
                server.settimeout(5)
                yield client, server


def transferred(sender: socket.socket, receiver: socket.socket, size: int) -> int:
    """Send so many bytes; returns how many arrived."""
    thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
    thread.start()
    n = 0
    while n < size:
        n += len(receiver.recv(1 << 16))
    thread.join()
    return n
