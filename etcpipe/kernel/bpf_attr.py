"""union bpf_attr of the bpf(2) system call, command by command, and the call itself.

Source: include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from functools import cache

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

_libc = ctypes.CDLL(None, use_errno=True)


class Attr(ctypes.Structure):
    """Base of the attributes below; the kernel takes a short union as zero-extended."""


def _attr(name: str, *fields: tuple) -> type[Attr]:
    return type(name, (Attr,), {"_fields_": list(fields)})


_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64
Element = _attr(
    "Element", ("map_fd", _U32), ("pad", _U32), *((n, _U64) for n in ("key", "value", "flags"))
)
Pin = _attr("Pin", ("path", _U64), ("fd", _U32), ("flags", _U32))
Id = _attr("Id", ("id", _U32), ("next_id", _U32), ("flags", _U32))
Load = _attr(
    "Load",
    ("type", _U32),
    ("n_instructions", _U32),
    *((n, _U64) for n in ("instructions", "license")),
    *((n, _U32) for n in ("log_level", "log_size")),
    ("log", _U64),
    *((n, _U32) for n in ("kernel_version", "flags")),
    ("name", ctypes.c_char * 16),
    *((n, _U32) for n in ("ifindex", "attach_type")),
)
Info = _attr("Info", ("fd", _U32), ("len", _U32), ("info", _U64))
Link = _attr(
    "Link",
    *((n, _U32) for n in ("program_fd", "target", "attach_type", "flags", "relative_fd", "pad")),
    ("revision", _U64),
)
Tracepoint = _attr("Tracepoint", ("name", _U64), ("program_fd", _U32), ("pad", _U32))
LinkUpdate = _attr("LinkUpdate", *((n, _U32) for n in ("link_fd", "program_fd", "flags", "old")))
Query = _attr(
    "Query",
    *((n, _U32) for n in ("target", "attach_type", "query_flags", "attach_flags")),
    ("program_ids", _U64),
    *((n, _U32) for n in ("count", "pad")),
    *((n, _U64) for n in ("program_flags", "link_ids", "link_flags", "revision")),
)
TestRun = _attr(
    "TestRun",
    *((n, _U32) for n in ("program_fd", "result", "size_in", "size_out")),
    *((n, _U64) for n in ("data_in", "data_out")),
    *((n, _U32) for n in ("repeat", "duration", "context_size_in", "context_size_out")),
    *((n, _U64) for n in ("context_in", "context_out")),
    *((n, _U32) for n in ("flags", "cpu", "batch_size")),
)
ProgramInfo = _attr(
    "ProgramInfo",
    ("type", _U32),
    ("id", _U32),
    ("tag", ctypes.c_uint8 * 8),
    ("unused", ctypes.c_uint8 * 48),
    ("name", ctypes.c_char * 16),
    ("unused_too", ctypes.c_uint8 * 112),
    ("run_time_ns", _U64),
    ("runs", _U64),
)
MapInfo = _attr(
    "MapInfo",
    *((n, _U32) for n in ("type", "id", "key_size", "value_size", "max_entries", "flags")),
    ("name", ctypes.c_char * 16),
)


def call(command: int, attr: Attr) -> int:
    """Make the call and return its result, a descriptor or 0.

    Raises:
        OSError: as the kernel gave it.
    """
    result = _libc.syscall(_number(), command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prepared(command: int, attr: Attr) -> Callable[[], int]:
    """Return a function that makes the call with what attr holds by then, and returns its errno.

    0 is success. For loops over many elements, in which the call itself is most of the time.
    """
    number, reference, size = _number(), ctypes.byref(attr), ctypes.sizeof(attr)
    syscall, errno_of = _libc.syscall, ctypes.get_errno

    def ask() -> int:
        return errno_of() if syscall(number, command, reference, size) < 0 else 0

    return ask


@cache
def _number() -> int:
    machine = platform.machine()
    if machine not in SYSCALL_NUMBERS:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {machine}")
    return SYSCALL_NUMBERS[machine]
