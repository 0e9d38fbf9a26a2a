"""Measures how soon etcpipe is there: attached, imported, and how much memory it takes.

    python tools/bench/start.py [--quick] [--json] [--fifo]         attaching needs root

A sender in the lab's client namespace sends a packet of a new flow every millisecond. The
first packet is seen when the kernel has handed one to the consumer's socket.
"""

import os
import subprocess
import sys
import time

import bed as beds
import common
from common import Goal, Report, Samples, Table

ATTACH_GOAL_S = 0.5
IMPORT_GOAL_S = 0.150
IMPORTS = ("import etcpipe", "from etcpipe import classify, attach")
LOADERS = ("libbpf", "bcc")
# Where the time until the first packet goes, in order.
PARTS = {
    "import_s": "import",
    "model_s": "attach(): the model",
    "enter_s": "with: programs, devices, ring, hooks",
    "packet_s": "until the first packet",
}
MEASURES = ("attach_s", "first_packet_s", "from_start_s", "cpu_s", "rss", "peak_rss", *PARTS)

# Runs with the interpreter inside the client's namespace: address and pause as arguments.
SENDER = """
import socket, sys, time
port = 1024
while True:
    port = port + 1 if port < 65000 else 1024
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", port))
        udp.sendto(b"x" * 100, (sys.argv[1], 9))
    time.sleep(float(sys.argv[2]))
"""
PAUSE_S = 0.001


def measure_import(statement: str, repeats: int) -> Samples:
    """Return seconds that an import takes in fresh interpreters, their own start not in."""
    took = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", took]
    common.run(command)  # fills the page cache
    return Samples([float(common.run(command).output) for _ in range(repeats)])


def measure_attach(loader: str, repeats: int) -> dict[str, Samples]:
    """Return seconds from attach() and from the process's start to the first packet, and memory."""
    measures: dict[str, list[float]] = {name: [] for name in MEASURES}
    with beds.bed() as bed, _sender(bed):
        for repeat in range(repeats + 1):  # the first one fills the page cache
            common.progress(f"attach with {loader} {repeat}/{repeats}")
            started = time.monotonic()
            with beds.Consumer(bed, "--loader", loader, "--first-packet") as consumer:
                first_packet_at = consumer.line()["first_packet_at"]
                memory = consumer.memory()
            if repeat:
                took = _times(started, consumer.ready, first_packet_at)
                took |= {"rss": memory["VmRSS"], "peak_rss": memory["VmHWM"]}
                for name, values in measures.items():
                    values.append(took[name])
    return {name: Samples(values) for name, values in measures.items()}


def _times(started: float, ready: dict, first_packet_at: float) -> dict[str, float]:
    """Return what consumer.py said once attached, and what follows from it."""
    packet_s = first_packet_at - ready["attached_at"]
    return {
        **ready,
        "packet_s": packet_s,
        "first_packet_s": ready["attach_s"] + packet_s,
        "from_start_s": first_packet_at - started,
    }


class _sender:
    """A packet of a new flow every millisecond, from the client to the server."""

    def __init__(self, bed: beds.Bed):
        python = [sys.executable, "-c", SENDER, bed.server_address, str(PAUSE_S)]
        self._argv = ["ip", "netns", "exec", bed.network.client, *python]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._argv)

    def __exit__(self, kind, error, trace) -> None:
        self._process.kill()
        self._process.wait()


def attach_table(measured: dict[str, dict[str, Samples]]) -> Table:
    """Return a row a loader."""
    result = Table(
        "Attach",
        ["loader", "attached, s", "first packet, s", "from start, s", "CPU, s", "RSS, MB"],
    )
    for loader, measures in measured.items():
        result.rows.append(
            [
                loader,
                measures["attach_s"].text(3),
                measures["first_packet_s"].text(3),
                measures["from_start_s"].text(3),
                measures["cpu_s"].text(3),
                f"{measures['rss'].median / 1e6:.0f}, peak {measures['peak_rss'].median / 1e6:.0f}",
            ]
        )
    return result


def parts_table(measures: dict[str, Samples]) -> Table:
    """Return a row a part, in the order of the call."""
    result = Table("Attach with libbpf, ms", ["part", "median (min .. max, MAD)"])
    for name, text in PARTS.items():
        samples = Samples([1000 * s for s in measures[name].values])
        result.rows.append([text, samples.text(1)])
    return result


def import_table(imports: dict[str, Samples]) -> Table:
    """Return a row a statement."""
    result = Table("Import, ms", ["statement", "median (min .. max, MAD)"])
    for statement, samples in imports.items():
        result.rows.append([statement, Samples([1000 * s for s in samples.values]).text(1)])
    return result


def goals(imports: dict[str, Samples], measured: dict[str, dict[str, Samples]]) -> list[Goal]:
    """Return the project's goals for starting beside what was measured."""
    result = []
    if "libbpf" in measured:
        value = measured["libbpf"]["first_packet_s"].median
        is_met = value < ATTACH_GOAL_S
        name = "attach() to the first packet, libbpf"
        result.append(Goal(name, f"< {ATTACH_GOAL_S} s", f"{value:.3f} s", is_met))
    took = imports[IMPORTS[0]].median
    text = f"{took * 1000:.0f} ms"
    limit = f"< {IMPORT_GOAL_S * 1000:.0f} ms"
    return [*result, Goal("import etcpipe", limit, text, took < IMPORT_GOAL_S)]


def main() -> None:
    """Measure and print the report."""
    parser = common.parser(__doc__.splitlines()[0], repeats=10)
    parser.add_argument("--loaders", default=",".join(LOADERS), help="libbpf,bcc")
    parser.add_argument("--fifo", action="store_true", help="all at real-time priority")
    options = parser.parse_args()
    common.need_root()
    if options.fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # children inherit it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as for users, the first start compiles
    repeats = options.repeats or (2 if options.quick else options.default_repeats)

    report = Report("start", "Starting", {})
    imports = {statement: measure_import(statement, repeats) for statement in IMPORTS}
    measured = {loader: measure_attach(loader, repeats) for loader in options.loaders.split(",")}
    report.tables = [attach_table(measured), import_table(imports)]
    if "libbpf" in measured:
        report.tables.insert(1, parts_table(measured["libbpf"]))
    report.goals = [] if options.quick else goals(imports, measured)
    report.notes = [
        f"{repeats} fresh processes each, after one that is not counted.",
        "attached, first packet: from the call of etcpipe.attach(), its imports and the model "
        "included; from start: to the first packet, the interpreter's start included.",
        "CPU: processor time from the process's start until attached.",
        f"A packet of a new flow came every {PAUSE_S * 1000:g} ms; RSS at the first packet.",
    ]
    report.notes += ["All processes at SCHED_FIFO 1."] if options.fifo else []
    report.notes += [common.quick_note()] if options.quick else []
    report.results = {
        "import_s": {statement: samples.summary() for statement, samples in imports.items()},
        "attach": {
            loader: {name: samples.summary() for name, samples in measures.items()}
            for loader, measures in measured.items()
        },
    }
    report.show(options.json)


if __name__ == "__main__":
    main()
