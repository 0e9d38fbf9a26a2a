"""How sure a stage is of its answers, and how well that separates right answers from wrong ones.

A stage answers the flows that it is sure of. That helps only if its errors are among the unsure
flows. The area under the ROC curve of error against uncertainty measures this; at 0.5, passing on
flows at random would do as well.
"""

from dataclasses import dataclass

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.model import calibrated

BOOTSTRAPS = 1000
# Below this area, escalating the unsure flows is hardly better than escalating random ones.
AREA_LEAST = 0.6


@dataclass(frozen=True)
class Separation:
    """The area under the ROC curve of error against uncertainty.

    Attributes:
        area: 0.5 if uncertainty says nothing about errors; nan if all are right, or all wrong.
        low, high: 95 % interval, by resampling captures.
    """

    area: float
    low: float
    high: float

    @property
    def is_weak(self) -> bool:
        """Is it not significantly better than random on these flows?"""
        return not (self.area >= AREA_LEAST and self.low > 0.5)


def least_confidence(probabilities: np.ndarray) -> np.ndarray:
    """Return (flows,) float64, 1 minus the best class's probability."""
    return 1 - probabilities.max(axis=1).astype(np.float64)


def margin(probabilities: np.ndarray) -> np.ndarray:
    """Return (flows,) float64, 1 minus the distance between the best two probabilities."""
    best = np.partition(probabilities.astype(np.float64), -2, axis=1)
    return 1 - (best[:, -1] - best[:, -2])


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return (flows,) float64, entropy in units of its maximum."""
    each = np.clip(probabilities.astype(np.float64), 1e-12, 1)
    return -(each * np.log(each)).sum(axis=1) / np.log(each.shape[1])


MEASURES = {"least_confidence": least_confidence, "margin": margin, "entropy": entropy}


def fit_temperature(scores: np.ndarray, label: np.ndarray, reached: np.ndarray) -> float:
    """Return the temperature of a stage, from held-out flows that reach it.

    The flows that reach a later stage are the hard ones; with a temperature fitted to all flows
    the stage would be too sure of them.

    Args:
        scores: (flows, classes), unnormalised.
        reached: (flows,) bool.

    Raises:
        UsageError: no flow reaches the stage.
    """
    if not reached.any():
        raise UsageError("no flow reaches this stage: leave it out")
    return evaluate.fit_temperature(scores[reached], label[reached])


def probabilities_of(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities, (flows, classes) float32, computed exactly as in serving."""
    return calibrated(scores.astype(np.float32), temperature)


def separation(
    uncertainty: np.ndarray, wrong: np.ndarray, capture: np.ndarray, seed: int = 1
) -> Separation:
    """Return how well uncertainty predicts which answers are wrong.

    Args:
        uncertainty: (flows,), greater is less sure.
        wrong: (flows,) bool.
        capture: (flows,) int; flows of one are resampled together.
    """
    if wrong.all() or not wrong.any():
        return Separation(float("nan"), float("nan"), float("nan"))
    _, group = np.unique(capture, return_inverse=True)
    rng = np.random.default_rng(seed)
    chance = np.full(group.max() + 1, 1 / (group.max() + 1))
    order = np.argsort(uncertainty, kind="stable")
    rank, is_wrong, of_capture = _ranks(uncertainty[order]), wrong[order], group[order]
    areas = [
        _area(rank, is_wrong, rng.multinomial(len(chance), chance)[of_capture])
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.nanquantile(areas, [0.025, 0.975])
    area = _area(rank, is_wrong, np.ones(len(rank), np.int64))
    return Separation(float(area), float(low), float(high))


def _ranks(ordered: np.ndarray) -> np.ndarray:
    """Return (flows,) int, the rank of each value; equal values have equal ranks."""
    return np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])


def _area(rank: np.ndarray, is_wrong: np.ndarray, weight: np.ndarray) -> float:
    """Return the area if each flow counts `weight` times; nan if one side is empty."""
    wrong = np.bincount(rank, weight * is_wrong)
    right = np.bincount(rank, weight * ~is_wrong)
    pairs = wrong.sum() * right.sum()
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum() / pairs) if pairs else float("nan")
