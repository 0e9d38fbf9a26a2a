"""What two devices must be to form a wire, checked before anything is changed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import ethtool, journal, links, netns, occupied

# What the far end of a veth must not do beside a port that forwards, as `ethtool -K` says it:
# a checksum or a tag that is left to the device is never put into the frame. And it takes
# frames from XDP only with NAPI, which it has with GRO or a program of its own.
GRO = "rx-gro"
FAR_END_OFF = {
    "tx": ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"),
    "txvlan": ("tx-vlan-hw-insert",),
    "tx-vlan-stag-hw-insert": ("tx-vlan-stag-hw-insert",),
}
# The same of a network card that is a port: it takes tags off before XDP sees the frame.
PORT_OFF = {
    "rxvlan": ("rx-vlan-hw-parse",),
    "rx-vlan-stag-hw-parse": ("rx-vlan-stag-hw-parse",),
}


@dataclass(frozen=True)
class Ports:
    """The two ends of the wire.

    Attributes:
        indexes: of the two devices, the one that was asked for first.
        mtu: of both.
    """

    indexes: tuple[int, int]
    mtu: int


def check(ip, device: links.Device, other_name: str) -> Ports:
    """Return the ports.

    Raises:
        UsageError: both are one device, or their MTUs differ.
        DataplaneError: no such device, or it is tapped.
        UnsupportedError: frames would be lost; says what to change.
    """
    other = links.device(other_name)
    if other.ifindex == device.ifindex:
        raise UsageError(f"{device.name} cannot forward to itself")
    if journal.run_path(netns.inode(), other.name, ".json").exists():
        raise DataplaneError(f"{other.name} is tapped itself: etcpipe detach {other.name}")
    mtus = [links.message(ip, port.ifindex).get_attr("IFLA_MTU") for port in (device, other)]
    if mtus[0] != mtus[1]:
        raise UsageError(
            f"{device.name} has MTU {mtus[0]} and {other.name} {mtus[1]}: make them equal"
        )
    for port in (device, other):
        if program_id := links.xdp_program(ip, port.ifindex):
            program = occupied.describe_program(program_id)
            raise UnsupportedError(f"cannot forward: {port.name} has an XDP program ({program})")
        if port.driver == "veth":
            _check_far_end(ip, port)
        elif changes := _to_switch_off(_features(port.name), PORT_OFF):
            raise UnsupportedError(
                f"cannot forward VLAN tags: ethtool -K {port.name} {' '.join(changes)}"
            )
    return Ports((device.ifindex, other.ifindex), mtus[0])


def _check_far_end(ip, port: links.Device) -> None:
    """Look at the other end of a veth; where nothing names its namespace it is not judged."""
    near = links.message(ip, port.ifindex)
    namespace = _far_namespace(ip, near)
    if namespace is None:
        return
    with netns.enter(namespace), links.iproute() as far:
        lacks = _lacks(links.message(far, near.get_attr("IFLA_LINK")))
    if lacks:
        raise UnsupportedError(f"cannot forward through {port.name}: {lacks}")


def _lacks(far_end) -> str:
    """Return what the far end of a veth lacks, in words."""
    name = far_end.get_attr("IFLA_IFNAME")
    features = _features(name)
    changes = []
    if not features.get(GRO) and not links.xdp_program_of(far_end):
        changes.append("gro on")
    changes += _to_switch_off(features, FAR_END_OFF)
    return f"at its far end, ethtool -K {name} {' '.join(changes)}" if changes else ""


def _to_switch_off(features: dict[str, bool], unwanted: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [
        f"{word} off"
        for word, names in unwanted.items()
        if any(features.get(name) for name in names)
    ]


def _features(device: str) -> dict[str, bool]:
    """Return a device's offloads; none are known where the driver does not tell."""
    try:
        return ethtool.features(device)
    except OSError:
        return {GRO: True}


def _far_namespace(ip, near) -> str | None:
    """Return a path to the namespace of a veth's other end, by the kernel's number for it."""
    from etcpipe.kernel.rtnetlink import NetlinkError

    number = near.get_attr("IFLA_LINK_NETNSID")
    if number is None:
        return str(netns.CURRENT)
    named = netns.NAMED.iterdir() if netns.NAMED.is_dir() else ()
    for path in (*named, *Path("/proc").glob("[0-9]*/ns/net")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # a process that ended meanwhile
        try:
            if ip.get_netnsid(fd=fd)["nsid"] == number:
                return str(path)
        except NetlinkError:
            continue  # a name whose namespace is just being made or removed
        finally:
            os.close(fd)
    return None
