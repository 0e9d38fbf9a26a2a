"""The tap's programs, a packet at a time, through both loaders: BPF_PROG_TEST_RUN."""

import struct
from collections.abc import Iterator
from time import sleep

import captures
import numpy as np
import pytest
from captures import ACK, CLIENT, CLIENT6, FIN, PSH, RST, SERVER, SERVER6, SYN, ether
from kernel_fixtures import LOADERS, NEEDS_FETCH_ADD, Bench, bench, mapped

pytestmark = pytest.mark.root

TC_ACT_UNSPEC = 0xFFFFFFFF
XDP_PASS = 2

PROGRAMS = {"tc_track": TC_ACT_UNSPEC, "xdp_track": XDP_PASS}

# what a first packet that counts does; the mirror does not exist here, so its copy fails
# (tc_track), or is left to another program (xdp_track)
NEW = {"PACKETS_SEEN": 1, "PACKETS_TRACKED": 1, "FLOWS_CREATED": 1}
FIRST = {**NEW, "PACKETS_FIRST_N": 1}
PASSED = {
    "not ip": {"PACKETS_SEEN": 1, "PACKETS_NOT_IP": 1},
    "malformed": {"PACKETS_SEEN": 1, "PACKETS_MALFORMED": 1},
    "fragment": {"PACKETS_SEEN": 1, "PACKETS_FRAGMENT": 1},
}


def frame(ethertype: int, body: bytes) -> bytes:
    return bytes(12) + struct.pack(">H", ethertype) + body


def ipv4(**change: int) -> bytes:
    """Return an Ethernet frame of a TCP packet whose IPv4 header has these fields."""
    packet = bytearray(captures.tcp(b"x" * 40, PSH | ACK))
    if "ihl" in change:
        packet[0] = 0x40 | change["ihl"]
    if "version" in change:
        packet[0] = change["version"] << 4 | 5
    if "total" in change:
        packet[2:4] = struct.pack(">H", change["total"])
    if "fragment" in change:
        packet[6:8] = struct.pack(">H", change["fragment"])
    if "doff" in change:
        packet[32] = change["doff"] << 4
    return ether(bytes(packet))


def ipv4_options(length: int) -> bytes:
    """Return a TCP packet with IPv4 options of so many bytes."""
    packet = captures.tcp(b"x" * 40, PSH | ACK)
    header = bytearray(packet[:20])
    header[0] = 0x40 | (20 + length) // 4
    header[2:4] = struct.pack(">H", len(packet) + length)
    return ether(bytes(header) + b"\x01" * length + packet[20:])


def ipv6(chain: list[tuple[int, bytes]], payload: bytes = b"x" * 40) -> bytes:
    """Return a UDP packet behind extension headers, each (its protocol, its bytes)."""
    udp = captures.udp(payload, CLIENT6, SERVER6)
    body = udp[40:]
    following = 17
    for protocol, header in reversed(chain):
        body = bytes([following]) + header[1:] + body
        following = protocol
    return ether(struct.pack(">IHBB", 6 << 28, len(body), following, 64) + udp[8:40] + body)


def extension(units: int, *, first: bytes = b"") -> bytes:
    """Return an extension header of 8-byte units, its next-header byte still to be set."""
    return (b"\0" + bytes([units - 1]) + first).ljust(8 * units, b"\0")


def fragment_header(offset: int) -> bytes:
    return struct.pack(">BBHI", 0, 0, offset << 3, 7)


def jumbogram() -> bytes:
    """Return a UDP packet whose length stands in a hop-by-hop option (RFC 2675), 0 elsewhere."""
    packet = bytearray(ipv6([(0, extension(1, first=b"\xc2\x04" + struct.pack(">I", 56)))]))
    packet[18:20] = b"\0\0"
    return bytes(packet)


