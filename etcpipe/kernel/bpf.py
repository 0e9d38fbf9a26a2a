"""The bpf(2) system call, for what must work the same under both loaders.

Only maps, pins, links and test runs; programs are loaded by libbpf or bcc. Each function
raises OSError as the kernel gave it: callers know what they tried and say it.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from etcpipe.kernel.bpf_attr import (
    Element,
    Id,
    Info,
    Link,
    LinkUpdate,
    Load,
    MapInfo,
    Pin,
    ProgramInfo,
    Query,
    TestRun,
    Tracepoint,
    call,
    prepared,
)

MAP_LOOKUP, MAP_UPDATE, MAP_DELETE = 1, 2, 3
PROG_LOAD = 5
OBJ_PIN, OBJ_GET = 6, 7
PROG_TEST_RUN = 10
PROG_GET_FD_BY_ID = 13
OBJ_GET_INFO, PROG_QUERY, RAW_TRACEPOINT_OPEN = 15, 16, 17
LINK_CREATE, LINK_UPDATE, LINK_DETACH = 28, 29, 34

PROGRAM_TC, PROGRAM_XDP = 3, 6
ATTACH_XDP, ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS = 37, 46, 47
PROGRAMS_MAX = 64  # on one tcx hook
BEFORE_ALL = 1 << 3  # BPF_F_BEFORE with no program named


class MapShape(NamedTuple):
    """What two maps must have in common to be one."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in bpffs that outlives this process."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    call(OBJ_PIN, Pin(path=ctypes.addressof(text), fd=fd))


def pinned(path: Path) -> int:
    """Return a new descriptor of what is pinned at path."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    return call(OBJ_GET, Pin(path=ctypes.addressof(text)))


def link_create(program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attach a program by a link; it stays until the last descriptor and pin are gone."""
    return call(LINK_CREATE, Link(program_fd, ifindex, attach_type, flags))


def tracepoint_open(program_fd: int) -> int:
    """Attach a program to the tracepoint that it was loaded for; returns the link."""
    return call(RAW_TRACEPOINT_OPEN, Tracepoint(program_fd=program_fd))


def link_update(link_fd: int, program_fd: int) -> None:
    """Put another program in a link's place, with no packet in between."""
    call(LINK_UPDATE, LinkUpdate(link_fd, program_fd))


def link_detach(link_fd: int) -> None:
    """Detach at once, whoever else holds the link; closing it alone detaches some time later."""
    call(LINK_DETACH, Pin(path=link_fd))


def program_load(
    instructions: np.ndarray, program_type: int, name: str, attach_type: int = 0
) -> int:
    """Load a program of ours, (n,) of 8 bytes an instruction; returns its descriptor.

    With ETCPIPE_DEBUG set the verifier's words are in the error.
    """
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attr = Load(type=program_type, n_instructions=len(instructions))
    attr.instructions, attr.license = instructions.ctypes.data, ctypes.addressof(licence)
    attr.name, attr.attach_type = name.encode(), attach_type
    log = ctypes.create_string_buffer(1 << 20 if "ETCPIPE_DEBUG" in os.environ else 1)
    if len(log) > 1:
        attr.log_level, attr.log_size, attr.log = 1, len(log), ctypes.addressof(log)
    try:
        return call(PROG_LOAD, attr)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} {log.value.decode()}".rstrip()) from None


def programs_at(ifindex: int, attach_type: int) -> list[int]:
    """Return the ids of the programs on a tcx hook, in the order that packets meet them."""
    ids = np.zeros(PROGRAMS_MAX, np.uint32)
    attr = Query(target=ifindex, attach_type=attach_type, count=len(ids))
    attr.program_ids = ids.ctypes.data
    call(PROG_QUERY, attr)
    return ids[: attr.count].tolist()


def program_fd(program_id: int) -> int:
    """Return a new descriptor of a loaded program."""
    return call(PROG_GET_FD_BY_ID, Id(id=program_id))


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
    info = ProgramInfo()
    call(OBJ_GET_INFO, Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
    return info


def map_shape(fd: int) -> MapShape:
    """Return a map's type and sizes, to tell whether another program can use it."""
    info = MapInfo()
    call(OBJ_GET_INFO, Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
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
    for row, error in _failures(MAP_LOOKUP, fd, keys, values):
        if error != errno.ENOENT:
            raise OSError(error, os.strerror(error))
        found[row] = False
    return found


def _failures(
    command: int, fd: int, keys: np.ndarray, values: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Do one call for each row of keys and values; yield (row, errno) where it fails."""
    attr = Element(map_fd=fd)
    ask = prepared(command, attr)
    key, value = keys.ctypes.data, values.ctypes.data
    for row in range(len(keys)):
        attr.key = key + row * keys.strides[0]
        attr.value = value + row * values.strides[0]
        if error := ask():
            yield row, error


def update(fd: int, key: np.ndarray, value: np.ndarray) -> None:
    """Store one value, (1,) arrays of the map's types."""
    call(MAP_UPDATE, Element(map_fd=fd, key=key.ctypes.data, value=value.ctypes.data))


def delete(fd: int, key: np.ndarray) -> None:
    """Remove one key, a (1,) array of the map's type."""
    call(MAP_DELETE, Element(map_fd=fd, key=key.ctypes.data))


def test_run(fd: int, packet: bytes, context: bytes = b"") -> int:
    """Run a program once on a packet and return its action."""
    data = ctypes.create_string_buffer(packet, len(packet))
    attr = TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data), repeat=1)
    if context:
        area = ctypes.create_string_buffer(context, len(context))
        attr.context_in, attr.context_size_in = ctypes.addressof(area), len(context)
    call(PROG_TEST_RUN, attr)
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
    attr = TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data), repeat=1)
    attr.data_out, attr.size_out = ctypes.addressof(after), room
    attr.context_in, attr.context_size_in = ctypes.addressof(area), len(context)
    attr.context_out, attr.context_size_out = ctypes.addressof(area_after), len(context)
    call(PROG_TEST_RUN, attr)
    return attr.result, after.raw[: attr.size_out], area_after.raw


def time_run(fd: int, packet: bytes, repeat: int) -> int:
    """Return ns that a run of a program took, the mean of `repeat` runs on one packet buffer."""
    data = ctypes.create_string_buffer(packet, len(packet))
    attr = TestRun(program_fd=fd, size_in=len(packet), data_in=ctypes.addressof(data))
    attr.repeat = repeat
    call(PROG_TEST_RUN, attr)
    return attr.duration


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    spans = [part.split("-") for part in ranges]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
