"""A wire by XDP: the programs of bpf/forward.bpf.c and what they need around them."""

import os
import socket

import numpy as np

from etcpipe.errors import UnsupportedError
from etcpipe.kernel import bpf, hooks, libbpf, links, status
from etcpipe.kernel.build import DROP_PROGRAMS, Build, Loaded, source_digest
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.settings import TapSettings

PORT_LINKS = ("link_xdp", "link_xdp_other")  # names of the pins, by the port in Journal.ports
PROGRAM = "xdp_forward"
# of the mirror's first end, what came out of its second one
CAME = ("PACKETS_REDIRECTED", "PACKETS_NO_CONSUMER", "PACKETS_POP_FAILED")


def mirror_dropped(counters: dict[str, int]) -> int:
    """Return how many copies the mirror's queue had no room for.

    They are gone without a word: that many were sent and never came. One on its way at
    this moment is among them.
    """
    return max(0, counters["PACKETS_CLONED"] - sum(counters[name] for name in CAME))


def make_mirror(ip, state: Journal, mtu: int) -> None:
    """Make a mirror whose second end takes native XDP, for frames of the ports' MTU."""
    state.mirror_ifindex = list(links.create_mirror(ip, (state.mirror[0], state.mirror[1]), 1))
    for index in state.mirror_ifindex:
        ip.link("set", index=index, mtu=mtu)  # native XDP takes no frame longer than a page


def load(settings: TapSettings, state: Journal) -> Loaded:
    """Return the programs, told where packets go: the ports of this namespace, and the mirror."""
    mirror = state.mirror_ifindex[0] if state.mirror_ifindex else 0
    first, second = state.ports
    build = Build(
        settings,
        state.ifindex,
        mirror,
        port_ifindex=second,
        netns_inode=state.netns_inode,
    )
    loaded = libbpf.load(build)
    routes = {"forward_ports": {first: second, second: first}}
    routes["forward_group"] = {0: first, 1: second, **({2: mirror} if mirror else {})}
    for name, entries in routes.items():
        for key, value in entries.items():
            row = np.array([[key], [value]], np.uint32)
            bpf.update(loaded.maps[name], row[0], row[1])
    state.loader, state.source_digest = loaded.loader, source_digest()
    state.tags = status.tags(loaded.programs)
    state.write()
    return loaded


def watch(state: Journal, loaded: Loaded) -> None:
    """Have the mirror hand out copies, and the kernel's tracepoints count what is refused.

    The tracepoints are pinned, but no links that can be detached.
    """
    for name in set(DROP_PROGRAMS) & loaded.programs.keys():
        link = bpf.tracepoint_open(loaded.programs[name])
        try:
            bpf.pin(link, state.pins / f"tracepoint_{name}")
        finally:
            os.close(link)
    if state.mirror_ifindex:
        pop = loaded.programs["mirror_pop"]
        hooks.attach_xdp(pop, state.mirror_ifindex[1], state.pins / "link_pop")


def is_whole(state: Journal) -> bool:
    """Return whether a wire can be taken over as it is: other programs would have empty ports."""
    are_attached = all((state.pins / link).exists() for link in PORT_LINKS)
    return are_attached and state.source_digest == source_digest()


def attach(state: Journal, loaded: Loaded) -> None:
    """Attach to both ports.

    Raises:
        UnsupportedError: a driver refused.
    """
    for ifindex, link in zip(state.ports, PORT_LINKS, strict=True):
        try:
            hooks.attach_xdp(loaded.programs[PROGRAM], ifindex, state.pins / link)
        except OSError as error:
            reason = hooks.xdp_refusal(socket.if_indextoname(ifindex), error)
            raise UnsupportedError(f"cannot forward by XDP: {reason}") from error
