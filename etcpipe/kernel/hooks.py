"""Where programs are attached: TC through tcx links or clsact filters, XDP through links.

A link is pinned as soon as it exists, so that it outlives this process until `detach`.
"""

import errno
import os
from pathlib import Path

import numpy as np

from etcpipe.errors import DataplaneError, UnsupportedError
from etcpipe.kernel import bpf, occupied

XDP_GENERIC_MODE = 1 << 1  # XDP_FLAGS_SKB_MODE
XDP_DRIVER_MODE = 1 << 2
TCX = {"ingress": bpf.ATTACH_TCX_INGRESS, "egress": bpf.ATTACH_TCX_EGRESS}
# what BPF_LINK_CREATE answers where it does not know tcx (before Linux 6.6)
NO_TCX = (errno.EINVAL, errno.EOPNOTSUPP)
XDP_PASSES = np.frombuffer(bytes.fromhex("b7000000020000009500000000000000"), np.uint64)
NO_DEVICE = 0  # no device has this index


def tcx_works(program_fd: int) -> bool:
    """Return whether this kernel attaches TC programs by links: if so, it misses the device.

    To attach to one and detach again would tell the same and take it 20 ms.
    """
    try:
        os.close(bpf.link_create(program_fd, NO_DEVICE, bpf.ATTACH_TCX_EGRESS))
    except OSError as error:
        if error.errno in NO_TCX:
            return False
        if error.errno != errno.ENODEV:
            raise
    return True


def attach_tcx(program_fd: int, ifindex: int, side: str, pin: Path) -> None:
    """Attach in front of all others: their verdicts then hide no packet from us.

    Raises:
        UnsupportedError: this kernel has no tcx.
        DataplaneError: others are on the hook, or the kernel refused.
    """
    try:
        link = bpf.link_create(program_fd, ifindex, TCX[side], bpf.BEFORE_ALL)
    except OSError as error:
        if error.errno in NO_TCX:
            raise UnsupportedError("no tcx before Linux 6.6: use the clsact hook") from error
        refusal = occupied.tcx_refusal(ifindex, side, TCX[side], error)
        raise DataplaneError(refusal) from error
    _keep(link, pin)


def attach_xdp(program_fd: int, ifindex: int, pin: Path, flags: int = XDP_DRIVER_MODE) -> None:
    """Attach XDP, in the driver if not told otherwise.

    Raises:
        OSError: as the kernel says: EBUSY or EEXIST with another program there, EOPNOTSUPP
            without driver support, EINVAL or ERANGE with an MTU too large.
    """
    _keep(bpf.link_create(program_fd, ifindex, bpf.ATTACH_XDP, flags), pin)


def replace(pin: Path, program_fd: int) -> None:
    """Put another program in a pinned link's place, with no packet in between."""
    link = bpf.pinned(pin)
    try:
        bpf.link_update(link, program_fd)
    finally:
        os.close(link)


def release(pin: Path) -> None:
    """Detach a pinned link at once and remove its pin; nothing happens if there is none."""
    try:
        link = bpf.pinned(pin)
    except FileNotFoundError:
        return
    try:
        bpf.link_detach(link)
    except OSError as error:
        if error.errno != errno.ENOLINK:  # the device is gone, and the link with it
            raise
    finally:
        os.close(link)
    pin.unlink(missing_ok=True)


def why_no_xdp(device: str, ifindex: int) -> str:
    """Return why a driver takes no XDP program, in words; nothing if it does.

    One that passes everything is attached for a moment: few kernels tell it otherwise.
    """
    program = bpf.program_load(XDP_PASSES, bpf.PROGRAM_XDP, "passes", bpf.ATTACH_XDP)
    try:
        link = bpf.link_create(program, ifindex, bpf.ATTACH_XDP, XDP_DRIVER_MODE)
    except OSError as error:
        return xdp_refusal(device, error)
    finally:
        os.close(program)
    try:
        bpf.link_detach(link)
    finally:
        os.close(link)
    return ""


def xdp_refusal(device: str, error: OSError) -> str:
    """Return why a driver did not take an XDP program, in words."""
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return f"{device} has another XDP program"
    if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        return f"{device}: the driver has no native XDP"
    return f"{device}: the driver refused XDP, its MTU may be too large ({error.strerror})"


def _keep(link: int, pin: Path) -> None:
    try:
        bpf.pin(link, pin)
    finally:
        os.close(link)
