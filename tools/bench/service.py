"""Measures what a running attach costs: its memory beside flows, and how soon `show` answers.

    python tools/bench/service.py [--quick] [--json]         needs root

A sender puts packets of many flows on the wire; `attach` judges them with the model that
ships and writes lines into a file, as the service does.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bed as beds
import common
from common import Goal, Report, Samples, Table

from etcpipe.kernel import netns, status

RSS_GOAL, SHOW_GOAL_S = 150e6, 0.100
FIRST_N = 10
FRAME_BYTES = 142
SOURCE_AT, PORT_AT = 26, 34  # in a frame without VLAN tag
ETCPIPE = [sys.executable, "-m", "etcpipe.cli.main"]
WITHIN_S = 60.0
SETTLE_S = 3.0  # flows are judged after a second of silence
SWEEP_S = 30.0  # a walk through a million flows, with its pauses
# The sender rests after so many packets, so that rings lose none; verdicts take longer.
BLOCK = 2000
PACKETS_REST_S, FLOWS_REST_S = 0.01, 0.08


class Service:
    """An attach on the bed's device, its lines in a file; a context manager."""

    def __init__(self, bed: beds.Bed, folder: Path, max_flows: int):
        self._bed = bed
        self._lines = folder / "eve.jsonl"
        self._lines.unlink(missing_ok=True)
        command = ["-n", bed.router, "attach", bed.device, "-o", str(self._lines)]
        command += ["--max-flows", str(max_flows), "--timeouts", "idle=3600"]
        with open(folder / "stderr", "wb") as errors:
            self._process = subprocess.Popen(
                [*ETCPIPE, *command], stdout=subprocess.DEVNULL, stderr=errors
            )
        self._wait(lambda: b": attached, " in (folder / "stderr").read_bytes())

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._process.terminate()
        self._process.wait()

    def memory(self) -> dict[str, int]:
        """Return bytes by name of /proc/PID/status: VmRSS, VmHWM, RssAnon, RssShmem, ..."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        pairs = (line.split() for line in lines)
        return {one[0].rstrip(":"): 1024 * int(one[1]) for one in pairs if one[-1:] == ["kB"]}

    def flows(self) -> int:
        """Return how many flows the table holds."""
        with netns.enter(self._bed.router):
            (shown,) = status.show(self._bed.device)
        return shown["flows"]

    def verdicts(self, flows: int) -> int:
        """Return how many flows were judged, once all were or no more are."""
        judged, before = 0, -1
        while before < judged < flows:
            time.sleep(SETTLE_S)
            with open(self._lines, "rb") as lines:
                before, judged = judged, sum(1 for line in lines if b'"early"' not in line)
        return judged

    def show_s(self) -> float:
        """Return seconds that `etcpipe show` takes."""
        started = time.perf_counter()
        subprocess.run(
            [*ETCPIPE, "-n", self._bed.router, "show", self._bed.device],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - started

    def _wait(self, condition) -> None:
        end = time.monotonic() + WITHIN_S
        while not condition():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("attach did not come up")
            time.sleep(0.05)


def send(bed: beds.Bed, flows: int, packets: int, rest_s: float) -> None:
    """Send UDP packets with payload; flows differ in source, and those of a block take turns."""
    frame = bytearray(FRAME_BYTES)
    frame[:14] = bytes.fromhex("02" * 12 + "0800")
    frame[14:34] = bytes.fromhex("4500008000000000401100000a000000c6336407")
    frame[34:42] = bytes.fromhex("000001bb006c0000")
    with netns.enter(bed.network.client):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(("wan0", 0))
    with sender:
        for start in range(0, flows, BLOCK // packets):
            for _ in range(packets):
                for flow in range(start, min(start + BLOCK // packets, flows)):
                    frame[SOURCE_AT : SOURCE_AT + 4] = (0x0A000000 + (flow >> 4)).to_bytes(4, "big")
                    frame[PORT_AT : PORT_AT + 2] = (1024 + (flow & 15)).to_bytes(2, "big")
                    sender.send(frame)
            time.sleep(rest_s)


def measure(flows: int, table: int, repeats: int) -> tuple[list[Table], list[Goal]]:
    """Return tables and goals."""
    memory = Table("Memory of attach, MB", ["flows", "RSS", "anonymous", "files", "shared", "peak"])
    with tempfile.TemporaryDirectory() as name, beds.bed() as bed:
        with Service(bed, Path(name), 2 * flows) as service:
            memory.rows.append(_row("attached", service.memory()))
            send(bed, flows, FIRST_N, PACKETS_REST_S)
            held, judged = service.flows(), service.verdicts(flows)
            busy = service.memory()
            memory.rows.append(_row(f"{held:,} of {FIRST_N} packets, {judged:,} judged", busy))
        with Service(bed, Path(name), 2 * table) as service:
            empty = Samples([service.show_s() for _ in range(repeats)])
            send(bed, table, 1, FLOWS_REST_S)
            full, judged = service.flows(), service.verdicts(table)
            memory.rows.append(_row(f"{full:,} of a packet, {judged:,} judged", service.memory()))
            time.sleep(SWEEP_S)
            beside = Samples([service.show_s() for _ in range(repeats)])
    show = Table("etcpipe show, ms", ["beside", "median (min .. max, MAD)"])
    show.rows = [["no flows", _ms(empty)], [f"{full:,} flows", _ms(beside)]]
    rss, show_s = busy["VmRSS"], beside.median
    goals = [
        Goal(
            f"RSS beside {held:,} flows",
            f"< {RSS_GOAL / 1e6:.0f} MB",
            f"{rss / 1e6:.0f} MB",
            rss < RSS_GOAL,
        ),
        Goal(
            f"etcpipe show beside {full:,} flows",
            f"< {SHOW_GOAL_S * 1e3:.0f} ms",
            f"{show_s * 1e3:.0f} ms",
            show_s < SHOW_GOAL_S,
        ),
    ]
    return [memory, show], goals


def _row(when: str, memory: dict[str, int]) -> list[str]:
    names = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmHWM")
    return [when, *(f"{memory[name] / 1e6:.0f}" for name in names)]


def _ms(samples: Samples) -> str:
    return Samples([one * 1e3 for one in samples.values]).text(0)


def main() -> None:
    """Measure and print the report."""
    options = common.parser(__doc__.splitlines()[0], repeats=11).parse_args()
    common.need_root()
    repeats = options.repeats or (2 if options.quick else options.default_repeats)
    flows, table = (2000, 5000) if options.quick else (100_000, 1_000_000)
    report = Report("service", "A running attach", {})
    report.tables, goals = measure(flows, table, repeats)
    report.goals = [] if options.quick else goals
    report.notes = [
        f"{flows:,} UDP flows of {FIRST_N} packets; "
        f"then {table:,} of one packet, in a table of twice as many.",
        "Lines go to a file; libbpf, AF_XDP, the cascade that ships; its trees are judged in C.",
        f"show: {repeats} runs of the command, the interpreter's start included.",
    ]
    report.notes += [common.quick_note()] if options.quick else []
    report.show(options.json)


if __name__ == "__main__":
    main()
