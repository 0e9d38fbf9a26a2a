"""Measures TCP through a box between two hosts: etcpipe as a wire, beside bridges.

    python tools/bench/wire.py [--quick] [--json]          needs root

One subnet, the box in its middle: a Linux bridge, etcpipe's forward mode by TC and by XDP, tracking
and classifying, and Open vSwitch's user-space datapath, which the paper compares with. Once
with packets of a wire: the hosts neither segment nor leave checksums to the device. Once with
their default offloads, which XDP and Open vSwitch do not take on veth. Cases are interleaved,
and the first packets of all flows accounted for.
"""

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bed as beds
import common
import forward
import paired
import slices
from common import Goal, Report, Samples, Table

from etcpipe.kernel import bpf, hooks, netns
from etcpipe.kernel.ebpf import ADD, ALU32, EXIT, JMP, NEG, R1, R2, Assembler, K
from etcpipe.lab.network import ip

STREAMS = (1, 8, 32, 128, 512)
SECONDS = 1.5
START_S = 0.5  # of a transfer, which does not count
IN_TURN_S, QUICK_IN_TURN_S = 15, 2  # of a transfer with both boxes in turn
GOAL = 1.1
CLIENT, SERVER = "10.89.0.1", "10.89.0.2"
# what a wire by XDP asks of a veth's far end; the same for everybody
WIRE, OFFLOADS = "packets of a wire", "default offloads"
FAR_END = "gro on tso off gso off tx off txvlan off tx-vlan-stag-hw-insert off"

BRIDGE, OVS = "Linux bridge", "Open vSwitch, user space"
TC, TC_RINGBUF = "etcpipe --forward (TC)", "etcpipe --forward (TC), ring buffer"
XDP = "etcpipe --forward --mode xdp"
REDIRECT = "redirect alone"
HOW = {
    TC: (),
    TC_RINGBUF: ("--capture", "ringbuf"),
    XDP: ("--mode", "xdp"),
}
CASES = {WIRE: (BRIDGE, TC, TC_RINGBUF, XDP, OVS), OFFLOADS: (BRIDGE, TC, TC_RINGBUF)}
IFINDEX_AT = 40  # of struct __sk_buff
BPF_REDIRECT = 23  # the helper
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


@dataclass(frozen=True)
class Hosts:
    """The namespaces, as beds.Bed knows them."""

    client: str
    router: str
    server: str
    device: str = "p0"


@contextmanager
def wire_bed(offloads: str) -> Iterator[beds.Bed]:
    """Make client - box - server for the length of the block."""
    hosts = Hosts(*(f"etcwire-{os.getpid()}-{end}" for end in ("client", "box", "server")))
    with ExitStack() as stack:
        for namespace in (hosts.client, hosts.router, hosts.server):
            beds._check(["ip", "netns", "add", namespace])
            stack.callback(subprocess.run, ["ip", "netns", "del", namespace])
        for port, namespace, address in (
            ("p0", hosts.client, CLIENT),
            ("p1", hosts.server, SERVER),
        ):
            ip(hosts.router, f"link add {port} type veth peer name wan0 netns {namespace}")
            ip(hosts.router, f"link set {port} up")
            ip(namespace, f"addr add {address}/24 dev wan0")
            ip(namespace, "link set wan0 up")
            if offloads == WIRE:
                _inside(namespace, f"ethtool -K wan0 {FAR_END}")
        yield beds.Bed(hosts, SERVER)


@contextmanager
def bridged(bed: beds.Bed, work: Path) -> Iterator[None]:
    """Join the ports by the kernel's bridge."""
    ip(bed.router, "link add br0 type bridge")
    for port in ("p0", "p1"):
        ip(bed.router, f"link set {port} master br0")
    ip(bed.router, "link set br0 up")
    try:
        yield
    finally:
        ip(bed.router, "link del br0")


