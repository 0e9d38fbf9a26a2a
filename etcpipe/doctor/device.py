"""Checks of one device: driver, offloads, and who else is there."""

from functools import partial

from etcpipe.doctor import OK, WARN, Check, Finding
from etcpipe.kernel import ethtool

# Drivers with XDP in the driver as of Linux 6.12 (their ndo_bpf takes XDP_SETUP_PROG).
NATIVE_XDP_DRIVERS = frozenset(
    "bnxt_en bonding cpsw dpaa2-eth ena enetc fec fsl_dpaa2_eth fsl_enetc gve hv_netvsc i40e "
    "ice idpf igb igc ixgbe ixgbevf mana mlx4_en mlx5_core mvneta mvpp2 nfp qede sfc "
    "stmmac thunder-nicvf tsnep tun veth virtio_net vmxnet3".split()
)
# Larger frames take several pages, which XDP sees only as fragments.
XDP_MTU_MAX = 3498


def checks(device: str) -> list[Check]:
    """Return the checks of a device of this namespace.

    Raises:
        DataplaneError: there is no such device.
        UnsupportedError: it carries no Ethernet frames.
    """
    from etcpipe.kernel import links

    found = links.device(device)
    with links.iproute() as ip:
        xdp_program = links.xdp_program(ip, found.ifindex)
        mtu = ip.get_links(found.ifindex)[0].get_attr("IFLA_MTU")
        filters = [(side, _filters(ip, found.ifindex, parent)) for side, parent in _sides()]
    return [
        partial(_driver, device),
        partial(_mtu, mtu),
        partial(_merging, device),
        partial(_splitting, device),
        partial(_hardware_offload, device),
        partial(_xdp, xdp_program),
        partial(_tc, filters),
    ]


def _driver(device: str) -> Finding:
    try:
        name = ethtool.driver(device)
    except OSError:
        return Finding("driver", OK, "software device without a driver: TC mode is taken")
    if name == "veth":
        text = "veth: native XDP, but it costs more than it gives; auto takes TC"
        return Finding("driver", OK, text)
    if name in NATIVE_XDP_DRIVERS:
        return Finding("driver", OK, f"{name}: native XDP; auto tries it and falls back to TC")
    return Finding("driver", OK, f"{name}: no native XDP known; auto tries it, then takes TC")


def _mtu(mtu: int) -> Finding:
    if mtu <= XDP_MTU_MAX:
        return Finding("mtu", OK, str(mtu))
    text = f"{mtu}: too large for XDP in one buffer, most drivers refuse it; TC mode works"
    return Finding("mtu", OK, text)


def _merging(device: str) -> Finding:
    on = _active(device, "rx-gro", "rx-gro-hw", "rx-lro", "rx-gro-list")
    if "rx-lro" in on:
        text = "LRO on: frames are merged beyond recognition before any program sees them"
        return Finding("merging", WARN, text, f"ethtool -K {device} lro off")
    if "rx-gro-hw" in on:
        text = "GRO in hardware on: packets of a flow arrive merged; segments are counted"
        return Finding("merging", WARN, text, f"ethtool -K {device} rx-gro-hw off")
    if "rx-gro" in on:
        text = "GRO on: in TC mode packets may arrive merged; their segments are counted"
        return Finding("merging", OK, text)
    return Finding("merging", OK, "off: packets arrive as on the wire")


def _splitting(device: str) -> Finding:
    on = _active(device, "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation")
    if on:
        text = "TSO on: local traffic leaves in super-packets; their segments are counted"
        return Finding("splitting", OK, text)
    return Finding("splitting", OK, "off: packets leave as on the wire")


def _hardware_offload(device: str) -> Finding:
    if "hw-tc-offload" in _active(device, "hw-tc-offload"):
        text = "on: flows that an eSwitch forwards never reach the kernel and are not seen"
        return Finding("hw-tc-offload", WARN, text, f"ethtool -K {device} hw-tc-offload off")
    return Finding("hw-tc-offload", OK, "off: all packets come through the kernel")


def _xdp(program_id: int) -> Finding:
    from etcpipe.kernel import occupied

    if not program_id:
        return Finding("xdp", OK, "free")
    name = occupied.describe_program(program_id)
    if "xdp_track" in name:
        return Finding("xdp", OK, f"etcpipe's own program ({name})")
    return Finding("xdp", WARN, f"taken by program {name}; it is left alone, TC mode is taken")


def _tc(filters: list[tuple[str, list[str]]]) -> Finding:
    foreign = [f"{name} at {side}" for side, names in filters for name in names]
    if not foreign:
        return Finding("tc", OK, "no filters of others")
    text = f"{', '.join(foreign)}: they stay; what they drop or redirect first is not seen"
    return Finding("tc", OK, text)


def _active(device: str, *names: str) -> set[str]:
    try:
        features = ethtool.features(device)
    except OSError:
        return set()
    return {name for name in names if features.get(name)}


def _sides() -> list[tuple[str, int]]:
    from etcpipe.kernel import links

    return list(links.SIDES.items())


def _filters(ip, ifindex: int, parent: int) -> list[str]:
    """Return the names of other people's filters on one side of clsact."""
    from etcpipe.kernel import links

    if not links.has_clsact(ip, ifindex):
        return []
    names = set()
    for entry in ip.get_filters(index=ifindex, parent=parent):
        options = entry.get_attr("TCA_OPTIONS")
        kind = entry.get_attr("TCA_KIND") or "filter"
        name = options.get_attr("TCA_BPF_NAME") if kind == "bpf" and options else None
        if not (name or "").startswith(links.FILTER_NAME):
            names.add(f"{kind} {name}" if name else kind)
    return sorted(names)
