"""A flow that has its final verdict is copied no further, and each packet is accounted for."""

import struct
from collections.abc import Iterator

import captures
import numpy as np
import pytest
from captures import ether
from kernel_fixtures import LOADERS_MOSTLY, NEEDS_FORWARD, Bench, bench

from etcpipe.kernel import bpf
from etcpipe.policy.rules import verdict_words

pytestmark = pytest.mark.root

SLOTS = 64
UDP = ether(captures.udp(b"x" * 40))
COUNTED = {"PACKETS_SEEN": 1, "PACKETS_TRACKED": 1, "PACKETS_FIRST_N": 1}
SETTLED = {**COUNTED, "PACKETS_SETTLED": 1}
COPIED = {  # to nowhere: no device is there, and in XDP another program does it
    "tc_track": {**COUNTED, "PACKETS_CLONE_FAILED": 1},
    "xdp_track": COUNTED,
}
PROGRAMS = pytest.mark.parametrize("program", COPIED)


@pytest.fixture(scope="module", params=LOADERS_MOSTLY)
def programs(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench(request.param, slots=SLOTS) as loaded:
        yield loaded


@pytest.fixture
def tap(programs: Bench) -> Bench:
    programs.forget_flows()
    return programs


def judge(tap: Bench, final: bool = True, ahead: int = 0) -> None:
    """Give the only flow a verdict, or one that is `ahead` of it."""
    flow_id = int(tap.flow()["flow_id"])  # NumPy before 2 adds uint64 and int as floats
    judged = np.array([flow_id + ahead], np.uint64)
    word = verdict_words(judged, np.array([3]), np.zeros(1, np.uint8), final)
    bpf.update(tap.loaded.maps["verdicts"], np.array([flow_id % SLOTS], np.uint32), word)


@PROGRAMS
def test_packets_of_a_flow_with_its_final_verdict_are_counted_and_not_copied(tap, program):
    tap.run(program, UDP)
    lost = int(tap.flow()["lost"])
    judge(tap)

    moved = [tap.run(program, UDP)[1] for _ in range(11)]

    assert moved[:9] == [SETTLED] * 9
    assert moved[9:] == [{"PACKETS_SEEN": 1, "PACKETS_TRACKED": 1}] * 2  # past the first ten
    flow = tap.flow()
    assert (flow["counted"], flow["packets"].tolist(), flow["lost"]) == (12, [12, 0], lost)


@PROGRAMS
@pytest.mark.parametrize(
    ("final", "ahead"),
    [pytest.param(False, 0, id="early"), pytest.param(True, SLOTS, id="of a newer flow")],
)
def test_another_verdict_lets_copies_go_on(tap, program, final, ahead):
    tap.run(program, UDP)
    judge(tap, final, ahead)

    assert tap.run(program, UDP)[1] == COPIED[program]


@PROGRAMS
def test_a_tuple_that_is_used_again_is_a_flow_without_a_verdict(tap, program):
    tap.run(program, ether(captures.tcp(b"x", captures.ACK)))
    judge(tap)
    for flags in (captures.RST, captures.SYN):
        tap.run(program, ether(captures.tcp(b"", flags)))

    assert tap.run(program, ether(captures.tcp(b"x", captures.ACK)))[1] == COPIED[program]


def test_each_segment_among_the_first_n_is_settled(tap):
    frame = ether(captures.tcp(3000, captures.ACK))
    for _ in range(2):
        tap.run("tc_track", ether(captures.tcp(b"x", captures.ACK)))
    judge(tap)
    context = bytearray(184)  # struct __sk_buff: gso_segs at byte 164, gso_size at 176
    struct.pack_into("<I", context, 164, 3)
    struct.pack_into("<I", context, 176, 1000)

    moved = [tap.run("tc_track", frame, bytes(context))[1] for _ in range(3)]

    assert [one["PACKETS_FIRST_N"] for one in moved] == [3, 3, 2]
    assert [one["PACKETS_SETTLED"] for one in moved] == [3, 3, 2]
    assert tap.flow()["counted"] == 2 + 3 * 3


@PROGRAMS
@pytest.mark.parametrize(
    "way",
    [{"capture": "ringbuf"}, {"capture": "features", "features": ("s_pkt_cnt",)}],
    ids=["ringbuf", "features"],
)
def test_no_other_way_takes_them(program, way):
    with bench("libbpf", slots=SLOTS, **way) as tap:
        tap.run(program, UDP)
        judge(tap)
        assert tap.run(program, UDP)[1] == SETTLED


@NEEDS_FORWARD
def test_a_wire_forwards_them_alone():
    with bench("libbpf", slots=SLOTS, forward="lo", mode="xdp") as tap:
        tap.run("xdp_forward", UDP)
        judge(tap)
        moved = tap.run("xdp_forward", UDP)[1]
    # the ports are not there; nothing was put into the group of port and mirror
    assert moved == {**SETTLED, "PACKETS_NOT_FORWARDED": 1}
