"""Filters in libpcap's syntax, as programs in front of the tracker (bpf/filter.h).

libpcap compiles the expression, classic.py translates it, and one update puts the result
into the tap's arrays of programs: no packet meets anything but the old filter or the new.
"""

import errno
import os
from contextlib import ExitStack

import numpy as np

from etcpipe import _native
from etcpipe.errors import DataplaneError, UsageError
from etcpipe.kernel import bpf, checks, journal, netns
from etcpipe.kernel.build import FILTER_SLOTS
from etcpipe.kernel.classic import CLASSIC, translate
from etcpipe.kernel.filter_frame import Hook, Tc, Xdp
from etcpipe.kernel.journal import Journal

HOOKS: dict[str, Hook] = {"filters_tc": Tc(), "filters_xdp": Xdp()}


def compile_filter(expression: str) -> np.ndarray:
    """Return (n,) CLASSIC, the expression as libpcap compiles it for Ethernet.

    Raises:
        UsageError: the expression has a fault.
    """
    try:
        return np.frombuffer(_native.filter_compile(expression), CLASSIC)
    except ValueError as error:
        raise UsageError(f"filter {expression!r}: {error}") from error


def replace(maps: dict[str, int], expression: str | None) -> None:
    """Put a filter in front of the tracker in place of the one there; None: none.

    Args:
        maps: descriptors of packet_counters, filters_tc and filters_xdp.

    Raises:
        UsageError: the expression has a fault.
        UnsupportedError: it cannot be translated.
        DataplaneError: the kernel refused it.
    """
    if expression is None:
        for name in HOOKS:
            _clear(maps[name])
        return
    classic = compile_filter(expression)
    counters = maps["packet_counters"]
    # both before either is put: a hook that refuses its own leaves the other's as it was
    programs = {name: translate(classic, HOOKS[name], maps[name], counters) for name in HOOKS}
    try:
        with ExitStack() as stack:
            loaded = {name: _load(stack, HOOKS[name], programs[name]) for name in HOOKS}
            for name, fd in loaded.items():
                bpf.update(maps[name], _slot("FILTER_CHOOSE"), np.array([fd], np.uint32))
    except OSError as error:
        raise DataplaneError(f"the kernel refused the filter: {error.strerror}") from error


def _clear(fd: int) -> None:
    try:
        bpf.delete(fd, _slot("FILTER_CHOOSE"))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise DataplaneError(f"cannot clear the filter: {error.strerror}") from error


def _load(stack: ExitStack, hook: Hook, program: np.ndarray) -> int:
    """Return a filter's descriptor until the stack is left; declared as the tracker's are."""
    fd = _load_declared(hook, program)
    stack.callback(os.close, fd)
    return fd


def _load_declared(hook: Hook, program: np.ndarray) -> int:
    *others, last = hook.attach_types
    for attach_type in others:
        try:
            return bpf.program_load(program, hook.program_type, "filter", attach_type)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the array holds programs declared otherwise
                raise
    return bpf.program_load(program, hook.program_type, "filter", last)


def set_filter(device: str, namespace: str | None, expression: str | None) -> None:
    """Change the filter of the tap on a device, whoever made it; None: all packets.

    Raises:
        DataplaneError: there is no tap, or the kernel refused.
        UsageError, UnsupportedError: see replace().
    """
    state = _tap(device, namespace)
    if not state.is_readable:
        raise DataplaneError(f"{device}: another version of etcpipe made the tap: attach anew")
    with ExitStack() as stack:
        maps = {}
        for name in ("packet_counters", *HOOKS):
            try:
                maps[name] = bpf.pinned(state.pins / f"map_{name}")
            except OSError as error:
                raise DataplaneError(f"{device}: the tap's pins are gone: attach anew") from error
            stack.callback(os.close, maps[name])
        replace(maps, expression)
    state.filter = expression or ""
    state.write()


def current(device: str, namespace: str | None) -> str:
    """Return the filter of the tap on a device, empty if it looks at all packets.

    Raises:
        DataplaneError: there is no tap.
    """
    return _tap(device, namespace).filter


def _tap(device: str, namespace: str | None) -> Journal:
    checks.capabilities()
    state = journal.read(journal.run_path(netns.inode(namespace), device, ".json"))
    if state is None:
        raise DataplaneError(f"{device}: etcpipe is not attached")
    return state


def _slot(name: str) -> np.ndarray:
    return np.array([FILTER_SLOTS.index(name)], np.uint32)
