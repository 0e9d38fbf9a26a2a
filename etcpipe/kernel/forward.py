"""Forward mode: two devices become one wire, and flows are tracked on the way.

XDP sends what comes in at one port out at the other, past the stack: no bridge, no routing,
no TC, no netfilter. Everything else (ring, counters, verdicts, adoption, `detach`) is a
tap's. The programs stay without a consumer: the wire does not depend on one.
"""

import logging
import os
import socket

import numpy as np

from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.kernel import bpf, checks, hooks, libbpf, links, pins, ports, status
from etcpipe.kernel import netns as namespaces
from etcpipe.kernel.build import DROP_PROGRAMS, Build, Loaded, source_digest
from etcpipe.kernel.guard import explained, no_interrupt
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.ports import Ports
from etcpipe.kernel.tap import NOT_OPEN, Tap

log = logging.getLogger(__name__)

# Names of the pinned links, by the port in Journal.ports.
LINKS = ("link_xdp", "link_xdp_other")
PROGRAM = "xdp_forward"
FORWARD_SINCE = (5, 14)  # broadcast; and 5.13 for a veth that forwards what no program awaits


class Forward(Tap):
    """A tap on the wire between `device` and settings.forward; see Tap.

    Raises:
        UnsupportedError: a port cannot forward so; says which, and what it lacks.
    """

    def counters(self) -> dict[str, int]:
        """Return what PACKET_COUNTERS counted, and MIRROR_DROPPED.

        A copy that the mirror's queue has no room for is gone without a word: that many
        were sent and never came. One on its way at this moment is among them.
        """
        counters = super().counters()
        if self.settings.capture == "afxdp":
            came = ("PACKETS_REDIRECTED", "PACKETS_NO_CONSUMER", "PACKETS_POP_FAILED")
            sent = counters["PACKETS_CLONED"]
            counters["MIRROR_DROPPED"] = max(0, sent - sum(counters[name] for name in came))
        return counters

    def start(self) -> None:
        """Let packets through; until then the ports are as they were.

        Raises:
            UsageError, DataplaneError, UnsupportedError: as Tap.start().
        """
        if self._state.ready:
            return
        if self._loaded is None:
            raise UsageError(NOT_OPEN)
        program, state = self._loaded.programs[PROGRAM], self._state
        with no_interrupt(), explained(self.device), namespaces.enter(self._home.path):
            with links.iproute() as ip:
                _listen_to_all(ip, state)
            for ifindex, link in zip(state.ports, LINKS, strict=True):
                try:
                    hooks.attach_xdp(program, ifindex, state.pins / link)
                except OSError as error:
                    reason = hooks.xdp_refusal(socket.if_indextoname(ifindex), error)
                    raise UnsupportedError(f"cannot forward: {reason}") from error
            state.ready = True
            state.write()

    def _adopt(self, previous: Journal, device: links.Device) -> bool:
        """Take over the wire only as it is; other programs would begin with empty ports."""
        names = (self.device, self.settings.forward)
        fits = (
            previous.mode == "forward"
            and previous.source_digest == source_digest()
            and previous.ports == [links.ifindex_of(name) for name in names]
            and all((previous.pins / link).exists() for link in LINKS)
        )
        if fits:
            return super()._adopt(previous, device)
        log.warning("%s: not adopting the earlier tap: it is another one", device.name)
        previous.remove()
        return False

    def _make(self, device: links.Device, inode: int) -> None:
        with links.iproute() as ip:
            self._make_wire(ip, device, inode)

    def _make_wire(self, ip, device: links.Device, inode: int) -> None:
        pair = ports.check(ip, device, self.settings.forward)
        checks.linux(FORWARD_SINCE, "forward mode")
        uses_mirror = self.settings.capture == "afxdp"
        state = self._begin_journal(device, inode, uses_mirror)
        state.mode, state.mode_reason = "forward", f"a wire to {self.settings.forward}"
        state.ports = list(pair.indexes)
        state.write()
        if uses_mirror:
            _make_native_mirror(ip, state, pair.mtu)
        mirror = state.mirror_ifindex[0] if uses_mirror else 0
        build = Build(
            self.settings,
            device.ifindex,
            mirror,
            port_ifindex=pair.indexes[1],
            netns_inode=inode,
        )
        self._loaded = libbpf.load(build)
        self._connect(pair, mirror)
        state.loader, state.source_digest = self._loaded.loader, source_digest()
        state.tags = status.tags(self._loaded.programs)
        state.write()
        pins.put(self._loaded, state)
        _watch_drops(state, self._loaded)
        if uses_mirror:
            pop = self._loaded.programs["mirror_pop"]
            hooks.attach_xdp(pop, state.mirror_ifindex[1], state.pins / "link_pop")
        links.set_up(ip, state.mirror_ifindex)

    def _connect(self, pair: Ports, mirror: int) -> None:
        """Tell the programs where packets go: the ports of this namespace, and the mirror."""
        first, second = pair.indexes
        routes = {"forward_ports": {first: second, second: first}}
        routes["forward_group"] = {0: first, 1: second, **({2: mirror} if mirror else {})}
        for name, entries in routes.items():
            for key, value in entries.items():
                row = np.array([[key], [value]], np.uint32)
                bpf.update(self._maps[name], row[0], row[1])


def _make_native_mirror(ip, state: Journal, mtu: int) -> None:
    state.mirror_ifindex = list(links.create_mirror(ip, (state.mirror[0], state.mirror[1]), 1))
    for index in state.mirror_ifindex:
        ip.link("set", index=index, mtu=mtu)  # native XDP takes no frame longer than a page


def _listen_to_all(ip, state: Journal) -> None:
    """Have the ports take frames for all addresses, as those of a bridge do."""
    for ifindex in state.ports:
        if not links.is_promiscuous(ip, ifindex):
            state.promiscuous.append(ifindex)
            state.write()
            links.set_promiscuous(ip, ifindex, True)


def _watch_drops(state: Journal, loaded: Loaded) -> None:
    """Have the kernel's tracepoints count; pinned, but no link that can be detached."""
    for name in set(DROP_PROGRAMS) & loaded.programs.keys():
        link = bpf.tracepoint_open(loaded.programs[name])
        try:
            bpf.pin(link, state.pins / f"tracepoint_{name}")
        finally:
            os.close(link)
