"""Waiting for what other threads and processes do, and ports that nobody has."""

import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etcpipe.live.tap import Live


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so; fail if time runs out first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waits_of(act: Callable[[], object]) -> int:
    """Return how often this thread gave the processor up to wait for something, in a call.

    A busy machine takes the processor away, which is no wait, and a clock cannot tell the two.
    """
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    act()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def quickest(act: Callable[[], object], times: int = 2) -> float:
    """Return the shortest of some calls, seconds: a busy machine makes any longer, none shorter."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        act()
        took.append(time.monotonic() - began)
    return min(took)


def stop_after(tap: "Live", is_done: Callable[[], bool]) -> None:
    """End the iteration of a tap two checks, a second, after something is so.

    What comes twice comes in that second.
    """
    seen: list[bool] = []

    def look() -> None:
        if is_done():
            seen.append(True)
        if len(seen) > 2:
            tap.stop()

    tap.at_checks(look)


@contextmanager
def interrupted(after_s: float) -> Iterator[None]:
    """Have a KeyboardInterrupt raised in the block, so many seconds after it began."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free_port() -> int:
    """Return a TCP and UDP port of loopback that nobody has."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]
