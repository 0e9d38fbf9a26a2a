"""Every reason for which a copy can be refused: counted, told to the flow, exact to the packet."""

import os
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

import captures
import numpy as np
import pytest
from kernel_fixtures import Wire, mapped, run

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.regroup import Regroup
from etcpipe.kernel import hooks, netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import FLOW_KEY
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

pytestmark = pytest.mark.root

NEAR, FAR, PORT = "10.77.0.1", "10.77.0.2", 9
MODES = ["tc", "xdp"]
PAGE = 4096
RECORD = 256 + 8  # the smallest record with its header


def packet(size: int = 60, port: int = 1001) -> bytes:
    return captures.ether(captures.udp(bytes(size), FAR, NEAR, port, PORT))


def flow(tap: Tap, port: int = 1001) -> np.void:
    """Return the kernel's state of the flow that packet() is of."""
    key = np.zeros(1, FLOW_KEY)
    key["a_addr"], key["b_addr"] = (np.frombuffer(mapped(end), np.uint8) for end in (NEAR, FAR))
    key["a_port"], key["b_port"], key["protocol"], key["ip_version"] = PORT, port, 17, 4
    return tap.records(key)[0]


@contextmanager
def tapped(wire: Wire, *, with_ring: bool = True, **settings: object):
    """Yield a tap, its ring or None, and a sender; nothing else is sent on the wire."""
    for namespace, device in ((wire.near, wire.device), (wire.far, wire.peer)):
        run(f"ip -n {namespace} addr flush dev {device}")
    with ExitStack() as stack:
        # copies on their way are counted by processor: on a busy machine we would be moved
        cpus = os.sched_getaffinity(0)
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {min(cpus)})
        tap = stack.enter_context(Tap(wire.device, TapSettings(**settings), netns=wire.near))
        ring = None
        if with_ring and tap.settings.capture == "ringbuf":
            size = tap.settings.ringbuf_bytes
            ring = stack.enter_context(RingBuffer(tap.records_fd, size, 0.05))
        elif with_ring:
            with netns.enter(wire.near):
                ring = stack.enter_context(
                    Ring(tap.mirror_ifindex, frames=1024, ring_size=1024, idle_s=0.05)
                )
            tap.bind(ring.fd)
        tap.start()
        yield tap, ring, stack.enter_context(wire.raw())


def received(ring: Ring | RingBuffer) -> list[int]:
    """Return the ranks that have come."""
    ranks: list[int] = []
    while len(batch := ring.receive()):
        ranks += batch.rank.tolist()
    return ranks


