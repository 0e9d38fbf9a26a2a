"""Sockets that are connected when needed, and tell when nobody listens."""

import os
import socket
from time import sleep
from typing import Any

# What answers "nobody listens" is an ICMP message: on a network it takes some milliseconds.
CONFIRM_S = 0.05
TIMEOUT_S = 5.0


class Connected:
    """A socket that is made when it is needed, and anew after each error."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Let go of the socket; the next message makes it anew."""
        if self._socket:
            self._socket.close()
        self._socket = None


class Datagrams(Connected):
    """Sends datagrams to an address.

    The kernel accepts a datagram that nobody will read, and reports the refusal with the next
    one. So the first one after an error is waited for, else every second one would seem to work.

    Args:
        address: (host, port), or the path of a Unix socket.
    """

    def __init__(self, address: tuple[str, int] | str):
        super().__init__()
        self._address = address
        self._failed = False

    def send(self, message: bytes) -> None:
        """Send one datagram.

        Raises:
            OSError: it cannot be sent, or the one before it was refused.
        """
        try:
            if self._socket is None:
                self._socket = _connect(self._address)
            self._socket.send(message)
            if self._failed:
                self._confirm(self._socket)
        except OSError:
            self._failed = True
            self.close()
            raise

    def _confirm(self, connected: socket.socket) -> None:
        sleep(CONFIRM_S)
        error = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._failed = False


class Stream(Connected):
    """Sends over a TCP connection."""

    def __init__(self, address: tuple[str, int]):
        super().__init__()
        self._address = address

    def send(self, message: bytes) -> None:
        """Send all of a message.

        Raises:
            OSError: it could not be sent whole.
        """
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, TIMEOUT_S)
            self._socket.sendall(message)
        except OSError:
            self.close()
            raise


def _connect(address: tuple[str, int] | str) -> socket.socket:
    family: Any = socket.AF_UNIX
    to: Any = address
    if not isinstance(address, str):
        family, _, _, _, to = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.settimeout(TIMEOUT_S)
        made.connect(to)
    except OSError:
        made.close()
        raise
    return made
