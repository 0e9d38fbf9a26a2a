"""One table of packets through tc_track, xdp_track, the host's parser and its definition."""

import struct
from collections.abc import Iterator
from contextlib import closing

import captures
import numpy as np
import pytest
import tunnels
from captures import ACK, CLIENT, CLIENT6, PSH, SERVER, SERVER6, ether, pcap, write
from kernel_fixtures import Bench, bench, mapped

from etcpipe.capture import Capture
from etcpipe.gpu.parsing_cpu import Unparsable, parse
from etcpipe.gpu.regroup import Regroup
from etcpipe.kernel import libbpf
from etcpipe.kernel.build import Build
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import CONSTANTS
from etcpipe.parsing import parse_bits

EVERYTHING = {"decap": True, "key_vlan": True, "key_tunnel": True}
TCP = captures.tcp(b"x" * 40, PSH | ACK)
TCP6 = captures.tcp(b"x" * 40, PSH | ACK, CLIENT6, SERVER6)
ARP = bytes(12) + b"\x08\x06" + bytes(28)

INNER = (CLIENT, SERVER, 40000, 443, 6)
INNER6 = (CLIENT6, SERVER6, 40000, 443, 6)


def outer(protocol: int) -> tuple:
    return ("192.0.2.1", "192.0.2.2", 0, 0, protocol)


def outer_udp(port: int) -> tuple:
    return ("192.0.2.1", "192.0.2.2", 50000, port, 17)


def gre(packet: bytes, **fields: int) -> bytes:
    return ether(tunnels.ip(47, tunnels.gre(packet, **fields)))


def over(name: str, payload: bytes) -> bytes:
    return ether(tunnels.udp(payload, tunnels.PORTS[name]))


