"""What running taps last said of themselves: read in no time, with nothing heavy imported.

Counting a million flows takes a second, and NumPy as long to import as all else of `show`
together; both are for who asks the kernel (status.py).
"""

import json
import os
from glob import escape
from pathlib import Path
from time import time
from typing import Any

from etcpipe.kernel.paths import LIVE, RUN, STALE_S


def taps(inode: int | None, device: str | None) -> list[dict[str, Any]] | None:
    """Return what `etcpipe show` shows of each tap, with the keys of status.show().

    Args:
        inode: of the namespace; None: all.
        device: None: all.

    Returns:
        None if there is a tap whose process is gone, or has not reported lately, or if we may
        not look.
    """
    if RUN.is_dir() and not os.access(RUN, os.R_OK | os.X_OK):
        return None
    found = []
    names = f"{inode or '*'}/{escape(device) if device else '*'}.json"
    for path in sorted(RUN.glob(names)):
        tap = _glance(path)
        if tap is None:
            return None
        found.append(tap)
    return found


def _glance(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_text())
        report = json.loads(path.with_suffix(LIVE).read_text())
    except (OSError, ValueError):
        return None
    if time() - report["time"] >= STALE_S or report.get("flows") is None:
        return None
    if not _runs(report["pid"]):
        return None
    settings = state["settings"]
    return {**report, "first_n": settings["first_n"], "settings": settings}


def _runs(pid: int) -> bool:
    """Tell whether there is a process of that number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
