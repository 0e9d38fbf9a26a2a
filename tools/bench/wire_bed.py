"""Two hosts, a box between them, and what joins the box's ports; wire.py measures these."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bed as beds

from etcpipe.kernel import bpf, hooks, netns
from etcpipe.kernel.ebpf import ADD, ALU32, EXIT, JMP, NEG, R1, R2, Assembler, K
from etcpipe.lab.network import ip

CLIENT, SERVER = "10.89.0.1", "10.89.0.2"
# what a wire by XDP asks of a veth's far end; the same for everybody
FAR_END = "gro on tso off gso off tx off txvlan off tx-vlan-stag-hw-insert off"
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
def wire_bed(*, plain: bool) -> Iterator[beds.Bed]:
    """Make client - box - server for the length of the block.

    Args:
        plain: the hosts send packets of a wire: they neither segment nor leave checksums.
    """
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
            if plain:
                _inside(namespace, f"ethtool -K wan0 {FAR_END}")
        yield beds.Bed(hosts, SERVER)


@contextmanager
def bridged(bed: beds.Bed) -> Iterator[None]:
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
    """Join the ports by Open vSwitch's own datapath, its daemons in the box alone.

    Args:
        work: a folder for its files.
    """
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