# id: the frame, the flow's (address, address, port, port, protocol), VLAN ids, tunnel id
TABLE = {
    "no tunnel": (ether(TCP), INNER, (0, 0), 0),
    "VLAN": (ether(TCP, [0xA064]), INNER, (100, 0), 0),
    "QinQ": (ether(TCP, [100, 200]), INNER, (100, 200), 0),
    "priority tag": (ether(TCP, [0xE000]), INNER, (0, 0), 0),
    "GRE": (gre(TCP), INNER, (0, 0), 0),
    "GRE over VLAN": (ether(tunnels.ip(47, tunnels.gre(TCP)), [5]), INNER, (5, 0), 0),
    "GRE, IPv6 inside": (gre(TCP6), INNER6, (0, 0), 0),
    "GRE with key": (gre(TCP, key=0xDEADBEEF), INNER, (0, 0), 0xDEADBEEF),
    "GRE with all": (gre(TCP, key=1, flags=0x9000), INNER, (0, 0), 1),
    "GRE version 1": (gre(TCP, flags=1), outer(47), (0, 0), 0),
    "GRE of PPP": (gre(TCP, protocol=0x880B), outer(47), (0, 0), 0),
    "GRE cut": (gre(TCP, key=1)[:40], outer(47), (0, 0), 0),
    "NVGRE": (ether(tunnels.ip(47, tunnels.teb(TCP, key=0x70001))), INNER, (0, 0), 0x70001),
    "NVGRE, VLAN inside": (
        ether(tunnels.ip(47, tunnels.teb(TCP, key=7, vlans=(9, 8)))), INNER, (0, 0), 7,
    ),
    "VXLAN": (over("vxlan", tunnels.vxlan(TCP)), INNER, (0, 0), 7),
    "VXLAN, Linux's port": (over("vxlan-linux", tunnels.vxlan(TCP6)), INNER6, (0, 0), 7),
    "VXLAN without VNI": (over("vxlan", tunnels.vxlan(TCP, flags=0)), outer_udp(4789), (0, 0), 0),
    "VXLAN of ARP": (over("vxlan", b"\x08" + bytes(7) + ARP), outer_udp(4789), (0, 0), 0),
    "VXLAN, inside cut": (
        over("vxlan", tunnels.vxlan(TCP))[:90], outer_udp(4789), (0, 0), 0,
    ),
    "GENEVE": (over("geneve", tunnels.geneve(TCP)), INNER, (0, 0), 7),
    "GENEVE with options": (over("geneve", tunnels.geneve(TCP, options=63)), INNER, (0, 0), 7),
    "GENEVE version 1": (
        over("geneve", tunnels.geneve(TCP, version=1)), outer_udp(6081), (0, 0), 0,
    ),
    "GTP-U": (over("gtpu", tunnels.gtpu(TCP)), INNER, (0, 0), 7),
    "GTP-U with extensions": (over("gtpu", tunnels.gtpu(TCP, extensions=4)), INNER, (0, 0), 7),
    "GTP-U, five extensions": (
        over("gtpu", tunnels.gtpu(TCP, extensions=5)), outer_udp(2152), (0, 0), 0,
    ),
    "GTP-U echo": (over("gtpu", tunnels.gtpu(TCP, kind=1)), outer_udp(2152), (0, 0), 0),
    "IPIP": (ether(tunnels.ip(4, TCP)), INNER, (0, 0), 0),
    "SIT": (ether(tunnels.ip(41, TCP6)), INNER6, (0, 0), 0),
    "IP6IP6": (ether(captures.ip(41, TCP6, "2001:db8::8", "2001:db8::9")), INNER6, (0, 0), 0),
    "4in6": (ether(captures.ip(4, TCP, "2001:db8::8", "2001:db8::9")), INNER, (0, 0), 0),
    "IPIP of garbage": (ether(tunnels.ip(4, bytes(60))), outer(4), (0, 0), 0),
    "MPLS": (tunnels.mpls(TCP, 16, 17, 18), INNER, (0, 0), 18),
    "PPPoE": (tunnels.pppoe(TCP6, 9), INNER6, (0, 0), 9),
    "GRE over PPPoE": (tunnels.pppoe(tunnels.ip(47, tunnels.gre(TCP)), 9), INNER, (0, 0), 9),
    "IPIP in GRE": (gre(tunnels.ip(4, TCP), key=3), INNER, (0, 0), 3),
    "GTP-U in VXLAN": (
        over("vxlan", tunnels.vxlan(tunnels.udp(tunnels.gtpu(TCP6, teid=9), 2152))),
        INNER6, (0, 0), 9,
    ),
    "VXLAN in GTP-U": (
        over("gtpu", tunnels.gtpu(tunnels.udp(tunnels.vxlan(TCP), 4789), extensions=4)),
        INNER, (0, 0), 7,
    ),
    "GRE with key in IP6IP6": (
        ether(captures.ip(41, captures.ip(47, tunnels.gre(TCP, key=5), "2001:db8::6",
                                          "2001:db8::7"), "2001:db8::8", "2001:db8::9")),
        INNER, (0, 0), 5,
    ),
    "MPLS in GRE": (gre(tunnels.mpls(TCP, 16, 18)[14:], protocol=0x8847), INNER, (0, 0), 18),
    "MPLS in GRE, explicit null": (
        gre(tunnels.mpls(TCP, 0)[14:], protocol=0x8847, key=3), INNER, (0, 0), 3,
    ),
    "MPLS in GRE, no bottom": (
        gre(bytes(40), protocol=0x8847), outer(47), (0, 0), 0,
    ),
    "PPPoE in VXLAN": (
        over("vxlan", tunnels.vxlan_frame(tunnels.pppoe(TCP6, 9))), INNER6, (0, 0), 9,
    ),
    "second tunnel cut": (
        gre(tunnels.ip(47, tunnels.gre(TCP, key=1)[:7]), key=3),
        ("192.0.2.1", "192.0.2.2", 0, 0, 47), (0, 0), 3,
    ),
    "inside of the second tunnel cut": (
        gre(tunnels.ip(47, tunnels.gre(TCP[:30], key=1)), key=3),
        ("192.0.2.1", "192.0.2.2", 0, 0, 47), (0, 0), 3,
    ),
    "two tunnels deep": (
        gre(captures.ip(4, tunnels.ip(4, TCP), "198.51.100.1", "198.51.100.2"), key=3),
        ("192.0.2.1", "192.0.2.2", 0, 0, 4), (0, 0), 3,
    ),
}  # fmt: skip
NOTHING = {
    "MPLS, no bottom": (tunnels.mpls(TCP, 1, 2, 3, 4, 5, 6, 7), "PACKETS_NOT_IP"),
    "MPLS cut": (tunnels.mpls(TCP, 1, 2, 3)[:20], "PACKETS_MALFORMED"),
    "PPPoE discovery": (tunnels.pppoe(TCP, code=9), "PACKETS_NOT_IP"),
    "later fragment in GRE": (gre(captures.ip(6, bytes(40), fragment=9)), "PACKETS_FRAGMENT"),
}


