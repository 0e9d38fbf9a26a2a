"""What waiting buys: macro-F1 and time until a row is there, by packets and by waiting time.

    .venv/bin/python tools/bench/waits.py RECORDINGS... [--task TASK] [--depths 2,3,5,10,32]

All columns of the view stats under the strict mask, boosted trees of 20 rounds; F1 is of folds
of captures, as in a search. Times follow from recorded gaps: nothing is timed here.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from etcpipe.dataset import Input, find_recordings
from etcpipe.evaluation import evaluate
from etcpipe.gpu.views import VIEWS
from etcpipe.tune import models
from etcpipe.tune.cost import Profiler
from etcpipe.tune.data import LabelledFlows, read_flows
from etcpipe.tune.evaluation import Parts, divide, rare_classes
from etcpipe.tune.space import ModelKind

WAITS_S = (1.0, 0.2, 0.1, 0.05, 0.02)
TREES = ModelKind("boosted", (("rounds", 20),))
COLUMNS = VIEWS["stats"].column_names("strict")
SEED = 1


def f1_of(rows: np.ndarray, flows: LabelledFlows, parts: Parts) -> float:
    """Return macro-F1 of the folds that a search judges in turn."""
    label, classes = flows.dataset.label, len(flows.dataset.classes)
    said = np.zeros(len(label), np.int64)
    for fold in parts.folds:
        seen, judged = (parts.fold != fold) & ~parts.is_test, parts.fold == fold
        fitted = models.fit(TREES, rows[seen], label[seen], classes, SEED)
        said[judged] = fitted.scores(rows[judged]).argmax(axis=1)
    there = ~parts.is_test
    return evaluate.macro_f1(evaluate.confusion_matrix(label[there], said[there], classes))


def table(flows: LabelledFlows, depths: list[int]) -> Iterator[str]:
    """Yield the lines of a Markdown table: F1 and milliseconds."""
    parts, profiler = divide(flows, SEED), Profiler(flows.flows)
    yield "| packets | " + " | ".join(f"wait {wait_s * 1e3:.0f} ms" for wait_s in WAITS_S) + " |"
    yield "| ---: |" + " ---: |" * len(WAITS_S)
    for depth in depths:
        cells = []
        for wait_s in WAITS_S:
            f1 = f1_of(flows.rows(COLUMNS, depth, wait_s), flows, parts)
            cells.append(f"{f1:.3f} after {profiler.until_row_s(depth, wait_s) * 1e3:.0f} ms")
        yield f"| {depth} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--task", help="which labels of a bundle with tasks.csv")
    parser.add_argument("--depths", default="2,3,5,10,32")
    arguments = parser.parse_args()
    depths = [int(one) for one in arguments.depths.split(",")]
    found = [one for path in arguments.recordings for one in find_recordings(path, arguments.task)]
    flows = read_flows(found, Input(first_n=max(depths), wait_s=max(WAITS_S)))
    flows = flows.without(rare_classes(flows))
    for line in table(flows, depths):
        print(line, flush=True)


if __name__ == "__main__":
    main()
