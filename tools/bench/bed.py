"""The test bed: client - router - server in namespaces, and what is attached to the router.

The namespaces are those of the lab (etcpipe.lab.network), without shaping.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etcpipe.kernel import bpf, hooks, libbpf, links, netns
from etcpipe.lab.network import AddressPlan, Links, Network
from etcpipe.lab.processes import is_listening, wait_until

HERE = Path(__file__).parent
PORT = 5201  # of the first pair
STREAMS_MAX = 128  # of one iperf3
READY_WITHIN_S = 20.0
METER_PRIORITY = 2
SLACK_S = 1.5  # a busy machine measures a little longer than it was told
TRAFFIC_BYTES = 10_000_000
ESTABLISHED = "01"  # of /proc/net/tcp, as TCP_ESTABLISHED of include/net/tcp_states.h


@dataclass
class Bed:
    """A client, a router and a server; their programs start with the functions below."""

    network: Network
    server_address: str

    @property
    def router(self) -> str:
        return self.network.router

    @property
    def device(self) -> str:
        """The router's device towards the client."""
        return self.network.device

    def set_segmentation(self, is_on: bool) -> None:
        """Let the end hosts send super-packets (TSO), or only packets as on a wire."""
        for namespace in (self.network.client, self.network.server):
            state = "on" if is_on else "off"
            _check(["ip", "netns", "exec", namespace, "ethtool", "-K", "wan0", "tso", state])

    @contextmanager
    def transfer(
        self,
        streams: int,
        seconds: float,
        cpus: tuple[int, int],
        fifo: bool = False,
        mbits: int | None = None,
    ) -> Iterator["Meter"]:
        """Send TCP from the client to the server for the length of the block.

        Args:
            streams: parallel connections; a pair of iperf3 has STREAMS_MAX at most.
            seconds: that the block takes; the transfer ends by itself soon after.
            cpus: where the client and the server run.
            fifo: run both at real-time priority, so that other work disturbs them less.
            mbits: of a connection at most, Mbit/s; None: as much as goes through.
        """
        priority = ["chrt", "-f", "1"] if fifo else []
        on_client, on_server = ([*priority, "taskset", "-c", str(cpu)] for cpu in cpus)
        streams_of = dict(enumerate(shared(streams), PORT))
        with ExitStack() as stack:

            def run(namespace: str, *argv: str) -> subprocess.Popen:
                return stack.enter_context(_running(namespace, list(argv)))

            servers = [run(self.network.server, *on_server, *self._server(p)) for p in streams_of]
            for receiver, port in zip(servers, streams_of, strict=True):
                self._wait_for_server(receiver, port)
            how = ["-t", str(math.ceil(seconds + SLACK_S)), *(["-b", f"{mbits}M"] if mbits else [])]
            clients = [
                run(self.network.client, *on_client, *self._client(port), "-P", str(n), *how)
                for port, n in streams_of.items()
            ]
            meter = Meter(servers[0], connections=streams + len(clients))
            with _ahead_of_both() if fifo else nullcontext():
                meter.wait_for_traffic()
                yield meter
            for process in (*clients, *servers):
                process.wait(seconds + READY_WITHIN_S)

    def _server(self, port: int) -> list[str]:
        return ["iperf3", "-s", "-1", "-p", str(port), "-B", self.server_address]

    def _client(self, port: int) -> list[str]:
        return ["iperf3", "-c", self.server_address, "-p", str(port)]

    def _wait_for_server(self, process: subprocess.Popen, port: int) -> None:
        def ready() -> bool:
            return is_listening(self.network.server, "tcp", self.server_address, port)

        wait_until(ready, process, Path(os.devnull), READY_WITHIN_S)


