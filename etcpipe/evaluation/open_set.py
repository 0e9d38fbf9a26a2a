"""Which score detects flows of unknown classes; each class is left out in turn.

    msp           the best class's probability
    energy        log of the sum of exp(scores), higher where any class has a high score
    mahalanobis   minus the distance to the nearest class mean, under a shared covariance
    knn           minus the distance to the tenth nearest flow of the training
    embedded_...  the last two again, of networks

Distances are between statistics of packets, under the model's mask, each column divided by its
deviation; embedded ones between what the last layer of the network takes, for neighbours at
length 1. In every score more means better known.

Sources: Hendrycks and Gimpel, ICLR 2017; Liu et al., NeurIPS 2020 (energy); Lee et al.,
NeurIPS 2018 (Mahalanobis); Sun et al., ICML 2022 (nearest neighbours, at length 1).
"""

from typing import Any

import numpy as np

from etcpipe.dataset import STATS, Dataset
from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.training.held_out import OnStep, deal_folds, side_for_strangers, sides_of
from etcpipe.training.learner import Learner
from etcpipe.verdict import UNKNOWN

NEIGHBOUR = 10


def measure(
    dataset: Dataset,
    learner: Learner,
    mask: str,
    folds: int = 5,
    seed: int = 1,
    split: str = "capture",
    on_step: OnStep = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return how well each score separates strange flows from known ones.

    For each class, a fit that saw neither the class nor a fold judges the flows of that fold:
    those of the class are strange, the others known.

    Returns:
        area_under_roc, fpr95: mean over the classes left out, by score.
        without: the same two for each class left out.
        best: the score with the highest mean area.

    Raises:
        UsageError: fewer than three classes, or the data cannot be split.
    """
    if len(dataset.classes) < 3:
        raise UsageError("to leave a class out, data of three classes or more are needed")
    fold = deal_folds(dataset, folds, seed, split)
    side = side_for_strangers(sides_of(dataset, fold, split))
    rows = learner.rows(dataset)
    statistics = dataset.columns(STATS.column_names(mask)).astype(np.float64)
    without = {}
    for i, name in enumerate(dataset.classes):
        on_step(f"without {name}", i, len(dataset.classes))
        strange = side.judged & (dataset.label == i)
        known = side.judged & (dataset.label != i)
        if name == UNKNOWN or not strange.any() or not known.any():
            continue
        seen = side.seen & (dataset.label != i)
        names, label = np.unique(dataset.label[seen], return_inverse=True)
        fitted = learner.fit(rows[seen], label, len(names), f"open-set-without-{i}")
        embedded = learner.embed(fitted, rows[seen])
        judged = []
        for flows in (known, strange):
            scores = _by_scores(fitted.scores(rows[flows]))
            scores |= _by_statistics(statistics[flows], statistics[seen], label)
            scores |= _by_embedding(learner.embed(fitted, rows[flows]), embedded, label)
            judged.append(scores)
        without[name] = {
            score: _separation(of_known, judged[1][score]) for score, of_known in judged[0].items()
        }
    if not without:
        raise UsageError("no class has flows in the part held out: record more captures")
    return {**_means(without), "without": without}


def _means(without: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    found = list(without.values())
    means = {
        figure: {
            score: evaluate.rounded(float(np.mean([one[score][figure] for one in found])))
            for score in found[0]
        }
        for figure in ("area_under_roc", "fpr95")
    }
    areas = means["area_under_roc"]
    return {**means, "best": max(areas, key=lambda name: areas[name])}


def _by_scores(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return (flows,) by name, the measures of (flows, classes) scores."""
    highest = scores.max(axis=1)
    energy = highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1))
    return {"msp": np.exp(highest - energy), "energy": energy}


def _by_statistics(
    rows: np.ndarray, learnt: np.ndarray, label: np.ndarray
) -> dict[str, np.ndarray]:
    """Return (flows,) of both distances of (flows, columns) rows to those of the training."""
    spread = learnt.std(axis=0)
    spread[spread == 0] = 1
    rows, learnt = rows / spread, learnt / spread
    return {"mahalanobis": mahalanobis(rows, learnt, label), "knn": _nearest(rows, learnt)}


def _by_embedding(
    rows: np.ndarray | None, learnt: np.ndarray | None, label: np.ndarray
) -> dict[str, np.ndarray]:
    """Return (flows,) of both distances of embeddings; nothing if the fit has none."""
    if rows is None or learnt is None:
        return {}
    return {
        "embedded_mahalanobis": mahalanobis(rows, learnt, label),
        "embedded_knn": _nearest(_at_length_1(rows), _at_length_1(learnt)),
    }


def _at_length_1(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)


def mahalanobis(rows: np.ndarray, learnt: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return (flows,), minus the squared distance to the nearest class mean."""
    means = np.stack([learnt[label == i].mean(axis=0) for i in range(label.max() + 1)])
    centred = learnt - means[label]
    precision = np.linalg.pinv(centred.T @ centred / len(learnt), hermitian=True)
    away = rows[:, None, :] - means
    return -np.einsum("fci,ij,fcj->fc", away, precision, away, optimize=True).min(axis=1)


def _nearest(rows: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOUR, len(learnt))).fit(learnt)
    return -nearest.kneighbors(rows)[0][:, -1]


def _separation(known: np.ndarray, strange: np.ndarray) -> dict[str, float]:
    return {
        "area_under_roc": evaluate.rounded(evaluate.area_under_roc(known, strange)),
        "fpr95": evaluate.rounded(evaluate.false_positives_at_95(known, strange)),
    }
