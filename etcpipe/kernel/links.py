"""Network devices: what a device is, and through rtnetlink (pyroute2) the mirror pair, clsact."""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from etcpipe.errors import DataplaneError, PermissionDeniedError, UnsupportedError
from etcpipe.kernel import checks, ethtool

SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
IFF_PROMISC = 0x100
IFLA_XDP_PROG_ID = 4
ATTRIBUTE = struct.Struct("=HHI")  # length, kind, a number; shorter ones are padded to 4 + 4
MIRROR_SINCE = (5, 15)
MIRROR_MTU = 65535  # before Linux 5.12 a longer copy would be refused
# The mirror's index is known before the mirror is there: the kernel counts up from 1 itself.
MIRROR_INDEX_BIT = 1 << 30

# rtnetlink's names of the two sides of clsact, and where our filters stand: after filters
# with a number given by hand (Cilium has 1), before those that tc numbers itself (49152 down).
SIDES = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
FILTER_PRIORITY = 0xE7
FILTER_HANDLE = 0xE7
FILTER_NAME = "etcpipe"


@dataclass(frozen=True)
class Device:
    """What must be known of a device before it is tapped."""

    name: str
    ifindex: int
    driver: str
    arp_type: int

    @property
    def is_loopback(self) -> bool:
        """Whether each packet passes twice, leaving and arriving."""
        return self.arp_type == ARPHRD_LOOPBACK

    @property
    def mirror_index(self) -> int:
        """The index of its mirror's receiving end."""
        return self.ifindex ^ MIRROR_INDEX_BIT


@contextmanager
def iproute() -> Iterator:
    """Open rtnetlink in the current namespace; a refused request is one of our errors."""
    from etcpipe.kernel.rtnetlink import IPRoute, NetlinkError  # 70 ms: only when attaching

    with IPRoute() as ip:
        try:
            yield ip
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise PermissionDeniedError("changing devices needs CAP_NET_ADMIN") from error
            reason = error.args[1] if len(error.args) > 1 else error
            raise DataplaneError(f"rtnetlink refused: {reason}") from error


def device(name: str) -> Device:
    """Return the device of that name in the current namespace.

    By ioctl, for it is what decides which programs the kernel is to verify: that begins
    before pyroute2 is imported.

    Raises:
        DataplaneError: there is none.
        UnsupportedError: its frames have no Ethernet header.
    """
    index = ifindex_of(name)
    if index is None:
        raise DataplaneError(f"no device {name} here: see `ip link`")
    found = Device(name, index, _driver(name), _arp_type(name))
    if found.arp_type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        raise UnsupportedError(
            f"{name} carries no Ethernet frames: attach to the Ethernet device below it"
        )
    return found


def _driver(name: str) -> str:
    try:
        return ethtool.driver(name)
    except OSError:
        return ""  # bridges, bonds and others that are software


