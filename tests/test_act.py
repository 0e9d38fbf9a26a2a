"""Verdicts act on packets: priority, mark, DSCP and drop, a packet at a time."""

import struct
from collections.abc import Iterator

import captures
import numpy as np
import pytest
from captures import ACK, CLIENT6, PSH, SERVER6, ether
from kernel_fixtures import LINUX, LOADERS_MOSTLY, Bench, bench

from etcpipe.kernel import bpf
from etcpipe.policy import rules as policy

pytestmark = pytest.mark.root

TC_ACT_UNSPEC, TC_ACT_SHOT = 0xFFFFFFFF, 2
SLOTS = 64
CONTEXT_LEN, MARK_AT, PRIORITY_AT = 192, 8, 32  # of struct __sk_buff

PACKETS = {
    "IPv4": captures.tcp(b"x" * 40, PSH | ACK),
    "IPv6": captures.tcp(b"x" * 40, PSH | ACK, CLIENT6, SERVER6),
}


@pytest.fixture(scope="module", params=LOADERS_MOSTLY)
def programs(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench(request.param, policy=True, slots=SLOTS) as loaded:
        yield loaded


@pytest.fixture
def tap(programs: Bench) -> Bench:
    programs.forget_flows()
    return programs


def set_action(tap: Bench, text: str, index: int = 5) -> None:
    action = policy.parse(f'[[rule]]\nclass = "a"\naction = {text}').rules[0].action
    bpf.update(tap.loaded.maps["actions"], np.array([index], np.uint32), action.reshape(1))


def give_verdict(tap: Bench, flow_id: int, action: int = 5) -> None:
    word = policy.verdict_words(
        np.array([flow_id], np.uint64), np.array([3]), np.array([action], np.uint8)
    )
    slot = np.array([int(tap.flow()["flow_id"]) % SLOTS], np.uint32)
    bpf.update(tap.loaded.maps["verdicts"], slot, word)


def judged(tap: Bench, frame: bytes, text: str) -> None:
    """Make a flow of this frame that has a verdict with this action."""
    tap.run("tc_track", frame)
    set_action(tap, text)
    give_verdict(tap, int(tap.flow()["flow_id"]))


def run(tap: Bench, frame: bytes, mark: int = 0) -> tuple[int, bytes, int, int]:
    """Return what tc_track said, the frame, its mark and its priority after."""
    context = bytearray(CONTEXT_LEN)
    context[MARK_AT : MARK_AT + 4] = struct.pack("<I", mark)
    program = tap.loaded.programs["tc_track"]
    action, after, context_after = bpf.test_run_out(program, frame, bytes(context))
    (mark_after,) = struct.unpack_from("<I", context_after, MARK_AT)
    (priority,) = struct.unpack_from("<I", context_after, PRIORITY_AT)
    return action, after, mark_after, priority


def checksummed(packet: bytes, tos: int = 0) -> bytes:
    """Return an IPv4 packet with this TOS and the right header checksum (RFC 1071)."""
    header = bytearray(packet[:20])
    header[1] = tos
    header[10:12] = b"\0\0"
    total = sum(struct.unpack(">10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack(">H", ~total & 0xFFFF)
    return bytes(header) + packet[20:]


def traffic_class(packet: bytes, value: int) -> bytes:
    """Return an IPv6 packet with this traffic class and a flow label."""
    return struct.pack(">I", 6 << 28 | value << 20 | 0xABCDE) + packet[4:]


@pytest.mark.parametrize("version", PACKETS)
def test_priority_and_mark(tap, version):
    frame = ether(PACKETS[version])
    judged(tap, frame, '{priority = "1:20", mark = "0x20/0xff"}')
    assert run(tap, frame, mark=0xABCD) == (TC_ACT_UNSPEC, frame, 0xAB20, 0x10020)


def test_no_verdict_no_change(tap):
    frame = ether(PACKETS["IPv4"])
    set_action(tap, "{drop = true}")
    assert run(tap, frame, mark=7) == (TC_ACT_UNSPEC, frame, 7, 0)


def test_a_verdict_without_action_changes_nothing(tap):
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{drop = true}")
    give_verdict(tap, int(tap.flow()["flow_id"]), action=0)
    assert run(tap, frame, mark=7) == (TC_ACT_UNSPEC, frame, 7, 0)


def test_the_verdict_of_another_flow_in_the_slot_is_not_taken(tap):
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{drop = true}")
    give_verdict(tap, int(tap.flow()["flow_id"]) + SLOTS)
    assert run(tap, frame) == (TC_ACT_UNSPEC, frame, 0, 0)


def test_drop_is_counted(tap):
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{drop = true}")
    action, moved = tap.run("tc_track", frame)
    assert action == TC_ACT_SHOT
    assert moved["PACKETS_POLICY_DROP"] == 1
    assert "PACKETS_ACTED" not in moved


def test_acting_is_counted(tap):
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{mark = 1}")
    assert tap.run("tc_track", frame)[1]["PACKETS_ACTED"] == 1


@pytest.mark.parametrize("vlans", [[], [100], [100, 200]], ids=["untagged", "VLAN", "QinQ"])
@pytest.mark.parametrize("ecn", [0, 3])
def test_dscp_of_ipv4_with_its_checksum(tap, vlans, ecn):
    packet = PACKETS["IPv4"]
    frame = ether(checksummed(packet, tos=46 << 2 | ecn), vlans)
    judged(tap, frame, '{dscp = "CS1"}')
    assert run(tap, frame)[1] == ether(checksummed(packet, tos=8 << 2 | ecn), vlans)


@pytest.mark.parametrize("vlans", [[], [100]], ids=["untagged", "VLAN"])
@pytest.mark.parametrize("ecn", [0, 1])
def test_dscp_of_ipv6(tap, vlans, ecn):
    packet = PACKETS["IPv6"]
    frame = ether(traffic_class(packet, 46 << 2 | ecn), vlans)
    judged(tap, frame, "{dscp = 63}")
    assert run(tap, frame)[1] == ether(traffic_class(packet, 63 << 2 | ecn), vlans)


@pytest.mark.skipif(LINUX < (5, 14), reason="XDP test runs take no context before Linux 5.14")
def test_in_xdp_mode_a_mark_of_constant_bytes_goes_to_tc(tap):
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{mark = 1}")
    for _ in range(12):  # past the first N
        tap.run("xdp_track", frame)
    program = tap.loaded.programs["xdp_track"]
    first, second = (bpf.test_run_out(program, frame, xdp_context(frame))[1] for _ in range(2))
    flow_id = struct.pack("<Q", tap.flow()["flow_id"])
    assert first == second
    assert first[:8] == flow_id
    assert first[-len(frame) :] == frame


def xdp_context(frame: bytes) -> bytes:
    return struct.pack("<6I", 0, len(frame), 0, 0, 0, 0)


def test_without_a_policy_nothing_acts():
    frame = ether(PACKETS["IPv4"])
    with bench("libbpf", slots=SLOTS) as tap:
        judged(tap, frame, "{drop = true}")
        assert run(tap, frame) == (TC_ACT_UNSPEC, frame, 0, 0)


@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
def test_a_verdict_outlives_its_slot(tap: Bench, program: str) -> None:
    """A newer flow takes the slot, as it does after so many judged flows as there are slots."""
    frame = ether(PACKETS["IPv4"])
    judged(tap, frame, "{mark = 7}")
    tap.run(program, frame)
    flow_id = int(tap.flow()["flow_id"])
    give_verdict(tap, flow_id + SLOTS, action=6)

    assert tap.flow()["verdict"] == 5 << 8 | 4
    for _ in range(3):
        assert run(tap, frame)[2] == 7

    give_verdict(tap, flow_id, action=0)  # judged again: the later verdict holds
    assert run(tap, frame)[2] == 0
    give_verdict(tap, flow_id + SLOTS, action=6)
    assert run(tap, frame)[2] == 0