def expected_key(flow: tuple, zones: tuple[int, int], tunnel: int) -> tuple:
    a, b, a_port, b_port, protocol = flow
    version = 6 if ":" in a else 4
    return (mapped(a), mapped(b), a_port, b_port, protocol, version, *zones, tunnel)


def key_tuple(key: np.void) -> tuple:
    numbers = ("a_port", "b_port", "protocol", "ip_version", "zone", "inner_zone", "tunnel")
    ends = key["a_addr"].tobytes(), key["b_addr"].tobytes()
    return (*ends, *(int(key[name]) for name in numbers))


def host_keys(path, frame: bytes, **options: bool) -> tuple[list[tuple], dict[str, int]]:
    """Return the keys of a capture of one frame, as the tracker and as Regroup see it."""
    capture = Capture([write(path / "one.pcap", pcap([(0, frame)]))], count="all", **options)
    batches = list(capture)
    tracked = [key_tuple(record["key"]) for record in capture.finish()]
    for device in ("cpu", "reference"):
        regroup = Regroup(1, parse=capture.parse, device=device)
        rows = [regroup.add(batch) for batch in batches if len(batch)]
        assert [key_tuple(flows.key[0]) for flows in rows] in ([], tracked)
    return tracked, capture.counters


@pytest.fixture(scope="module")
def tap() -> Iterator[Bench]:
    with bench("libbpf", **EVERYTHING) as programs:
        yield programs


@pytest.mark.parametrize("name", TABLE)
def test_the_host_finds_the_flow(name: str, tmp_path) -> None:
    frame, *flow = TABLE[name]

    keys, _ = host_keys(tmp_path, frame, **EVERYTHING)

    assert keys == [expected_key(*flow)]
    assert parse(frame, len(frame), 1, parse_bits(**EVERYTHING)).key == keys[0]


@pytest.mark.root
@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
@pytest.mark.parametrize("name", TABLE)
def test_the_kernel_finds_the_same_flow(tap: Bench, program: str, name: str) -> None:
    tap.forget_flows()
    frame, *flow = TABLE[name]

    _, moved = tap.run(program, frame)

    assert moved["PACKETS_TRACKED"] == 1
    assert key_tuple(tap.flows()[0][0]) == expected_key(*flow)


@pytest.mark.parametrize("name", NOTHING)
def test_the_host_counts_what_has_no_flow(name: str, tmp_path) -> None:
    frame, counter = NOTHING[name]

    keys, counters = host_keys(tmp_path, frame, **EVERYTHING)

    assert (keys, counters[counter]) == ([], 1)
    with pytest.raises(Unparsable):
        parse(frame, len(frame), 1, parse_bits(**EVERYTHING))


