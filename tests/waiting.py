"""Waiting for what other threads and processes do, and ports that nobody has."""

import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager


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
