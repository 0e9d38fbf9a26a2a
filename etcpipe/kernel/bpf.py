"""The bpf(2) system call, for what must work the same under both loaders.

Only maps, pins, links and test runs; programs are loaded by libbpf or bcc. Each function
raises OSError as the kernel gave it: callers know what they tried and say it.
Source: include/uapi/linux/bpf.h, union bpf_attr.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 1, 2, 3, 4
PROG_LOAD = 5
OBJ_PIN, OBJ_GET = 6, 7
PROG_TEST_RUN = 10
PROG_GET_FD_BY_ID = 13
OBJ_GET_INFO, PROG_QUERY, RAW_TRACEPOINT_OPEN = 15, 16, 17
MAP_LOOKUP_AND_DELETE = 21
MAP_LOOKUP_BATCH = 24
# what MAP_LOOKUP_AND_DELETE answers for a hash map before Linux 5.14
NO_LOOKUP_AND_DELETE = (errno.EINVAL, 524)  # ENOTSUPP has no name in user space
LINK_CREATE, LINK_UPDATE, LINK_DETACH = 28, 29, 34

PROGRAM_TC, PROGRAM_XDP = 3, 6
ATTACH_XDP, ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS = 37, 46, 47
PROGRAMS_MAX = 64  # on one tcx hook
BEFORE_ALL = 1 << 3  # BPF_F_BEFORE with no program named

_libc = ctypes.CDLL(None, use_errno=True)


class MapShape(NamedTuple):
    """What two maps must have in common to be one."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


class _Attr(ctypes.Structure):
    """Base of the attributes below; the kernel takes a short union as zero-extended."""


def _attr(name: str, *fields: tuple) -> type[_Attr]:
    return type(name, (_Attr,), {"_fields_": list(fields)})


_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64
_Element = _attr(
    "_Element", ("map_fd", _U32), ("pad", _U32), *((n, _U64) for n in ("key", "value", "flags"))
)
_Pin = _attr("_Pin", ("path", _U64), ("fd", _U32), ("flags", _U32))
_Id = _attr("_Id", ("id", _U32), ("next_id", _U32), ("flags", _U32))
_Load = _attr(
    "_Load",
    ("type", _U32),
    ("n_instructions", _U32),
    *((n, _U64) for n in ("instructions", "license")),
    *((n, _U32) for n in ("log_level", "log_size")),
    ("log", _U64),
    *((n, _U32) for n in ("kernel_version", "flags")),
    ("name", ctypes.c_char * 16),
    *((n, _U32) for n in ("ifindex", "attach_type")),
)
_Info = _attr("_Info", ("fd", _U32), ("len", _U32), ("info", _U64))
_Link = _attr(
    "_Link",
    *((n, _U32) for n in ("program_fd", "target", "attach_type", "flags", "relative_fd", "pad")),
    ("revision", _U64),
)
_Tracepoint = _attr("_Tracepoint", ("name", _U64), ("program_fd", _U32), ("pad", _U32))
_LinkUpdate = _attr("_LinkUpdate", *((n, _U32) for n in ("link_fd", "program_fd", "flags", "old")))
_Query = _attr(
    "_Query",
    *((n, _U32) for n in ("target", "attach_type", "query_flags", "attach_flags")),
    ("program_ids", _U64),
    *((n, _U32) for n in ("count", "pad")),
    *((n, _U64) for n in ("program_flags", "link_ids", "link_flags", "revision")),
)
_Batch = _attr(
    "_Batch",
    *((n, _U64) for n in ("cursor_in", "cursor_out", "keys", "values")),
    *((n, _U32) for n in ("count", "map_fd")),
    *((n, _U64) for n in ("element_flags", "flags")),
)
_TestRun = _attr(
    "_TestRun",
    *((n, _U32) for n in ("program_fd", "result", "size_in", "size_out")),
    *((n, _U64) for n in ("data_in", "data_out")),
    *((n, _U32) for n in ("repeat", "duration", "context_size_in", "context_size_out")),
    *((n, _U64) for n in ("context_in", "context_out")),
    *((n, _U32) for n in ("flags", "cpu", "batch_size")),
)
_ProgramInfo = _attr(
    "_ProgramInfo",
    ("type", _U32),
    ("id", _U32),
    ("tag", ctypes.c_uint8 * 8),
    ("unused", ctypes.c_uint8 * 48),
    ("name", ctypes.c_char * 16),
    ("unused_too", ctypes.c_uint8 * 112),
    ("run_time_ns", _U64),
    ("runs", _U64),
)
_MapInfo = _attr(
    "_MapInfo",
    *((n, _U32) for n in ("type", "id", "key_size", "value_size", "max_entries", "flags")),
    ("name", ctypes.c_char * 16),
)


