"""What the tap costs a packet: BPF_PROG_TEST_RUN of the programs that the loader attaches.

A cost is the smallest of interleaved repeats, on one processor at real-time priority: the
kernel's mean over many runs, less the smallest of a program that only passes on the same
packets (packet_cost.bpf.c). No driver and no wire; caches are as warm as a walk over the
flows leaves them.
"""

import ctypes
import os
import re
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from etcpipe.kernel import bpf, libbpf, programs, status
from etcpipe.kernel.build import Build, Loaded
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import CONSTANTS

HERE = Path(__file__).parent
NO_DEVICE = 0x7FFFFFF0  # no program here makes a copy
PRIORITY = 5
FLOORS = (
    "xdp_pass",
    "xdp_parse",
    "xdp_find",
    "xdp_find_hash",
    "xdp_touch",
    "xdp_await",
    "xdp_walk",
    "tc_pass",
    "tc_walk",
)
WALK = np.dtype(
    [
        ("state", "u8"),
        ("first", "u4"),
        ("flows", "u4"),
        ("is_random", "u4"),
        ("address_at", "u4"),
    ]
)
SOURCE_AT = {4: 26, 6: 34}  # of the source address's last four bytes
FIRST_N = CONSTANTS["FIRST_N_MAX"]

# The tap's loads by what they are for: entries of the table, and N.
SMALL, LARGE = 1 << 16, 1 << 20
ROOMY = LARGE * 3 // 2  # a table that LARGE flows fill to two thirds: no set is full
TAPS = {
    "past": (SMALL, 1),
    "first": (SMALL, FIRST_N),
    "full": (SMALL, 1),
    "large": (ROOMY, 1),
}

TCP, ACK, HOPS, PAYLOAD = 6, 0x10, 64, 100


@dataclass(frozen=True)
class Row:
    """A way to meet packets.

    Attributes:
        name: for people.
        program: whose cost it is: one of the tap's, or of FLOORS.
        tap: which load of the tap, in TAPS.
        version: of IP.
        flows: that the packets belong to, drawn at random; 0: one, its packet not changed.
        runs: in a repeat; None: as many as of other rows.
        meets: "known" flows past N, "first" packets of flows known, or "new" flows.
    """

    name: str
    program: str
    tap: str = "past"
    version: int = 4
    flows: int = 0
    runs: int | None = None
    meets: str = "known"

    @property
    def hook(self) -> str:
        return self.program.split("_")[0]


@dataclass
class Cost:
    """ns a packet in each repeat, of the program and its floor, and flows made meanwhile."""

    ns: list[int] = field(default_factory=list)
    floor_ns: list[int] = field(default_factory=list)
    created: int = 0

    @property
    def net_ns(self) -> int:
        """The smallest over the smallest floor: whatever disturbs only adds."""
        return min(self.ns) - min(self.floor_ns)


