"""A UDP port that tests receive at."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

TIMEOUT_S = 20


@contextmanager
def receiver(port: int = 0) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as bound:
        bound.bind(("127.0.0.1", port))
        bound.settimeout(TIMEOUT_S)
        yield bound