@contextmanager
def switched(bed: beds.Bed, work: Path) -> Iterator[None]:
    """Join the ports by Open vSwitch's own datapath, its daemons in the box alone."""
    folder = work / "ovs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    os.environ |= {name: str(folder) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR")}
    database = f"unix:{folder}/db.sock"
    beds._check(["ovsdb-tool", "create", folder / "conf.db", OVS_SCHEMA])
    with ExitStack() as stack:
        for command in (
            f"ovsdb-server {folder}/conf.db --remote=punix:{folder}/db.sock",
            f"ovs-vswitchd {database}",
        ):
            name = command.split()[0]
            pid = folder / f"{name}.pid"
            _inside(bed.router, f"{command} --pidfile={pid} --log-file={folder}/log --detach")
            stack.callback(_end, pid)
            if name == "ovsdb-server":
                _inside(bed.router, f"ovs-vsctl --db={database} --no-wait init")
        _inside(
            bed.router,
            f"ovs-vsctl --db={database} -t 10 add-br ob0 -- set bridge ob0 datapath_type=netdev"
            " -- add-port ob0 p0 -- add-port ob0 p1",
        )
        yield


def _end(pid: Path) -> None:
    number = int(pid.read_text())
    os.kill(number, 15)
    while Path(f"/proc/{number}").exists():
        time.sleep(0.05)


def _inside(namespace: str, command: str) -> None:
    beds._check(["nsenter", f"--net=/run/netns/{namespace}", *command.split()])


def joined(bed: beds.Bed, case: str, work: Path):
    """Return what joins the ports in this case, to be entered."""
    if case in (BRIDGE, OVS):
        return bridged(bed, work) if case == BRIDGE else switched(bed, work)
    return beds.Consumer(bed, "--forward", "p1", *HOW[case])


def measure_once(bed: beds.Bed, streams: int, options) -> float:
    """Return Gbit/s of a transfer."""
    cpus = (0, os.cpu_count() - 1)
    seconds = START_S + options.seconds
    with bed.transfer(streams, seconds, cpus, options.fifo, options.mbits) as meter:
        time.sleep(START_S)
        return meter.gbits(options.seconds)


@dataclass(frozen=True)
class Series:
    """Transfers with the same offloads at the end hosts.

    Attributes:
        runs: (Gbit/s, account or None) of every repeat, by case and streams.
    """

    offloads: str
    cases: list[str]
    streams: list[int]
    runs: dict[tuple[str, int], list]

    def of_us(self) -> list[str]:
        """The cases that are etcpipe."""
        return [case for case in self.cases if case in HOW]

    def ratio(self, case: str, n: int, base: str = BRIDGE) -> paired.Interval:
        """Return the ratio to the Linux bridge, repeat by repeat."""
        values, reference = ([gbits for gbits, _ in self.runs[name, n]] for name in (case, base))
        return paired.ratio(values, reference)


def measure(options, offloads: str, cases: list[str]) -> Series:
    """Return all transfers with these offloads."""
    runs: dict = {(case, n): [] for n in options.streams for case in cases}
    with wire_bed(offloads) as bed:
        places = [(n, case) for n in options.streams for case in cases]
        for repeat, (n, case) in paired.shuffled(places, options.repeats):
            common.progress(f"{offloads}, {repeat + 1}/{options.repeats}: {n} streams, {case}")
            way = joined(bed, case, options.work)
            with way:
                gbits = measure_once(bed, n, options)
                time.sleep(forward.SETTLE_S)
            account = forward.account(way, n) if case in HOW else None
            runs[case, n].append((gbits, account))
    return Series(offloads, cases, options.streams, runs)


@contextmanager
def redirected(bed: beds.Bed, program_fd: int) -> Iterator[None]:
    """Have the tracker send packets on for the length of the block, in front of the bridge."""
    with netns.enter(bed.router), ExitStack() as stack:
        for port in ("p0", "p1"):
            ifindex = socket.if_nametoindex(port)
            link = bpf.link_create(program_fd, ifindex, hooks.TCX["ingress"])
            stack.callback(os.close, link)
            stack.callback(bpf.link_detach, link)
        yield


