"""How fast a search finds the front: a small space that is measured whole, and each way to search.

    .venv/bin/python tools/bench/tune.py RECORDINGS... [--task TASK] [--columns NAME...] [--plot P]

Six columns, 1 to 50 packets and one decision tree: 3,150 points. Error is 1 - macro-F1 when
captures are held out, cost is modelled as work that columns share, in ns a flow. The table of
all points is made once for the data (build/), so that the searches take seconds. Ways are
compared with the first by the differences of runs with the same seed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy import stats

from etcpipe.dataset import Input, find_recordings
from etcpipe.evaluation import evaluate
from etcpipe.training.held_out import deal_folds
from etcpipe.tune import baselines, models
from etcpipe.tune.cato import Cato
from etcpipe.tune.data import LabelledFlows, read_flows
from etcpipe.tune.hypervolume import hypervolume
from etcpipe.tune.plots import draw_bands
from etcpipe.tune.priors import Prior, mutual_information
from etcpipe.tune.search import FrontSearch, Measured, Strategy, run
from etcpipe.tune.space import Choice, ModelKind, Space
from etcpipe.tune.told import look

BUILD = Path(__file__).parents[2] / "build"
COLUMNS = ("dur", "s_load", "d_pkt_cnt", "s_bytes_mean", "d_bytes_med", "s_iat_std")
TREE = ModelKind("tree", (("max_depth", 12),))
FOLDS = 3
# Modelled nanoseconds a packet of work that columns share, and a flow of what is done at its end.
PACKET_NS = {
    "parse": 45,
    "time": 20,
    "count": 1,
    "sum": 1.5,
    "least": 1.5,
    "most": 1.5,
    "squares": 3,
    "store": 6,
}
FLOW_NS = {"load": 8, "mean": 8, "med": 400, "std": 25}
# What columns are made of, by the last part of their names.
WORK = {
    "cnt": ("count",),
    "load": ("sum",),
    "sum": ("sum",),
    "mean": ("sum", "count"),
    "min": ("least",),
    "max": ("most",),
    "med": ("store",),
    "std": ("squares", "sum", "count"),
}
TREE_NS, COLUMN_NS = 60, 4
AFTER = (20, 30, 50, 87, 100)
COMPARED_AFTER = 50  # as CATO's figure
SCALES = ("linear", "log")  # of cost
# (seeds, evaluations) share of the true hypervolume, by way to search and scale of cost.
Curves = dict[tuple[str, str], np.ndarray]


def work_of(column: str) -> set[str]:
    """Return the work a packet that a column needs, as kind and what it is done to."""
    parts = column.split("_")
    side, last = parts[0], parts[-1]
    of = f"{side} gaps" if "iat" in parts else side
    found = {f"{kind} {side if kind == 'count' else of}" for kind in WORK.get(last, ())}
    return found | ({"time"} if "iat" in parts or last in ("dur", "load") else set())


def cost_ns(columns: tuple[str, ...], packets: float) -> float:
    """Return the modelled cost of a flow that has so many packets on average."""
    work = {"parse"}.union(*(work_of(name) for name in columns))
    a_packet = sum(PACKET_NS[one.split()[0]] for one in work)
    at_end = sum(FLOW_NS.get(name.split("_")[-1], 0) for name in columns)
    return a_packet * packets + at_end + TREE_NS + COLUMN_NS * len(columns)


def space_of(flows: LabelledFlows, columns: tuple[str, ...] = COLUMNS) -> Space:
    """Return the points that are measured: no deeper than any flow is recorded."""
    return Space(columns, min(flows.settings.first_n, int(flows.packets().max())), (TREE,))


def measure_all(flows: LabelledFlows, space: Space, seed: int) -> dict[Choice, tuple[float, float]]:
    """Return error and cost of every point, from build/ if the data are the same."""
    columns = crc32(" ".join(space.columns).encode())
    file = BUILD / f"tune-truth-{flows.dataset.digest()}-{columns:08x}-{seed}.npz"
    choices = list(space.all_choices())
    if file.exists():
        return dict(zip(choices, map(tuple, np.load(file)["values"].tolist()), strict=True))
    fold = deal_folds(flows.dataset, FOLDS, seed)
    packets = flows.packets()
    values = []
    for i, choice in enumerate(choices):
        rows = flows.rows(space.names(choice), choice.depth)
        cost = cost_ns(space.names(choice), float(np.minimum(packets, choice.depth).mean()))
        values.append((1 - f1_of(rows, flows, fold, seed), cost))
        if i % 100 == 0:
            print(f"\r{i} of {len(choices)} points", end="", file=sys.stderr)
    print("\r\x1b[K", end="", file=sys.stderr)
    BUILD.mkdir(exist_ok=True)
    np.savez(file, values=np.array(values))
    return dict(zip(choices, values, strict=True))


def f1_of(rows: np.ndarray, flows: LabelledFlows, fold: np.ndarray, seed: int) -> float:
    """Return macro-F1 of flows whose captures were held out."""
    label, classes = flows.dataset.label, len(flows.dataset.classes)
    said = np.zeros(len(label), np.int64)
    for i in range(int(fold.max()) + 1):
        fitted = models.fit(TREE, rows[fold != i], label[fold != i], classes, seed)
        said[fold == i] = fitted.scores(rows[fold == i]).argmax(axis=1)
    return evaluate.macro_f1(evaluate.confusion_matrix(label, said, classes))


def strategies(prior: Prior, cost_max: float) -> dict[str, Callable[[], Strategy]]:
    """Return what makes each way to search."""
    return {
        "etcpipe": lambda: FrontSearch(prior),
        "etcpipe, prior three times as heavy": lambda: FrontSearch(prior, prior_weight=0.3),
        "etcpipe, no prior after the starts": lambda: FrontSearch(prior, prior_weight=0.0),
        "TPE, multivariate, sparse starts": lambda: baselines.tpe(prior),
        "CATO's optimiser, restated": lambda: Cato(prior),
        "CATO's optimiser, 10 starts": lambda: Cato(prior, starts=10),
        "simulated annealing": lambda: baselines.Annealing(prior, cost_max),
        "NSGA-II, population 10": lambda: baselines.nsga2(prior.space),
        "random": lambda: baselines.random(prior),
        "GPSampler of Optuna, sparse starts": lambda: baselines.gp_of_optuna(prior),
    }


class Scale:
    """Hypervolume relative to the true front's, cost linear (as CATO has it) or logarithmic."""

    def __init__(self, truth: dict[Choice, tuple[float, float]], is_log: bool) -> None:
        self._is_log = is_log
        costs = self._cost(np.array(list(truth.values())))
        self._low, self._span = costs.min(), np.ptp(costs)
        self._whole = 1.0
        self._whole = self.share(list(truth.values()))

    def _cost(self, values: np.ndarray) -> np.ndarray:
        return np.log(values[:, 1]) if self._is_log else values[:, 1]

    def share(self, values: list[tuple[float, float]]) -> float:
        """Return how much of the true hypervolume some points have."""
        both = np.array(values)
        scaled = (self._cost(both) - self._low) / self._span
        beyond = 1 + 1e-9  # the dearest point of all counts
        return hypervolume(np.stack([both[:, 0], scaled], axis=1), (1.0, beyond)) / self._whole


