"""What a service manager is told, and when: systemd's notification protocol.

Source: sd_notify(3), sd_watchdog_enabled(3). Messages are datagrams to the socket that
NOTIFY_SOCKET names; nothing answers.
"""

import os
import socket
from contextlib import suppress
from time import monotonic, monotonic_ns


class Notifier:
    """Tells the service manager how it goes; what cannot be told is left untold.

    Args:
        address: of the manager's socket; one that begins with @ has no file.
        watchdog_s: the manager ends a process that is silent for so long; None: never.
    """

    def __init__(self, address: str, watchdog_s: float | None = None):
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # a manager that hangs must not hang us
        self._every_s = watchdog_s / 2 if watchdog_s else None
        self._next = 0.0

    def __enter__(self) -> "Notifier":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ready(self, status: str) -> None:
        """Set-up is through; `status` is what `systemctl status` shows."""
        self._tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """New settings are being taken; ready() ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Call this as often as you like from where the work is done."""
        if self._every_s is not None and monotonic() >= self._next:
            self._next = monotonic() + self._every_s
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        with suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)


def notifier() -> Notifier | None:
    """Return what tells the service manager that started this process; None: there is none."""
    where = address()
    return Notifier(where, _watchdog_s()) if where else None


def address() -> str | None:
    """Return the socket of the service manager that wants to hear from this process, if any."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    return where if where.startswith(("/", "@")) else None


def _watchdog_s() -> float | None:
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process, which left it to us
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) else None