def shared(streams: int) -> list[int]:
    """Return the streams of each pair of iperf3, as few pairs as can have so many."""
    pairs = math.ceil(streams / STREAMS_MAX)
    return [streams // pairs + (pair < streams % pairs) for pair in range(pairs)]


class Meter:
    """What comes in at the server's device while iperf3 runs there, counted by the kernel."""

    def __init__(self, receiver: subprocess.Popen, connections: int):
        self._receiver, self._connections = receiver, connections

    def gbits(self, seconds: float) -> float:
        """Return Gbit/s over the next seconds, headers included."""
        before, started = self._received(), time.monotonic()
        time.sleep(seconds)
        after, ended = self._received(), time.monotonic()
        return 8e-9 * (after - before) / (ended - started)

    def wait_for_traffic(self) -> None:
        """Wait until all connections are there and carry more than what opens them."""
        at_first = self._received()

        def is_flowing() -> bool:
            return (
                self._received() - at_first > TRAFFIC_BYTES
                and self._established() >= self._connections
            )

        wait_until(is_flowing, self._receiver, Path(os.devnull), READY_WITHIN_S)

    def _established(self) -> int:
        _, *rows = Path(f"/proc/{self._receiver.pid}/net/tcp").read_text().splitlines()
        return sum(row.split()[3] == ESTABLISHED for row in rows)

    def _received(self) -> int:
        table = Path(f"/proc/{self._receiver.pid}/net/dev").read_text()
        return int(table.split("wan0:")[1].split()[0])


@contextmanager
def bed(seed: int = 1) -> Iterator[Bed]:
    """Make the namespaces for the length of the block.

    Raises:
        LabError: not root, or the kernel refused.
    """
    plan = AddressPlan(np.random.default_rng(seed))
    links_as_they_are = Links(offloads=True, rate_mbit=0, rtt_ms=None)
    network = Network(f"etcbench-{os.getpid()}", plan, links_as_they_are)
    try:
        addresses = plan.server()
        network.add_server(addresses)
        yield Bed(network, addresses.ipv4)
    finally:
        network.close()


class Consumer:
    """`etcpipe` attached to the router by a process of its own; see consumer.py.

    Attributes:
        ready: what the process said once attached.
        result: what it counted; there once the block is left.
    """

    def __init__(self, bed: Bed, *options: str):
        self._bed = bed
        self._options = options
        self.ready: dict = {}
        self.result: dict = {}

    def __enter__(self) -> "Consumer":
        argv = [sys.executable, HERE / "consumer.py", self._bed.device, self._bed.router]
        self._process = subprocess.Popen(
            [*map(str, argv), *self._options], stdout=subprocess.PIPE, text=True
        )
        self.ready = self._line()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._process.send_signal(signal.SIGTERM)
        if kind is None:
            self.result = self._line()
        try:
            self._process.wait(READY_WITHIN_S)
        finally:
            self._process.kill()
            self._process.stdout.close()

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def memory(self) -> dict[str, int]:
        """Return the process's resident memory and its peak, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}

    def line(self) -> dict:
        """Return the next object that the process prints."""
        return self._line()

    def _line(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: the consumer ended, exit code {self._process.wait()}")
        return json.loads(line)


@contextmanager
def loaded_empty(work: Path) -> Iterator[int]:
    """Load a TC program that does nothing; gives its descriptor."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "empty.bpf.o"
    multiarch = f"/usr/include/{os.uname().machine}-linux-gnu"
    source = HERE / "empty.bpf.c"
    _check(["clang", "-O2", "-g", "-target", "bpf", f"-I{multiarch}", "-c", source, "-o", path])
    handle, program_fd = _load(path, "tc_empty")
    try:
        yield program_fd
    finally:
        libbpf.library().bpf_object__close(handle)


@contextmanager
def attached(bed: Bed, program_fd: int) -> Iterator[None]:
    """Attach a TC program to the router's device, both ways, on the hook that etcpipe takes."""
    with netns.enter(bed.router), ExitStack() as stack:
        ifindex = socket.if_nametoindex(bed.device)
        if hooks.tcx_works(program_fd):
            for side in hooks.TCX.values():
                link = bpf.link_create(program_fd, ifindex, side)
                stack.callback(os.close, link)
                stack.callback(bpf.link_detach, link)
        else:
            ip = stack.enter_context(links.iproute())
            ip.tc("add", "clsact", ifindex)
            stack.callback(ip.tc, "del", "clsact", ifindex)
            for side in links.SIDES:
                links.add_filter(ip, ifindex, side, program_fd, "empty")
        yield


def _load(path: Path, name: str) -> tuple[int, int]:
    lib = libbpf.library()
    handle = lib.bpf_object__open_file(os.fsencode(path), None)
    if not handle or lib.bpf_object__load(handle):
        raise SystemExit(f"bench: the kernel does not take {path}")
    program = lib.bpf_object__find_program_by_name(handle, name.encode())
    return handle, lib.bpf_program__fd(program)


@contextmanager
def _running(namespace: str, argv: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _ahead_of_both() -> Iterator[None]:
    """Run before iperf3's priority, so that slices end when they should; children do not."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, policy, os.sched_param(METER_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _check(argv: list[str | Path], timeout_s: float = READY_WITHIN_S) -> str:
    try:
        done = subprocess.run([*map(str, argv)], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"bench: {argv[0]} took more than {timeout_s:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SystemExit(f"bench: {argv[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout
