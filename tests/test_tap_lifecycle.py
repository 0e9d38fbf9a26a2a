"""The tap comes and goes, and says what it does."""

import os
import socket
from pathlib import Path
from time import sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import HOOKS, Wire, run

from etcpipe.kernel import bpf, canary, netns, status
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import FLOW_KEY

pytestmark = pytest.mark.root

UDP = captures.ether(captures.udp(b"x" * 40))


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_a_tap_leaves_nothing_behind(wire: Wire, hook: str, mode: str) -> None:
    with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
        opened.start()
        assert opened.mode == mode
        assert opened.alive()
        assert len(wire.leftovers()) >= 3

    assert wire.leftovers() == []
    assert not opened.alive()


def test_the_device_is_untouched_until_start(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near), wire.raw() as sender:
        sender.send(UDP)
        assert status.show(wire.device, wire.near)[0]["flows"] == 0
        assert "clsact" not in run(f"tc -n {wire.near} qdisc show dev {wire.device}")


def test_auto_takes_tc_on_veth_and_says_why(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert opened.mode == "tc"
        assert "veth" in opened.mode_reason
        assert opened.loader == "libbpf"


@HOOKS
def test_a_tap_is_shown(wire: Wire, hook: str) -> None:
    assert status.show(wire.device, wire.near) == []
    with Tap(wire.device, TapSettings(hook=hook, first_n=7), netns=wire.near) as opened:
        opened.start()
        with wire.raw() as sender:
            sender.send(UDP)
        (shown,) = status.show(wire.device, wire.near)

    assert (shown["device"], shown["ifindex"], shown["first_n"]) == (wire.device, 2, 7)
    assert (shown["mode"], shown["hook"], shown["pid"]) == ("tc", hook, os.getpid())
    assert shown["counters"]["PACKETS_FIRST_N"] >= 1
    assert shown["flows"] >= 1


def test_the_mirror_is_silent(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        sleep(0.3)  # router solicitations and reports would come by now
        assert opened.counters()["PACKETS_FOREIGN"] == 0


def test_verdicts_are_shared_with_the_kernel(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(slots=1024), netns=wire.near) as opened:
        opened.verdicts[[5, 1023]] = [77 << 16 | 3, 88 << 16 | 4]

        path = next(Path("/sys/fs/bpf/etcpipe").glob(f"{netns.inode(wire.near)}/*/map_verdicts"))
        fd = bpf.pinned(path)
        values = np.zeros(3, np.uint64)
        bpf.lookup(fd, np.array([5, 6, 1023], np.uint32), values)
        os.close(fd)
        assert values.tolist() == [77 << 16 | 3, 0, 88 << 16 | 4]
        assert opened.verdicts.shape == (1024,)


def test_unknown_flows_have_empty_records(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as opened:
        assert opened.records(np.zeros(3, FLOW_KEY))["flow_id"].tolist() == [0, 0, 0]


def test_a_device_that_is_down_can_be_tapped(wire: Wire) -> None:
    run(f"ip -n {wire.near} link set {wire.device} down")
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        run(f"ip -n {wire.near} link set {wire.device} up")
        with wire.raw() as sender:
            sender.send(UDP)
        assert opened.counters()["PACKETS_SEEN"] >= 1


def test_a_dot_in_the_name(wire: Wire) -> None:
    run(f"ip -n {wire.near} link set {wire.device} name eth0.100")
    with Tap("eth0.100", netns=wire.near) as opened:
        opened.start()
        assert status.show("eth0.100", wire.near)[0]["device"] == "eth0.100"
    assert wire.leftovers() == []


def test_loopback_counts_each_packet_once(wire: Wire) -> None:
    run(f"ip -n {wire.near} link set lo up")
    with Tap("lo", netns=wire.near) as opened:
        opened.start()
        with netns.enter(wire.near), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", 9))
            sender.send(b"x" * 40)
        counted = opened.counters()
    # the datagram, and the answer that nobody listens
    assert (counted["PACKETS_FIRST_N"], counted["PACKETS_SEEN"]) == (1, 2)


def test_a_tap_works_from_another_namespace_than_it_was_made_in(wire: Wire) -> None:
    with netns.enter(wire.near):
        opened = Tap(wire.device).__enter__()
    try:
        opened.start()
        with wire.raw() as sender:
            sender.send(UDP)
        assert opened.counters()["PACKETS_FIRST_N"] >= 1
    finally:
        opened.__exit__(None, None, None)
    assert wire.leftovers() == []


def test_two_devices_have_a_tap_each(wire: Wire) -> None:
    run(f"ip -n {wire.near} link set lo up")
    with Tap(wire.device, netns=wire.near) as one, Tap("lo", netns=wire.near) as other:
        one.start()
        other.start()
        assert one.mirror_ifindex != other.mirror_ifindex
        assert [shown["device"] for shown in status.show() if shown["ifindex"] == 1] == ["lo"]
    assert wire.leftovers() == []


@pytest.mark.parametrize(
    ("counts", "survives"),
    [
        ({"WRITTEN": 3, "SURVIVED": 3}, True),
        ({"WRITTEN": 3, "SURVIVED": 1, "LOST": 2}, True),  # the two were on their way before
        ({"WRITTEN": 3, "LOST": 3}, False),
        ({"REFUSED": 1, "LOST": 1}, False),
        ({"LOST": 3}, None),
        ({}, None),
    ],
)
def test_what_the_canary_proves(counts: dict[str, int], survives: bool | None) -> None:
    named = {
        f"CANARY_{name}": counts.get(name, 0) for name in ("WRITTEN", "REFUSED", "SURVIVED", "LOST")
    }
    assert canary.judge(named)[0] is survives


def test_a_canary_flies_through_veth(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(mode="xdp"), netns=wire.near) as opened:
        opened.start()
        assert opened.mode_reason == "tap0: a canary packet's metadata reached TC"


def test_no_packet_no_proof(wire: Wire) -> None:
    run(f"ip -n {wire.far} link set {wire.peer} down")
    with Tap(wire.device, TapSettings(mode="xdp"), netns=wire.near) as opened:
        opened.start()
        assert opened.mode == "xdp"
        assert "no packet arrived" in opened.mode_reason
