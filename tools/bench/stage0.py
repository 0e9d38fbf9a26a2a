"""Measures the kernel's first stage: what a packet costs that is gathered instead of copied.

    python tools/bench/stage0.py [--quick] [--json] [--data FOLDER --task TASK]
                                                   needs root, clang, lightgbm, onnx

Flows of DEPTH packets begin anew in each repeat, in test runs (BPF_PROG_TEST_RUN, see
packet_cost.py), so that a figure has all of it: the flow's entry, the rows, the records, and
the trees where they judge. The general pipeline is the same programs with --capture ringbuf,
the cheaper of the two ways that copy packets. With --data, trees that the kernel takes are
fitted to labelled captures, and flows of other captures are judged: how many never leave it?
"""

import time
from contextlib import ExitStack
from pathlib import Path

import common
import numpy as np
import packet_cost
from common import Report, Samples, Table
from packet_cost import NO_DEVICE, SOURCE_AT, WALK

from etcpipe.dataset import Input, find_recordings, read
from etcpipe.gpu.features import STATS_COLUMNS
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.kernel import bpf, libbpf, programs, status
from etcpipe.kernel.build import Build, Loaded
from etcpipe.kernel.features_plan import plan_for
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.stage0_trees import CONSTANTS, Trees, is_compared
from etcpipe.model import calibrated
from etcpipe.model_file import Description
from etcpipe.ringbuf import RingBuffer
from etcpipe.training import trees

DEPTH, FLOWS, ROUNDS, CLASSES = 10, 1000, 8, 4
RING = 1 << 26
FEW = ("s_bytes_mean", "s_iat_mean", "psh_cnt", "dur")
ALL = tuple(column.name for column in STATS_COLUMNS)
NODES, NODES_A_TREE = CONSTANTS["TREE_NODES_MAX"], 29  # of 15 leaves
STAGE_DEPTHS = (1, 3, 5)
# What the kernel compares, of the columns that the strict mask leaves.
COMPARED = tuple(name for name in VIEWS["stats"].column_names() if is_compared(name))
GENERAL, NONE = "general: packets copied into a ring", "tracked, one packet of ten marked"
SURE, UNSURE = (f"{len(FEW)} columns, trees judge each flow: {what}" for what in ("sure", "unsure"))
BESIDE_DEPTH = 3
BESIDE_SURE, BESIDE_UNSURE = (
    f"copied, trees judge each flow by {BESIDE_DEPTH} packets: {what}"
    for what in ("sure", "unsure")
)
# probability that is sure
LEAST = {SURE: 0.0, UNSURE: 2.0, BESIDE_SURE: 0.0, BESIDE_UNSURE: 2.0}
CASES = {
    NONE: {"first_n": 1},
    GENERAL: {"capture": "ringbuf"},
    f"{len(FEW)} columns": {"capture": "features", "features": FEW},
    f"{len(ALL)} columns, medians among them": {"capture": "features", "features": ALL},
    SURE: {"capture": "features", "features": FEW, "tree_depth": DEPTH},
    UNSURE: {"capture": "features", "features": FEW, "tree_depth": DEPTH},
    BESIDE_SURE: {"capture": "ringbuf", "features": FEW, "tree_depth": BESIDE_DEPTH},
    BESIDE_UNSURE: {"capture": "ringbuf", "features": FEW, "tree_depth": BESIDE_DEPTH},
}


def settings_of(case: str, loader: str = "libbpf") -> TapSettings:
    """Return how the tap of a case is loaded."""
    return TapSettings(**{"first_n": DEPTH, "ringbuf_bytes": RING, "loader": loader} | CASES[case])


