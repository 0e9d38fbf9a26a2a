"""Waiting for what other threads and processes do, and ports that nobody has."""

import socket
import time
from collections.abc import Callable
from contextlib import closing


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so; fail if time runs out first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free_port() -> int:
    """Return a TCP and UDP port of loopback that nobody has."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]