def search(name: str, seed: int, prior: Prior, truth: dict, evaluations: int) -> tuple:
    """Return the values that a way to search measured, in order, and its time in seconds."""
    strategy = strategies(prior, max(cost for _, cost in truth.values()))[name]()
    began = time.perf_counter()
    measured = run(strategy, lambda one: Measured(one, *truth[one]), evaluations, seed)
    return [(one.error, one.cost) for one in measured], time.perf_counter() - began


def table(
    prior: Prior,
    truth: dict,
    names: list[str],
    seeds: int,
    evaluations: int,
    jobs: int,
    curves: Curves,
) -> Iterator[str]:
    """Yield the lines of a Markdown table.

    Args:
        curves: takes the shares of each way to search.
    """
    scales = {name: Scale(truth, name == "log") for name in SCALES}
    after = [n for n in AFTER if n <= evaluations]
    yield "| way to search | cost | " + " | ".join(f"{n}" for n in after) + " | to 0.99 | s |"
    yield "| --- | --- |" + " ---: |" * (len(after) + 2)
    with ProcessPoolExecutor(jobs) as pool:
        for name in names:
            one = partial(search, name, prior=prior, truth=truth, evaluations=evaluations)
            runs = list(pool.map(one, range(seeds)))
            took = np.median([seconds for _, seconds in runs])
            for scale_name, scale in scales.items():
                shares = np.array(
                    [
                        [scale.share(values[: n + 1]) for n in range(evaluations)]
                        for values, _ in runs
                    ]
                )
                curves[name, scale_name] = shares
                cells = [spread(shares[:, n - 1]) for n in after]
                reached = [first_at(share, 0.99) for share in shares]
                yield (
                    f"| {name} | {scale_name} | {' | '.join(cells)} | {median_of(reached)} | "
                    f"{took:.1f} |"
                )


