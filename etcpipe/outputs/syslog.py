"""Verdict lines to syslog: the local one, or another host's by UDP.

    syslog:                       /dev/log of this machine
    syslog://loghost:514          RFC 5424 by UDP (RFC 5426)

Each message is a verdict line as in files, from program "etcpipe", facility local5, severity
informational, as Suricata writes its own.
"""

import os
import socket

from etcpipe.outputs import Columns, eve
from etcpipe.outputs.queued import Drop
from etcpipe.outputs.sockets import Datagrams

LOCAL = "/dev/log"
PORT = 514
FACILITY_LOCAL5, SEVERITY_INFO = 21, 6
PRIORITY = FACILITY_LOCAL5 * 8 + SEVERITY_INFO


class Syslog:
    """Sends a datagram a verdict.

    Args:
        address: host and port, or the path of the local socket.
    """

    def __init__(self, address: tuple[str, int] | str = LOCAL):
        self.on_drop: Drop = lambda n, reason: None
        self._is_local = isinstance(address, str)
        self._datagrams = Datagrams(address)
        self._sent = 0  # of the batch that is being written

    def write(self, columns: Columns) -> None:
        """Send one message a flow; those that were sent are not sent again."""
        messages = self._messages(columns)
        while self._sent < len(messages):
            self._datagrams.send(messages[self._sent])
            self._sent += 1
        self._sent = 0

    def tick(self) -> None:
        """Nothing is due."""

    def reopen(self) -> None:
        """Connect anew before the next message."""
        self._datagrams.close()

    def close(self) -> None:
        """Let go of the socket."""
        self._datagrams.close()

    def _messages(self, columns: Columns) -> list[bytes]:
        lines = eve.lines(columns)
        if self._is_local:  # its daemon adds time and host: RFC 3164, as syslog(3) sends it
            start = f"<{PRIORITY}>etcpipe[{os.getpid()}]: "
            return [(start + line).encode() for line in lines]
        middle = f"Z {socket.gethostname()[:255] or '-'} etcpipe {os.getpid()} verdict - "
        return [
            f"<{PRIORITY}>1 {time}{middle}{line}".encode()
            for time, line in zip(columns.timestamp.astype(str), lines, strict=True)
        ]