@contextmanager
def redirect_alone(bed: beds.Bed) -> Iterator[int]:
    """Load a program that sends packets to the other port, and nothing else; gives its descriptor.

    No wire made of a TC program can cost less.
    """
    with netns.enter(bed.router):
        both = sum(socket.if_nametoindex(port) for port in ("p0", "p1"))
    code = Assembler()
    code.load(4, R1, R1, IFINDEX_AT)
    code.emit(ALU32 | NEG, R1)
    code.emit(ALU32 | ADD | K, R1, value=both)
    code.constant(R2, 0)
    code.call(BPF_REDIRECT)
    code.emit(JMP | EXIT)
    fd = bpf.program_load(code.assemble(), bpf.PROGRAM_TC, "redirect_alone")
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _in_turn(bed: beds.Bed, consumer: beds.Consumer, program: int | None, is_awake: bool):
    with ExitStack() as stack:
        if program is not None:
            stack.enter_context(redirected(bed, program))
        if not is_awake:
            stack.enter_context(slices.resting(consumer))
        yield


def measure_in_turn(options, offloads: str, streams: int) -> dict[str, paired.Interval]:
    """Return the ratio of wires made of a TC program to the bridge, all within one transfer.

    Two transfers differ by more than the boxes do. So the ports are a bridge's all the time, and
    the tracker, which sends packets past it, stands on their hooks every third slice.
    """
    gbits: dict[str, list[float]] = {BRIDGE: [], TC: [], REDIRECT: []}
    cpus = (0, os.cpu_count() - 1)
    with ExitStack() as stack:
        bed = stack.enter_context(wire_bed(offloads))
        stack.enter_context(bridged(bed, options.work))
        consumer = stack.enter_context(beds.Consumer(bed, "--forward", "p1"))
        slices.take_off(bed)
        programs = {
            TC: stack.enter_context(slices.tracker(bed)),
            REDIRECT: stack.enter_context(redirect_alone(bed)),
        }
        seconds = START_S + options.in_turn_s + slices.ROUNDS_MIN * slices.ROUND_S
        meter = stack.enter_context(bed.transfer(streams, seconds, cpus, options.fifo))
        time.sleep(START_S)
        end = time.monotonic() + options.in_turn_s
        while time.monotonic() < end or len(gbits[TC]) < slices.ROUNDS_MIN:
            for _, case in paired.shuffled(list(gbits), 1):
                with _in_turn(bed, consumer, programs.get(case), case == TC):
                    time.sleep(slices.SETTLE_S)
                    gbits[case].append(meter.gbits(slices.SLICE_S))
    return {case: paired.ratio(gbits[case], gbits[BRIDGE]) for case in programs}


def throughput_table(series: Series) -> Table:
    """Return Gbit/s of every case and its ratio to the bridge."""
    columns = ["box", *(f"{n} stream{'s' * (n > 1)}" for n in series.streams)]
    table = Table(f"TCP through the box, {series.offloads}, Gbit/s", columns)
    for case in series.cases:
        cells = [
            f"{Samples([g for g, _ in series.runs[case, n]]).median:.2f}, "
            f"x {series.ratio(case, n).text()}"
            for n in series.streams
        ]
        table.rows.append([case, *cells])
    return table


def account_table(series: Series) -> Table:
    """Return where the first packets of all flows went, a row for each case and streams."""
    columns = ["box", "streams", "selected", "settled", "arrived", "lost by reason", "unaccounted"]
    table = Table(f"First packets of flows, {series.offloads}, all repeats", columns)
    for case in series.of_us():
        for n in series.streams:
            accounts = [account for _, account in series.runs[case, n]]
            lost = sum((Counter(account.lost) for account in accounts), Counter())
            reasons = ", ".join(f"{name} {count}" for name, count in sorted(lost.items())) or "0"
            sums = {
                name: str(sum(getattr(account, name) for account in accounts))
                for name in ("expected", "settled", "arrived", "missing")
            }
            missing = sums.pop("missing")
            table.rows.append([case, str(n), *sums.values(), reasons, missing])
    return table