AUTHENTICATION = (b"\0\x04").ljust(24, b"\0")  # length in 4-byte units, less two
SIX = [
    (0, extension(1)),
    (60, extension(2)),
    (43, extension(1)),
    (44, fragment_header(0)),
    (51, AUTHENTICATION),
    (60, extension(3)),
]

UDP = captures.udp(b"x" * 40)
# A cut IP header stands behind a VLAN tag: else the test run itself refuses the frame.
PACKETS = [
    pytest.param(ether(captures.tcp(b"x" * 40, PSH | ACK)), FIRST, 40, id="TCP with payload"),
    pytest.param(ether(captures.tcp(b"", SYN)), NEW, 0, id="SYN has no payload"),
    pytest.param(ether(UDP), FIRST, 40, id="UDP"),
    pytest.param(ether(captures.tcp(b"x", ACK, CLIENT6, SERVER6)), FIRST, 1, id="TCP over IPv6"),
    pytest.param(ether(captures.ip(1, b"\x08\0" + bytes(54))), NEW, 0, id="ICMP"),
    pytest.param(ether(captures.ip(47, bytes(40))), NEW, 0, id="GRE has no ports"),
    pytest.param(ether(captures.ip(132, bytes(40))), NEW, 0, id="SCTP does not count"),
    pytest.param(ipv4_options(4), FIRST, 40, id="IPv4 options, 4 bytes"),
    pytest.param(ipv4_options(40), FIRST, 40, id="IPv4 options, 40 bytes"),
    pytest.param(ipv6([(0, extension(1))]), FIRST, 40, id="IPv6 hop-by-hop"),
    pytest.param(ipv6([(51, AUTHENTICATION)]), FIRST, 40, id="IPv6 authentication"),
    pytest.param(ipv6([(44, fragment_header(0))]), FIRST, 40, id="IPv6 first fragment"),
    pytest.param(ipv6(SIX), FIRST, 40, id="IPv6 with six extension headers"),
    pytest.param(jumbogram(), FIRST, 40, id="IPv6 jumbogram"),
    pytest.param(ether(UDP, [100]), FIRST, 40, id="VLAN"),
    pytest.param(ether(UDP, [100, 200]), FIRST, 40, id="QinQ"),
    pytest.param(ipv4(fragment=0x2000), FIRST, 40, id="first fragment"),
    pytest.param(ipv4(fragment=100), PASSED["fragment"], None, id="later fragment"),
    pytest.param(ipv6([(44, fragment_header(9))]), PASSED["fragment"], None, id="IPv6 fragment"),
    pytest.param(frame(0x0806, bytes(46)), PASSED["not ip"], None, id="ARP"),
    pytest.param(ether(UDP, [1, 2, 3]), PASSED["not ip"], None, id="three VLAN tags"),
    pytest.param(ipv4(ihl=4), PASSED["malformed"], None, id="ihl below 5"),
    pytest.param(ipv4(version=5), PASSED["malformed"], None, id="version 5"),
    pytest.param(ipv4(total=19), PASSED["malformed"], None, id="shorter than its header"),
    pytest.param(ipv4(doff=4), PASSED["malformed"], None, id="doff below 5"),
    pytest.param(ether(UDP, [1])[:34], PASSED["malformed"], None, id="IPv4 header cut"),
    pytest.param(ether(UDP)[:40], PASSED["malformed"], None, id="UDP header cut"),
    pytest.param(ipv6(SIX)[:80], PASSED["malformed"], None, id="extension headers cut"),
    pytest.param(
        ether(captures.udp(b"", CLIENT6, SERVER6), [1])[:50],
        PASSED["malformed"],
        None,
        id="IPv6 cut",
    ),
]


