"""What test runs left that were killed: their names end in the pid of a process that is gone."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from etcpipe.kernel import netns
from etcpipe.kernel.journal import PINS, RUN

# as the tests name what they make: a prefix, their pid, and which of several it is
OURS = re.compile(r"etc(?:p|pg|w|o|parity|shape-|neighbour|classid|reader)(\d+)[\w-]*")
PLACES = (Path("/sys/fs/bpf"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


def is_stale(name: str) -> bool:
    """Return whether a test run made this that no longer runs."""
    ours = OURS.fullmatch(name)
    return bool(ours) and not Path("/proc", ours[1]).exists()


def remove_stale() -> None:
    """Remove namespaces of test runs that are gone, with what taps left there, and pins."""
    for path in netns.NAMED.glob("etc*"):
        if is_stale(path.name):
            inode = netns.inode(path.name)
            # another run may be at the same work
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
            remove_remains(inode)
    for path in (found for place in PLACES for found in place.glob("etc*")):
        if is_stale(path.name):
            _remove(path)


def remove_remains(inode: int) -> None:
    """Remove pins and journals of a namespace that is new or gone: killed taps of another
    one that had the same inode left them, or a test that failed."""
    for path in (PINS / str(inode), RUN / str(inode)):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.parent.name in ("memory", "cgroup"):
        try:
            os.rmdir(path)
        except OSError:  # a process of it is on its way out
            return
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
