"""Whether devices are still there, asked from any thread."""

import socket
import struct
from collections.abc import Iterable
from fcntl import ioctl

SIOCGIFNAME = 0x8910


class Presence:
    """Asks about devices of the network namespace in which it was made."""

    def __init__(self) -> None:
        # a socket stays in its namespace, wherever the thread that asks is by then
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def of(self, indexes: Iterable[int]) -> bool:
        """Return whether all devices with these indexes are there."""
        return all(self._is_there(index) for index in indexes)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _is_there(self, ifindex: int) -> bool:
        try:
            ioctl(self._socket, SIOCGIFNAME, struct.pack("16si20x", b"", ifindex))
        except OSError:
            return False
        return True
