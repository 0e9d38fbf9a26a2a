"""Network namespaces: work inside another one for the length of a block.

Only the network is switched (setns(2) with CLONE_NEWNET). `ip netns exec` also remounts
/sys, which hides /sys/fs/bpf: that is why it is not used.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from etcpipe.errors import DataplaneError, PermissionDeniedError, UsageError

CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71  # Linux 5.14
CURRENT = Path("/proc/thread-self/ns/net")
NAMED = Path("/run/netns")


def path_of(netns: str) -> Path:
    """Return the file of a namespace given as a name of `ip netns` or as a path.

    Raises:
        UsageError: there is none.
    """
    path = Path(netns) if "/" in netns else NAMED / netns
    if not path.exists():
        raise UsageError(f"no network namespace {netns}: see `ip netns list`")
    return path


def inode(netns: str | None = None) -> int:
    """Return what identifies a namespace on this machine (None: the current one).

    Once it is gone, another one may get its inode; see cookie().
    """
    return (path_of(netns) if netns else CURRENT).stat().st_ino


def cookie() -> int:
    """Return the number that no other namespace than the current one ever had or gets.

    It is 0 where the kernel does not tell, before Linux 5.14.
    """
    import socket  # here and below: `show` asks for an inode, and for speed

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(raw, sys.byteorder)


def find(wanted: int) -> str | None:
    """Return a path to the namespace with this inode, or None if nothing here names it."""
    named = NAMED.iterdir() if NAMED.is_dir() else ()
    for candidate in chain([CURRENT], named, Path("/proc").glob("[0-9]*/ns/net")):
        try:
            if candidate.stat().st_ino == wanted:
                return str(candidate)
        except OSError:
            continue  # a process that ended meanwhile
    return None


class Held:
    """The namespace of the calling thread, to come back to from anywhere until close()."""

    def __init__(self) -> None:
        self._fd = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def path(self) -> str:
        """What enter() takes."""
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self._fd)


@contextmanager
def enter(netns: str | None) -> Iterator[None]:
    """Run the block with this thread in a network namespace; None stays where it is.

    Raises:
        UsageError: there is no such namespace.
        PermissionDeniedError: it is another one than this thread's: setns(2) needs
            CAP_SYS_ADMIN then.
    """
    if netns is None:
        yield
        return
    home = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path_of(netns), os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_home = os.path.sameopenfile(target, home)
            if not is_home:
                _setns(target, netns)
        finally:
            os.close(target)
        try:
            yield
        finally:
            if not is_home:
                _setns(home, "the namespace before")
    finally:
        os.close(home)


def _setns(fd: int, name: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == 1:
        raise PermissionDeniedError(f"entering {name} needs CAP_SYS_ADMIN: run as root")
    raise DataplaneError(f"cannot enter network namespace {name}: {os.strerror(number)}")