def _arp_type(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reply = ioctl(probe, SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
    return struct.unpack_from("=H", reply, 16)[0]


def kind(ip, ifindex: int) -> str:
    """Return what rtnetlink calls a software device ("veth", "ifb"), empty for others."""
    attributes = message(ip, ifindex).get_attr("IFLA_LINKINFO")
    return (attributes.get_attr("IFLA_INFO_KIND") if attributes else None) or ""


def xdp_program(ip, ifindex: int) -> int:
    """Return the id of the XDP program on a device, 0 if there is none."""
    return xdp_program_of(message(ip, ifindex))


def xdp_program_of(told) -> int:
    """Return the id of the XDP program that a device's message() tells, 0 if there is none."""
    xdp = told.get_attr("IFLA_XDP")
    if isinstance(xdp, str):  # pyroute2 before 0.6.13: the nested attributes' bytes, aa:bb:...
        rest = bytes.fromhex(xdp.replace(":", ""))
        while len(rest) >= ATTRIBUTE.size:
            length, kind, value = ATTRIBUTE.unpack_from(rest)
            if kind == IFLA_XDP_PROG_ID:
                return value
            rest = rest[length + -length % 4 :]
        return 0
    return (xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0


def message(ip, ifindex: int):
    """Return what rtnetlink says of a device, as pyroute2 has it."""
    return ip.get_links(ifindex)[0]


def ifindex_of(name: str) -> int | None:
    """Return the index of a device of the current namespace, None if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def exists(ifindex: int) -> bool:
    """Return whether a device of the current namespace has this index, by whatever name."""
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True


def create_mirror(ip, names: tuple[str, str], n_queues: int, index: int = 0) -> tuple[int, int]:
    """Create the mirror pair, silent, with so many queues; return its two indexes.

    Copies are injected into the second end's ingress. The first one is there because a
    veth comes in pairs, and is in every kernel, which a dummy device is not.

    Args:
        index: of the second end, 0 to have the kernel choose it.

    Raises:
        UnsupportedError: this kernel does not cut copies that are longer than a page.
    """
    checks.linux(MIRROR_SINCE, "capture by AF_XDP", "use --capture ringbuf")
    queues = {"num_tx_queues": n_queues, "num_rx_queues": n_queues}
    peer = {"ifname": names[0], **queues}
    ip.link("add", ifname=names[1], kind="veth", index=index, peer=peer, **queues)
    indexes = (socket.if_nametoindex(names[0]), socket.if_nametoindex(names[1]))
    for name, made in zip(names, indexes, strict=True):
        # before it is up: else the stack greets its neighbours, and that is not traffic
        sysctl = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if sysctl.exists():
            sysctl.write_text("1")
        ip.link("set", index=made, mtu=MIRROR_MTU, arp=False)
    return indexes


def is_promiscuous(ip, ifindex: int) -> bool:
    """Return whether somebody had the device take frames for all addresses."""
    return bool(message(ip, ifindex)["flags"] & IFF_PROMISC)


def set_promiscuous(ip, ifindex: int, is_on: bool) -> None:
    """Have the device take frames for all addresses, or no longer."""
    ip.link("set", index=ifindex, flags=IFF_PROMISC if is_on else 0, change=IFF_PROMISC)


def set_up(ip, indexes: Iterable[int]) -> None:
    """Bring the mirror pair up; its programs are there by now."""
    for index in indexes:
        ip.link("set", index=index, state="up")


def delete(ip, name: str) -> None:
    """Delete a veth, and its peer with it; nothing happens if it is not there."""
    from etcpipe.kernel import rtnetlink

    index = ifindex_of(name)
    if index is not None and kind(ip, index) == "veth":
        rtnetlink.delete(ip, "link del", index=index)


def has_clsact(ip, ifindex: int) -> bool:
    """Return whether the device has the qdisc that carries TC filters."""
    return has_qdisc(ip, ifindex, "clsact")


def has_qdisc(ip, ifindex: int, kind: str) -> bool:
    """Return whether the device has a qdisc of this kind."""
    return any(
        qdisc["index"] == ifindex and qdisc.get_attr("TCA_KIND") == kind
        for qdisc in ip.get_qdiscs(index=ifindex)
    )


def add_filter(
    ip, ifindex: int, side: str, program_fd: int, name: str, replace: bool = False
) -> None:
    """Attach a TC program on one side of clsact, at our place.

    Args:
        replace: our program there gives way, with no packet in between.
    """
    ip.tc(
        "replace-filter" if replace else "add-filter",
        "bpf",
        ifindex,
        handle=FILTER_HANDLE,
        fd=program_fd,
        name=f"{FILTER_NAME}/{name}",
        parent=SIDES[side],
        prio=FILTER_PRIORITY,
        direct_action=True,
    )


def has_filter(ip, ifindex: int, side: str) -> bool:
    """Return whether our filter is on one side of clsact."""
    return has_clsact(ip, ifindex) and any(map(_is_ours, _filters(ip, ifindex, side)))


def delete_filter(ip, ifindex: int, side: str) -> None:
    """Remove our filter from one side of clsact; nothing happens if it is not there."""
    from etcpipe.kernel import rtnetlink

    if has_filter(ip, ifindex, side):
        rtnetlink.delete(
            ip,
            "tc del-filter",
            "bpf",
            ifindex,
            handle=FILTER_HANDLE,
            parent=SIDES[side],
            prio=FILTER_PRIORITY,
        )


def delete_clsact(ip, ifindex: int) -> None:
    """Remove clsact, which we added, unless somebody else uses it by now."""
    from etcpipe.kernel import rtnetlink

    if has_clsact(ip, ifindex) and not any(_filters(ip, ifindex, side) for side in SIDES):
        rtnetlink.delete(ip, "tc del", "clsact", ifindex)


def filters_at_our_priority(ip, ifindex: int, side: str) -> list:
    """Return the filters that keep ours off one side of clsact."""
    if not has_clsact(ip, ifindex):
        return []
    return [
        found
        for found in _filters(ip, ifindex, side)
        # the kernel lists a filter's kind once more, without a handle
        if found["info"] >> 16 == FILTER_PRIORITY and found["handle"] and not _is_ours(found)
    ]


def _filters(ip, ifindex: int, side: str) -> list:
    return list(ip.get_filters(index=ifindex, parent=SIDES[side]))


def _is_ours(found) -> bool:
    options = found.get_attr("TCA_OPTIONS")
    name = options.get_attr("TCA_BPF_NAME") if options else None
    return found["handle"] == FILTER_HANDLE and (name or "").startswith(f"{FILTER_NAME}/")