def versus(names: list[str], curves: Curves, after: int) -> Iterator[str]:
    """Yield how far the first way is ahead of each other one, by runs with the same seed."""
    yield f"| {names[0]} ahead of, after {after} | " + " | ".join(SCALES) + " |"
    yield "| --- |" + " ---: |" * len(SCALES)
    for name in names[1:]:
        cells = []
        for scale in SCALES:
            ahead = curves[names[0], scale][:, after - 1] - curves[name, scale][:, after - 1]
            low, high = interval(ahead)
            cells.append(f"{ahead.mean():+.4f} ({low:+.4f} .. {high:+.4f})")
        yield f"| {name} | {' | '.join(cells)} |"


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def spread(values: np.ndarray) -> str:
    """Return mean, and standard deviation between seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def first_at(shares: np.ndarray, share: float) -> int | None:
    """Return after how many evaluations a share was reached."""
    there = np.flatnonzero(shares >= share)
    return int(there[0]) + 1 if len(there) else None


def median_of(reached: list[int | None]) -> str:
    """Return the median over seeds, and how many of them came so far."""
    there = [one for one in reached if one is not None]
    middle = np.median([one if one is not None else np.inf for one in reached])
    text = f"{middle:.0f}" if np.isfinite(middle) else "more"
    return f"{text} ({len(there)} of {len(reached)} seeds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--task", help="which labels of a bundle with tasks.csv")
    parser.add_argument("--columns", nargs="+", default=COLUMNS, help="to choose from")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="hypervolume over evaluations")
    parser.add_argument("--ways", nargs="+", help="default: all but the last, which is slow")
    arguments = parser.parse_args()
    found = [one for path in arguments.recordings for one in find_recordings(path, arguments.task)]
    flows = read_flows(found, Input(first_n=50))
    space = space_of(flows, tuple(arguments.columns))
    truth = measure_all(flows, space, seed=1)
    rows = flows.rows(space.columns, space.depth_max)
    label = flows.dataset.label
    told = look(space, lambda depth: flows.rows(space.columns, depth), label)
    prior = Prior(space, mutual_information(rows, label), told)
    names = arguments.ways or list(strategies(prior, 1.0))[:-1]
    print(
        f"{len(flows)} flows, {len(flows.dataset.classes)} classes, "
        f"{len(flows.dataset.captures)} captures; {len(truth)} points, "
        f"{arguments.seeds} seeds; share of the true hypervolume after so many evaluations\n"
    )
    curves: Curves = {}
    for line in table(
        prior, truth, names, arguments.seeds, arguments.evaluations, arguments.jobs, curves
    ):
        print(line, flush=True)
    print()
    for line in versus(names, curves, min(COMPARED_AFTER, arguments.evaluations)):
        print(line)
    if arguments.plot:
        linear = {name: shares for (name, scale), shares in curves.items() if scale == "linear"}
        draw_bands(linear, arguments.plot)


if __name__ == "__main__":
    main()
