"""Whether XDP metadata reaches TC through a device's driver: shown by a packet, not assumed.

Some drivers have no room for metadata, some paths lose it silently. Before XDP mode is
chosen, xdp_canary marks every arriving packet and tc_canary looks for the mark.
"""

import os
import socket
import struct
from contextlib import suppress
from time import monotonic, sleep

import numpy as np

from etcpipe.kernel import bpf
from etcpipe.kernel.build import CANARY_COUNTS, Loaded

WAIT_S = 0.3
STEP_S = 0.01
ICMPV6_ECHO_REQUEST = 128
ALL_NODES = "ff02::1"


def watch(loaded: Loaded, ifindex: int, wait_s: float = WAIT_S) -> dict[str, int]:
    """Return the canary's counts once a packet decided it, or after wait_s.

    Both canary programs are attached by now. Every IPv6 neighbour answers one echo request
    to all nodes, so that a quiet link decides too.
    """
    _ask_neighbours(ifindex)
    end = monotonic() + wait_s
    while True:
        counts = read(loaded)
        if counts["CANARY_SURVIVED"] or counts["CANARY_REFUSED"] or monotonic() >= end:
            return counts
        sleep(STEP_S)


def read(loaded: Loaded) -> dict[str, int]:
    """Return the canary's counts by name."""
    values = np.zeros(len(CANARY_COUNTS), np.uint64)
    bpf.lookup(loaded.maps["canary_counts"], np.arange(len(values), dtype=np.uint32), values)
    return dict(zip(CANARY_COUNTS, values.tolist(), strict=True))


def judge(counts: dict[str, int]) -> tuple[bool | None, str]:
    """Return whether metadata survives (None: no packet came to tell), and why so."""
    if counts["CANARY_SURVIVED"]:
        return True, "a canary packet's metadata reached TC"
    if counts["CANARY_REFUSED"]:
        return False, "the driver has no room for metadata"
    if counts["CANARY_WRITTEN"] and counts["CANARY_LOST"]:
        return False, "metadata is lost between XDP and TC"
    return None, "no packet arrived to prove that metadata reaches TC"


def _ask_neighbours(ifindex: int) -> None:
    """Send one echo request to all nodes of the link; no IPv6 there is no error."""
    with (
        suppress(OSError),
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw,
    ):
        request = struct.pack("!BBHHH", ICMPV6_ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, 1)
        raw.sendto(request, socket.MSG_DONTWAIT, (ALL_NODES, 0, 0, ifindex))
