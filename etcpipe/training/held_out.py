"""Judges flows whose captures were held out; all scores come from these.

Captures are divided into folds. Each fold is judged by a fit that saw none of its captures. If
split by time, folds are periods of time, and a fit saw only earlier flows. The behaviour on unknown
classes is measured with fits that were not shown some of the classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.dataset import STATS, Dataset
from etcpipe.errors import UsageError
from etcpipe.training import trees
from etcpipe.training.learner import Learner, Tell
from etcpipe.verdict import UNKNOWN

OnStep = Callable[[str, int, int], None]

# Gap between learned and judged flows: no flow is in both (the idle timeout).
GAP_US = 120_000_000


@dataclass(frozen=True)
class Judged:
    """The scores of held-out flows.

    Attributes:
        fold: (flows,) int, a capture is in one fold only.
        scores: (flows, classes) float64, unnormalised.
        rounds: of training, the median of the folds.
        strange: (strange flows, classes) float64, scores by fits that saw neither the flow's
            class nor its capture; -inf for classes that were left out.
        strange_label: (strange flows,) int, their classes.
        baselines: (flows,) int by name, the classes by simple classifiers.
        kept: (all flows,) bool, which flows were judged; all, unless split by time. Everything
            else here has rows for these flows only.
    """

    fold: np.ndarray
    scores: np.ndarray
    rounds: int
    strange: np.ndarray
    strange_label: np.ndarray
    baselines: dict[str, np.ndarray]
    kept: np.ndarray


class _Steps:
    """Reports the progress of a training."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self._on_step, self._done, self._total = on_step, 0, total

    def next(self, what: str) -> Tell:
        """Begin a step; return a function for more detailed news."""
        done, self._done = self._done, self._done + 1
        self._on_step(what, done, self._total)
        return lambda more: self._on_step(f"{what}: {more}", done, self._total)


@dataclass(frozen=True)
class _Task:
    """A dataset in the form that a learner fits."""

    learner: Learner
    rows: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    classes: int
    sides: "list[Side]"

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1


@dataclass(frozen=True)
class Side:
    """One fold to judge, and the flows to learn from.

    Attributes:
        fold: its number.
        judged, seen: (flows,) bool.
        stop: the fold of `seen` that is used for early stopping; None if there are too few.
    """

    fold: int
    judged: np.ndarray
    seen: np.ndarray
    stop: int | None


def judge(
    dataset: Dataset,
    learner: Learner,
    folds: int,
    seed: int,
    on_step: OnStep,
    beside: Mapping[str, Learner] | None = None,
    split: str = "capture",
) -> Judged:
    """Judge each flow of a dataset with its capture held out.

    Args:
        split: what is held out, a name of dataset.SPLITS.
        beside: learners to judge the same folds, as baselines by name.

    Raises:
        UsageError: the data cannot be split by capture.
    """
    fold = deal_folds(dataset, folds, seed, split)
    classes = len(dataset.classes)
    sides = sides_of(dataset, fold, split)
    task = _Task(learner, learner.rows(dataset), dataset.label, fold, classes, sides)
    groups = _groups(dataset.classes, learner.left_out)
    beside = beside or {}
    steps = _Steps(on_step, len(sides) * (1 + len(beside)) + len(groups) + 1)
    scores, rounds = _scores(task, steps, "")
    strange, strange_label = _strange_scores(task, dataset.classes, groups, rounds, steps)
    baselines = _baselines(task, dataset, seed, steps)
    for name, other in beside.items():
        its_task = replace(task, learner=other, rows=other.rows(dataset))
        baselines[name] = _scores(its_task, steps, f"{name}, ")[0].argmax(axis=1)
    kept = np.any([side.judged for side in sides], axis=0)
    baselines = {name: said[kept] for name, said in baselines.items()}
    return Judged(fold[kept], scores[kept], rounds, strange, strange_label, baselines, kept)


