"""A lab's folder and lock, and the removal of all that a lab leaves in the system."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import IO

from etcpipe.lab.network import delete_namespace, namespaces_of, pids_in

PREFIX = "etclab-"
STOPS = ((signal.SIGTERM, 2.0), (signal.SIGKILL, 1.0))  # and the seconds each is given


def make_folder() -> tuple[Path, IO[bytes]]:
    """Return a new folder, whose name is the lab's, and its lock, held while this process lives."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)  # servers that run as another user read their files here
    lock = (folder / "lock.new").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / "lock")  # never to be seen unlocked
    return folder, lock


def remove_stale_labs() -> None:
    """Remove what labs left behind whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_lab(folder.name, folder)
        except OSError:
            continue  # in use: its process holds the lock; or somebody else removes it


def remove_lab(name: str, folder: Path) -> None:
    """Kill what runs in a lab's namespaces; delete them and the folder."""
    namespaces = namespaces_of(name)
    for number, patience_s in STOPS:
        deadline = time.monotonic() + patience_s
        pids = _pids(namespaces)
        for pid in pids:
            _kill(pid, number)
        while pids and time.monotonic() < deadline:
            time.sleep(0.02)
            pids = _pids(namespaces)
    for namespace in namespaces:
        delete_namespace(namespace)
    for socket in Path("/run/wireguard").glob(f"wg?{name.rsplit('-', 1)[1]}.sock"):
        socket.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _pids(namespaces: tuple[str, ...]) -> list[int]:
    return [pid for namespace in namespaces for pid in pids_in(namespace)]


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # ended meanwhile