def forest() -> tuple[dict[str, np.ndarray], int]:
    """Return struct tree by case, of a small ensemble on random rows, and its longest way."""
    random = np.random.default_rng(0)
    rows = random.lognormal(0, 2, (4000, len(FEW))).astype(np.float32)
    labels = (np.log(rows).sum(axis=1) + random.normal(0, 1, 4000) > 0) + 2 * (rows[:, 0] > 1)
    about = Description(
        name="stage0",
        classes=tuple("abcd"),
        view="stats",
        columns=FEW,
        schema_hash=schema_hash(VIEWS["stats"], DEPTH, "strict", FEW),
        first_n=DEPTH,
    )
    fitted = trees.fit(rows, labels.astype(np.int64), CLASSES, seed=0, rounds=ROUNDS)
    contents = trees.to_onnx(fitted, len(FEW), about)
    found = {}
    for case, least in LEAST.items():
        depth = settings_of(case).tree_depth
        made = Trees(contents, FEW, depth, plan_for(FEW, depth, 1.0, 65536))
        found[case] = made.record(1.0, np.full(CLASSES, least), range(1, CLASSES + 1))
    return found, made.steps


class Taps:
    """The tap's programs once a case, attached to nothing; a context manager."""

    def __enter__(self) -> "Taps":
        with ExitStack() as stack:
            handle = packet_cost.load_floors(1 << 16)
            stack.callback(libbpf.library().bpf_object__close, handle)
            self._pass = packet_cost.program(handle, "xdp_pass")
            self._walk = packet_cost.program(handle, "xdp_walk")
            self._walks = packet_cost.map_of(handle, "walks")
            self._target = packet_cost.map_of(handle, "xdp_targets")
            made, self.steps = forest()
            self.loaded: dict[str, Loaded] = {}
            self._rings: dict[str, list[RingBuffer]] = {case: [] for case in CASES}
            for case in CASES:
                loaded = programs.load(Build(settings_of(case), NO_DEVICE, 0))
                stack.callback(loaded.close)
                if case in made:
                    bpf.update(loaded.maps["trees"], np.zeros(1, np.uint32), made[case])
                self.loaded[case] = loaded
                sizes = settings_of(case)
                for name, size in (
                    ("packet_records", RING if "capture" in CASES[case] else 0),
                    ("tree_records", sizes.tree_records_bytes if sizes.judges_beside else 0),
                ):
                    if size:
                        ring = RingBuffer(loaded.maps[name], size, idle_s=0.001)
                        self._rings[case].append(stack.enter_context(ring))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, case: str, first: int) -> tuple[int, int]:
        """Return ns a packet of new flows from `first` on, and of a program that only passes."""
        records = np.zeros(4096, np.dtype([("flow_id", "u8"), ("ready_ns", "u8")]))
        for ring in self._rings[case]:
            while ring.copy(records):  # what the repeat before left
                pass
        floor = self._time(self._pass, first)
        return self._time(self.loaded[case].programs["xdp_matched"], first), floor

    def counters(self, case: str) -> dict[str, int]:
        """Return what the case counted."""
        return status.counters(self.loaded[case].maps["packet_counters"])

    def _time(self, program: int, first: int) -> int:
        packet_cost.target(self._target, program)
        walk = np.array([(1, first, FLOWS, False, SOURCE_AT[4])], WALK)
        packet_cost.set_walk(self._walks, walk)
        return bpf.time_run(self._walk, packet_cost.tcp_frame(4), FLOWS * DEPTH)


def measure(repeats: int) -> tuple[dict[str, list[int]], dict[str, dict[str, int]], int]:
    """Return net ns a packet by case and repeat, counters by case, and the trees' longest way."""
    net: dict[str, list[int]] = {case: [] for case in CASES}
    with Taps() as taps, packet_cost.undisturbed(0):
        for repeat in range(repeats + 1):
            for case, values in net.items():
                ns, floor = taps.measure(case, repeat * FLOWS)
                if repeat:  # the first one warms up
                    values.append(ns - floor)
        return net, {case: taps.counters(case) for case in CASES}, taps.steps


