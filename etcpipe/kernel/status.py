"""What taps there are and what they counted, read from journals and pinned maps."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from etcpipe.kernel import bpf, checks, flow_table, guard, journal, netns
from etcpipe.kernel.flow_table import FlowTable
from etcpipe.kernel.journal import Journal, Lock
from etcpipe.layout import PACKET_COUNTERS


def counters(fd: int) -> dict[str, int]:
    """Return the sums over all CPUs of the packet_counters map, by name."""
    values = np.zeros((len(PACKET_COUNTERS), bpf.possible_cpus()), np.uint64)
    bpf.lookup(fd, np.arange(len(values), dtype=np.uint32), values)
    return dict(zip(PACKET_COUNTERS, values.sum(axis=1).tolist(), strict=True))


def add(fd: int, counter: str, n: int) -> None:
    """Add to a counter that no program writes; only the tap's one consumer may."""
    key = np.array([PACKET_COUNTERS.index(counter)], np.uint32)
    values = np.zeros((1, bpf.possible_cpus()), np.uint64)
    bpf.lookup(fd, key, values)
    values[0, 0] += np.uint64(n)
    bpf.update(fd, key, values)


def evicted(counted: dict[str, int], flows: int) -> int:
    """Return how many flows the full table let go without a record.

    Every flow began by one of two counters. Where a SYN took over its predecessor's tuple,
    FLOWS_RESTARTED counts both. So begun = ended + restarted + evicted + in the table,
    but for packets that pass while it is read.
    """
    return max(0, counted["FLOWS_CREATED"] - counted["FLOWS_ENDED"] - flows)


def tags(programs: dict[str, int]) -> dict[str, str]:
    """Return the digest of each program's instructions."""
    return {name: bpf.program_info(fd)[2] for name, fd in programs.items()}


def detach(device: str, namespace: str | None = None) -> bool:
    """Remove a device's tap, whoever made it; returns whether there was one.

    A consumer that still runs finds its tap no longer alive and ends.

    Args:
        namespace: name or path of the device's network namespace, None for this one.
    """
    checks.capabilities()
    state = journal.read(journal.run_path(netns.inode(namespace), device, ".json"))
    if state is None:
        return False
    remove(state)
    return True


def detach_all() -> list[str]:
    """Remove all taps of this machine, in all namespaces; returns their devices' names."""
    checks.capabilities()
    states = journal.read_all()
    for state in states:
        remove(state)
    for folder in journal.RUN.glob("[0-9]*"):
        journal.sweep_locks(folder)
    return [state.device for state in states]


def remove(state: Journal) -> None:
    """Undo a tap by its journal, and forget a consumer that was killed."""
    with guard.no_interrupt(), guard.explained(state.device):
        state.remove()
        Lock(state.netns_inode, state.device).sweep()


def show(device: str | None = None, namespace: str | None = None) -> list[dict]:
    """Return the taps of this machine, or that of one device, as plain dicts.

    Each has device, ifindex, netns (inode), mode, mode_reason, hook, loader, pid of the
    consumer or None, since (ISO 8601), first_n, settings, filter, counters and flows in the table:
    {} and 0 of a tap that another version of etcpipe made, with records of another shape.
    """
    checks.capabilities()
    states = journal.read_all()
    if device is not None:
        inode = netns.inode(namespace)
        states = [s for s in states if (s.device, s.netns_inode) == (device, inode)]
    return [_describe(state) for state in states]


def _describe(state: Journal) -> dict:
    described = {
        "device": state.device,
        "ifindex": state.ifindex,
        "netns": state.netns_inode,
        "mode": state.mode,
        "mode_reason": state.mode_reason,
        "hook": state.hook,
        "loader": state.loader,
        "pid": Lock(state.netns_inode, state.device).owner(),
        "since": state.since,
        "first_n": state.settings["first_n"],
        "settings": state.settings,
        "filter": state.filter,
        "counters": {},
        "flows": 0,
    }
    if not state.is_readable:  # the kernel would write past what is made for our records
        return described
    with ExitStack() as stack:
        try:
            counters_fd = _open(stack, state.pins / "map_packet_counters")
            table = {name: _open(stack, state.pins / f"map_{name}") for name in flow_table.MAPS}
        except FileNotFoundError:  # just being made or removed
            return described
        described["counters"] = counters(counters_fd)
        described["flows"] = len(FlowTable(table))
        described["counters"]["FLOWS_EVICTED"] = evicted(described["counters"], described["flows"])
    return described


def _open(stack: ExitStack, path: Path) -> int:
    fd = bpf.pinned(path)
    stack.callback(os.close, fd)
    return fd
