"""What two devices must be to form a wire, checked before anything is changed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import checks, ethtool, hooks, journal, links, netns, occupied

# broadcast to several ports; and 5.13 for a veth that forwards what no program awaits
XDP_SINCE = (5, 14)
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
        devices: the one that was asked for first.
        mtu: of both.
    """

    devices: tuple[links.Device, links.Device]
    mtu: int

    @property
    def indexes(self) -> tuple[int, int]:
        """The devices' numbers."""
        first, second = self.devices
        return first.ifindex, second.ifindex


def check(ip, device: links.Device, other_name: str) -> Ports:
    """Return the ports.

    Raises:
        UsageError: both are one device, or their MTUs differ.
        DataplaneError: no such device, or it is tapped.
        UnsupportedError: its frames have no Ethernet header.
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
    return Ports((device, other), mtus[0])


def why_not_xdp(ip, pair: Ports) -> str:
    """Return what keeps XDP from forwarding between the ports, and what to change; else nothing."""
    try:
        checks.linux(XDP_SINCE, "XDP that forwards")
    except UnsupportedError as error:
        return str(error)
    return next(filter(None, (_lacks_for_xdp(ip, port) for port in pair.devices)), "")


def _lacks_for_xdp(ip, port: links.Device) -> str:
    if program_id := links.xdp_program(ip, port.ifindex):
        return f"{port.name} has an XDP program ({occupied.describe_program(program_id)})"
    if port.driver == "veth":
        lacks = _far_end_lacks(ip, port)
        return f"through {port.name}: {lacks}" if lacks else ""
    if changes := _to_switch_off(_features(port.name), PORT_OFF):
        return f"VLAN tags are lost: ethtool -K {port.name} {' '.join(changes)}"
    return hooks.why_no_xdp(port.name, port.ifindex)


def _far_end_lacks(ip, port: links.Device) -> str:
    """Look at the other end of a veth; where nothing names its namespace it is not judged."""
    near = links.message(ip, port.ifindex)
    namespace = _far_namespace(ip, near)
    if namespace is None:
        return ""
    with netns.enter(namespace), links.iproute() as far:
        return _lacks(links.message(far, near.get_attr("IFLA_LINK")))


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