@pytest.fixture(scope="module", params=LOADERS)
def programs(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench(request.param) as loaded:
        yield loaded


@pytest.fixture
def tap(programs: Bench) -> Bench:
    programs.forget_flows()
    return programs


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("frame", "moved", "payload"), PACKETS)
def test_a_packet_passes_and_is_counted(
    tap: Bench, program: str, frame: bytes, moved: dict[str, int], payload: int | None
) -> None:
    action, counted = tap.run(program, frame)

    copies = moved.get("PACKETS_FIRST_N") and program == "tc_track"
    assert action == PROGRAMS[program]
    assert counted == {**moved, **({"PACKETS_CLONE_FAILED": 1} if copies else {})}
    if payload is None:
        assert len(tap.flows()[0]) == 0
        return
    flow = tap.flow()
    assert flow["packets"].tolist() == [1, 0]
    assert flow["bytes"].tolist() == [len(frame), 0]
    assert flow["counted"] == (1 if payload else 0)
    assert flow["lost"] == (1 if copies else 0)
    assert flow["flow_id"] > 0
    assert flow["first_ns"] == flow["last_ns"] > 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_directions_are_one_flow(tap: Bench, program: str) -> None:
    tap.run(program, ether(captures.tcp(b"ask", PSH | ACK)))
    tap.run(program, ether(captures.tcp(b"answer", ACK, SERVER, CLIENT, 443, 40000)))

    keys, _ = tap.flows()
    flow = tap.flow()
    assert keys["a_addr"][0].tobytes() == mapped(CLIENT)
    assert keys["b_addr"][0].tobytes() == mapped(SERVER)
    assert (keys["a_port"][0], keys["b_port"][0]) == (40000, 443)
    assert (keys["protocol"][0], keys["ip_version"][0], keys["zone"][0]) == (6, 4, 0)
    assert flow["packets"].tolist() == [1, 1]
    assert flow["bytes"].tolist() == [14 + 40 + 3, 14 + 40 + 6]
    assert flow["tcp_flags"].tolist() == [PSH | ACK, ACK]
    assert flow["initiator"] == 0


def test_a_syn_ack_seen_first_was_not_sent_by_the_initiator(tap: Bench) -> None:
    tap.run("tc_track", ether(captures.tcp(b"", SYN | ACK, SERVER, CLIENT, 443, 40000)))
    tap.run("tc_track", ether(captures.tcp(b"x", ACK)))

    flow = tap.flow()
    assert flow["initiator"] == 0
    assert flow["packets"].tolist() == [1, 1]
    assert flow["tcp_flags"].tolist() == [ACK, SYN | ACK]


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_the_first_n_are_copied(tap: Bench, program: str) -> None:
    moved = [tap.run(program, ether(UDP))[1] for _ in range(12)]

    assert [counted.get("PACKETS_FIRST_N", 0) for counted in moved] == [1] * 10 + [0] * 2
    assert tap.flow()["counted"] == 12


def test_a_reset_ends_a_flow_and_a_syn_begins_the_next(tap: Bench) -> None:
    tap.run("tc_track", ether(captures.tcp(b"x", PSH | ACK)))
    old = tap.flow()
    tap.run("tc_track", ether(captures.tcp(b"", RST, SERVER, CLIENT, 443, 40000)))
    assert tap.flow()["status"] == 1
    assert tap.flow()["flow_id"] == old["flow_id"]

    _, moved = tap.run("tc_track", ether(captures.tcp(b"", SYN)))

    assert moved == {"PACKETS_SEEN": 1, "PACKETS_TRACKED": 1, "FLOWS_RESTARTED": 1}
    new = tap.flow()
    assert new["flow_id"] != old["flow_id"]
    assert (new["status"], new["counted"], new["packets"].tolist()) == (0, 0, [1, 0])


def test_a_flow_is_closed_by_the_fin_of_both_sides(tap: Bench) -> None:
    tap.run("tc_track", ether(captures.tcp(b"x", FIN | ACK)))
    assert tap.flow()["status"] == 0
    tap.run("tc_track", ether(captures.tcp(b"", FIN | ACK, SERVER, CLIENT, 443, 40000)))
    assert tap.flow()["status"] == 1