@pytest.mark.root
@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
@pytest.mark.parametrize("name", NOTHING)
def test_the_kernel_counts_it_too(tap: Bench, program: str, name: str) -> None:
    frame, counter = NOTHING[name]
    assert tap.run(program, frame)[1] == {"PACKETS_SEEN": 1, counter: 1}


@pytest.mark.parametrize("name", ["GRE", "VXLAN", "MPLS", "QinQ", "PPPoE"])
def test_tunnels_and_tags_are_left_alone_unless_asked(name: str, tmp_path) -> None:
    frame = TABLE[name][0]
    keys, counters = host_keys(tmp_path, frame)
    if name in ("MPLS", "PPPoE"):
        assert (keys, counters["PACKETS_NOT_IP"]) == ([], 1)
    else:
        flow = {"GRE": outer(47), "VXLAN": outer_udp(4789), "QinQ": INNER}[name]
        assert keys == [expected_key(flow, (0, 0), 0)]


@pytest.mark.parametrize(
    ("in_band", "vlan", "zones"),
    [([100, 200], 0xFFFF, (100, 200)), ([200], 100, (100, 200)), ([], 100, (100, 0)),
     ([100], 0xFFFF, (100, 0)), ([100], 100, (100, 0))],
)  # fmt: skip
def test_a_tag_in_band_and_one_beside_the_frame_give_one_key(in_band, vlan, zones) -> None:
    frame = ether(TCP, in_band)
    options = CONSTANTS["PARSE_KEY_VLAN"]
    assert parse(frame, len(frame), 1, options, vlan).key == expected_key(INNER, zones, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_later_fragments_belong_to_the_flow_of_the_first(version: int, tmp_path) -> None:
    capture = Capture([write(tmp_path / "f.pcap", pcap(enumerate(fragments(version))))])
    assert sum(len(batch) for batch in capture) == 1  # they have no rank
    (record,) = capture.finish()
    assert record["state"]["packets"].tolist() == [3, 0]
    assert capture.counters["PACKETS_FRAGMENT"] == 1


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
def test_later_fragments_join_in_the_kernel(tap: Bench, program: str, version: int) -> None:
    tap.forget_flows()
    moved = [tap.run(program, frame)[1] for frame in fragments(version)]
    assert [counted.get("PACKETS_TRACKED", 0) for counted in moved] == [1, 1, 1, 0]
    assert moved[3] == {"PACKETS_SEEN": 1, "PACKETS_FRAGMENT": 1}
    flow = tap.flow()
    assert (flow["packets"].tolist(), flow["counted"]) == ([3, 0], 1)


@pytest.mark.root
def test_later_fragments_join_after_an_upgrade() -> None:
    first, *later, _ = fragments(4)
    with bench("libbpf") as old:
        old.run("tc_track", first)

        with closing(libbpf.load(Build(TapSettings(), 1, 1, maps=old.loaded.maps))) as newer:
            moved = [Bench(newer).run("tc_track", frame)[1] for frame in later]

        assert [counted["PACKETS_TRACKED"] for counted in moved] == [1, 1]


def fragments(version: int) -> list[bytes]:
    """Return a datagram's three fragments, and one of a datagram that nobody knows."""
    first = struct.pack(">HHHH", 40000, 53, 200, 0) + b"x" * 40
    if version == 4:
        parts = [(0x2000, first), (0x2006, b"y" * 48), (0x000C, b"z" * 48)]
        frames = [ether(captures.ip(17, body, fragment=field)) for field, body in parts]
        stranger = bytearray(frames[1])
        stranger[18:20] = b"\x77\x77"  # another identification
    else:
        parts = [(1, first), (48 | 1, b"y" * 48), (96, b"z" * 48)]
        frames = [
            ether(captures.ip(44, struct.pack(">BBHI", 17, 0, field, 1) + body, CLIENT6, SERVER6))
            for field, body in parts
        ]
        stranger = bytearray(frames[1])
        stranger[58:62] = b"wxyz"
    return [*frames, bytes(stranger)]
