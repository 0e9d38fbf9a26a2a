"""Thresholds by class, for tasks in which some classes can be recognised sooner than others.

A stage passes a flow on if the later stages are right more often, by more than the waiting costs.
So the last threshold is fitted first, and each earlier one to the behaviour of those behind it.
Classes that later stages recognise better pass on their unsure flows, others do not. Many classes
have too few flows to learn that from, so their gain is mixed with the gain of all flows of equal
confidence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# With this many flows, a class and all flows of equal confidence have the same weight.
OTHERS = 20
# Number of bins of confidence, with as many flows each, for all flows together.
PARTS, PART_LEAST = 15, 10
# Prices that are tried: right answers that are given up for one flow that need not wait.
PRICES = (0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.12, 0.15, 0.18, 0.25, 0.4)


class Said(NamedTuple):
    """The answers of a stage.

    Attributes:
        label: (flows,) int, the class.
        confidence: (flows,), its probability.
        kept: (flows,), the worth of answering here rather than later, in units of the price.
    """

    label: np.ndarray
    confidence: np.ndarray
    kept: np.ndarray

    def select(self, chosen: np.ndarray) -> "Said":
        """Return the answers on some flows."""
        return Said(*(column[chosen] for column in self))

    def is_sure(self, least: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, which answers reach the threshold of their class."""
        return self.confidence >= least[self.label]


def thresholds(
    label: np.ndarray, stages: Sequence[Said], price: float, classes: int
) -> list[np.ndarray]:
    """Return the thresholds, (classes + 1,), of each stage but the last.

    Args:
        label: (flows,) int, the true class.
        price: right answers that are given up for one flow that need not wait.
    """
    *earlier, last = stages
    following = (last.label == label) + price * last.kept
    found: list[np.ndarray] = []
    for one in reversed(earlier):
        here = (one.label == label) + price * one.kept
        worth = _shrunk(following - here, one.label, one.confidence)
        found.insert(0, class_thresholds(one.label, one.confidence, worth, classes))
        following = np.where(one.is_sure(found[0]), here, following)
    return found


def _shrunk(worth: np.ndarray, said: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return (flows,), the worth by class mixed with that of all flows of equal confidence."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(PARTS, max(len(order) // PART_LEAST, 1)))
    of_all = np.empty(len(worth))
    for part in parts:
        of_all[part] = worth[part].mean()
    flows = np.bincount(said)[said]
    return (flows * worth + OTHERS * of_all) / (flows + OTHERS)


def class_thresholds(
    said: np.ndarray, confidence: np.ndarray, worth: np.ndarray, classes: int
) -> np.ndarray:
    """Return (classes + 1,), the thresholds that gain most; 2: all flows are passed on.

    The last one is for all classes together, and for classes that the stage never names.

    Args:
        said: (flows,) int, the class.
        confidence: (flows,), its probability.
        worth: (flows,), what passing the flow on gains.
    """
    order = np.argsort(confidence, kind="stable")
    found = np.full(classes + 1, _best(confidence[order], worth[order]))
    for i in np.unique(said):
        its = order[said[order] == i]
        found[i] = _best(confidence[its], worth[its])
    return found


def _best(confidence: np.ndarray, worth: np.ndarray) -> float:
    """Return the best threshold for flows that are sorted by confidence."""
    passed_on = int(np.argmax(np.concatenate([[0.0], np.cumsum(worth)])))
    return float(confidence[passed_on]) if passed_on < len(confidence) else 2.0
