"""Measures how fast the first bytes of flows become rows, beside nfstream keeping the same bytes.

    python tools/bench/raw_path.py [--quick] [--json]

The first ten payload packets of each flow, 1,000 bytes of each from the IP header on, out of
a capture of a million packets: `raw` as a model reads it. Figures are of processor time, the
program's start included; each program runs on one processor.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import classify
import common
from common import NOT_MEASURED, Goal, Report, Samples, Table

HERE = Path(__file__).parent
PACKETS = 1_000_000
STRICT, PLAIN, NFSTREAM = "etcpipe, masked", "etcpipe, bytes as they are", "nfstream plugin"
GOAL_RATE, GOAL_RATIO = 500_000, 10


@dataclass
class Runs:
    """All repeats of one program."""

    flows: int = 0
    packets: int = 0
    kept: int = 0  # bytes
    late: int = 0
    cpu_s: list[float] = field(default_factory=list)
    peak_rss: list[float] = field(default_factory=list)

    def add(self, usage: common.Usage) -> None:
        # warnings come before what the program itself says
        said = usage.output.strip().splitlines()[-1]
        self.flows, self.packets, self.kept, self.late = map(int, said.split())
        self.cpu_s.append(usage.cpu_s)
        self.peak_rss.append(usage.peak_rss)


def programs(work: Path, with_nfstream: bool) -> dict[str, Callable[[Path], list[str | Path]]]:
    """Return the command of each program on a capture, by name."""
    ours = [sys.executable, HERE / "raw_rows.py"]
    found = {STRICT: lambda f: [*ours, f, "strict"], PLAIN: lambda f: [*ours, f, "none"]}
    if with_nfstream:
        python = classify.nfstream_python(work)
        found[NFSTREAM] = lambda f: [python, HERE / "nfstream_raw.py", f]
    return found


def table(runs: dict[str, Runs], packets: int) -> Table:
    """Return a row a program."""
    result = Table(
        f"mix: {packets:,} packets to rows of 10 x 1,000 bytes",
        ["program", "packets/s", "packets kept/s", "CPU s", "flows", "kept", "late", "MB kept",
         "peak MB", "CPU / etcpipe"],
    )  # fmt: skip
    reference = Samples(runs[STRICT].cpu_s).median
    for name, run in runs.items():
        cpu = Samples(run.cpu_s)
        result.rows.append(
            [
                name,
                f"{packets / cpu.median:,.0f}",
                f"{run.packets / cpu.median:,.0f}",
                cpu.text(),
                f"{run.flows:,}",
                f"{run.packets:,}",
                f"{run.late:,}",
                f"{run.kept / 1e6:.1f}",
                f"{Samples(run.peak_rss).median / 1e6:.0f}",
                f"{cpu.median / reference:.2f}",
            ]
        )
    return result


def goals(runs: dict[str, Runs], packets: int) -> list[Goal]:
    """Return the project's goals beside what was measured."""
    ours = Samples(runs[STRICT].cpu_s).median
    rate = packets / ours
    speed = Goal("packets/s a core", f">= {GOAL_RATE:,}", f"{rate:,.0f}", rate >= GOAL_RATE)
    label = "speed / nfstream plugin"
    if NFSTREAM not in runs:
        return [speed, Goal(label, f">= {GOAL_RATIO}", NOT_MEASURED, None)]
    ratio = Samples(runs[NFSTREAM].cpu_s).median / ours
    return [speed, Goal(label, f">= {GOAL_RATIO}", f"{ratio:.1f}", ratio >= GOAL_RATIO)]


def main() -> None:
    """Make the capture, measure, and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("--packets", type=int, help=f"packets of the capture ({PACKETS:,})")
    parser.add_argument("--cpu", type=int, default=os.cpu_count() - 1, help="processor to run on")
    parser.add_argument("--no-nfstream", action="store_true", help="leave nfstream out")
    options = parser.parse_args()
    packets = options.packets or (20_000 if options.quick else PACKETS)
    repeats = options.repeats or (1 if options.quick else options.default_repeats)

    path = classify.captures_of(options.work, classify.RECORDINGS, packets, "mix")["mix"]
    nfstream = None if options.no_nfstream else classify.install_nfstream(options.work)
    report = Report("raw_path", "First bytes of flows, one processor", {"nfstream": nfstream})
    commands = programs(options.work, nfstream is not None)
    runs = {name: Runs() for name in commands}
    for repeat in range(repeats):
        for name, command in commands.items():
            common.progress(f"{repeat + 1}/{repeats} {name}")
            runs[name].add(common.run(command(path), options.cpu))

    report.tables.append(table(runs, packets))
    report.goals = [] if options.quick else goals(runs, packets)
    report.results = {
        name: {**vars(run), "cpu_s": Samples(run.cpu_s).summary()} for name, run in runs.items()
    }
    report.notes = [
        f"Each program pinned to CPU {options.cpu}; {repeats} interleaved repeats; median "
        "(min .. max, MAD) of processor time.",
        "kept: packets in rows; late: packets more than a second behind their flow's last one, "
        "which etcpipe leaves out and the plugin keeps.",
        "nfstream: n_dissections=0, n_meters=1, no statistics: the plugin's work and flow "
        "tracking only. It masks nothing.",
        *([common.quick_note()] if options.quick else []),
    ]
    report.show(options.json)


if __name__ == "__main__":
    main()
