"""What must be given before anything is made: rights, and the BPF file system."""

import ctypes
import os
import platform
from pathlib import Path

from etcpipe.errors import DataplaneError, PermissionDeniedError, UnsupportedError

BPFFS = Path("/sys/fs/bpf")
# bits of /proc/self/status CapEff; CAP_SYS_ADMIN includes the BPF ones
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
CAP_SYS_ADMIN = 21
INCLUDED = ("CAP_PERFMON", "CAP_BPF")


def capabilities() -> None:
    """Raise PermissionDeniedError naming the capabilities that this process lacks."""
    missing = missing_capabilities(effective_capabilities())
    if missing:
        raise PermissionDeniedError(f"needs root, or {', '.join(missing)}")


def effective_capabilities() -> int:
    """Return this thread's effective capabilities, a bit each."""
    status = Path("/proc/thread-self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def missing_capabilities(effective: int) -> list[str]:
    """Return the needed capabilities that are not among the effective ones."""
    is_admin = effective >> CAP_SYS_ADMIN & 1
    return [
        name
        for name, bit in NEEDED.items()
        if not effective >> bit & 1 and not (is_admin and name in INCLUDED)
    ]


def linux(since: tuple[int, int], what: str, instead: str = "") -> None:
    """Raise UnsupportedError on an older kernel: it takes the programs, and fails packet by packet.

    Args:
        since: the first version where `what` works.
        instead: what to do on others.
    """
    release = platform.release()
    version = tuple(map(int, release.split("-")[0].split(".")[:2]))
    if version < since:
        wanted = ".".join(map(str, since))
        hint = f": {instead}" if instead else ""
        raise UnsupportedError(f"{what} needs Linux {wanted}, this is {release}{hint}")


def bpffs() -> None:
    """Mount the BPF file system where it is missing (containers, minimal systems).

    Raises:
        DataplaneError: it cannot be mounted.
    """
    if is_bpffs():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, b"mode=0700") < 0:
        reason = os.strerror(ctypes.get_errno())
        raise DataplaneError(f"no BPF file system: mount -t bpf bpf {BPFFS} ({reason})")


def is_bpffs() -> bool:
    """Return whether /sys/fs/bpf is what its name says."""
    mounts = Path("/proc/thread-self/mounts").read_text().splitlines()
    return any(line.split()[1:3] == [str(BPFFS), "bpf"] for line in mounts)
