"""Counts the instructions of a piece of work in hardware, which repeats on a busy machine.

A count says less than a time (nothing about caches and branches), but it repeats where times do
not. It needs a hardware counter, which many virtual machines lack, and permission to open it
(kernel.perf_event_paranoid at most 2).

Source: perf_event_open(2); struct perf_event_attr of linux/perf_event.h, version 0 (64 bytes).
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable

from etcpipe.errors import UnsupportedError

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTE_SIZE = 64
_EXCLUDE_KERNEL_AND_HYPERVISOR = 1 << 5 | 1 << 6
HARDWARE_INSTRUCTIONS = (0, 1)  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS
SOFTWARE_TASK_CLOCK = (1, 1)  # ns, to test the call on machines without counters


class Counter:
    """Counts instructions of this thread in user space; close() or a with block ends it.

    Raises:
        UnsupportedError: processor, kernel or permissions do not allow it.
    """

    def __init__(self, event: tuple[int, int] = HARDWARE_INSTRUCTIONS) -> None:
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise UnsupportedError(f"no performance counters on {platform.machine()}")
        kind, config = event
        attribute = struct.pack(
            "=IIQQQQQIIQ",
            kind,
            _ATTRIBUTE_SIZE,
            config,
            0,
            0,
            0,
            _EXCLUDE_KERNEL_AND_HYPERVISOR,
            0,
            0,
            0,
        )
        libc = ctypes.CDLL(None, use_errno=True)
        # this thread, any processor, no group, no flags
        self._fd = libc.syscall(number, attribute, 0, -1, -1, 0)
        if self._fd < 0:
            reason = os.strerror(ctypes.get_errno()).lower()
            raise UnsupportedError(f"cannot count instructions here: {reason}")

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the counter."""
        os.close(self._fd)

    def read(self) -> int:
        """Return the count so far."""
        return int.from_bytes(os.read(self._fd, 8), "little")


def instructions_of(piece: Callable[[], object], flows: int, repeats: int = 5) -> float | None:
    """Return the least number of instructions for one flow of a piece of work on several.

    Returns:
        None where instructions cannot be counted.
    """
    try:
        counter = Counter()
    except UnsupportedError:
        return None
    counts = []
    with counter:
        for _ in range(repeats):
            before = counter.read()
            piece()
            counts.append(counter.read() - before)
    return min(counts) / flows