def share(folder: Path, task: str | None) -> Table:
    """Return which part of flows of held-out captures is answered in the kernel, and how well."""
    table = Table(
        f"Flows answered in the kernel: every third capture of {task or folder.name} held out",
        [
            *("packets", "sure from", "flows", "never leave the kernel", "right of those"),
            *("of all", f"copied of the first {DEPTH}"),
        ],
    )
    recordings = find_recordings(folder, task)
    whole = read(recordings, Input(first_n=DEPTH)).columns(("s_pkt_cnt", "d_pkt_cnt"))
    for depth in STAGE_DEPTHS:
        rows = read(recordings, Input(first_n=DEPTH), depth=depth)
        numbers = rows.columns(COMPARED)
        held_out = rows.capture % 3 == 0
        classes = len(rows.classes)
        rounds = max(1, NODES // (classes * NODES_A_TREE))
        fitted = trees.fit(numbers[~held_out], rows.label[~held_out], classes, 0, rounds)
        found = calibrated(fitted.scores(numbers[held_out]), 1.0)
        right = found.argmax(axis=1) == rows.label[held_out]
        packets = whole[held_out].sum(axis=1)
        for least in (0.5, 0.7, 0.9):
            sure = found.max(axis=1) >= least
            inside = f"{right[sure].mean():.3f}" if sure.any() else "-"
            copies = np.where(sure & (packets >= depth), depth - 1, packets).sum() / packets.sum()
            shares = [f"{100 * sure.mean():.1f} %", inside, f"{right.mean():.3f}"]
            shares.append(f"{100 * copies:.1f} %")
            table.rows.append([str(depth), f"{least}", f"{len(right):,}", *shares])
    return table


def load_times(repeats: int) -> dict[str, list[float]]:
    """Return seconds that each loader takes for the same plan."""
    took: dict[str, list[float]] = {"libbpf": [], "bcc": []}
    case = next(case for case in CASES if case.endswith("columns"))
    for _ in range(repeats):
        for loader, values in took.items():
            start = time.perf_counter()
            programs.load(Build(settings_of(case, loader), NO_DEVICE, 0)).close()
            values.append(time.perf_counter() - start)
    return took


def main() -> None:
    parser = common.parser(__doc__, repeats=20)
    parser.add_argument("--data", type=Path, help="labelled captures, for the share of flows")
    parser.add_argument("--task", help="labels of a bundle to use")
    options = parser.parse_args()
    common.need_root()
    repeats = 5 if options.quick else options.repeats or options.default_repeats
    report = Report("stage0", "The first stage in the kernel", {})
    net, counters, steps = measure(repeats)
    general = min(net[GENERAL])
    costs = Table(
        f"ns a packet over a program that only passes, {FLOWS} new flows of {DEPTH} packets",
        ["what", "smallest", "median (min .. max, MAD)", "general / this"],
    )
    for case, values in net.items():
        ratio = f"{general / min(values):.2f}"
        costs.rows.append([case, str(min(values)), Samples(values).text(0), ratio])
    few = next(values for case, values in net.items() if case.endswith("columns"))
    outcome = Table("Trees", ["measure", "sure", "unsure", "copied, sure", "copied, unsure"])
    took = [f"{DEPTH * (min(net[case]) - min(few)):,}" for case in (SURE, UNSURE)]
    judged = [f"{counters[case][f'FLOWS_TREE_{case.split()[-1].upper()}']:,}" for case in LEAST]
    copied = [
        counters[case]["PACKETS_CLONED"] / counters[case]["PACKETS_FIRST_N"] for case in LEAST
    ]
    outcome.rows = [
        ["nodes on the longest way", *[str(steps)] * 4],
        ["ns a flow, from its packet to the answer", *took, "", ""],
        ["flows counted so", *judged],
        [f"of {DEPTH} packets a flow, copied", *[f"{100 * part:.0f} %" for part in copied]],
    ]
    loads = Table("Load time, ms", ["loader", "median (min .. max, MAD)"])
    times = load_times(3)
    loads.rows = [
        [name, Samples([1e3 * s for s in taken]).text(0)] for name, taken in times.items()
    ]
    report.tables = [costs, outcome, loads]
    if options.data:
        report.tables.append(share(options.data, options.task))
    report.results = {"net_ns": net, "counters": counters, "load_s": times}
    report.show(options.json)


if __name__ == "__main__":
    main()
