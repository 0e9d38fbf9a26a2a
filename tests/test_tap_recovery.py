"""The tap after interrupts and crashes, and when its device goes."""

import os
import signal
import threading
from pathlib import Path
from time import sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import HOOKS, Wire, consumer, kill, run

from etcpipe.kernel import journal, netns, status, tap
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

UDP = captures.ether(captures.udp(b"x" * 40))


def flows(opened: Tap) -> int:
    return tap.show(opened.device, opened.netns)[0]["flows"]


@HOOKS
def test_an_interrupt_at_any_moment_leaves_nothing(wire: Wire, hook: str) -> None:
    interrupted = 0
    for delay in np.linspace(0.0, 0.25, 8):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            with Tap(wire.device, TapSettings(hook=hook), netns=wire.near) as opened:
                opened.start()
                sleep(2)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert wire.leftovers() == []
    assert interrupted == 8


@HOOKS
def test_the_next_tap_adopts_what_a_killed_one_left(wire: Wire, hook: str) -> None:
    kill(consumer(wire.device, wire.near, hook))
    with wire.raw() as sender:
        sender.send(UDP)  # traffic goes on, and is tracked, with nobody there
    assert tap.show(wire.device, wire.near)[0]["pid"] is None

    with Tap(wire.device, TapSettings(hook=hook), netns=wire.near) as opened:
        opened.start()
        assert opened.adopted
        before = flows(opened)
        with wire.raw() as sender:
            sender.send(captures.ether(captures.udp(b"x" * 40, sport=4)))
        assert 1 <= before < flows(opened)  # a host may also report a group it joins
    assert wire.leftovers() == []


@pytest.mark.parametrize(
    ("upto", "settings"), [("start", {"first_n": 3}), ("enter", {}), ("start", {"mode": "xdp"})]
)
def test_what_does_not_fit_is_removed_and_made_anew(
    wire: Wire,
    upto: str,
    settings: dict,
) -> None:
    kill(consumer(wire.device, wire.near, "auto", upto))
    with Tap(wire.device, TapSettings(**settings), netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
        assert opened.alive()
    assert wire.leftovers() == []


def test_a_lost_filter_is_not_adopted(wire: Wire) -> None:
    kill(consumer(wire.device, wire.near, "clsact"))
    run(f"tc -n {wire.near} filter del dev {wire.device} egress")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
        assert "etcpipe/tc_track" in run(f"tc -n {wire.near} filter show dev {wire.device} egress")
    assert wire.leftovers() == []


def test_an_unreadable_journal_is_no_obstacle(wire: Wire) -> None:
    kill(consumer(wire.device, wire.near, "clsact"))
    next(Path("/run/etcpipe").glob(f"{netns.inode(wire.near)}/*.json")).write_text("{ half")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        assert opened.alive()
    # whether that clsact was ours nobody knows any more: it stays, empty
    assert wire.leftovers() == ["clsact"]


def test_a_kept_tap_goes_on_and_is_adopted(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near, keep=True) as first:
        first.start()
    with wire.raw() as sender:
        sender.send(UDP)
    (shown,) = tap.show(wire.device, wire.near)
    assert (shown["pid"], shown["counters"]["PACKETS_NO_CONSUMER"] >= 1) == (None, True)

    with Tap(wire.device, netns=wire.near, keep=True) as second:
        second.start()
        assert second.adopted and second.mode == "tc"
    assert tap.detach(wire.device, wire.near)
    assert not tap.detach(wire.device, wire.near)
    assert wire.leftovers() == []


def test_detach_ends_a_living_tap(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert tap.detach(wire.device, wire.near)
        assert not opened.alive()
    assert wire.leftovers() == []


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_the_device_goes_away_while_tapped(wire: Wire, hook: str, mode: str) -> None:
    with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
        opened.start()
        run(f"ip -n {wire.near} link del {wire.device}")
        assert not opened.alive()
        assert opened.counters()["PACKETS_SEEN"] >= 0
    assert wire.leftovers() == []


def test_the_namespace_goes_away_after_a_crash(wire: Wire) -> None:
    run("ip netns add etcpgone")
    inode = netns.inode("etcpgone")
    run("ip -n etcpgone link add gone0 type veth peer name gone1")
    kill(consumer("gone0", "etcpgone"))
    run("ip netns del etcpgone")

    status.remove(next(state for state in journal.read_all() if state.netns_inode == inode))
    assert not list(Path("/run/etcpipe").glob(f"{inode}/*"))
    assert not list(Path("/sys/fs/bpf/etcpipe").glob(f"{inode}/*"))
