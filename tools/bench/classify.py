"""Measures `etcpipe classify` beside ndpiReader and nfstream, each on one processor.

    python tools/bench/classify.py [--quick] [--json]

Packets and flows a second are by processor time, so that they do not depend on what else
runs; wall time is beside them. Memory a flow is the slope of peak memory between a capture
of half as many flows and the whole one, so that programs and libraries themselves drop out.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import common
from common import NOT_MEASURED, Goal, Report, Samples, Table

HERE = Path(__file__).parent
RECORDINGS = common.ROOT / "tests" / "data" / "lab"
PACKETS = 1_000_000
FLOW_PACKETS = 10  # of each flow of the capture `short`
NFSTREAM = "6.6.0"

ETCPIPE, ETCPIPE_FILE, NDPI, NFSTREAM_NAME = "etcpipe", "etcpipe -o jsonl", "ndpiReader", "nfstream"


@dataclass(frozen=True)
class Program:
    """A program that reads a capture and finds flows."""

    name: str
    argv: Callable[[Path], list[str | Path]]
    flows: Callable[[str], int | None]  # from what it printed


@dataclass
class Runs:
    """All repeats of one program on one capture."""

    flows: int | None = None
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    peak_rss: list[float] = field(default_factory=list)

    def add(self, usage: common.Usage, flows: int | None) -> None:
        self.flows = flows
        self.cpu_s.append(usage.cpu_s)
        self.wall_s.append(usage.wall_s)
        self.peak_rss.append(usage.peak_rss)


def programs(work: Path, with_nfstream: bool) -> list[Program]:
    """Return the programs that can be measured here."""
    lines = work / "verdicts.jsonl"
    found = [
        Program(ETCPIPE, lambda f: [*common.etcpipe(), "classify", f], lambda said: None),
        Program(
            ETCPIPE_FILE,
            lambda f: [*common.etcpipe(), "classify", f, "-o", lines],
            lambda said: _lines(lines),
        ),
    ]
    if common.tool_version(["ndpiReader", "-h"], "(.)"):
        found.append(Program(NDPI, lambda f: ["ndpiReader", "-i", f], _ndpi_flows))
    if with_nfstream:
        python = nfstream_python(work)
        script = HERE / "nfstream_count.py"
        found.append(Program(NFSTREAM_NAME, lambda f: [python, script, f], _nfstream_flows))
    return found


def install_nfstream(work: Path) -> str | None:
    """Return nfstream's version, installed into a virtual environment of its own if need be."""
    python = nfstream_python(work)
    query = [python, "-c", "from importlib.metadata import version; print(version('nfstream'))"]
    if not python.exists():
        common.progress("installing nfstream")
        # With the interpreter below this one's environment: nfstream must not see ours.
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-m", "venv", python.parents[1]], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, f"nfstream=={NFSTREAM}"], capture_output=True)
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.strip() or None


