"""Measures the kernel's first stage: what a packet costs that is gathered instead of copied.

    python tools/bench/stage0.py [--quick] [--json]          needs root, clang, lightgbm, onnx

Flows of DEPTH packets begin anew in each repeat, in test runs (BPF_PROG_TEST_RUN, see
packet_cost.py), so that a figure has all of it: the flow's entry, the rows, the records, and
the trees where they judge. The general pipeline is the same programs with --capture ringbuf,
the cheaper of the two ways that copy packets.
"""

import time
from contextlib import ExitStack

import common
import numpy as np
import packet_cost
from common import Report, Samples, Table
from packet_cost import NO_DEVICE, SOURCE_AT, WALK

from etcpipe import trees
from etcpipe.gpu.features import STATS_COLUMNS
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.kernel import bpf, libbpf, programs, status
from etcpipe.kernel.features_plan import plan_for
from etcpipe.kernel.settings import Build, Loaded, TapSettings
from etcpipe.kernel.stage0_trees import Trees
from etcpipe.model_file import Description
from etcpipe.ringbuf import RingBuffer

DEPTH, FLOWS, ROUNDS, CLASSES = 10, 1000, 8, 4
RING = 1 << 26
FEW = ("s_bytes_mean", "s_iat_mean", "psh_cnt", "dur")
ALL = tuple(column.name for column in STATS_COLUMNS)
GENERAL, NONE = "general: packets copied into a ring", "tracked only, nothing copied"
SURE, UNSURE = (f"{len(FEW)} columns, trees judge each flow: {what}" for what in ("sure", "unsure"))
LEAST = {SURE: 0.0, UNSURE: 2.0}  # probability that is sure
CASES = {
    NONE: {"first_n": 1},
    GENERAL: {"capture": "ringbuf"},
    f"{len(FEW)} columns": {"capture": "features", "features": FEW},
    f"{len(ALL)} columns, medians among them": {"capture": "features", "features": ALL},
    SURE: {"capture": "features", "features": FEW, "tree_depth": DEPTH},
    UNSURE: {"capture": "features", "features": FEW, "tree_depth": DEPTH},
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
        made = Trees(contents, FEW, DEPTH, plan_for(FEW, DEPTH, 1.0, 65536))
        found[case] = made.record(1.0, np.full(CLASSES, least), range(1, CLASSES + 1))
    return found, made.steps


class Taps:
    """The tap's programs once a case, attached to nothing; a context manager."""

    def __enter__(self) -> "Taps":
        with ExitStack() as stack:
            handle = packet_cost._load_floors(1 << 16)
            stack.callback(libbpf.library().bpf_object__close, handle)
            self._pass = packet_cost._program(handle, "xdp_pass")
            self._walk = packet_cost._program(handle, "xdp_walk")
            self._walks = packet_cost._map(handle, "walks")
            self._target = packet_cost._map(handle, "xdp_targets")
            made, self.steps = forest()
            self.loaded: dict[str, Loaded] = {}
            self._rings: dict[str, RingBuffer] = {}
            for case in CASES:
                loaded = programs.load(Build(settings_of(case), NO_DEVICE, 0))
                stack.callback(loaded.close)
                if case in made:
                    bpf.update(loaded.maps["trees"], np.zeros(1, np.uint32), made[case])
                self.loaded[case] = loaded
                if "capture" in CASES[case]:
                    ring = RingBuffer(loaded.maps["packet_records"], RING, idle_s=0.001)
                    self._rings[case] = stack.enter_context(ring)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, case: str, first: int) -> tuple[int, int]:
        """Return ns a packet of new flows from `first` on, and of a program that only passes."""
        ring = self._rings.get(case)
        records = np.zeros(4096, np.dtype([("flow_id", "u8"), ("ready_ns", "u8")]))
        while ring and ring.copy(records):  # what the repeat before left
            pass
        floor = self._time(self._pass, first)
        return self._time(self.loaded[case].programs["xdp_matched"], first), floor

    def counters(self, case: str) -> dict[str, int]:
        """Return what the case counted."""
        return status.counters(self.loaded[case].maps["packet_counters"])

    def _time(self, program: int, first: int) -> int:
        zero = np.zeros(1, np.uint32)
        bpf.update(self._target, zero, np.array([program], np.uint32))
        bpf.update(self._walks, zero, np.array([(1, first, FLOWS, False, SOURCE_AT[4])], WALK))
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
    options = common.parser(__doc__, repeats=20).parse_args()
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
    outcome = Table("Trees", ["measure", "sure", "unsure"])
    took = [f"{DEPTH * (min(net[case]) - min(few)):,}" for case in (SURE, UNSURE)]
    flows = [f"{counters[case][f'FLOWS_TREE_{case.split()[-1].upper()}']:,}" for case in LEAST]
    outcome.rows = [
        ["nodes on the longest way", str(steps), str(steps)],
        ["ns a flow, from its packet to the answer", *took],
        ["flows counted so", *flows],
    ]
    loads = Table("Load time, ms", ["loader", "median (min .. max, MAD)"])
    times = load_times(3)
    loads.rows = [
        [name, Samples([1e3 * s for s in taken]).text(0)] for name, taken in times.items()
    ]
    report.tables = [costs, outcome, loads]
    report.results = {"net_ns": net, "counters": counters, "load_s": times}
    report.show(options.json)


if __name__ == "__main__":
    main()
