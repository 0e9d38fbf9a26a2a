"""What a tap has made, written down before it is made, so that undoing it is exact.

One JSON file a device under /run/etcpipe/<netns inode>/, and pins of the same name in
bpffs. A journal whose process was killed is enough to adopt or remove what it left.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from etcpipe.errors import DataplaneError
from etcpipe.kernel import hooks, links, netns
from etcpipe.kernel.paths import PINS, RUN
from etcpipe.layout import CONSTANTS

PORT = "port"  # the second port of a wire, at ingress


@dataclass
class Journal:
    """One tap: what it is and what it made.

    Attributes:
        netns_cookie: of the namespace, whose inode another one may have by now; 0: unknown.
        mirror: names of the mirror pair, the end that traffic is cloned into first.
        sides: where a TC program of ours is, or is about to be: sides of the device, or PORT.
        clsact_made: devices that had no clsact before us.
        ports: forward mode: both devices.
        promiscuous: those of them that were not before us.
        source_digest: of the programs' source, see settings.py.
        tags: digest of each program's instructions, to recognise them.
        filter: which packets it looks at, in libpcap's syntax; empty: all.
        ready: set-up went to its end; what is left of it can be adopted.
    """

    device: str
    ifindex: int
    netns_inode: int
    settings: dict
    mirror: list[str]
    netns_cookie: int = 0
    abi: int = CONSTANTS["ETCPIPE_ABI"]
    mirror_ifindex: list[int] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    clsact_made: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    promiscuous: list[int] = field(default_factory=list)
    mode: str = ""
    mode_reason: str = ""
    hook: str = ""
    loader: str = ""
    source_digest: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    since: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat("T", "seconds"))
    filter: str = ""
    ready: bool = False

    @property
    def is_readable(self) -> bool:
        """Have the tap's maps the shape that this version of etcpipe knows?"""
        return self.abi == CONSTANTS["ETCPIPE_ABI"]

    @property
    def path(self) -> Path:
        return run_path(self.netns_inode, self.device, ".json")

    @property
    def pins(self) -> Path:
        """The folder in bpffs. A dot is not allowed there, a colon not in a device's name."""
        return PINS / str(self.netns_inode) / self.device.replace(".", ":")

    def tc_place(self, side: str) -> tuple[int, str]:
        """Return the device and the side of it that one of `sides` is."""
        return (self.ports[1], "ingress") if side == PORT else (self.ifindex, side)

    def write(self) -> None:
        """Store the journal; it is the old one or the new one, also after a crash."""
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n")
        draft.replace(self.path)

    def remove(self) -> None:
        """Undo everything, in reverse of set-up; what is gone already is no error.

        Call it in any namespace: the tap's is found by its inode. If that is gone, the
        devices are gone with it and only pins and journal remain to be removed.
        """
        home = netns.find(self.netns_inode)
        if home is not None:
            with netns.enter(home):
                self._remove_from_home()
        self._remove_pins()
        self.path.unlink(missing_ok=True)
        # what monitors read, and what a running attach was asked last
        for suffix in (".new", ".live", ".live.new", ".ask", ".answer", ".answer.new"):
            run_path(self.netns_inode, self.device, suffix).unlink(missing_ok=True)
        with suppress(OSError):  # others' taps of this namespace are there
            self.path.parent.rmdir()

    def take_off(self, ip) -> None:
        """Take the programs off the devices' hooks; all else stays. In the tap's namespace."""
        for name in ("ingress", "egress", PORT, "xdp"):
            hooks.release(self.pins / f"link_{name}")
        for ifindex, side in map(self.tc_place, self.sides):
            if links.exists(ifindex):
                links.delete_filter(ip, ifindex, side)
        for ifindex in filter(links.exists, self.clsact_made):
            links.delete_clsact(ip, ifindex)

    def is_at_home(self) -> bool:
        """Return whether the current namespace is the tap's, by all that is known."""
        return self.netns_inode == netns.inode() and self.netns_cookie in (0, netns.cookie())

    def is_orphan(self) -> bool:
        """Return whether the device is gone. Call it in the namespace with the tap's inode."""
        return not (self.is_at_home() and links.exists(self.ifindex))

    def _remove_from_home(self) -> None:
        if not self.is_at_home():
            return
        with links.iproute() as ip:
            self._remove_from_device(ip)
            self._remove_pins()
            for name in self.mirror:
                links.delete(ip, name)

    def _remove_from_device(self, ip) -> None:
        self.take_off(ip)
        for ifindex in filter(links.exists, self.promiscuous):
            links.set_promiscuous(ip, ifindex, False)

    def _remove_pins(self) -> None:
        if not self.pins.is_dir():
            return
        for pin in self.pins.iterdir():
            hooks.release(pin) if pin.name.startswith("link_") else pin.unlink(missing_ok=True)
        self.pins.rmdir()
        with suppress(OSError):
            self.pins.parent.rmdir()


def run_path(netns_inode: int, device: str, suffix: str) -> Path:
    """Return a file of ours that belongs to a device."""
    return RUN / str(netns_inode) / f"{device}{suffix}"


def read(path: Path) -> Journal | None:
    """Return the journal at path, or None if there is none that this version can read."""
    try:
        return Journal(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def read_all() -> list[Journal]:
    """Return the journals of all taps on this machine."""
    found = [read(path) for path in sorted(RUN.glob("*/*.json"))]
    return [journal for journal in found if journal]


def sweep(folder: Path) -> None:
    """Remove what killed consumers of a namespace left whose device is gone with its flows.

    Call it in the namespace with the folder's inode. What has a device can be adopted, and
    stays; so does all that a living process has the lock of.

    Args:
        folder: RUN / inode.
    """
    for path in folder.glob("*.json"):
        state = read(path)
        if state and state.is_orphan():
            _remove_unless_held(state)
    sweep_locks(folder)


def _remove_unless_held(state: Journal) -> None:
    lock = Lock(state.netns_inode, state.device)
    try:
        lock.acquire()
    except DataplaneError:
        return  # its consumer is just ending
    try:
        state.remove()
    finally:
        lock.release()


def sweep_locks(folder: Path) -> None:
    """Remove the locks in a namespace's folder that guard no tap and that nobody holds."""
    for path in folder.glob("*.lock"):
        if not path.with_suffix(".json").exists():
            Lock(int(folder.name), path.stem).sweep()


class Lock:
    """Held by the one living consumer of a device's tap; the kernel lets go when it dies."""

    def __init__(self, netns_inode: int, device: str):
        self.path = run_path(netns_inode, device, ".lock")
        self._device = device
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DataplaneError: another living process has it.
        """
        while True:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # its last owner removed the folder meanwhile
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = self.owner()
                os.close(fd)
                raise DataplaneError(
                    f"{self._device}: already attached by pid {owner};"
                    f" stop it or run etcpipe detach {self._device}"
                ) from error
            with suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == self.path.stat().st_ino:
                    break
            os.close(fd)  # or the file
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def owner(self) -> int | None:
        """Return the pid of the living process that has the lock, None if there is none."""
        try:
            with self.path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return int(file.read() or 0) or None
        except FileNotFoundError:
            pass
        return None

    def sweep(self) -> None:
        """Remove the file if its owner was killed; a living one keeps it."""
        with suppress(DataplaneError):
            self.acquire()
        self.release()

    def release(self) -> None:
        """Let go; the file goes with it."""
        if self._fd is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None
        with suppress(OSError):
            self.path.parent.rmdir()
