"""Verdicts on flows whose captures were held out: the only ones that scores come from.

Captures are dealt into folds. Each fold is judged by an ensemble that saw none of its
captures. What a model does with classes that it never saw is judged by ensembles that
miss one class each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etcpipe import evaluate, trees
from etcpipe.dataset import STATS, Dataset
from etcpipe.errors import UsageError
from etcpipe.verdict import UNKNOWN

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Judged:
    """What held-out flows were given.

    Attributes:
        fold: (flows,) int, a capture is in one fold only.
        scores: (flows, classes) float64, unnormalised.
        rounds: boosting rounds, the median of what the folds stopped at.
        strange: (strange flows, classes) float64, scores by ensembles that never saw the
            flow's class, nor its capture; -inf for that class.
        baselines: (classes, classes) int confusion matrix by name.
    """

    fold: np.ndarray
    scores: np.ndarray
    rounds: int
    strange: np.ndarray
    baselines: dict[str, np.ndarray]


class _Steps:
    """Tells how far the training is."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self._on_step, self._done, self._total = on_step, 0, total

    def next(self, what: str) -> None:
        self._on_step(what, self._done, self._total)
        self._done += 1


@dataclass(frozen=True)
class _Task:
    """One dataset in the form that ensembles are fitted to."""

    rows: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    classes: int
    seed: int

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1


def judge(
    dataset: Dataset, columns: tuple[str, ...], folds: int, seed: int, on_step: OnStep
) -> Judged:
    """Return how a dataset's flows are judged when their captures are held out.

    Raises:
        UsageError: the data cannot be split by capture.
    """
    fold = deal_folds(dataset, folds, seed)
    task = _Task(dataset.columns(columns), dataset.label, fold, len(dataset.classes), seed)
    steps = _Steps(on_step, 2 * task.folds + task.classes + 1)
    scores, rounds = _scores(task, steps)
    strange = _strange_scores(task, dataset.classes, rounds, steps)
    return Judged(fold, scores, rounds, strange, _baselines(task, dataset, steps))


def deal_folds(dataset: Dataset, folds: int, seed: int) -> np.ndarray:
    """Return (flows,) int, the fold of each flow; a capture is in one fold only.

    Raises:
        UsageError: fewer than two classes, or a class that is in one capture only and so
            cannot be held out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise UsageError(f"{folds} folds: captures must be held out, give 2 or more")
    if len(dataset.classes) < 2:
        raise UsageError(f"only class {dataset.classes[0]}: two classes or more are needed")
    captures = [
        len(np.unique(dataset.capture[dataset.label == i])) for i in range(len(dataset.classes))
    ]
    fewest = int(np.argmin(captures))
    if captures[fewest] < 2:
        raise UsageError(
            f"class {dataset.classes[fewest]} is in one capture only and cannot be held out: "
            "record it again"
        )
    folds = min(folds, captures[fewest])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(dataset), np.int32)
    for i, (_, held_out) in enumerate(splitter.split(fold, dataset.label, dataset.capture)):
        fold[held_out] = i
    return fold


def _scores(task: _Task, steps: _Steps) -> tuple[np.ndarray, int]:
    """Return (flows, classes) scores by ensembles that saw no flow's capture, and the rounds.

    Rounds are found by stopping early on one more fold, then that fold is fitted too.
    """
    scores, rounds = np.zeros((len(task.rows), task.classes)), []
    for i in range(task.folds):
        seen = task.fold != i
        rows, label = task.rows[seen], task.label[seen]
        stop = task.fold[seen] == (i + 1) % task.folds if task.folds > 2 else None
        steps.next(f"fold {i + 1} of {task.folds}: rounds")
        best = trees.fit(rows, label, task.classes, task.seed, held_out=stop).rounds
        steps.next(f"fold {i + 1} of {task.folds}: fit")
        ensemble = trees.fit(rows, label, task.classes, task.seed, best)
        scores[~seen] = ensemble.scores(task.rows[~seen])
        rounds.append(best)
    return scores, int(np.median(rounds))


def _strange_scores(task: _Task, names: tuple[str, ...], rounds: int, steps: _Steps) -> np.ndarray:
    """Return scores that flows get from ensembles that know all classes but theirs.

    The flows are those of fold 0, so that neither their class nor their capture was seen.
    """
    parts = [np.zeros((0, task.classes))]
    for left_out, name in enumerate(names):
        steps.next(f"unknown: without {name}")
        seen = (task.fold != 0) & (task.label != left_out)
        strange = (task.fold == 0) & (task.label == left_out)
        if name == UNKNOWN or task.classes < 3 or not strange.any():
            continue
        others = task.label[seen] - (task.label[seen] > left_out)
        ensemble = trees.fit(task.rows[seen], others, task.classes - 1, task.seed, rounds)
        scores = ensemble.scores(task.rows[strange])
        parts.append(np.insert(scores, left_out, -np.inf, axis=1))
    return np.concatenate(parts)


def _baselines(task: _Task, dataset: Dataset, steps: _Steps) -> dict[str, np.ndarray]:
    """Return confusion matrices of simple classifiers on the same folds.

    majority says the commonest class; knn looks at sizes, directions and gaps (the bar to
    clear, arXiv 2506.08655); ids_only sees nothing but what the strict mask hides.
    """
    from sklearn.neighbors import KNeighborsClassifier

    label, classes = task.label, task.classes
    ids = dataset.columns([column.name for column in STATS.columns if column.field])
    shapes = dataset.seq.reshape(len(dataset), -1)
    said = {name: np.zeros(len(dataset), np.int64) for name in ("majority", "knn", "ids_only")}
    steps.next("baselines")
    for i in range(task.folds):
        seen = task.fold != i
        said["majority"][~seen] = np.bincount(label[seen], minlength=classes).argmax()
        nearest = KNeighborsClassifier(min(5, int(seen.sum())), metric="manhattan")
        said["knn"][~seen] = nearest.fit(shapes[seen], label[seen]).predict(shapes[~seen])
        ensemble = trees.fit(ids[seen], label[seen], classes, task.seed, 10)
        said["ids_only"][~seen] = ensemble.scores(ids[~seen]).argmax(axis=1)
    return {
        name: evaluate.confusion_matrix(label, predicted, classes)
        for name, predicted in said.items()
    }
