"""Scores of a classifier on held-out captures, with intervals and differences."""

from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Scores:
    """The scores of predictions.

    Attributes:
        confusion: (classes, classes) int, rows true, columns predicted.
        low, high: 95 % interval of macro_f1, by resampling captures.
    """

    confusion: np.ndarray
    macro_f1: float
    low: float
    high: float
    accuracy: float


def score(
    label: np.ndarray, predicted: np.ndarray, capture: np.ndarray, classes: int, seed: int
) -> Scores:
    """Return the scores of predictions.

    Args:
        label, predicted: (flows,) int, 0 .. classes - 1.
        capture: (flows,) int, flows of one capture are resampled together, since they
            are not independent.
    """
    confusion = confusion_matrix(label, predicted, classes)
    low, high = interval(resampled_f1(label, predicted, capture, classes, seed))
    return Scores(
        confusion,
        macro_f1(confusion),
        low,
        high,
        float(np.trace(confusion) / max(confusion.sum(), 1)),
    )


def difference(
    label: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    capture: np.ndarray,
    classes: int,
    seed: int,
) -> tuple[float, float, float]:
    """Return the difference in macro-F1 of two predictions, and its 95 % interval.

    Both are resampled together, by captures, so the interval is that of the difference.
    """
    one, other = (resampled_f1(label, said, capture, classes, seed) for said in (first, second))
    f1, other_f1 = (macro_f1(confusion_matrix(label, said, classes)) for said in (first, second))
    return f1 - other_f1, *interval(one - other)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the central 95 % of resampled values."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def resampled_f1(
    label: np.ndarray, predicted: np.ndarray, capture: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Return (BOOTSTRAPS,) macro-F1 of captures drawn with replacement.

    The same seed draws the same captures for any predictions.
    """
    by_capture = np.zeros((int(capture.max()) + 1, classes, classes), np.int64)
    np.add.at(by_capture, (capture, label, predicted), 1)
    by_capture = by_capture[np.unique(capture)]
    rng = np.random.default_rng(seed)
    chance = np.full(len(by_capture), 1 / len(by_capture))
    drawn = rng.multinomial(len(by_capture), chance, BOOTSTRAPS)
    return np.array([macro_f1(one) for one in np.tensordot(drawn, by_capture, axes=1)])


def confusion_matrix(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return (classes, classes) int64, rows true, columns predicted."""
    return np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_f1(confusion: np.ndarray) -> np.ndarray:
    """Return (classes,) float64, F1 of each class; 0 for one that is never true nor predicted."""
    right = np.diagonal(confusion)
    return 2 * right / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 of the classes that have flows."""
    there = confusion.sum(axis=1) > 0
    return float(class_f1(confusion)[there].mean()) if there.any() else 0.0


def is_above_chance(confusion: np.ndarray) -> bool:
    """Return whether the recall of each class is 5 points better than by guessing.

    For a classifier that sees only what masks hide (ports, TTL, window), this tells whether these
    fields reveal the class.
    """
    found = np.diagonal(confusion) / np.maximum(confusion.sum(axis=1), 1)
    return bool(found.mean() > 1 / len(confusion) + 0.05)


def fit_temperature(scores: np.ndarray, label: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood.

    Args:
        scores: (flows, classes), unnormalised, of held-out flows.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    candidates = np.geomspace(0.2, 10, 400)
    losses = [negative_log_likelihood(scores / t, label) for t in candidates]
    return float(np.float32(candidates[int(np.argmin(losses))]))


def negative_log_likelihood(scores: np.ndarray, label: np.ndarray) -> float:
    """Return the mean of -log softmax(scores)[label]."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(label)), label]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen))


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error of top probabilities, bins of equal width.

    Source: Naeini et al., AAAI 2015.
    """
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs(probability[index == i].sum() - right[index == i].sum()) for i in np.unique(index)]
    return float(sum(gaps) / max(len(probability), 1))


def false_positives_at_95(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the share of unknown flows that pass where 95 % of the known ones do (FPR95)."""
    return float((unknown >= np.quantile(known, 0.05)).mean())


def area_under_roc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return how often a known flow has a higher probability than an unknown flow."""
    values = np.concatenate([known, unknown])
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    mid_rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    wins = mid_rank[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(wins / max(len(known) * len(unknown), 1))


def choose_threshold(right: np.ndarray, unknown: np.ndarray, keep: float = 0.95) -> float:
    """Return the probability below which a verdict is "unknown".

    Balances keeping right verdicts against refusing unknown flows, and never loses more than
    1 - keep of the right verdicts.

    Args:
        right: probabilities of right verdicts on held-out captures.
        unknown: probabilities for flows of classes that the model never saw.
    """
    if not len(right):
        return 0.0
    candidates = np.unique(
        np.concatenate([[0.0], np.quantile(right, np.linspace(0, 1 - keep, 200))])
    )
    gain = [(right >= t).mean() + (unknown < t).mean() for t in candidates]
    return float(np.float32(candidates[int(np.argmax(gain))]))


def rounded(value: float) -> float:
    """Return a figure rounded for reports."""
    return round(float(value), 4)