class Machine:
    """The programs, loaded and attached to nothing; a context manager."""

    def __enter__(self) -> "Machine":
        with ExitStack() as stack:
            handle = load_floors(LARGE)
            stack.callback(libbpf.library().bpf_object__close, handle)
            self._floors = {name: program(handle, name) for name in FLOORS}
            self._walks = map_of(handle, "walks")
            self._targets = {hook: map_of(handle, f"{hook}_targets") for hook in ("xdp", "tc")}
            self._taps: dict[str, Loaded] = {}
            for name, (entries, first_n) in TAPS.items():
                settings = TapSettings(first_n=first_n, max_flows=entries)
                self._taps[name] = programs.load(Build(settings, NO_DEVICE, NO_DEVICE))
                stack.callback(self._taps[name].close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def fill(self, row: Row, first: int = 0) -> None:
        """Put the row's flows into the table; twice, as the first packet is one of the N."""
        for _ in range(2):
            self._run(row, row.program, max(row.flows, 1), first, is_random=False)

    def measure(self, row: Row, cost: Cost, runs: int) -> None:
        """Add a repeat."""
        runs = row.runs or runs
        first = 0
        if row.meets == "first":
            first = (len(cost.ns) + 1) * row.flows  # the last repeat's flows are past N
            self.fill(row, first)
        elif row.meets == "new":
            first = row.flows + len(cost.ns) * runs
        is_random = row.meets == "known"
        cost.floor_ns.append(self._run(row, f"{row.hook}_pass", runs, first, is_random))
        before = self._created(row)
        cost.ns.append(self._run(row, row.program, runs, first, is_random))
        cost.created += self._created(row) - before

    def bytes_a_flow(self) -> float:
        """Return what the kernel holds for an entry of the large table, filled or not."""
        return table_bytes(self._taps["large"]) / ROOMY

    def _run(self, row: Row, name: str, runs: int, first: int, is_random: bool) -> int:
        """Return ns a run of a program on packets of `flows` flows from `first` on."""
        program = self._floors.get(name) or self._taps[row.tap].programs[name]
        packet = tcp_frame(row.version)
        if not row.flows:
            return bpf.time_run(program, packet, runs)
        flows = runs if row.meets == "new" else row.flows
        walk = np.array([(1, first, flows, is_random, SOURCE_AT[row.version])], WALK)
        target(self._targets[row.hook], program)
        set_walk(self._walks, walk)
        return bpf.time_run(self._floors[f"{row.hook}_walk"], packet, runs)

    def _created(self, row: Row) -> int:
        return status.counters(self._taps[row.tap].maps["packet_counters"])["FLOWS_CREATED"]


def table_bytes(tap: Loaded) -> int:
    """Return the memory that the kernel charges for a tap's flow table."""
    told = (Path(f"/proc/self/fdinfo/{tap.maps[name]}") for name in ("flows", "flow_tags"))
    return sum(int(re.search(r"memlock:\s*(\d+)", text.read_text())[1]) for text in told)


def measure(rows: list[Row], repeats: int, runs: int) -> tuple[dict[Row, Cost], float]:
    """Return what each row cost, and bytes a flow of a table of ROOMY entries."""
    costs = {row: Cost() for row in rows}
    with Machine() as machine, undisturbed(os.cpu_count() - 1):
        for row in rows:
            machine.fill(row)
        for _ in range(repeats):
            for row, cost in costs.items():
                machine.measure(row, cost, runs)
        return costs, machine.bytes_a_flow()


@contextmanager
def undisturbed(cpu: int) -> Iterator[None]:
    """Run this thread on one processor at real-time priority for the length of the block."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cpus)


def target(fd: int, program: int) -> None:
    """Let a walk hand on to a program."""
    bpf.update(fd, np.zeros(1, np.uint32), np.array([program], np.uint32))


def set_walk(fd: int, walks: np.ndarray) -> None:
    """Write the walk of each processor, (1,) for all or (processors,) WALK."""
    each = np.broadcast_to(walks, bpf.possible_cpus()).copy()
    bpf.update(fd, np.zeros(1, np.uint32), each)


def tcp_frame(version: int) -> bytes:
    """Return a TCP segment with a little payload, its checksums left out."""
    tcp = struct.pack(">HHIIBBHHH", 40000, 443, 1, 1, 5 << 4, ACK, 500, 0, 0) + bytes(PAYLOAD)
    if version == 4:
        ends = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.4.5.6")
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, HOPS, TCP, 0)
        return bytes(12) + b"\x08\x00" + ip + ends + tcp
    ends = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in ("fd00::1", "fd00::2"))
    ip = struct.pack(">IHBB", 6 << 28, len(tcp), TCP, HOPS)
    return bytes(12) + b"\x86\xdd" + ip + ends + tcp


def answer_to(frame: bytes) -> bytes:
    """Return an IPv4 frame of tcp_frame() in the other direction."""
    ends, ports = frame[26:34], frame[34:38]
    return frame[:26] + ends[4:] + ends[:4] + ports[2:] + ports[:2] + frame[38:]


def load_floors(entries: int) -> ctypes.c_void_p:
    """Return the libbpf object of packet_cost.bpf.c, compiled now and loaded."""
    lib = libbpf.library()
    multiarch = f"/usr/include/{os.uname().machine}-linux-gnu"
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "packet_cost.bpf.o"
        command = ["clang", "-O2", "-g", "-target", "bpf", f"-I{HERE.parents[1] / 'bpf'}"]
        command += [f"-I{multiarch}", "-c", str(HERE / "packet_cost.bpf.c"), "-o", str(path)]
        subprocess.run(command, check=True)
        handle = lib.bpf_object__open_file(os.fsencode(path), None)
    if not handle:
        raise SystemExit("bench: libbpf cannot read packet_cost.bpf.c's object")
    sizes = {b"known": entries, b"hashed": entries, b"entries": entries}
    for name, size in sizes.items():
        lib.bpf_map__set_max_entries(lib.bpf_object__find_map_by_name(handle, name), size)
    if lib.bpf_object__load(handle):
        raise SystemExit("bench: the kernel does not take packet_cost.bpf.c")
    return handle


def program(handle: ctypes.c_void_p, name: str) -> int:
    lib = libbpf.library()
    return lib.bpf_program__fd(lib.bpf_object__find_program_by_name(handle, name.encode()))


def map_of(handle: ctypes.c_void_p, name: str) -> int:
    lib = libbpf.library()
    return lib.bpf_map__fd(lib.bpf_object__find_map_by_name(handle, name.encode()))