def goals(series: Series) -> list[Goal]:
    """Return the project's goals for forward mode beside what was measured."""
    result = []
    for case in series.of_us():
        for n in series.streams:
            value = series.ratio(case, n)
            measure = f"{series.offloads}: {case} / {BRIDGE}, {n} streams"
            result.append(Goal(measure, f">= {GOAL}", value.text(), value.median >= GOAL))
    if OVS in series.cases:
        for case in (BRIDGE, *series.of_us()):
            least = min(series.ratio(case, n, OVS).median for n in series.streams)
            result.append(Goal(f"{case} / {OVS}", "> 1", f"{least:.1f} at least", least > 1))
    accounts = [account for run in series.runs.values() for _, account in run if account]
    wrong = sum(abs(account.missing) for account in accounts)
    what = f"{series.offloads}: first packets unaccounted for"
    result.append(Goal(what, "0", str(wrong), wrong == 0))
    return result


def main() -> None:
    """Measure and print the report."""
    options = common.throughput_options(__doc__.splitlines()[0], 9, SECONDS, STREAMS)
    versions = {
        "iperf3": common.tool_version(["iperf3", "--version"], r"iperf ([\d.]+)"),
        "Open vSwitch": common.tool_version(["ovs-vswitchd", "--version"], r"([\d.]+)"),
    }
    options.in_turn_s = QUICK_IN_TURN_S if options.quick else IN_TURN_S
    report = Report("wire", "A wire between two hosts", versions)
    in_turn = Table(
        f"Wires / {BRIDGE}, in turn within one transfer",
        ["packets", "wire", *(f"{n} stream{'s' * (n > 1)}" for n in options.streams)],
    )
    for offloads, wanted in CASES.items():
        cases = [case for case in wanted if case != OVS or versions["Open vSwitch"]]
        series = measure(options, offloads, cases)
        report.tables += [throughput_table(series), account_table(series)]
        report.goals += [] if options.quick else goals(series)
        report.results |= {
            f"{offloads}, {case}, {n}": {
                "gbits": Samples([gbits for gbits, _ in run]).summary(),
                "missing": sum(account.missing for _, account in run if account),
                "lost": [account.lost for _, account in run if account],
            }
            for (case, n), run in series.runs.items()
        }
        ratios = {}
        for n in options.streams:
            common.progress(f"{offloads}, in turn: {n} streams")
            ratios[n] = measure_in_turn(options, offloads, n)
        for case in (TC, REDIRECT):
            in_turn.rows.append(
                [offloads, case, *(ratio[case].text() for ratio in ratios.values())]
            )
        report.goals += [
            Goal(
                f"{offloads}, in turn: {TC} / {BRIDGE}, {n} streams",
                f">= {GOAL}",
                f"{one[TC].text()}; a {REDIRECT} {one[REDIRECT].text()}",
                one[TC].median >= GOAL,
            )
            for n, one in ratios.items()
            if not options.quick
        ]
    report.tables.append(in_turn)
    report.notes = [
        f"iperf3, client to server, {options.seconds:g} s after the first {START_S:g} s; "
        f"{options.repeats} repeats of all boxes and numbers of streams in random order. "
        "Median, x: median ratio to the Linux bridge of the same repeat (95 % interval by "
        "bootstrap). Goals are read from the median ratio.",
        f"{REDIRECT}: a TC program that sends packets to the other port and does nothing else, "
        "the most that a wire of this kind can reach.",
        "veth: its native XDP copies each packet and costs some 780 ns that no network card "
        "asks for.",
    ]
    report.notes += [common.quick_note()] if options.quick else []
    report.show(options.json)


if __name__ == "__main__":
    main()