@cache
def _number() -> int:
    machine = platform.machine()
    if machine not in SYSCALL_NUMBERS:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {machine}")
    return SYSCALL_NUMBERS[machine]


def _call(command: int, attr: _Attr) -> int:
    result = _libc.syscall(_number(), command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in bpffs that outlives this process."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    _call(OBJ_PIN, _Pin(path=ctypes.addressof(text), fd=fd))


def pinned(path: Path) -> int:
    """Return a new descriptor of what is pinned at path."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    return _call(OBJ_GET, _Pin(path=ctypes.addressof(text)))


def link_create(program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attach a program by a link; it stays until the last descriptor and pin are gone."""
    return _call(LINK_CREATE, _Link(program_fd, ifindex, attach_type, flags))


def tracepoint_open(program_fd: int) -> int:
    """Attach a program to the tracepoint that it was loaded for; returns the link."""
    return _call(RAW_TRACEPOINT_OPEN, _Tracepoint(program_fd=program_fd))


def link_update(link_fd: int, program_fd: int) -> None:
    """Put another program in a link's place, with no packet in between."""
    _call(LINK_UPDATE, _LinkUpdate(link_fd, program_fd))


def link_detach(link_fd: int) -> None:
    """Detach at once, whoever else holds the link; closing it alone detaches some time later."""
    _call(LINK_DETACH, _Pin(path=link_fd))


def program_load(
    instructions: np.ndarray, program_type: int, name: str, attach_type: int = 0
) -> int:
    """Load a program of ours, (n,) of 8 bytes an instruction; returns its descriptor.

    With ETCPIPE_DEBUG set the verifier's words are in the error.
    """
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attr = _Load(type=program_type, n_instructions=len(instructions))
    attr.instructions, attr.license = instructions.ctypes.data, ctypes.addressof(licence)
    attr.name, attr.attach_type = name.encode(), attach_type
    log = ctypes.create_string_buffer(1 << 20 if "ETCPIPE_DEBUG" in os.environ else 1)
    if len(log) > 1:
        attr.log_level, attr.log_size, attr.log = 1, len(log), ctypes.addressof(log)
    try:
        return _call(PROG_LOAD, attr)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} {log.value.decode()}".rstrip()) from None


def programs_at(ifindex: int, attach_type: int) -> list[int]:
    """Return the ids of the programs on a tcx hook, in the order that packets meet them."""
    ids = np.zeros(PROGRAMS_MAX, np.uint32)
    attr = _Query(target=ifindex, attach_type=attach_type, count=len(ids))
    attr.program_ids = ids.ctypes.data
    _call(PROG_QUERY, attr)
    return ids[: attr.count].tolist()


def program_fd(program_id: int) -> int:
    """Return a new descriptor of a loaded program."""
    return _call(PROG_GET_FD_BY_ID, _Id(id=program_id))


def program_info(fd: int) -> tuple[int, str, str]:
    """Return a program's id, name and tag (the digest of its instructions)."""
    info = _program_info(fd)
    return info.id, info.name.decode(), bytes(info.tag).hex()


def program_runs(fd: int) -> tuple[int, int]:
    """Return how often a program ran, and for how many ns; 0 of what nobody had counted.

    The kernel counts where the sysctl kernel.bpf_stats_enabled says so.
    """
    info = _program_info(fd)
    return info.runs, info.run_time_ns