def deal_folds(dataset: Dataset, folds: int, seed: int, split: str = "capture") -> np.ndarray:
    """Return (flows,) int, the fold of each flow; a capture is in one fold only.

    Args:
        split: what is in one fold only, a name of dataset.SPLITS. Split by time, folds are
            stretches of it with about as many flows each.

    Raises:
        UsageError: fewer than two classes, or a class that is in one capture only and so
            cannot be held out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise UsageError(f"{folds} folds: captures must be held out, give 2 or more")
    if len(dataset.classes) < 2:
        raise UsageError(f"only class {dataset.classes[0]}: two classes or more are needed")
    group = dataset.groups(split)
    if split == "time":
        order = np.argsort(np.argsort(group, kind="stable"), kind="stable")
        return (order * folds // len(order)).astype(np.int32)
    groups = [len(np.unique(group[dataset.label == i])) for i in range(len(dataset.classes))]
    fewest = int(np.argmin(groups))
    if groups[fewest] < 2:
        raise UsageError(
            f"class {dataset.classes[fewest]} is in one {split} only and cannot be held out: "
            "record it again"
        )
    folds = min(folds, groups[fewest])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(dataset), np.int32)
    for i, (_, held_out) in enumerate(splitter.split(fold, dataset.label, group)):
        fold[held_out] = i
    return fold


def sides_of(dataset: Dataset, fold: np.ndarray, split: str) -> list[Side]:
    """Return the sides of each fold.

    Raises:
        UsageError: split by time, and nothing came early enough before a fold, or of one class.
    """
    folds = int(fold.max()) + 1
    if split != "time":
        return [
            Side(i, fold == i, fold != i, (i + 1) % folds if folds > 2 else None)
            for i in range(folds)
        ]
    began, sides = dataset.groups("time"), []
    for i in range(1, folds):
        judged = fold == i
        seen = began < began[judged].min() - GAP_US
        if len(np.unique(dataset.label[seen])) < 2:
            raise UsageError(
                f"less than two classes came {GAP_US // 10**6} s before stretch {i + 1} of "
                f"{folds}: give fewer --folds, or captures of more days"
            )
        sides.append(
            Side(i, judged, seen, i - 1 if i > 1 and (fold[seen] == i - 1).any() else None)
        )
    return sides


def _scores(task: _Task, steps: _Steps, prefix: str) -> tuple[np.ndarray, int]:
    """Return (flows, classes) scores by fits that saw no flow's capture, and the rounds.

    Another fold, which is not the judged one, is used for early stopping.
    """
    scores, rounds = np.zeros((len(task.rows), task.classes)), []
    for side in task.sides:
        seen, judged, i = side.seen, side.judged, side.fold
        stop = task.fold[seen] == side.stop if side.stop is not None else None
        tell = steps.next(f"{prefix}fold {i + 1} of {task.folds}")
        fitted = task.learner.fit(
            task.rows[seen], task.label[seen], task.classes, f"fold-{i}", stop=stop, tell=tell
        )
        scores[judged] = fitted.scores(task.rows[judged])
        rounds.append(fitted.rounds)
    return scores, int(np.median(rounds))


def _groups(names: tuple[str, ...], groups: int | None) -> list[list[int]]:
    """Return groups of classes to be left out together; at least two classes remain."""
    classes = [i for i, name in enumerate(names) if name != UNKNOWN]
    size = len(classes) if groups is None else min(groups, len(classes))
    dealt = [classes[i::size] for i in range(size)]
    return [group for group in dealt if len(names) - len(group) >= 2]


def side_for_strangers(sides: list[Side]) -> Side:
    """Return the fold on which unknown classes are judged; by time, the last one."""
    return sides[-1] if sides[0].fold else sides[0]


def _strange_scores(
    task: _Task, names: tuple[str, ...], groups: list[list[int]], rounds: int, steps: _Steps
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores by fits that do not know the flow's class, and the labels.

    The flows are those of one fold, so that neither their class nor their capture was seen.
    """
    side = side_for_strangers(task.sides)
    parts, labels = [np.zeros((0, task.classes))], [task.label[:0]]
    for group in groups:
        tell = steps.next(f"unknown: without {', '.join(names[i] for i in group)}")
        is_out = np.isin(task.label, group)
        seen, strange = side.seen & ~is_out, side.judged & is_out
        if not strange.any():
            continue
        known = np.unique(task.label[seen])
        others = np.searchsorted(known, task.label[seen])
        key = f"without-{group[0]}"
        fitted = task.learner.fit(task.rows[seen], others, len(known), key, rounds, tell=tell)
        scores = np.full((int(strange.sum()), task.classes), -np.inf)
        scores[:, known] = fitted.scores(task.rows[strange])
        parts.append(scores)
        labels.append(task.label[strange])
    return np.concatenate(parts), np.concatenate(labels)


def _baselines(task: _Task, dataset: Dataset, seed: int, steps: _Steps) -> dict[str, np.ndarray]:
    """Return the classes by simple classifiers on the same folds.

    majority: the most frequent class; knn: nearest neighbours by sizes, directions and gaps (the
    baseline to beat, arXiv 2506.08655); ids_only: sees only what the strict mask hides.
    """
    from sklearn.neighbors import KNeighborsClassifier

    label, classes = task.label, task.classes
    ids = dataset.columns([column.name for column in STATS.columns if column.field])
    shapes = dataset.seq.reshape(len(dataset), -1)
    said = {name: np.zeros(len(dataset), np.int64) for name in ("majority", "knn", "ids_only")}
    steps.next("baselines")
    for side in task.sides:
        seen, judged = side.seen, side.judged
        said["majority"][judged] = np.bincount(label[seen], minlength=classes).argmax()
        nearest = KNeighborsClassifier(min(5, int(seen.sum())), metric="manhattan")
        said["knn"][judged] = nearest.fit(shapes[seen], label[seen]).predict(shapes[judged])
        ensemble = trees.fit(ids[seen], label[seen], classes, seed, 10)
        said["ids_only"][judged] = ensemble.scores(ids[judged]).argmax(axis=1)
    return said
