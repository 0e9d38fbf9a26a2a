"""Forward mode: two devices become one wire, and flows are tracked on the way.

What comes in at one port goes out at the other, past the stack: no bridge, no routing, no
netfilter. By XDP where both devices are good at it (xdp_wire.py), else by TC, which is the tap's
own program that sends packets on. All else (ring, counters, verdicts, adoption, `detach`)
is a tap's. The programs stay without a consumer: the wire does not depend on one.
"""

import logging
from dataclasses import replace

from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.kernel import links, modes, pins, ports, xdp_wire
from etcpipe.kernel import netns as namespaces
from etcpipe.kernel.build import Build
from etcpipe.kernel.guard import explained, no_interrupt
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.ports import Ports
from etcpipe.kernel.tap import NOT_OPEN, Tap

log = logging.getLogger(__name__)


class Forward(Tap):
    """A tap on the wire between `device` and settings.forward; see Tap.

    Raises:
        UnsupportedError: a port cannot forward in the mode asked for; says what it lacks.
    """

    _ports: Ports | None = None
    _mode = ("", "")  # and why

    def counters(self) -> dict[str, int]:
        """Return what PACKET_COUNTERS counted, and by XDP also MIRROR_DROPPED."""
        counters = super().counters()
        if self.mode == "xdp" and self.settings.capture == "afxdp":
            counters["MIRROR_DROPPED"] = xdp_wire.mirror_dropped(counters)
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
        state = self._state
        with no_interrupt(), explained(self.device), namespaces.enter(self._home.path):
            with links.iproute() as ip:
                _listen_to_all(ip, state)
                if state.mode == "xdp":
                    xdp_wire.attach(state, self._loaded)
                else:
                    modes.attach_wire(ip, state, self._loaded)
            state.ready = True
            state.write()

    def _adopt(self, previous: Journal, device: links.Device) -> bool:
        names = (self.device, self.settings.forward)
        is_same = previous.ports == [links.ifindex_of(name) for name in names]
        if previous.mode == "xdp":
            is_same = is_same and xdp_wire.is_whole(previous)
        if not is_same:
            log.warning("%s: not adopting the earlier tap: it is another one", device.name)
            previous.remove()
            return False
        return super()._adopt(previous, device)

    def _make(self, device: links.Device, inode: int) -> None:
        with links.iproute() as ip:
            self._ports = ports.check(ip, device, self.settings.forward)
            self._mode = self._choose(ip, self._ports)
            self.settings = replace(self.settings, mode=self._mode[0])
            if self.settings.mode == "tc":
                super()._make(device, inode)
                return
            uses_mirror = self.settings.capture == "afxdp"
            state = self._begin_journal(device, inode, uses_mirror)
            if uses_mirror:
                xdp_wire.make_mirror(ip, state, self._ports.mtu)
            self._loaded = xdp_wire.load(self.settings, state)
            pins.put(self._loaded, state)
            xdp_wire.watch(state, self._loaded)
            links.set_up(ip, state.mirror_ifindex)

    def _choose(self, ip, pair: Ports) -> tuple[str, str]:
        """Return the mode and why.

        Raises:
            UnsupportedError: XDP was asked for, and cannot be had.
        """
        if self.settings.mode == "tc":
            return "tc", "asked for"
        lacks = self.settings.why_not_xdp_wire()
        if self.settings.mode == "auto":
            lacks = lacks or modes.why_slow(pair.devices)
        lacks = lacks or ports.why_not_xdp(ip, pair)
        if not lacks:
            return "xdp", f"a wire to {self.settings.forward}"
        if self.settings.mode == "xdp":
            raise UnsupportedError(f"cannot forward by XDP: {lacks}")
        return "tc", lacks

    def _build(self, device: links.Device, mirror_ifindex: int) -> Build:
        assert self._ports
        build = super()._build(device, mirror_ifindex)
        return replace(build, with_xdp=False, port_ifindex=self._ports.indexes[1])

    def _begin_journal(self, device: links.Device, inode: int, uses_mirror: bool) -> Journal:
        assert self._ports
        state = super()._begin_journal(device, inode, uses_mirror)
        state.mode, state.mode_reason = self._mode
        state.ports = list(self._ports.indexes)
        state.write()
        return state


def _listen_to_all(ip, state: Journal) -> None:
    """Have the ports take frames for all addresses, as those of a bridge do."""
    for ifindex in state.ports:
        if not links.is_promiscuous(ip, ifindex):
            state.promiscuous.append(ifindex)
            state.write()
            links.set_promiscuous(ip, ifindex, True)
