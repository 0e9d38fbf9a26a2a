"""What stands on the router's hook is exchanged while TCP passes, slice by slice of a transfer.

All slices of a transfer meet the same connections, windows and placement of processes, which
differ between two runs of iperf3 by more than a program costs.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import bed as beds
import paired

from etcpipe.kernel import bpf, journal, links, netns

SLICE_S = 0.25
SETTLE_S = 0.05  # after an exchange; a round trip takes 0.2 ms
NONE, EMPTY, ATTACHED = "without", "empty tc program", "etcpipe attached"
CASES = (NONE, EMPTY, ATTACHED)
ROUND_S = len(CASES) * (SLICE_S + 2 * SETTLE_S)
ROUNDS_MIN = 3  # a slice may meet a stall


@contextmanager
def tracker(bed: beds.Bed) -> Iterator[int]:
    """Open the tap's tracker, on the hook or not; gives its descriptor, to attach it by."""
    with netns.enter(bed.router):
        state = journal.read(journal.run_path(netns.inode(), bed.device, ".json"))
    fd = bpf.pinned(state.pins / "prog_tc_track")
    try:
        yield fd
    finally:
        os.close(fd)


def take_off(bed: beds.Bed) -> None:
    """Take the tap's tracker off the hook: its flows and its consumer stay.

    The tap's end will find nothing to detach.
    """
    with netns.enter(bed.router), links.iproute() as ip:
        state = journal.read(journal.run_path(netns.inode(), bed.device, ".json"))
        state.take_off(ip)


@contextmanager
def put_back(bed: beds.Bed) -> Iterator[None]:
    """Have the tracker on the hook again for the length of the block."""
    with tracker(bed) as fd, beds.attached(bed, fd):
        yield


def measure(
    bed: beds.Bed, meter: beds.Meter, consumer: beds.Consumer, empty: int, seconds: float
) -> dict[str, list[float]]:
    """Return Gbit/s of a running transfer by what stood on the hook, a value a round.

    Rounds go on for so many seconds; there are ROUNDS_MIN at least. The consumer rests while its
    tracker is off, so that its own work counts as etcpipe's. All is off at the end.
    """
    gbits: dict[str, list[float]] = {case: [] for case in CASES}
    end = time.monotonic() + seconds
    take_off(bed)
    with tracker(bed) as fd:
        programs = {EMPTY: empty, ATTACHED: fd}
        while time.monotonic() < end or len(gbits[NONE]) < ROUNDS_MIN:
            for _, case in paired.shuffled(CASES, 1):
                with _standing(bed, consumer, programs.get(case), case == ATTACHED):
                    time.sleep(SETTLE_S)
                    gbits[case].append(meter.gbits(SLICE_S))
    return gbits


@contextmanager
def _standing(
    bed: beds.Bed, consumer: beds.Consumer, program: int | None, is_awake: bool
) -> Iterator[None]:
    rests = nullcontext() if is_awake else resting(consumer)
    stands = nullcontext() if program is None else beds.attached(bed, program)
    with rests, stands:
        yield


@contextmanager
def resting(consumer: beds.Consumer) -> Iterator[None]:
    """Stop a consumer for the length of the block."""
    consumer.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        consumer.signal(signal.SIGCONT)
