"""The tap after interrupts and crashes, and when its device goes."""

import os
import shutil
import signal
import threading
from pathlib import Path
from time import sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import HOOKS, LINUX, Wire, consumer, kill, run

from etcpipe.kernel import journal, netns, status
from etcpipe.kernel.journal import PINS
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

UDP = captures.ether(captures.udp(b"x" * 40))


def mirrors(wire: Wire) -> list[str]:
    return [name for name in wire.devices() if name.startswith("etcm")]


def flows(opened: Tap) -> int:
    return status.show(opened.device, opened.netns)[0]["flows"]


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
    assert status.show(wire.device, wire.near)[0]["pid"] is None

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
    (shown,) = status.show(wire.device, wire.near)
    assert (shown["pid"], shown["counters"]["PACKETS_NO_CONSUMER"] >= 1) == (None, True)

    with Tap(wire.device, netns=wire.near, keep=True) as second:
        second.start()
        assert second.adopted and second.mode == "tc"
    assert status.detach(wire.device, wire.near)
    assert not status.detach(wire.device, wire.near)
    assert wire.leftovers() == []


def test_detach_ends_a_living_tap(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert status.detach(wire.device, wire.near)
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


def files_of(inode: int, device: str = "*") -> list[Path]:
    """Return what a tap has in /run and in bpffs."""
    return [*(journal.RUN / str(inode)).glob(f"{device}*"), *(PINS / str(inode)).glob(device)]


@pytest.fixture
def killed(wire: Wire) -> str:
    """Another device of the near namespace, whose consumer was killed."""
    run(f"ip -n {wire.near} link add other0 type veth peer name other1")
    kill(consumer("other0", wire.near))
    return "other0"


def test_what_was_left_without_a_device_goes_with_the_next_tap(wire: Wire, killed: str) -> None:
    run(f"ip -n {wire.near} link del {killed}")
    inode = netns.inode(wire.near)
    assert files_of(inode, killed) and len(mirrors(wire)) == 2
    with Tap(wire.device, netns=wire.near):
        assert files_of(inode, killed) == []
        assert len(mirrors(wire)) == 2  # its own
    assert wire.leftovers() == [] == files_of(inode)


def test_what_was_left_on_another_device_stays(wire: Wire, killed: str) -> None:
    run(f"ip -n {wire.near} link set {killed} name renamed0")
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        (left,) = status.show(killed, wire.near)
        assert (left["pid"], left["mode"]) == (None, "tc")
    assert status.detach(killed, wire.near)
    assert files_of(netns.inode(wire.near)) == [] == mirrors(wire)


@pytest.mark.skipif(LINUX < (5, 14), reason="a namespace has no cookie before Linux 5.14")
def test_devices_of_another_namespace_with_the_same_inode_are_left_alone(
    wire: Wire, killed: str
) -> None:
    inode = netns.inode(wire.near)
    state = journal.read(journal.run_path(inode, killed, ".json"))
    assert state
    state.netns_cookie += 1
    state.write()
    before = mirrors(wire)
    with Tap(wire.device, netns=wire.near):
        assert files_of(inode, killed) == []
    assert mirrors(wire) == before


def test_a_lock_without_a_tap_goes_unless_it_is_held(wire: Wire) -> None:
    inode = netns.inode(wire.near)
    left, held = journal.Lock(inode, "left0"), journal.Lock(inode, "held0")
    held.acquire()
    left.path.touch()
    with Tap(wire.device, netns=wire.near):
        assert (left.path.exists(), held.path.exists()) == (False, True)
    held.release()
    assert files_of(inode) == []


def test_detach_all_forgets_namespaces_that_are_gone(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ip netns add etcpgone")
    inode = netns.inode("etcpgone")
    run("ip -n etcpgone link add gone0 type veth peer name gone1")
    kill(consumer("gone0", "etcpgone"))
    run("ip netns del etcpgone")

    # only this one: other tests have taps too
    shutil.move(journal.RUN / str(inode), tmp_path)
    monkeypatch.setattr(journal, "RUN", tmp_path)
    (tmp_path / str(inode) / "other0.lock").touch()
    assert status.detach_all() == ["gone0"]
    assert list(tmp_path.iterdir()) == [] == files_of(inode)
