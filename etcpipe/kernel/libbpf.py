"""Load the precompiled object through libbpf, by ctypes: no compiler, 10 ms, 9 MB."""

import ctypes
import errno
import os
from collections.abc import Mapping
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import numpy as np

from etcpipe.errors import DataplaneError, UnsupportedError
from etcpipe.kernel import bpf
from etcpipe.kernel.build import Build, Loaded, load_error
from etcpipe.layout import BPF

# Newest first: the plain object lacks fetching atomics and loads from Linux 5.10.
OBJECTS = ("tap.v3.bpf.o", "tap.plain.bpf.o")
FORWARD_OBJECTS = ("forward.v3.bpf.o", "forward.plain.bpf.o")
SETTINGS_SECTION = b".rodata.settings"

_PROTOTYPES = {
    "bpf_object__open_file": (c_void_p, c_char_p, c_void_p),
    "bpf_object__load": (c_int, c_void_p),
    "bpf_object__close": (None, c_void_p),
    "bpf_object__find_map_by_name": (c_void_p, c_void_p, c_char_p),
    "bpf_object__find_program_by_name": (c_void_p, c_void_p, c_char_p),
    "bpf_map__fd": (c_int, c_void_p),
    "bpf_map__type": (c_int, c_void_p),
    "bpf_map__key_size": (c_uint32, c_void_p),
    "bpf_map__value_size": (c_uint32, c_void_p),
    "bpf_map__max_entries": (c_uint32, c_void_p),
    "bpf_map__reuse_fd": (c_int, c_void_p, c_int),
    "bpf_map__set_max_entries": (c_int, c_void_p, c_uint32),
    "bpf_map__set_value_size": (c_int, c_void_p, c_uint32),
    "bpf_map__set_initial_value": (c_int, c_void_p, c_char_p, c_size_t),
    "bpf_program__fd": (c_int, c_void_p),
    "bpf_program__set_autoload": (c_int, c_void_p, c_bool),
    "libbpf_set_print": (c_void_p, c_void_p),
}


@cache
def library() -> ctypes.CDLL:
    """Return libbpf 1.x.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            "libbpf 1.x not found: apt install libbpf1, or use --loader bcc"
        ) from error
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    if "ETCPIPE_DEBUG" not in os.environ:
        lib.libbpf_set_print(None)  # its diagnostics go to stderr; errors reach us as errno
    return lib


def object_paths(source: str = "tap") -> list[Path]:
    """Return a source's precompiled objects that are there, the one to try first in front."""
    names = FORWARD_OBJECTS if source == "forward" else OBJECTS
    return [BPF / name for name in names if (BPF / name).exists()]


def load(build: Build) -> Loaded:
    """Return the programs and maps of the newest object that this kernel takes.

    Raises:
        UnsupportedError: libbpf or the objects are missing, or the kernel takes none.
        PermissionDeniedError: loading needs capabilities that this process lacks.
    """
    library()
    paths = object_paths(build.source)
    if not paths:
        raise UnsupportedError("no precompiled BPF object: run make -C bpf, or use --loader bcc")
    refusal = OSError(errno.ENOENT, "no object")
    for path in paths:
        try:
            return load_object(path, build)
        except OSError as error:
            refusal = error
    raise load_error(refusal) from refusal


def load_object(path: Path, build: Build) -> Loaded:
    """Return the programs and maps of one object; raises OSError as libbpf gave it."""
    lib = library()
    handle = _check(lib.bpf_object__open_file(os.fsencode(path), None))
    try:
        _fill_settings(handle, build.record())
        for name in set(build.optional) - set(build.programs):
            _check(lib.bpf_program__set_autoload(_program(handle, name), False))
        for name, entries in build.map_sizes().items():
            _check(lib.bpf_map__set_max_entries(_map(handle, name.encode()), entries))
        for name, size in build.value_sizes().items():
            _check(lib.bpf_map__set_value_size(_map(handle, name.encode()), size))
        _reuse_maps(handle, build.maps)
        _check(lib.bpf_object__load(handle))
        return Loaded.duplicate(
            f"libbpf ({path.name})",
            build.programs,
            lambda name: lib.bpf_program__fd(_program(handle, name)),
            lambda name: lib.bpf_map__fd(_map(handle, name.encode())),
            build.map_names,
        )
    finally:
        lib.bpf_object__close(handle)


def _fill_settings(handle: int, record: np.ndarray) -> None:
    lib = library()
    found = _map(handle, SETTINGS_SECTION)
    try:
        _check(lib.bpf_map__set_initial_value(found, record.tobytes(), record.nbytes))
    except OSError as error:  # the section's size is not the record's
        raise DataplaneError("BPF object of another version: run make -C bpf") from error


def _reuse_maps(handle: int, maps: Mapping[str, int]) -> None:
    """Give the object an earlier one's maps, which must be what it would make itself."""
    lib = library()
    for name, fd in maps.items():
        wanted = _map(handle, name.encode())
        shape = bpf.MapShape(
            lib.bpf_map__type(wanted),
            lib.bpf_map__key_size(wanted),
            lib.bpf_map__value_size(wanted),
            lib.bpf_map__max_entries(wanted),
        )
        if shape != bpf.map_shape(fd):
            raise DataplaneError(f"the map {name} has another shape")
        _check(lib.bpf_map__reuse_fd(wanted, fd))


def _program(handle: int, name: str) -> int:
    return _check(library().bpf_object__find_program_by_name(handle, name.encode()))


def _map(handle: int, name: bytes) -> int:
    return _check(library().bpf_object__find_map_by_name(handle, name))


def _check(result: int | None) -> int:
    """Return a libbpf result (a pointer, or 0), or raise the OSError that it stands for."""
    if result is None or result < 0:
        number = ctypes.get_errno() or -(result or 0)
        raise OSError(number, os.strerror(number))
    return result
