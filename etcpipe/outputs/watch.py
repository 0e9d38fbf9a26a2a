"""What a running attach says of itself: for `etcpipe monitor`, the web page and Prometheus.

A report is a dict; docs/outputs.md has its fields. A thread writes it twice a second, as
JSON, into a file beside the tap's journal, whole or not at all; whoever may read that file sees it.
Nobody asks the running process anything, so nobody can keep it waiting.
"""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any

from etcpipe import __version__
from etcpipe.kernel import journal, netns, paths
from etcpipe.outputs.talkers import Talkers
from etcpipe.outputs.tally import Tally

if TYPE_CHECKING:
    from etcpipe.live.tap import Live

log = logging.getLogger(__name__)

VERSION = 1
EVERY_S = 0.5
SUFFIX = paths.LIVE


class Watch:
    """Counts what a tap does, and publishes it; a context manager inside the tap's.

    Args:
        tap: entered.
        namespace: name or path of its network namespace, None for the current one.

    Attributes:
        tally, talkers: give them what comes.
        outputs: returns what each output says of itself, see Queued.state().
    """

    def __init__(self, tap: "Live", namespace: str | None = None):
        self.tally, self.talkers = Tally(), Talkers()
        self.outputs: Callable[[], list[dict[str, Any]]] = list
        self._tap = tap
        self._since = time()
        self._inode = netns.inode(namespace)
        self._path = journal.run_path(self._inode, tap.device, SUFFIX)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcpipe-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def report(self) -> dict[str, Any]:
        """Return all there is to say now."""
        tap = self._tap
        return {
            "version": VERSION,
            "etcpipe": __version__,
            "device": tap.device,
            "netns": self._inode,
            "pid": os.getpid(),
            "since": self._since,
            "time": time(),
            "mode": tap.mode,
            "loader": tap.loader,
            "capture": tap.capture,
            "model": {
                "name": tap.model.name,
                "digest": tap.model.digest,
                "engine": tap.model.engine,
            },
            "shadow": tap.shadow_report(),
            "policy": tap.policy.describe(tap.model.labels) if tap.policy else [],
            "counters": tap.counters(),
            "lost": tap.lost(),
            "programs": tap.program_runs(),
            **self.tally.asdict(),
            **self.talkers.asdict(),
            "outputs": self.outputs(),
        }

    def _run(self) -> None:
        told = False
        while True:
            try:
                self._publish()
                told = False
            except OSError as error:
                if not told:
                    log.warning("cannot tell monitors: %s: %s", self._path, error.strerror)
                told = True
            if self._stopping.wait(EVERY_S):
                return

    def _publish(self) -> None:
        draft = self._path.with_suffix(SUFFIX + ".new")
        draft.write_text(json.dumps(self.report()))
        draft.chmod(0o640)  # for the group of /run/etcpipe, if it has one
        draft.replace(self._path)


def read_reports(wanted: Iterable[tuple[int, str]] | None = None) -> list[dict[str, Any]]:
    """Return the reports of what runs on this machine; those of dead processes are left
    out, and what we may not read.

    Args:
        wanted: (inode of the namespace, device) of each; None: all there are.
    """
    if wanted is None:
        found = sorted(journal.RUN.glob(f"*/*{SUFFIX}"))
    else:
        found = [journal.run_path(inode, device, SUFFIX) for inode, device in wanted]
    reports = []
    for path in found:
        with suppress(FileNotFoundError, PermissionError, ValueError):
            report = json.loads(path.read_text())
            if report["version"] == VERSION and time() - report["time"] < paths.STALE_S:
                reports.append(report)
    return reports


def told_apart(taps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return reports or movements whose `device` is unique: else with the namespace."""
    times = Counter(one["device"] for one in taps)
    return [
        {**one, "device": f"{one['device']}@{one['netns']}"} if times[one["device"]] > 1 else one
        for one in taps
    ]
