"""Filters change while traffic flows: each packet met the old one or the new one, none neither."""

import pytest
from kernel_fixtures import HOOKS, Wire
from test_lifetime import Traffic, datagram, leave_earlier_tap, tracked

from etcpipe.kernel import filters
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

ONLY_FIRST, ONLY_SECOND, BOTH, NEITHER = PORTS = (1001, 1002, 1003, 1004)
FIRST = f"udp port {ONLY_FIRST} or udp port {BOTH}"
SECOND = f"udp port {ONLY_SECOND} or udp port {BOTH}"
FRAMES = tuple(map(datagram, PORTS))
CHANGES = 30


def sent(traffic: Traffic) -> dict[int, int]:
    """Return how many datagrams left each port."""
    whole, rest = divmod(traffic.sent, len(PORTS))
    return {port: whole + (turn < rest) for turn, port in enumerate(PORTS)}


def packets(opened: Tap) -> dict[int, int]:
    """Return how many packets of each port the tap tracked."""
    return {port: int(tracked(opened, port)["packets"][0]) for port in PORTS}


def assert_exact(counters: dict[str, int], kept: dict[int, int]) -> None:
    """All that was seen was tracked or left out, and tracked for these ports alone."""
    assert counters["PACKETS_SEEN"] == counters["PACKETS_TRACKED"] + counters["PACKETS_FILTERED"]
    assert counters["PACKETS_TRACKED"] == sum(kept.values())


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_no_packet_of_the_wire_misses_both_filters(wire: Wire, hook: str, mode: str) -> None:
    with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
        opened.set_filter(FIRST)
        opened.start()
        with Traffic(wire, FRAMES) as traffic:
            for change in range(CHANGES):
                traffic.wait_for(10)
                filters.set_filter(wire.device, wire.near, (SECOND, FIRST)[change % 2])
        kept = packets(opened)
        assert_exact(opened.counters(), kept)
    wanted = sent(traffic)
    assert (kept[BOTH], kept[NEITHER]) == (wanted[BOTH], 0)
    assert 0 < kept[ONLY_FIRST] < wanted[ONLY_FIRST]
    assert 0 < kept[ONLY_SECOND] < wanted[ONLY_SECOND]


@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_a_filter_holds_through_an_upgrade_and_changes_after_it(wire: Wire, mode: str) -> None:
    leave_earlier_tap(wire, mode=mode)
    filters.set_filter(wire.device, wire.near, FIRST)
    with Traffic(wire, FRAMES) as traffic:
        traffic.wait_for(200)
        with Tap(wire.device, TapSettings(mode=mode), netns=wire.near) as opened:
            opened.start()
            assert opened.adopted
            assert filters.current(wire.device, wire.near) == FIRST
            traffic.wait_for(200)
            assert packets(opened)[ONLY_SECOND] == 0
            filters.set_filter(wire.device, wire.near, SECOND)
            before = packets(opened)
            traffic.wait_for(200)
            traffic.stop()
            kept = packets(opened)
    assert (kept[BOTH], kept[NEITHER]) == (sent(traffic)[BOTH], 0)
    assert kept[ONLY_FIRST] - before[ONLY_FIRST] <= 1  # one on its way while that was read
    assert kept[ONLY_SECOND] > before[ONLY_SECOND]
