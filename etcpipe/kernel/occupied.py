"""Whose TC program stands where ours should go: said by id and name, as somebody must decide."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from etcpipe.errors import DataplaneError
from etcpipe.kernel import bpf, links

# what adding a filter answers where one is: of the same kind, of another one, a busy device
TAKEN = (errno.EEXIST, errno.EINVAL, errno.EBUSY)
NAMED_MAX = 3
TCA_BPF_ID = 11
ATTRIBUTE_HEADER = 4  # bytes in front of a netlink attribute's value


@contextmanager
def clsact_explained(ip, device: str, ifindex: int, side: str) -> Iterator[None]:
    """Turn a refused filter into an error that names what is in its place.

    Raises:
        DataplaneError: another filter has our priority, or another qdisc clsact's place.
    """
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        found = _in_place(ip, device, ifindex, side) if error.code in TAKEN else ""
        if not found:
            raise
        raise DataplaneError(found) from error


def _in_place(ip, device: str, ifindex: int, side: str) -> str:
    """Return what must go first, or an empty string."""
    for other in links.filters_at_our_priority(ip, ifindex, side):
        program = _program_id(other)
        what = other.get_attr("TCA_KIND") + (f" {describe_program(program)}" if program else "")
        return (
            f"{device}: priority {links.FILTER_PRIORITY} of TC {side} is taken by another filter"
            f" ({what}): tc filter del dev {device} {side} prio {links.FILTER_PRIORITY}"
        )
    if not links.has_clsact(ip, ifindex) and links.has_qdisc(ip, ifindex, "ingress"):
        return (
            f"{device}: a qdisc `ingress` stands where clsact goes, which can do the same:"
            f" tc qdisc replace dev {device} clsact, and add its filters again"
        )
    return ""


def _program_id(found) -> int:
    """Return the program of a bpf filter, 0 for other kinds; pyroute2 leaves it undecoded."""
    options = found.get_attr("TCA_OPTIONS")
    for name, value in options["attrs"] if options else ():
        if name == "UNKNOWN" and value["header"]["type"] == TCA_BPF_ID:
            start = value.offset + ATTRIBUTE_HEADER
            return int.from_bytes(value.data[start : start + 4], sys.byteorder)
    return 0


def tcx_refusal(ifindex: int, side: str, attach_type: int, error: OSError) -> str:
    """Return why the kernel did not attach at tcx, with the programs that are there."""
    text = f"cannot attach at TC {side}: {error.strerror}"
    try:
        others = bpf.programs_at(ifindex, attach_type)
    except OSError:
        return text
    if not others:
        return text
    named = ", ".join(map(describe_program, others[:NAMED_MAX]))
    more = ", .." if len(others) > NAMED_MAX else ""
    return f"{text}; there are {len(others)} other programs: {named}{more}"


def describe_program(program_id: int) -> str:
    """Return how to name somebody else's program: its id, and its name if it has one."""
    try:
        fd = bpf.program_fd(program_id)
    except OSError:
        return f"id {program_id}"
    try:
        _, name, _ = bpf.program_info(fd)
    finally:
        os.close(fd)
    return f"id {program_id} {name}".rstrip()
