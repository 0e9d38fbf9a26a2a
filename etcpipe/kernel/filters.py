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
from etcpipe.kernel.classic import CLASSIC, Hook, Tc, Xdp, translate
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.settings import FILTER_SLOTS

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
    try:
        for name, hook in HOOKS.items():
            program = translate(classic, hook, maps[name], maps["packet_counters"])
            _put(maps[name], hook, program)
    except OSError as error:
        raise DataplaneError(f"the kernel refused the filter: {error.strerror}") from error


def _clear(fd: int) -> None:
    try:
        bpf.delete(fd, _slot("FILTER_CHOOSE"))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise DataplaneError(f"cannot clear the filter: {error.strerror}") from error


def _put(fd: int, hook: Hook, program: np.ndarray) -> None:
    """Load a filter and put it in its place, declared as the tracker's programs are."""
    loaded = _load(hook, program)
    try:
        bpf.update(fd, _slot("FILTER_CHOOSE"), np.array([loaded], np.uint32))
    finally:
        os.close(loaded)


def _load(hook: Hook, program: np.ndarray) -> int:
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
    if state.mode == "forward":
        raise UsageError("no filter in forward mode: the wire looks at every packet")
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
