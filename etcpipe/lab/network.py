"""The lab's network: client - router - server, three namespaces in a row.

        client                router                 server
    +-------------+     +-----------------+     +---------------------+
    | wan0        |-----| lab0       lab1 |-----| wan0                |
    | one address |     | forwards IPv4/6 |     | an address per kind |
    +-------------+     +-----------------+     +---------------------+

Both ends shape what they send to the link's rate, so nothing of the lab's sits on the
router's devices: they are free for whatever is attached there.
"""

import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from etcpipe.errors import LabError

MTU = 1500
SHAPER_QUEUE_MS = 50
SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    # No duplicate address detection: addresses work at once.
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
}


@dataclass(frozen=True)
class Addresses:
    """An IPv4 and an IPv6 address of one host, as text."""

    ipv4: str
    ipv6: str

    def __iter__(self):
        return iter((self.ipv4, self.ipv6))


class AddressPlan:
    """Subnets and hosts drawn from a seed, so that no recording repeats another's addresses."""

    def __init__(self, rng: np.random.Generator) -> None:
        site = int(rng.integers(1 << 40))
        # RFC 4193 (IPv6), RFC 1918 (client), RFC 2544 (servers: 198.18.0.0/15).
        self.client4 = IPv4Network((int(10 << 24 | rng.integers(1 << 16) << 8), 24))
        self.server4 = IPv4Network((int(0xC6120000 | rng.integers(1 << 9) << 8), 24))
        self.client6 = IPv6Network((0xFD << 120 | site << 80 | 1 << 64, 64))
        self.server6 = IPv6Network((0xFD << 120 | site << 80 | 2 << 64, 64))
        self._hosts4 = iter(rng.permutation(np.arange(2, 254)))
        self._rng = rng
        self.client = Addresses(
            str(self.client4[int(rng.integers(2, 254))]), self._host6(self.client6)
        )

    def server(self) -> Addresses:
        """Return the addresses of one more server."""
        return Addresses(str(self.server4[int(next(self._hosts4))]), self._host6(self.server6))

    def _host6(self, network: IPv6Network) -> str:
        return str(network[int(self._rng.integers(2, 1 << 62))])


@dataclass(frozen=True)
class Links:
    """What the lab's links are like.

    Attributes:
        offloads: leave TSO, GSO and GRO on, so that frames exceed the MTU.
        rate_mbit: both ends send no faster; 0: not limited.
        rtt_ms: range of the servers' round-trip times; None: no delay at all.
    """

    offloads: bool
    rate_mbit: float
    rtt_ms: tuple[float, float] | None


class Network:
    """Makes the namespaces; close() deletes them and all that is in them.

    The router's device towards the server is a veth, or, with a delay, a TUN device whose
    packets a program carries to the server.
    """

    device = "lab0"

    def __init__(self, name: str, plan: AddressPlan, links: Links) -> None:
        self.client, self.router, self.server = self.namespaces = namespaces_of(name)
        self._plan, self._links = plan, links
        try:
            self._make_namespaces()
            self._make_links()
            self._address()
            if links.rate_mbit:
                self._shape(links.rate_mbit)
        except BaseException:
            self.close()
            raise

    def add_server(self, addresses: Addresses) -> None:
        """Give the server namespace one more pair of addresses."""
        ip(self.server, f"addr add {addresses.ipv4}/24 dev wan0")
        ip(self.server, f"addr add {addresses.ipv6}/64 dev wan0 nodad")

    def add_hidden(self, address: str) -> None:
        """Give the server namespace an IPv4 address that only tunnels reach."""
        ip(self.server, f"addr add {address}/32 dev lo")

    def close(self) -> None:
        """Delete the namespaces; their devices go with them."""
        for namespace in self.namespaces:
            delete_namespace(namespace)

    def _make_namespaces(self) -> None:
        for namespace in self.namespaces:
            _command(f"ip netns add {namespace}", "cannot make a network namespace")
            settings = " ".join(f"{key}={value}" for key, value in SYSCTLS.items())
            _command(
                f"ip netns exec {namespace} sysctl -qw {settings}",
                "cannot configure a network namespace",
            )
            ip(namespace, "link set lo up")

    def _make_links(self) -> None:
        self._make_veth(self.client, "lab0")
        if not self._links.rtt_ms:
            self._make_veth(self.server, "lab1")
            return
        for namespace, device in ((self.router, "lab1"), (self.server, "wan0")):
            ip(namespace, f"tuntap add dev {device} mode tun")
            ip(namespace, f"link set {device} mtu {MTU} txqueuelen 2000 up")

    def _make_veth(self, namespace: str, device: str) -> None:
        ip(namespace, f"link add wan0 type veth peer name {device} netns {self.router}")
        for end, name in ((namespace, "wan0"), (self.router, device)):
            ip(end, f"link set {name} mtu {MTU} up")
            if not self._links.offloads:
                _switch_offloads_off(end, name)

    def _address(self) -> None:
        plan = self._plan
        for namespace, device, subnet4, subnet6 in (
            (self.client, "lab0", plan.client4, plan.client6),
            (self.server, "lab1", plan.server4, plan.server6),
        ):
            ip(self.router, f"addr add {subnet4[1]}/24 dev {device}")
            ip(self.router, f"addr add {subnet6[1]}/64 dev {device} nodad")
            if namespace == self.client:
                ip(namespace, f"addr add {plan.client.ipv4}/24 dev wan0")
                ip(namespace, f"addr add {plan.client.ipv6}/64 dev wan0 nodad")
            else:
                ip(namespace, f"addr add {subnet4[254]}/24 dev wan0")
                ip(namespace, f"addr add {subnet6[(1 << 64) - 2]}/64 dev wan0 nodad")
            ip(namespace, f"route add default via {subnet4[1]} dev wan0")
            ip(namespace, f"-6 route add default via {subnet6[1]} dev wan0")

    def _shape(self, rate_mbit: float) -> None:
        for namespace in (self.client, self.server):
            _command(
                f"tc -n {namespace} qdisc add dev wan0 root tbf"
                f" rate {rate_mbit}mbit burst 32kb latency {SHAPER_QUEUE_MS}ms",
                "cannot shape the lab's links",
            )


def namespaces_of(name: str) -> tuple[str, str, str]:
    """Return the names of a lab's namespaces: client, router, server."""
    return f"{name}-client", f"{name}-router", f"{name}-server"


def ip(namespace: str, command: str) -> None:
    """Run an ip command inside a namespace.

    Raises:
        LabError: the kernel refused.
    """
    _command(f"ip -n {namespace} {command}", f"ip {command} failed")


def pids_in(namespace: str) -> list[int]:
    """Return the processes in a namespace; none where it does not exist."""
    listing = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in listing.stdout.split()]


def delete_namespace(namespace: str) -> None:
    """Delete a namespace where it exists."""
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _switch_offloads_off(namespace: str, device: str) -> None:
    """Make frames look as on a wire: no segments merged, every checksum filled in."""
    _command(
        f"ip netns exec {namespace} ethtool -K {device} tso off gso off gro off tx off",
        "cannot switch offloads off",
    )


def _command(command: str, failure: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{failure}: {(done.stderr or done.stdout).strip()}")
