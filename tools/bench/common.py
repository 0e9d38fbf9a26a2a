"""What the benchmarks share: measured processes, honest statistics, one form of report.

A figure is the median of interleaved repeats, beside their smallest, largest and median
absolute deviation (MAD), with the machine and its load at start and end. Processor time is
that of the process and of the children it waited for; peak memory is the largest process's.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = "not measured"
QUICK_MBITS = 400  # a connection, so that tests beside a quick run have the processors


@dataclass(frozen=True)
class Samples:
    """Repeats of one measure."""

    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def mad(self) -> float:
        """Median absolute deviation from the median: the noise, deaf to outliers."""
        return median(abs(value - self.median) for value in self.values)

    def text(self, digits: int = 2) -> str:
        """Return "median (min .. max, MAD)"."""
        low, high = min(self.values), max(self.values)
        return (
            f"{self.median:,.{digits}f} ({low:,.{digits}f} .. {high:,.{digits}f}, "
            f"MAD {self.mad:,.{digits}f})"
        )

    def summary(self) -> dict:
        """Return the figures by name, and every repeat."""
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "mad": self.mad,
            "values": self.values,
        }


@dataclass(frozen=True)
class Usage:
    """What a process used, its waited-for children included.

    Attributes:
        wall_s, cpu_s: seconds; cpu_s is user and system time.
        peak_rss: bytes, of the largest process.
        switches: times that another process took the processor away.
        output: what it wrote to standard output.
    """

    wall_s: float
    cpu_s: float
    peak_rss: int
    switches: int
    output: str


def run(argv: Sequence[str | Path], cpu: int | None = None) -> Usage:
    """Return what a command used, pinned to one processor if told.

    Raises:
        SystemExit: the command failed; its last line is in the message.
    """
    pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
    command = [*pin, *map(str, argv)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise SystemExit(f"bench: {' '.join(command)} failed: {said[-1] if said else status}")
        return Usage(
            wall_s=wall_s,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_rss=used.ru_maxrss * 1024,
            switches=used.ru_nivcsw,
            output=output.read().decode(errors="replace"),
        )


@dataclass
class Table:
    """A table of the report; cells are text."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table in Markdown, columns aligned for people."""
        lines = [self.columns, *self.rows]
        width = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [
            "| " + " | ".join(cell.ljust(width[i]) for i, cell in enumerate(line)) + " |"
            for line in lines
        ]
        text.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
        return f"**{self.title}**\n\n" + "\n".join(text)


@dataclass(frozen=True)
class Goal:
    """A measure that the project set itself, and what became of it."""

    measure: str
    goal: str
    measured: str
    met: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: NOT_MEASURED}[self.met]


class Report:
    """One benchmark's results, as Markdown or as JSON."""

    def __init__(self, name: str, title: str, versions: dict[str, str | None]):
        """Start the report: the machine's load is read here and again in show()."""
        self.name = name
        self.title = title
        self.tables: list[Table] = []
        self.goals: list[Goal] = []
        self.notes: list[str] = []
        self.results: dict = {}
        self.environment = environment(versions)

    def show(self, as_json: bool) -> None:
        """Print the report."""
        self.environment["load_end"] = os.getloadavg()[0]
        if as_json:
            print(json.dumps(self._json()))
        else:
            print(self._markdown())

    def _json(self) -> dict:
        return {
            "benchmark": self.name,
            "environment": self.environment,
            "results": self.results,
            "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in self.goals],
            "notes": self.notes,
        }

    def _markdown(self) -> str:
        machine = Table("Machine", ["", ""])
        for name, value in self.environment.items():
            shown = f"{value:.2f}" if isinstance(value, float) else str(value)
            machine.rows.append([name.replace("_", " "), shown])
        goals = Table("Goals", ["measure", "goal", "measured", "verdict"])
        goals.rows = [[g.measure, g.goal, g.measured, g.verdict] for g in self.goals]
        parts = [f"## {self.title}", *(table.markdown() for table in self.tables)]
        if goals.rows:
            parts.append(goals.markdown())
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join([*parts, machine.markdown()]) + "\n"


def environment(versions: dict[str, str | None]) -> dict:
    """Return what a reader must know of this machine to read a figure."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.*)$", cpuinfo, re.M)
    memory_kib = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    virtual = ", virtual machine" if re.search(r"^flags.*\bhypervisor\b", cpuinfo, re.M) else ""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs{virtual}",
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "system": f"Linux {platform.release()}, {_distribution()}",
        "etcpipe": f"{package('etcpipe')} ({_commit()})",
        "python": f"{platform.python_version()}, numpy {package('numpy')}, "
        f"onnxruntime {package('onnxruntime')}",
        **{name: value or "not installed" for name, value in versions.items()},
        "load_start": os.getloadavg()[0],
    }


def package(name: str) -> str | None:
    """Return the version of an installed Python package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tool_version(argv: list[str], pattern: str) -> str | None:
    """Return what `pattern` finds first in a tool's output; None where there is no such tool."""
    if not shutil.which(argv[0]):
        return None
    done = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown version"


def etcpipe() -> list[str]:
    """Return the command of this interpreter's etcpipe."""
    return [sys.executable, "-m", "etcpipe.cli.main"]


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    result.add_argument("--quick", action="store_true", help="small inputs: a check, no figures")
    result.add_argument("--repeats", type=int, help=f"repeats of every measure ({repeats})")
    result.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "etcpipe-bench",
        help="folder for captures and peers, kept for the next run",
    )
    result.set_defaults(default_repeats=repeats)
    return result


def throughput_options(
    description: str,
    repeats: int,
    seconds: float,
    streams: Sequence[int],
    others: Mapping[str, str] = MappingProxyType({}),
) -> argparse.Namespace:
    """Return the options of a benchmark of TCP by iperf3, filled in; `streams` is a list.

    `others` are options of its own that take a value, with their help.
    """
    options = parser(description, repeats)
    options.add_argument("--streams", help="numbers of connections, as 1,8,32,128")
    options.add_argument("--seconds", type=float, help=f"of a run ({seconds})")
    for option, text in others.items():
        options.add_argument(option, help=text)
    options.add_argument("--fifo", action="store_true", help="real-time priority for iperf3")
    given = options.parse_args()
    need_root()
    if given.fifo and (os.cpu_count() or 1) < 2:
        options.error("--fifo needs two processors: one end would starve the other")
    given.repeats = given.repeats or (1 if given.quick else given.default_repeats)
    given.seconds = given.seconds or (1.0 if given.quick else seconds)
    given.mbits = QUICK_MBITS if given.quick else None
    default = "1,8" if given.quick else ",".join(map(str, streams))
    given.streams = [int(n) for n in (given.streams or default).split(",")]
    return given


def quick_note() -> str:
    """Return what a report of --quick says in place of goals."""
    return "`--quick`: small inputs show that everything works; these are no figures."


def need_root() -> None:
    """Leave with the exit code of a missing permission where this is not root."""
    if os.geteuid():
        print("bench: attaching and network namespaces need root", file=sys.stderr)
        raise SystemExit(4)


def progress(text: str) -> None:
    """Tell a person at the terminal what is measured now."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _distribution() -> str:
    release = Path("/etc/os-release")
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', release.read_text(), re.M)
    return found[1] if found else "unknown distribution"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "no commit"