def test_a_super_packet_takes_as_many_ranks_as_it_has_segments(tap: Bench) -> None:
    frame = ether(captures.tcp(3000, PSH | ACK))  # 54 bytes of headers
    # struct __sk_buff: gso_segs at byte 164, gso_size at 176
    context = bytearray(184)
    struct.pack_into("<I", context, 164, 3)
    struct.pack_into("<I", context, 176, 1000)

    _, moved = tap.run("tc_track", frame, bytes(context))

    # each would get a copy of its own, with its own bytes
    assert moved["PACKETS_FIRST_N"] == moved["PACKETS_CLONE_FAILED"] == 3
    flow = tap.flow()
    assert flow["packets"].tolist() == [3, 0]
    assert (flow["counted"], flow["lost"]) == (3, 3)
    assert flow["bytes"].tolist() == [3 * (54 + 1000), 0]


@pytest.mark.parametrize(
    ("rule", "counted"),
    [("payload", [0, 0, 1, 0]), ("all", [1, 1, 1, 1]), ("non_ack", [1, 0, 1, 0])],
)
def test_which_packets_count_can_be_chosen(rule: str, counted: list[int]) -> None:
    with bench("libbpf", count=rule, first_n=3) as tap:
        packets = [(b"", SYN), (b"", ACK), (b"x", PSH | ACK), (b"", FIN | ACK)]
        moved = [tap.run("tc_track", ether(captures.tcp(*packet)))[1] for packet in packets]

        assert tap.flow()["counted"] == sum(counted)
        copied = [counters.get("PACKETS_FIRST_N", 0) for counters in moved]
        assert copied == ([1, 1, 1, 0] if rule == "all" else counted)


def test_silence_longer_than_the_idle_timeout_begins_a_new_flow() -> None:
    with bench("libbpf", idle_timeout_s=0.001) as tap:
        ids, created, restarted = set(), 0, 0
        for _ in range(3):
            _, moved = tap.run("tc_track", ether(UDP))
            ids.add(int(tap.flow()["flow_id"]))
            created += moved.get("FLOWS_CREATED", 0)
            restarted += moved.get("FLOWS_RESTARTED", 0)
            sleep(0.005)

        assert (created, restarted, len(ids)) == (1, 2, 3)


def test_ids_differ_and_are_small() -> None:
    with bench("libbpf") as tap:
        for port in range(1000):
            tap.run("tc_track", ether(captures.udp(b"x", sport=port + 1)))

        ids = tap.flows()[1]["flow_id"]
        assert len(np.unique(ids)) == 1000
        assert 0 < ids.min() and ids.max() < 1 << 20


def test_a_flood_of_new_flows_keeps_the_table_bounded() -> None:
    with bench("libbpf", max_flows=128) as tap:
        for port in range(1000):
            assert (
                tap.run("tc_track", ether(captures.udp(b"x", sport=port + 1)))[0] == TC_ACT_UNSPEC
            )

        counters = tap.counters()
        assert len(tap.flows()[0]) <= 128
        assert counters["FLOWS_CREATED"] + counters["PACKETS_TABLE_FULL"] == 1000


@pytest.mark.parametrize(
    "name", [pytest.param("tap.v3.bpf.o", marks=NEEDS_FETCH_ADD), "tap.plain.bpf.o"]
)
def test_both_objects_load_and_agree(name: str) -> None:
    with bench("libbpf", object_name=name) as tap:
        moved = [tap.run("tc_track", ether(UDP))[1] for _ in range(11)]

        assert tap.loaded.loader == f"libbpf ({name})"
        assert [counters.get("PACKETS_FIRST_N", 0) for counters in moved] == [1] * 10 + [0]


def test_a_packet_that_nobody_copied_does_not_pass_the_mirror(tap: Bench) -> None:
    assert tap.run("mirror_pop", ether(UDP)) == (1, {"PACKETS_FOREIGN": 1})  # XDP_DROP