@pytest.mark.parametrize("mode", MODES)
def test_a_mirror_that_is_down_is_counted_and_told(wire: Wire, mode: str) -> None:
    with tapped(wire, mode=mode) as (tap, ring, sender):
        sender.send(packet())
        run(f"ip -n {wire.near} link set etcm2b down")
        sender.send(packet())
        sender.send(packet())
        run(f"ip -n {wire.near} link set etcm2b up")
        sender.send(packet())
        ranks, counted, state = received(ring), tap.counters(), flow(tap)

    assert ranks == [0, 3]
    assert (counted["PACKETS_FIRST_N"], counted["PACKETS_CLONE_FAILED"]) == (4, 2)
    assert state["lost"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_without_a_consumer_all_are_counted(wire: Wire, mode: str) -> None:
    with tapped(wire, with_ring=False, mode=mode) as (tap, _, sender):
        for _ in range(12):
            sender.send(packet())
        counted = tap.counters()

    assert (counted["PACKETS_FIRST_N"], counted["PACKETS_NO_CONSUMER"]) == (10, 10)


def test_a_frozen_consumer_loses_what_its_ring_does_not_hold(wire: Wire) -> None:
    with tapped(wire) as (tap, ring, sender):
        for port in range(1000, 2200):
            sender.send(packet(port=port))
        lost = ring.statistics()["rx_ring_full"] + ring.statistics()["rx_dropped"]
        arrived, counted = len(received(ring)), tap.counters()

    assert counted["PACKETS_FIRST_N"] == counted["PACKETS_REDIRECTED"] == 1200
    assert arrived == 1024
    assert lost == 1200 - 1024


def test_copies_that_vanish_on_their_way_are_counted(wire: Wire) -> None:
    """Without its program the mirror lets copies go; those behind them keep their own ranks."""
    with tapped(wire) as (tap, ring, sender):
        pin = tap._state.pins / "link_pop"
        sender.send(packet())
        hooks.release(pin)
        for _ in range(3):
            sender.send(packet(size=80))
        program = tap._loaded.programs["mirror_pop"]
        with netns.enter(wire.near):
            hooks.attach_xdp(program, tap.mirror_ifindex, pin, hooks.XDP_GENERIC_MODE)
        sender.send(packet())
        sender.send(packet())
        ranks, counted = received(ring), tap.counters()

    assert ranks == [0, 4, 5]
    assert counted["PACKETS_CLONED"] == 6
    assert (counted["PACKETS_POP_FAILED"], counted["PACKETS_REDIRECTED"]) == (3, 3)


def test_copies_that_never_come_are_counted_after_a_second(wire: Wire) -> None:
    with tapped(wire) as (tap, _, sender):
        hooks.release(tap._state.pins / "link_pop")
        for _ in range(3):
            sender.send(packet())
        time.sleep(1.1)
        sender.send(packet())
        counted = tap.counters()

    assert (counted["PACKETS_CLONED"], counted["PACKETS_POP_FAILED"]) == (4, 3)


def test_redirected_packets_need_the_ring_buffer(wire: Wire) -> None:
    """Generic XDP does not see what act_mirred redirected, as all packets of an ifb are."""
    try:
        run(f"ip -n {wire.near} link add ifbx type ifb")
    except subprocess.CalledProcessError:
        pytest.skip("no ifb in this kernel")
    with pytest.raises(UnsupportedError, match="ifbx: packets that tc redirected miss the mirror"):
        Tap("ifbx", netns=wire.near).__enter__()
    with Tap("ifbx", TapSettings(capture="ringbuf", mode="tc"), netns=wire.near) as tap:
        tap.start()
    assert wire.leftovers() == []


def test_somebody_elses_packet_on_the_mirror_takes_nobodys_place(wire: Wire) -> None:
    with tapped(wire) as (tap, ring, sender):
        sender.send(packet())
        with netns.enter(wire.near):
            foreign = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            foreign.bind(("etcm2a", 0))
        with foreign:
            foreign.send(packet(size=70))
        sender.send(packet())
        ranks, counted = received(ring), tap.counters()

    assert ranks == [0, 1]
    assert (counted["PACKETS_FOREIGN"], counted["PACKETS_POP_FAILED"]) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_full_ring_buffer_is_counted_and_told(wire: Wire, mode: str) -> None:
    settings = {"mode": mode, "capture": "ringbuf", "ringbuf_bytes": PAGE, "first_n": 40}
    fits = (PAGE - 1) // RECORD
    with tapped(wire, **settings) as (tap, ring, sender):
        for _ in range(fits + 5):
            sender.send(packet())
        ranks, full = received(ring), tap.counters()
        sender.send(packet())
        ranks += received(ring)
        counted, state = tap.counters(), flow(tap)

    assert full["PACKETS_RINGBUF_FULL"] == 5
    assert ranks == [*range(fits), fits + 5]
    assert counted["PACKETS_CLONED"] == len(ranks)
    assert state["lost"] == 5


def test_holes_are_in_the_verdicts_row(wire: Wire) -> None:
    settings = {"capture": "ringbuf", "ringbuf_bytes": PAGE, "first_n": 40}
    regroup = Regroup(40, raw_len=0, wait_s=60)
    with tapped(wire, **settings) as (tap, ring, sender):
        for _ in range(20):
            sender.send(packet())
        regroup.add(ring.receive())
        ring.receive()
        sender.send(packet())
        regroup.add(ring.receive())
        (row,) = [regroup.flush()]
        state = flow(tap)

    fits = (PAGE - 1) // RECORD
    assert row.lost.tolist() == [20 - fits] == [state["lost"]]
    assert row.packets["present"][0, :21].sum() == fits + 1


def test_a_ring_buffer_makes_no_device(wire: Wire) -> None:
    with tapped(wire, capture="ringbuf") as (tap, _, _):
        assert not [name for name in wire.devices() if name.startswith("etcm")]
        assert tap.alive()
    assert wire.leftovers() == []
