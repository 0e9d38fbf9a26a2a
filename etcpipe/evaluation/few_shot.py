"""How many labelled flows a class needs: fits to a few, judged on unseen captures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from etcpipe.dataset import Dataset
from etcpipe.evaluation import evaluate
from etcpipe.evaluation.evaluate import rounded
from etcpipe.training.held_out import OnStep, deal_folds, sides_of
from etcpipe.training.learner import Learner

SHOTS = (1, 5, 10, 50)
DRAWS = 5


def measure(
    dataset: Dataset,
    learner: Learner,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    folds: int = 5,
    seed: int = 1,
    on_step: OnStep = lambda what, done, total: None,
) -> dict[int, dict[str, Any]]:
    """Return macro-F1 by flows per class, mean and deviation over draws, beside neighbours.

    The flows are drawn from all folds but one, which is judged. Of a class with fewer flows, all
    are taken.

    Raises:
        UsageError: the data cannot be split by capture.
    """
    fold = deal_folds(dataset, folds, seed)
    side = sides_of(dataset, fold, "capture")[0]
    rows, found = learner.rows(dataset), {}
    shapes = dataset.seq.reshape(len(dataset), -1)
    classes, label = len(dataset.classes), dataset.label[side.judged]
    for i, shot in enumerate(shots):
        scores = np.zeros((2, draws))
        for draw in range(draws):
            on_step(f"{shot} flows a class", i * draws + draw, len(shots) * draws)
            rng = np.random.default_rng((seed, shot, draw))
            chosen = _draw(dataset.label, np.flatnonzero(side.seen), shot, rng)
            names, seen_label = np.unique(dataset.label[chosen], return_inverse=True)
            fit = learner.fit(rows[chosen], seen_label, len(names), f"few-{shot}-{draw}")
            said = names[fit.scores(rows[side.judged]).argmax(axis=1)]
            near = names[_nearest(shapes[chosen], seen_label, shapes[side.judged])]
            for row, one in enumerate((said, near)):
                confusion = evaluate.confusion_matrix(label, one, classes)
                scores[row, draw] = evaluate.macro_f1(confusion)
        (mean, near_mean), (deviation, _) = scores.mean(axis=1), scores.std(axis=1)
        found[shot] = {
            "macro_f1": rounded(mean),
            "deviation": rounded(deviation),
            "nearest_neighbour": rounded(near_mean),
        }
    return found


def _draw(label: np.ndarray, seen: np.ndarray, shot: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most so many row numbers of each class."""
    shuffled = rng.permutation(seen)
    order = np.argsort(label[shuffled], kind="stable")
    by_class = label[shuffled][order]
    place = np.arange(len(order)) - np.searchsorted(by_class, by_class)
    return np.sort(shuffled[order[place < shot]])


def _nearest(rows: np.ndarray, label: np.ndarray, judged: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1, metric="manhattan").fit(rows, label).predict(judged)
