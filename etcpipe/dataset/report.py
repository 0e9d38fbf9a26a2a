"""What is wrong with a dataset, before anybody learns from it.

    duplicates    flows whose packets have the sizes and directions of others: what is told of
                  those across a split is remembered, not recognised
    payload       what the first payload of flows is: plaintext names its class by itself
    short         flows of so few packets that nothing can be told
    hidden fields trees on what the strict mask hides alone, beside trees on what it shows: how
                  good they are is how much a mask has to hide

Source: arXiv 2506.08655 for duplicates; Sweet Danger of Sugar (SIGCOMM 2025) for the rest.
"""

from typing import Any

import numpy as np

from etcpipe.dataset.payload import KINDS
from etcpipe.dataset.rows import STATS, Dataset
from etcpipe.evaluation import evaluate
from etcpipe.training import trees
from etcpipe.training.held_out import OnStep, Side, deal_folds, sides_of

# Packets that a duplicate shares with another flow, and below which a flow is short.
SAME_PACKETS = 10
SHORT = 3
ROUNDS = 30


def describe(
    dataset: Dataset,
    folds: int = 5,
    seed: int = 1,
    split: str = "capture",
    on_step: OnStep = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return a report as plain numbers and text.

    Args:
        split: how folds are dealt, a name of SPLITS; scores and duplicates go by it.

    Raises:
        UsageError: the data cannot be split so.
    """
    fold = deal_folds(dataset, folds, seed, split)
    packets = (dataset.seq[:, :, 1] != 0).sum(axis=1)
    return {
        "flows": len(dataset),
        "captures": len(dataset.captures),
        "unlabelled": dataset.unlabelled,
        "split": split,
        "classes": _classes(dataset, packets),
        "short": _share(packets < SHORT),
        "payload": {
            kind: _share(dataset.payload == i) if len(dataset.payload) else None
            for i, kind in enumerate(KINDS)
        },
        "duplicates": duplicates(dataset, fold),
        **_trees(dataset, sides_of(dataset, fold, split), seed, on_step),
    }


def _classes(dataset: Dataset, packets: np.ndarray) -> dict[str, dict[str, Any]]:
    found = {}
    for i, name in enumerate(dataset.classes):
        of_class = dataset.label == i
        found[name] = {
            "flows": int(of_class.sum()),
            "captures": len(np.unique(dataset.capture[of_class])),
            "packets_median": float(np.median(packets[of_class])),
            "short": _share(packets[of_class] < SHORT),
        }
        if len(dataset.payload):
            found[name]["plain"] = _share(dataset.payload[of_class] == KINDS.index("plain"))
    return found


def duplicates(dataset: Dataset, fold: np.ndarray) -> dict[str, float]:
    """Return how many flows have the sizes and directions of others.

    Args:
        fold: (flows,) int, where a flow is judged; it learns from all other folds.

    Returns:
        share: of flows that have any duplicate.
        across: of flows with one in another fold.
        reachable: accuracy of who knows the commonest label of each such sequence, and so the
            best that sizes and directions of the first packets can give on these flows.
    """
    shape = np.ascontiguousarray(dataset.seq[:, :SAME_PACKETS, :2]).reshape(len(dataset), -1)
    _, same, count = np.unique(shape, axis=0, return_inverse=True, return_counts=True)
    same = same.reshape(-1)  # NumPy 2.0 alone gives it another shape
    folds = np.zeros((len(count), int(fold.max()) + 1), bool)
    folds[same, fold] = True
    by_label = np.zeros((len(count), len(dataset.classes)), np.int64)
    np.add.at(by_label, (same, dataset.label), 1)
    return {
        "share": _share(count[same] > 1),
        "across": _share(folds.sum(axis=1)[same] > 1),
        "reachable": round(float(by_label.max(axis=1).sum() / len(dataset)), 4),
    }


def _trees(dataset: Dataset, sides: list[Side], seed: int, on_step: OnStep) -> dict[str, Any]:
    """Return scores of trees on hidden fields alone and on what strict shows, same folds."""
    hidden = tuple(column.name for column in STATS.columns if column.field)
    kept = np.any([side.judged for side in sides], axis=0)
    classes = len(dataset.classes)
    found: dict[str, Any] = {}
    for done, (name, columns) in enumerate(
        [("ids_only", hidden), ("masked", STATS.column_names("strict"))]
    ):
        on_step(f"trees: {name}", done, 2)
        said = np.zeros(len(dataset), np.int64)
        rows = dataset.columns(columns)
        for side in sides:
            fitted = trees.fit(rows[side.seen], dataset.label[side.seen], classes, seed, ROUNDS)
            said[side.judged] = fitted.scores(rows[side.judged]).argmax(axis=1)
        label, capture = dataset.label[kept], dataset.capture[kept]
        scores = evaluate.score(label, said[kept], capture, classes, seed)
        found[name] = {
            "macro_f1": round(scores.macro_f1, 4),
            "interval": [round(scores.low, 4), round(scores.high, 4)],
        }
        if name == "ids_only":
            found["shortcut"] = evaluate.is_above_chance(scores.confusion)
    return found


def _share(chosen: np.ndarray) -> float:
    return round(float(chosen.mean()), 4) if len(chosen) else 0.0
