"""What tests of the kernel side share: programs loaded alone, and pairs of namespaces."""

import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from stale import remove_remains

from etcpipe.kernel import bpf, flow_table, libbpf, netns, programs, status
from etcpipe.kernel.build import Build, Loaded
from etcpipe.kernel.flow_table import FlowTable
from etcpipe.kernel.journal import PINS, RUN
from etcpipe.kernel.settings import TapSettings

NO_SUCH_IFINDEX = 0x7FFFFFF0


def has_bcc() -> bool:
    try:
        from bcc import BPF
    except ImportError:
        return False
    return hasattr(BPF, "SCHED_CLS")


NEEDS_BCC = pytest.mark.skipif(not has_bcc(), reason="no python3-bpfcc")
LOADERS = ["libbpf", pytest.param("bcc", marks=NEEDS_BCC)]
# bcc compiles the same source for 10 s: where other tests ask what it made, more is exhaustive.
LOADERS_MOSTLY = ["libbpf", pytest.param("bcc", marks=[NEEDS_BCC, pytest.mark.exhaustive])]


LINUX = tuple(map(int, platform.release().split(".")[:2]))
NEEDS_TCX = pytest.mark.skipif(LINUX < (6, 6), reason="tcx needs Linux 6.6")
NEEDS_FETCH_ADD = pytest.mark.skipif(LINUX < (5, 12), reason="fetching atomics need Linux 5.12")
NEEDS_FORWARD = pytest.mark.skipif(LINUX < (5, 14), reason="forward mode needs Linux 5.14")
HOOKS = pytest.mark.parametrize("hook", [pytest.param("tcx", marks=NEEDS_TCX), "clsact"])


class Bench:
    """The tap's programs, loaded but attached to nothing: packets go in by hand."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded

    def run(self, program: str, frame: bytes, context: bytes = b"") -> tuple[int, dict[str, int]]:
        """Run a packet through a program; returns its action and the counters that moved."""
        before = self.counters()
        action = bpf.test_run(self.loaded.programs[program], frame, context)
        after = self.counters()
        moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        return action, moved

    def counters(self) -> dict[str, int]:
        return status.counters(self.loaded.maps["packet_counters"])

    def flows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.table.entries()

    @property
    def table(self) -> FlowTable:
        return FlowTable(self.loaded.maps)

    def forget_flows(self) -> None:
        for window in self.table.windows():
            window.take(np.ones(len(window.rows), bool))

    def flow(self) -> np.void:
        """Return the state of the only flow there is."""
        states = self.flows()[1]
        assert len(states) == 1
        return states[0]


@contextmanager
def bench(loader: str, object_name: str = "", **settings: object) -> Iterator[Bench]:
    """Load the programs for no device: each copy fails, which shows where one is made."""
    build = Build(TapSettings(loader=loader, **settings), 1, NO_SUCH_IFINDEX)
    if object_name:
        (path,) = [path for path in libbpf.object_paths() if path.name == object_name]
        loaded = libbpf.load_object(path, build)
    else:
        loaded = programs.load(build)
    try:
        yield Bench(loaded)
    finally:
        loaded.close()


def mapped(text: str) -> bytes:
    """Return an address as a flow key holds it: IPv4 is IPv4-mapped."""
    packed = ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def run(command: str) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


class Wire:
    """Two namespaces joined by a veth pair: tap `device` in `near`, send from `far`."""

    device, peer = "tap0", "far0"

    def __init__(self, name: str):
        self.near, self.far = f"{name}n", f"{name}f"
        for namespace in (self.near, self.far):
            run(f"ip netns add {namespace}")
            remove_remains(netns.inode(namespace))
            # a link-local address at once, and no reports of it later
            self.shell(namespace, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
        run(
            f"ip -n {self.near} link add {self.device} type veth"
            f" peer name {self.peer} netns {self.far}"
        )
        self.add_address(self.near, self.device, "10.77.0.1/24", "fd00:77::1/64")
        self.add_address(self.far, self.peer, "10.77.0.2/24", "fd00:77::2/64")
        for namespace, device in ((self.near, self.device), (self.far, self.peer)):
            self._settle(namespace, device)

    @staticmethod
    def _settle(namespace: str, device: str) -> None:
        """Wait until the link is up for everybody: tests look whether it is as it was."""
        end = monotonic() + 10
        while True:
            shown = run(f"ip -n {namespace} addr show dev {device}")
            if "state UP" in shown and "inet6 fe80" in shown and "tentative" not in shown:
                return
            assert monotonic() < end, shown
            sleep(0.01)

    def add_address(self, namespace: str, device: str, *addresses: str) -> None:
        run(f"ip -n {namespace} link set {device} up")
        for address in addresses:
            nodad = " nodad" if ":" in address else ""
            run(f"ip -n {namespace} addr add {address} dev {device}{nodad}")

    @staticmethod
    def shell(namespace: str, command: str) -> str:
        return run(f"nsenter --net=/run/netns/{namespace} {command}")

    @contextmanager
    def raw(self, device: str = peer) -> Iterator[socket.socket]:
        """Open a socket that sends whole frames from an end, the far one if not told."""
        with netns.enter(self.near if device == self.device else self.far):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind((device, 0))
        with sender:
            yield sender

    def devices(self) -> list[str]:
        with netns.enter(self.near):
            return sorted(name for _, name in socket.if_nameindex())

    def leftovers(self) -> list[str]:
        """Return what a tap of the near namespace left: devices, qdiscs, pins, journals."""
        inode = netns.inode(self.near)
        found = [name for name in self.devices() if name.startswith("etcm")]
        found += [str(path) for path in (PINS / str(inode), RUN / str(inode)) if path.exists()]
        if "clsact" in run(f"tc -n {self.near} qdisc show"):
            found.append("clsact")
        return found

    def close(self) -> None:
        for namespace in (self.near, self.far):
            inode = netns.inode(namespace)
            run(f"ip netns del {namespace}")
            remove_remains(inode)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(f"etcp{os.getpid()}")
    try:
        yield wire
    finally:
        wire.close()


# A consumer in a process of its own: says "ready" and waits to be killed.
CONSUMER = """
import sys, time
from etcpipe.kernel.tap import Tap, TapSettings
with Tap(sys.argv[1], TapSettings(hook=sys.argv[3]), netns=sys.argv[2]) as tap:
    if sys.argv[4] == "start":
        tap.start()
    print("ready", flush=True)
    time.sleep(30)
"""


def consumer(
    device: str, namespace: str, hook: str = "auto", upto: str = "start"
) -> subprocess.Popen:
    """Start a consumer and return when it is set up."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, device, namespace, hook, upto],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout
    process.stdout.close()


def pinned_flows(wire: Wire) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and states of the flows in the table of the wire's tap."""
    pins = PINS / str(netns.inode(wire.near)) / wire.device
    maps = {name: bpf.pinned(pins / f"map_{name}") for name in flow_table.MAPS}
    try:
        return FlowTable(maps).entries()
    finally:
        for fd in maps.values():
            os.close(fd)
