"""Thresholds by class: which answers go on, where some classes are told sooner than others.

A stage passes a flow on where what follows is right more often, by more than waiting is worth: so
the last threshold is fitted first, and each one before it to what those after it do. A class that
later stages tell better passes on its unsure flows, others do not. Many classes have few flows to
learn that from, so what they show is mixed with what all flows show at the same confidence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# A class with so many flows counts as much as all others do at its confidence.
OTHERS = 20
# Confidence at which all flows are looked at together, in parts with as many flows.
PARTS, PART_LEAST = 15, 10
# What is tried: how many right answers are given for one that is not kept waiting.
PRICES = (0.01, 0.03, 0.06, 0.12, 0.18, 0.25, 0.4)


class Said(NamedTuple):
    """What a stage says of flows.

    Attributes:
        label: (flows,) int, the class.
        confidence: (flows,), its probability.
        kept: (flows,), what answering here rather than later is worth, in prices.
    """

    label: np.ndarray
    confidence: np.ndarray
    kept: np.ndarray

    def select(self, chosen: np.ndarray) -> "Said":
        """Return it of some flows."""
        return Said(*(column[chosen] for column in self))

    def is_sure(self, least: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, by thresholds of classes."""
        return self.confidence >= least[self.label]


def thresholds(
    label: np.ndarray, stages: Sequence[Said], price: float, classes: int
) -> list[np.ndarray]:
    """Return for each stage but the last (classes + 1,), from which probability on it answers.

    Args:
        label: (flows,) int, the true class.
        price: right answers that are given for one that is kept.
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
    """Return (flows,), each class's worth mixed with that of all flows as confident."""
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
    """Return (classes + 1,), thresholds below which passing flows on gains most; 2: of all.

    The last one is of all together, and of classes that are never said.

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
    """Return the threshold of flows in the order of their confidence."""
    passed_on = int(np.argmax(np.concatenate([[0.0], np.cumsum(worth)])))
    return float(confidence[passed_on]) if passed_on < len(confidence) else 2.0