def captures_of(work: Path, recordings: Path, packets: int, *names: str) -> dict[str, Path]:
    """Return the captures of these names.

    They are made by another process: what this one holds in memory would count in the
    peak memory of every process that it starts.
    """
    command = [sys.executable, HERE / "captures.py", work, "--recordings", recordings]
    done = subprocess.run(
        [*command, "--packets", str(packets), "--only", *names],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return {n: Path(p) for n, p in (line.split("\t") for line in done.stdout.splitlines())}


def make_captures(work: Path, recordings: Path, packets: int) -> dict[str, Path]:
    """Return the captures: mix, short, and half as many of the short flows."""
    half = captures_of(work, recordings, packets // 2, "short")["short"]
    return {**captures_of(work, recordings, packets, "mix", "short"), "half": half}


def measure(
    tools: list[Program], captures: dict[str, Path], repeats: int, cpu: int
) -> dict[tuple[str, str], Runs]:
    """Return the runs of every program on every capture, repeats interleaved."""
    runs = {(tool.name, name): Runs() for name in captures for tool in tools}
    for repeat in range(repeats):
        for name, path in captures.items():
            for tool in tools:
                common.progress(f"{name} {repeat + 1}/{repeats} {tool.name}")
                usage = common.run(tool.argv(path), cpu)
                runs[tool.name, name].add(usage, tool.flows(usage.output))
    return runs


def table(name: str, tools: list[Program], runs: dict, packets: int) -> Table:
    """Return one capture's table: a row a program."""
    result = Table(
        f"{name}: {packets:,} packets",
        ["program", "packets/s", "flows/s", "CPU s", "wall s", "peak MB", "flows", "CPU / etcpipe"],
    )
    reference = Samples(runs[ETCPIPE, name].cpu_s).median
    for tool in tools:
        run = runs[tool.name, name]
        cpu = Samples(run.cpu_s)
        flows = run.flows or runs[ETCPIPE_FILE, name].flows
        result.rows.append(
            [
                tool.name,
                f"{packets / cpu.median:,.0f}",
                f"{flows / cpu.median:,.0f}",
                cpu.text(),
                f"{Samples(run.wall_s).median:.2f}",
                f"{Samples(run.peak_rss).median / 1e6:.0f}",
                f"{flows:,}",
                f"{cpu.median / reference:.2f}",
            ]
        )
    return result


def bytes_a_flow(runs: dict, tool: str) -> float:
    """Return the slope of peak memory over flows, between `half` and `short`."""
    whole, half = runs[tool, "short"], runs[tool, "half"]
    more = Samples(whole.peak_rss).median - Samples(half.peak_rss).median
    flows = runs[ETCPIPE_FILE, "short"].flows - runs[ETCPIPE_FILE, "half"].flows
    return more / flows


def goals(runs: dict, packets: int, names: list[str]) -> list[Goal]:
    """Return the project's goals for `classify` beside what was measured."""

    def cpu(tool: str, capture: str) -> float:
        return Samples(runs[tool, capture].cpu_s).median

    rate = packets / cpu(ETCPIPE, "mix")
    flow_rate = runs[ETCPIPE_FILE, "short"].flows / cpu(ETCPIPE, "short")
    memory = bytes_a_flow(runs, ETCPIPE)
    result = [
        Goal("packets/s (mix)", ">= 400,000", f"{rate:,.0f}", rate >= 400_000),
        Goal("flows/s (short)", ">= 40,000", f"{flow_rate:,.0f}", flow_rate >= 40_000),
        Goal("memory a flow", "<= 1,000 bytes", f"{memory:,.0f} bytes", memory <= 1_000),
    ]
    for peer, factor in ((NDPI, 1), (NFSTREAM_NAME, 5)):
        for capture in ("mix", "short"):
            label = f"speed / {peer} ({capture})"
            if peer not in names:
                result.append(Goal(label, f">= {factor}", NOT_MEASURED, None))
                continue
            ratio = cpu(peer, capture) / cpu(ETCPIPE, capture)
            result.append(Goal(label, f">= {factor}", f"{ratio:.2f}", ratio >= factor))
    return result


def main() -> None:
    """Make the captures, measure, and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("--packets", type=int, help=f"packets of each capture ({PACKETS:,})")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="pcap files for mix")
    parser.add_argument("--cpu", type=int, default=os.cpu_count() - 1, help="processor to run on")
    parser.add_argument("--no-nfstream", action="store_true", help="leave nfstream out")
    options = parser.parse_args()
    packets = options.packets or (20_000 if options.quick else PACKETS)
    repeats = options.repeats or (1 if options.quick else options.default_repeats)

    captures = make_captures(options.work, options.recordings, packets)
    nfstream = None if options.no_nfstream else install_nfstream(options.work)
    versions = {
        "ndpiReader": common.tool_version(["ndpiReader", "-h"], r"nDPI ([\d.]+)"),
        "nfstream": nfstream,
    }
    report = Report("classify", "Classifying a capture, one processor", versions)
    tools = programs(options.work, with_nfstream=bool(nfstream))
    runs = measure(tools, captures, repeats, options.cpu)
    names = [tool.name for tool in tools]
    report.tables = [table(name, tools, runs, packets) for name in ("mix", "short")]
    memory = Table("Memory a flow, bytes (slope of peak memory, short)", names)
    memory.rows = [[f"{bytes_a_flow(runs, name):,.0f}" for name in names]]
    report.tables.append(memory)
    report.goals = [] if options.quick else goals(runs, packets, names)
    report.notes = _notes(captures, repeats, options.cpu)
    report.notes += [common.quick_note()] if options.quick else []
    report.results = {
        f"{tool} {capture}": {"packets": packets, **_summary(run)}
        for (tool, capture), run in runs.items()
    }
    report.show(options.json)


def _summary(run: Runs) -> dict:
    measures = {name: Samples(getattr(run, name)).summary() for name in ("cpu_s", "wall_s")}
    return {"flows": run.flows, **measures, "peak_rss": Samples(run.peak_rss).summary()}


def _notes(captures: dict[str, Path], repeats: int, cpu: int) -> list[str]:
    return [
        f"Each program pinned to CPU {cpu}; {repeats} interleaved repeats; "
        "median (min .. max, MAD) of processor time.",
        f"Flows of `{ETCPIPE}` are those of `{ETCPIPE_FILE}`.",
        f"mix is {captures['mix'].stat().st_size / 1e6:.0f} MB; it repeats recordings that hold "
        "the first packets of each flow, so its flows are short.",
        "nfstream: statistical_analysis=True, splt_analysis=10, n_meters=1.",
    ]


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _ndpi_flows(said: str) -> int:
    return int(re.search(r"Unique flows:\s+(\d+)", said)[1])


def _nfstream_flows(said: str) -> int:
    return int(said.strip().splitlines()[-1].split()[0])  # warnings come before


def nfstream_python(work: Path) -> Path:
    """Return the interpreter of nfstream's virtual environment."""
    return work / "nfstream" / "bin" / "python"


if __name__ == "__main__":
    main()