def _program_info(fd: int) -> ctypes.Structure:
    info = _ProgramInfo()
    _call(OBJ_GET_INFO, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
    return info


def map_shape(fd: int) -> MapShape:
    """Return a map's type and sizes, to tell whether another program can use it."""
    info = _MapInfo()
    _call(OBJ_GET_INFO, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
    return MapShape(info.type, info.key_size, info.value_size, info.max_entries)


def lookup(fd: int, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fill one row of values a key, as the map has it now.

    Args:
        keys: (n,) of the map's key type.
        values: (n, ...) C-contiguous, a row as large as the map's value (per-CPU maps: one
            8-byte aligned value a possible CPU); rows of unknown keys are left as they are.

    Returns:
        (n,) bool, whether the key was there.
    """
    keys = np.ascontiguousarray(keys)
    found = np.ones(len(keys), dtype=bool)
    attr = _Element(map_fd=fd)
    size = ctypes.sizeof(attr)
    number, reference = _number(), ctypes.byref(attr)
    key, value = keys.ctypes.data, values.ctypes.data
    for row in range(len(keys)):
        attr.key = key + row * keys.strides[0]
        attr.value = value + row * values.strides[0]
        if _libc.syscall(number, MAP_LOOKUP, reference, size) < 0:
            error = ctypes.get_errno()
            if error != errno.ENOENT:
                raise OSError(error, os.strerror(error))
            found[row] = False
    return found


def update(fd: int, key: np.ndarray, value: np.ndarray) -> None:
    """Store one value, (1,) arrays of the map's types."""
    _call(MAP_UPDATE, _Element(map_fd=fd, key=key.ctypes.data, value=value.ctypes.data))


def delete(fd: int, key: np.ndarray) -> None:
    """Remove one key, a (1,) array of the map's type."""
    _call(MAP_DELETE, _Element(map_fd=fd, key=key.ctypes.data))


def entries(fd: int, key_dtype: np.dtype, value_dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return all keys and values of a hash map, read in batches while it may change."""
    keys, values = [np.empty(0, key_dtype)], [np.empty(0, value_dtype)]
    for some_keys, some_values in slices(fd, key_dtype, value_dtype, 4096):
        keys.append(some_keys)
        values.append(some_values)
    # named, as NumPy would turn the network order of a port into the machine's
    return np.concatenate(keys, dtype=key_dtype), np.concatenate(values, dtype=value_dtype)


def slices(
    fd: int, key_dtype: np.dtype, value_dtype: np.dtype, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield keys and values of a hash map, up to `chunk` at a time, while it may change."""
    cursors = [np.zeros(64, np.uint8), np.zeros(64, np.uint8)]
    started = ended = False
    while not ended:
        keys, values = np.empty(chunk, key_dtype), np.empty(chunk, value_dtype)
        attr = _Batch(
            cursors[0].ctypes.data if started else 0,
            cursors[1].ctypes.data,
            keys.ctypes.data,
            values.ctypes.data,
            chunk,
            fd,
        )
        try:
            _call(MAP_LOOKUP_BATCH, attr)
        except OSError as error:
            if error.errno == errno.ENOSPC and chunk < 1 << 20:  # one bucket holds more
                chunk *= 4
                continue
            if error.errno != errno.ENOENT:
                raise
            ended = True
        yield keys[: attr.count], values[: attr.count]
        cursors.reverse()
        started = True


def take(fd: int, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Remove keys from a hash map and fill in the values that they had at that moment.

    Args and result as lookup(). Before Linux 5.14 a value is read, then removed: what the
    map's programs changed in between is lost.
    """
    found = np.ones(len(keys), dtype=bool)
    attr = _Element(map_fd=fd)
    size, reference, number = ctypes.sizeof(attr), ctypes.byref(attr), _number()
    key, value = keys.ctypes.data, values.ctypes.data
    for row in range(len(keys)):
        attr.key = key + row * keys.strides[0]
        attr.value = value + row * values.strides[0]
        if _libc.syscall(number, MAP_LOOKUP_AND_DELETE, reference, size) < 0:
            error = ctypes.get_errno()
            if error in NO_LOOKUP_AND_DELETE:
                found[row] = _take_in_two(fd, keys[row : row + 1], values[row : row + 1])
            elif error == errno.ENOENT:
                found[row] = False
            else:
                raise OSError(error, os.strerror(error))
    return found


def _take_in_two(fd: int, key: np.ndarray, value: np.ndarray) -> bool:
    if not lookup(fd, key, value)[0]:
        return False
    try:
        delete(fd, key)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def test_run(fd: int, packet: bytes, context: bytes = b"") -> int:
    """Run a program once on a packet and return its action."""
    data = ctypes.create_string_buffer(packet, len(packet))
    attr = _TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data), repeat=1)
    if context:
        area = ctypes.create_string_buffer(context, len(context))
        attr.context_in, attr.context_size_in = ctypes.addressof(area), len(context)
    _call(PROG_TEST_RUN, attr)
    return attr.result


def test_run_out(fd: int, packet: bytes, context: bytes) -> tuple[int, bytes, bytes]:
    """Run a program once on a packet; returns its action, the packet and the context after."""
    room = len(packet) + 256  # what a program may put in front
    data, after = (
        ctypes.create_string_buffer(packet, len(packet)),
        ctypes.create_string_buffer(room),
    )
    area = ctypes.create_string_buffer(context, len(context))
    area_after = ctypes.create_string_buffer(len(context))
    attr = _TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data), repeat=1)
    attr.data_out, attr.size_out = ctypes.addressof(after), room
    attr.context_in, attr.context_size_in = ctypes.addressof(area), len(context)
    attr.context_out, attr.context_size_out = ctypes.addressof(area_after), len(context)
    _call(PROG_TEST_RUN, attr)
    return attr.result, after.raw[: attr.size_out], area_after.raw


def time_run(fd: int, packet: bytes, repeat: int) -> int:
    """Return ns that a run of a program took, the mean of `repeat` runs on one packet buffer."""
    data = ctypes.create_string_buffer(packet, len(packet))
    attr = _TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data))
    attr.repeat = repeat
    _call(PROG_TEST_RUN, attr)
    return attr.duration


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    spans = [part.split("-") for part in ranges]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
