"""Records a lab's traffic as seen on the router: a capture file and its ground truth."""

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from etcpipe.errors import LabError
from etcpipe.lab.lab import Lab, Session
from etcpipe.lab.processes import Processes, Program, last_line, wait_until
from etcpipe.lab.requirements import require
from etcpipe.lab.trim import Trimmed, trim
from etcpipe.lab.truth import append_truth

TCPDUMP = Program("tcpdump", "tcpdump")
DROPPED = re.compile(r"(\d+) packets? dropped by kernel")
LABELS = "labels.csv"
LINGER_S = 0.3  # the last connections' FINs are still under way


@dataclass(frozen=True)
class RecordSummary:
    """What a recording holds.

    Attributes:
        packets, flows: kept in the file; flows of TCP and UDP.
        seen: packets that were captured, before those past `first` were left out.
        dropped: packets that the kernel did not hand to tcpdump in time.
        sessions: every session that was run, failed ones too.
    """

    path: Path
    packets: int
    flows: int
    seen: int
    dropped: int
    sessions: list[Session]


def record(
    path: str | Path,
    kinds: Iterable[str] | None = None,
    seed: int = 1,
    sessions: int = 3,
    first: int = 32,
    snaplen: int = 1600,
    speed: float = 1.0,
    rate_mbit: float | None = None,
    on_session: Callable[[Session], None] = lambda session: None,
) -> RecordSummary:
    """Run a lab and record it to path; its truth goes into labels.csv beside it.

    Args:
        first: packets kept of each flow, besides every FIN and RST; 0 keeps all.
        snaplen: bytes kept of a packet; its length on the wire stays in its record.
        on_session: called with each finished session.

    Raises:
        LabError: the lab or tcpdump cannot run, or every session failed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise LabError(f"no folder {path.parent}: make it first")
    require("recording", [TCPDUMP])
    done = []
    with Lab(kinds, seed=seed, rate_mbit=rate_mbit) as lab:
        raw = lab.folder / "raw.pcap"
        with Capture(lab, raw, snaplen) as capture:
            for session in lab.run(sessions, speed):
                done.append(session)
                on_session(session)
            time.sleep(LINGER_S)
        if not any(session.ok for session in done):
            raise LabError(f"every session failed: {done[0].error if done else 'none was run'}")
        kept: Trimmed = trim(raw, path, first)
        append_truth(path.with_name(LABELS), path.name, lab.truth)
    return RecordSummary(path, kept.packets, kept.flows, kept.seen, capture.dropped, done)


class Capture:
    """tcpdump on the router's client-facing device; complete when the block is left."""

    def __init__(self, lab: Lab, path: Path, snaplen: int) -> None:
        self._processes = Processes()
        self._log = path.with_suffix(".log")
        self._argv = ["tcpdump", "-i", lab.device, "-w", str(path), "-s", str(snaplen)]
        # -Z root: it would become a user who cannot write here. Immediate mode: without it
        # what arrived in the last second is lost when tcpdump is told to end.
        self._argv += ["-Z", "root", "-n", "-U", "-B", "32768", "--immediate-mode"]
        self._namespace = lab.router
        self.dropped = 0

    def __enter__(self) -> "Capture":
        self._process = self._processes.spawn(self._namespace, self._argv, self._log)
        wait_until(lambda: "listening on" in self._text(), self._process, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"tcpdump does not end: {last_line(self._log)}") from error
        finally:
            self._processes.close()
        counted = DROPPED.search(self._text())
        self.dropped = int(counted[1]) if counted else 0

    def _text(self) -> str:
        return self._log.read_text(errors="replace")
