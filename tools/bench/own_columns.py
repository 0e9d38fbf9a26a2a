"""What the columns of the view features add to those of stats: macro-F1 with and without.

    .venv/bin/python tools/bench/own_columns.py DATA --task app --packets 10

Boosted trees of 20 rounds under the strict mask, three folds of captures, 6,000 flows at most.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from etcpipe.dataset import Dataset, Input, find_recordings
from etcpipe.evaluation import evaluate
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.training import trees
from etcpipe.training.held_out import deal_folds
from etcpipe.tune.data import read_flows

FLOWS_MAX = 6000
FOLDS, ROUNDS, SEED = 3, 20, 1
# What the names of some of our columns have in common.
GROUPS = {
    "payload sizes": ("payload",),
    "gaps of both directions": ("gap_",),
    "bursts, shares, entropy": ("burst", "share", "entropy"),
    "size of each packet": ("_size",),
    "gap of each packet": ("_gap",),
}


def choices() -> dict[str, tuple[str, ...]]:
    """Return columns by what they are."""
    stats, every = (VIEWS[name].column_names() for name in ("stats", "features"))
    own = [name for name in every if name not in stats]
    some = {
        f"with {what}": (*stats, *(one for one in own if has_any(one, marks)))
        for what, marks in GROUPS.items()
    }
    return {"stats": stats, **some, "features": every}


def has_any(column: str, marks: Sequence[str]) -> bool:
    """Return whether a column is of a group; entropies are no sizes of packets."""
    ends = [mark for mark in marks if mark in ("_size", "_gap")]
    return column.endswith(tuple(ends)) if ends else any(mark in column for mark in marks)


def scores(rows: np.ndarray, dataset: Dataset) -> tuple[float, float]:
    """Return macro-F1 and accuracy when captures are held out."""
    classes = len(dataset.classes)
    fold = deal_folds(dataset, FOLDS, SEED)
    said = np.zeros(len(rows), np.int64)
    for number in range(fold.max() + 1):  # as many as the class of fewest captures has
        seen = fold != number
        fitted = trees.fit(rows[seen], dataset.label[seen], classes, SEED, rounds=ROUNDS)
        said[~seen] = fitted.scores(rows[~seen]).argmax(axis=1)
    confusion = evaluate.confusion_matrix(dataset.label, said, classes)
    return evaluate.macro_f1(confusion), float((said == dataset.label).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--task", help="which labels of a bundle with tasks.csv")
    parser.add_argument("--packets", type=int, default=10)
    options = parser.parse_args()
    found = [one for path in options.recordings for one in find_recordings(path, options.task)]
    flows = read_flows(found, Input(first_n=options.packets))
    chosen = np.random.default_rng(0).permutation(len(flows))[:FLOWS_MAX]
    flows = flows.select(chosen)
    print(f"{len(flows)} flows, {len(flows.dataset.classes)} classes, {options.packets} packets\n")
    print("| columns | of them | macro-F1 | accuracy |\n| --- | ---: | ---: | ---: |")
    for name, columns in choices().items():
        rows = compute(VIEWS["features"], flows.flows, options.packets, columns)
        f1, accuracy = scores(rows, flows.dataset)
        print(f"| {name} | {len(columns)} | {f1:.3f} | {accuracy:.3f} |", flush=True)


if __name__ == "__main__":
    main()
