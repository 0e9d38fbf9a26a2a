"""Runs lab traffic for long under one attach: does its memory, or anything else, grow?

    python tools/bench/soak.py [--minutes 30] [--pause 0] [--quick] [--json]         needs root

Real programs of the lab run one session after another while `attach` writes lines into a file
with metrics beside; every ten seconds its memory, descriptors and threads are read. Compared
are the medians of the second fifth of the time and of the last.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import common
from common import Goal, Report, Table

from etcpipe.lab import Lab

MINUTES = 30
GROWTH_GOAL = 0.05
SAMPLE_S = 10.0
READY_WITHIN_S = 60.0
STATE = (Path("/run/etcpipe"), Path("/sys/fs/bpf/etcpipe"))
ETCPIPE = [sys.executable, "-m", "etcpipe.cli.main"]


@dataclass(frozen=True)
class Sample:
    """A process at one time.

    Attributes:
        minute: since the start.
        rss: bytes that are its own (anonymous) or shared with the kernel's rings.
    """

    minute: float
    rss: int
    files: int
    threads: int


def look(pid: int, minute: float) -> Sample:
    """Return what a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    rss = int(status["VmRSS"].split()[0]) * 1024
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(minute, rss, files, int(status["Threads"]))


def soak(minutes: float, pause_s: float, folder: Path) -> tuple[list[Sample], int]:
    """Return samples, and how many sessions were run."""
    samples: list[Sample] = []
    with Lab(seed=1, rate_mbit=0, rtt_ms=(1.0, 5.0)) as lab, open(folder / "said", "wb") as said:
        command = ["-n", lab.router, "attach", lab.device, "-o", str(folder / "eve.jsonl")]
        command += ["-o", f"prometheus:{folder / 'etcpipe.prom'}"]
        process = subprocess.Popen(
            [*ETCPIPE, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            _wait(lambda: b": attached, " in (folder / "said").read_bytes(), process)
            sessions = _traffic(lab, process, minutes, pause_s, samples)
        finally:
            process.terminate()
            process.wait(READY_WITHIN_S)
    return samples, sessions


def _traffic(
    lab: Lab, process: subprocess.Popen, minutes: float, pause_s: float, samples: list[Sample]
) -> int:
    began, sampled, sessions = time.monotonic(), 0.0, 0
    for _ in _sessions(lab, began + 60 * minutes):
        sessions += 1
        time.sleep(pause_s)
        now = time.monotonic()
        if now - sampled >= SAMPLE_S:
            sampled = now
            samples.append(look(process.pid, (now - began) / 60))
            common.progress(f"{samples[-1].minute:.0f}/{minutes:g} min, {sessions} sessions")
    return sessions


def _sessions(lab: Lab, end: float) -> Iterator[object]:
    while time.monotonic() < end:
        yield from lab.run(sessions=1, speed=4.0)


def _wait(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("bench: attach did not come up")
        time.sleep(0.05)


def leftovers() -> list[str]:
    """Return what is under the folders in which attach keeps its state and pins."""
    return [str(path) for folder in STATE if folder.exists() for path in folder.rglob("*")]


def main() -> None:
    """Measure and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two sessions")
    options = parser.parse_args()
    common.need_root()
    minutes = 0.5 if options.quick else options.minutes
    before = set(leftovers())
    report = Report("soak", f"{minutes:g} minutes of lab traffic under one attach", {})
    with tempfile.TemporaryDirectory() as name:
        samples, sessions = soak(minutes, options.pause, Path(name))
        lines = sum(1 for _ in open(Path(name) / "eve.jsonl", "rb"))
    left = sorted(set(leftovers()) - before)
    fifth = max(len(samples) // 5, 1)
    early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
    table = Table("What attach held, medians", ["", "second fifth", "last fifth"])
    for name, scale, unit in (("rss", 1e-6, "MB"), ("files", 1, ""), ("threads", 1, "")):
        values = [median(getattr(one, name) for one in part) * scale for part in (early, late)]
        table.rows.append([name, *(f"{value:.1f} {unit}".strip() for value in values)])
    report.tables.append(table)
    growth = median(one.rss for one in late) / median(one.rss for one in early) - 1
    files = [median(one.files for one in part) for part in (early, late)]
    if not options.quick:
        report.goals = [
            Goal("growth of RSS", f"< {GROWTH_GOAL:.0%}", f"{growth:+.1%}", growth < GROWTH_GOAL),
            Goal("more descriptors", "0", f"{files[1] - files[0]:+g}", files[1] <= files[0]),
            Goal("left afterwards", "nothing", ", ".join(left) or "nothing", not left),
        ]
    report.results = {"samples": [vars(one) for one in samples], "left": left}
    report.notes = [f"{sessions} sessions of real programs, {lines} verdict lines"]
    report.notes += [common.quick_note()] if options.quick else []
    report.show(options.json)


if __name__ == "__main__":
    main()
