"""The tap: the kernel programs on a device, from set-up to take-down.

    with Tap("eth0") as tap:                # programs loaded, mirror pair made; eth0 untouched
        with Ring(tap.mirror_ifindex) as ring:
            tap.bind(ring.fd)
            tap.start()                     # now traffic is watched
            ...

Set-up goes from the consumer to the traffic, take-down the other way, so that no copy is
ever made that nobody would take. Everything made is in the journal first (journal.py).
"""

import logging
import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import actions as actions_map
from etcpipe.kernel import bpf, checks, filters, journal, links, modes, pins, programs, status
from etcpipe.kernel import netns as namespaces
from etcpipe.kernel.build import Build, Loaded, source_digest
from etcpipe.kernel.flow_table import FlowTable
from etcpipe.kernel.guard import explained, no_interrupt
from etcpipe.kernel.journal import Journal, Lock
from etcpipe.kernel.presence import Presence
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.sweeper import Sweeper

__all__ = ["Tap", "TapSettings"]

log = logging.getLogger(__name__)

NOT_OPEN = "the tap is not open: enter it with `with`"


class Tap:
    """A device's tap, for as long as the block runs (keep=True: until detached).

    Args:
        device: name of the device.
        settings: how to tap it.
        netns: name or path of its network namespace, None for that of the thread which
            enters; all else works from any thread and namespace. The AF_XDP
            socket must be made in the same one.
        keep: leave programs and flow table in place at the end; traffic goes on, copies
            are counted as PACKETS_NO_CONSUMER, and the next Tap takes over.

    Attributes:
        mirror_ifindex: where AF_XDP sockets bind, in the device's namespace.
        records_fd: the ring of records, where that is how packets are captured.
        features_fd: the table of rows, where the kernel gathers features.
        tree_records_fd: the ring of rows that it is sure of, where packets are copied too.
        queues: how many sockets can bind.
        mode: "tc" or "xdp", from start() on; mode_reason says why.
        loader: "libbpf" or "bcc".
        adopted: the flows of an earlier tap go on, under its programs or newer ones.
        verdicts: (slots,) uint64, shared with the kernel: a word in the slot
            flow_id % slots, its bits as in bpf/verdict.h.

    Raises:
        UsageError, DataplaneError, PermissionDeniedError, UnsupportedError: on entering
            and in start(), each one line; nothing is left behind then.
    """

    def __init__(
        self,
        device: str,
        settings: TapSettings | None = None,
        netns: str | None = None,
        keep: bool = False,
    ):
        self.device = device
        self.settings = settings or TapSettings()
        self.netns = netns
        self.keep = keep
        self.adopted = False
        self._journal: Journal | None = None
        self._lock: Lock | None = None
        self._loaded: Loaded | None = None
        self._home_ns: namespaces.Held | None = None
        self._presence: Presence | None = None
        self._verdicts: mmap.mmap | None = None

    @property
    def mirror_ifindex(self) -> int:
        return self._state.mirror_ifindex[1]

    @property
    def queues(self) -> int:
        return self.settings.queues

    @property
    def records_fd(self) -> int:
        return self._maps["packet_records"]

    @property
    def features_fd(self) -> int:
        return self._maps["features"]

    @property
    def tree_records_fd(self) -> int:
        return self._maps["tree_records"]

    @property
    def mode(self) -> str:
        return self._state.mode

    @property
    def mode_reason(self) -> str:
        return self._state.mode_reason

    @property
    def loader(self) -> str:
        return self._state.loader.split()[0]

    @property
    def verdicts(self) -> np.ndarray:
        if self._verdicts is None:
            raise UsageError(NOT_OPEN)
        return np.frombuffer(self._verdicts, np.uint64, self.settings.slots)

    def __enter__(self) -> "Tap":
        checks.capabilities()
        try:
            with no_interrupt(), explained(self.device), namespaces.enter(self.netns):
                checks.bpffs()
                self._set_up()
        except BaseException:
            with no_interrupt():
                self._take_down(keep=False)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with no_interrupt(), explained(self.device):
            self._take_down(self.keep and self._state.ready)

    def bind(self, fd: int, queue: int = 0) -> None:
        """Let an AF_XDP socket that is bound to mirror_ifindex receive what is mirrored."""
        if not 0 <= queue < self.queues:
            raise UsageError(f"queue is {queue}, the mirror has {self.queues}")
        try:
            bpf.update(self._maps["xsks"], np.array([queue], np.uint32), np.array([fd], np.uint32))
        except OSError as error:
            raise DataplaneError(f"cannot bind the AF_XDP socket: {error.strerror}") from error

    def set_actions(self, actions: np.ndarray) -> None:
        """Say what verdicts do; takes effect at once, if the settings have `policy`.

        Verdicts of another policy, which an adopted tap may hold, stop to act.

        Args:
            actions: (n,) ACTION, at most ACTIONS_MAX; those beyond n do nothing.
        """
        actions_map.replace(self._maps["actions"], self.verdicts, actions)

    def set_tree(self, tree: np.ndarray) -> None:
        """Say how the kernel judges flows, if the settings have a `tree_depth`.

        Args:
            tree: (1,) struct tree of bpf/tree_plan.h, made for these settings' plan.
        """
        bpf.update(self._maps["trees"], np.zeros(1, np.uint32), tree)

    def start(self) -> None:
        """Attach to the device, in the mode asked for or found best. Adopted taps go on."""
        if self._state.ready:
            return
        if self._loaded is None:
            raise UsageError(NOT_OPEN)
        with no_interrupt(), explained(self.device), namespaces.enter(self._home.path):
            with links.iproute() as ip:
                modes.attach(ip, self._state, self._loaded, self.settings.mode)
            self._state.ready = True
            self._state.write()

    def set_filter(self, expression: str | None) -> None:
        """Look only at packets that a libpcap expression wants, from now on; None: at all.

        Raises:
            UsageError: the expression has a fault.
            UnsupportedError, DataplaneError: it cannot be translated, or the kernel refused.
        """
        filters.replace(self._maps, expression)
        self._state.filter = expression or ""
        self._state.write()

    def sweeper(self, on_records: Callable[[np.ndarray], None] | None = None) -> Sweeper:
        """Return a thread to be, which ends flows and reports them; enter it to start it."""
        counters = self._maps["packet_counters"]
        return Sweeper(FlowTable(self._maps), self.settings, on_records, counters_fd=counters)

    def counters(self) -> dict[str, int]:
        """Return what PACKET_COUNTERS counted since the programs were loaded."""
        return status.counters(self._maps["packet_counters"])

    def program_runs(self) -> dict[str, dict[str, int]]:
        """Return {runs, ns} by program, of those whose runs the kernel counted."""
        programs = self._loaded.programs if self._loaded else {}
        counted = {name: bpf.program_runs(fd) for name, fd in programs.items()}
        return {name: {"runs": runs, "ns": ns} for name, (runs, ns) in counted.items() if runs}

    def records(self, keys: np.ndarray) -> np.ndarray:
        """Return what the kernel knows of flows now.

        Args:
            keys: (n,) FLOW_KEY.

        Returns:
            (n,) FLOW_STATE, zero where the flow is not in the table.
        """
        return FlowTable(self._maps).find(keys)

    def flows_begun(self) -> np.ndarray:
        """Return (processors,) uint64, how many flows each has begun.

        Of n processors, the flow with id i is number i // n of processor i % n.
        """
        begun = np.zeros((1, bpf.possible_cpus()), np.uint64)
        bpf.lookup(self._maps["flow_ids"], np.zeros(1, np.uint32), begun)
        return begun[0]

    def alive(self) -> bool:
        """Return whether the device and the mirror pair are still there."""
        if self._presence is None:
            return False
        state = self._state
        return self._presence.of((state.ifindex, *state.ports, *state.mirror_ifindex))

    @property
    def _state(self) -> Journal:
        if self._journal is None:
            raise UsageError(NOT_OPEN)
        return self._journal

    @property
    def _home(self) -> namespaces.Held:
        if self._home_ns is None:
            raise UsageError(NOT_OPEN)
        return self._home_ns

    @property
    def _maps(self) -> dict[str, int]:
        if self._loaded is None:
            raise UsageError(NOT_OPEN)
        return self._loaded.maps

    def _set_up(self) -> None:
        device = links.device(self.device)
        inode = namespaces.inode()
        self._lock = Lock(inode, self.device)
        self._lock.acquire()
        journal.sweep(self._lock.path.parent)
        previous = journal.read(journal.run_path(inode, self.device, ".json"))
        if previous and self._adopt(previous, device):
            self._journal, self.adopted = previous, True
        else:
            self._make(device, inode)
        self._home_ns = namespaces.Held()
        self._presence = Presence()
        self._verdicts = mmap.mmap(self._maps["verdicts"], self.settings.slots * 8)

    def _adopt(self, previous: Journal, device: links.Device) -> bool:
        """Take over an earlier tap, or remove it and say why its flows are forgotten."""
        try:
            with links.iproute() as ip:
                self._loaded = pins.adopt(ip, previous, device, self.settings)
            return True
        except pins.Misfit as reason:
            log.warning("%s: not adopting the earlier tap: %s", device.name, reason)
        previous.remove()
        return False

    def _make(self, device: links.Device, inode: int) -> None:
        uses_mirror = self.settings.capture == "afxdp"
        build = self._build(device, device.mirror_index if uses_mirror else 0)
        with programs.loading(build) as loading, links.iproute() as ip:
            state = self._begin_journal(device, inode, uses_mirror)
            if uses_mirror:
                self._make_mirror(ip, device, state)
            self._loaded = loading.result()
            state.loader = self._loaded.loader
            state.source_digest = source_digest()
            state.tags = status.tags(self._loaded.programs)
            state.hook = modes.choose_hook(self.settings.hook, self._loaded.programs["tc_track"])
            state.write()
            pins.put(self._loaded, state)
            modes.attach_mirror(ip, state, self._loaded)
            links.set_up(ip, state.mirror_ifindex)

    def _build(self, device: links.Device, mirror_ifindex: int) -> Build:
        with_xdp = modes.may_use_xdp(device, self.settings.mode)
        return Build(self.settings, device.ifindex, mirror_ifindex, with_xdp)

    def _begin_journal(self, device: links.Device, inode: int, uses_mirror: bool) -> Journal:
        names = [f"etcm{device.ifindex}{end}" for end in "ab"] if uses_mirror else []
        state = Journal(
            device.name,
            device.ifindex,
            inode,
            self.settings.asdict(),
            names,
            netns_cookie=namespaces.cookie(),
        )
        # what another version may have left, whose journal we cannot read
        replace(state, sides=list(links.SIDES)).remove()
        self._journal = state
        state.write()
        return state

    def _make_mirror(self, ip, device: links.Device, state: Journal) -> None:
        if links.kind(ip, device.ifindex) == "ifb":
            raise UnsupportedError(
                f"{device.name}: packets that tc redirected miss the mirror: use --capture ringbuf"
            )
        first, second = state.mirror
        pair = links.create_mirror(ip, (first, second), self.queues, device.mirror_index)
        state.mirror_ifindex = list(pair)

    def _take_down(self, keep: bool) -> None:
        for held in (self._presence, self._home_ns):
            if held:
                held.close()
        self._presence = self._home_ns = None
        if self._verdicts:
            with suppress(BufferError):  # the caller still has the array: it unmaps with that
                self._verdicts.close()
            self._verdicts = None
        if self._loaded:
            self._loaded.close()
            self._loaded = None
        if self._journal and not keep:
            self._journal.remove()
        if self._lock:
            self._lock.release()
