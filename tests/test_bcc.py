"""What bcc compiles at attach does what the shipped objects do: tunnels, and both captures."""

from collections.abc import Iterator

import pytest
from kernel_fixtures import Bench, Wire, bench, has_bcc
from test_bpf_parsing import EVERYTHING, NOTHING, TABLE, expected_key, fragments, key_tuple
from test_filter import FRAMES, wants
from test_flow_table import churn
from test_tap_traffic import consume

from etcpipe.kernel import filters

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_bcc(), reason="no python3-bpfcc"),
]
PROGRAMS = ("tc_track", "xdp_track")


@pytest.fixture(scope="module")
def tap() -> Iterator[Bench]:
    with bench("bcc", **EVERYTHING) as programs:
        yield programs


def keys_of(tap: Bench, program: str, *frames: bytes) -> list[tuple]:
    tap.forget_flows()
    for frame in frames:
        tap.run(program, frame)
    return [key_tuple(key) for key in tap.flows()[0]]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_flow_inside_each_tunnel(tap: Bench, program: str) -> None:
    found = {name: keys_of(tap, program, case[0]) for name, case in TABLE.items()}
    assert found == {name: [expected_key(*flow)] for name, (_, *flow) in TABLE.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_has_no_flow_is_counted(tap: Bench, program: str) -> None:
    reasons = {name: tap.run(program, frame)[1] for name, (frame, _) in NOTHING.items()}
    wanted = {name: {"PACKETS_SEEN": 1, reason: 1} for name, (_, reason) in NOTHING.items()}
    assert reasons == wanted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("program", PROGRAMS)
def test_later_fragments_join_the_first(tap: Bench, program: str, version: int) -> None:
    *frames, _of_another = fragments(version)
    assert len(keys_of(tap, program, *frames)) == 1
    assert tap.flow()["packets"].tolist() == [len(frames), 0]


def test_two_processors_count_no_flow_twice(tap: Bench) -> None:
    tap.forget_flows()
    ended, left, begun = churn(tap)
    assert len({*ended, *left}) == len(ended) + len(left) <= begun


def test_a_filter_is_set_and_taken_away(tap: Bench) -> None:
    filters.replace(tap.loaded.maps, "tcp")
    try:
        assert [wants(tap, program, FRAMES[0]) for program in PROGRAMS] == [True, True]
        assert [wants(tap, program, FRAMES[4]) for program in PROGRAMS] == [False, False]
    finally:
        filters.replace(tap.loaded.maps, None)
    assert [wants(tap, program, FRAMES[4]) for program in PROGRAMS] == [True, True]


# seconds of compiling each; test_tap_traffic.py has the ring buffer by tc
@pytest.mark.parametrize(
    ("capture", "mode"),
    [
        ("afxdp", "tc"),
        pytest.param("afxdp", "xdp", marks=pytest.mark.exhaustive),
        ("ringbuf", "xdp"),
        pytest.param("ringbuf", "tc", marks=pytest.mark.exhaustive),
    ],
)
def test_tunnelled_packets_arrive_whole(wire: Wire, mode: str, capture: str) -> None:
    frame = TABLE["VXLAN"][0]
    way = {"loader": "bcc", "mode": mode, "capture": capture}
    with consume(wire, way, **EVERYTHING) as live, wire.raw() as sender:
        for _ in range(3):
            sender.send(frame)
        packets = [packet for packet in live.drain() if packet.frame == frame]
        live.assert_exact()
    assert [packet.meta["rank"] for packet in packets] == [0, 1, 2]
