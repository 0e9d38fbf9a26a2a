"""Thresholds by class: which answers go on, where some classes are told sooner than others.

A class that the next stage tells better passes on its unsure flows, others do not. Many classes
have few flows to learn that from, so what they show is mixed with what all flows show at the same
confidence.
"""

import numpy as np

from etcpipe.cascade import curves

# A class with so many flows counts as much as all others do at its confidence.
OTHERS = 20
# Confidence at which all flows are looked at together, in parts with as many flows.
PARTS, PART_LEAST = 15, 10


def thresholds(
    label: np.ndarray, said: np.ndarray, later: np.ndarray, confidence: np.ndarray, share: float
) -> dict[int, float]:
    """Return a threshold for each class said, so that about `share` of these flows goes on.

    Args:
        label, said, later: (flows,) int, the true class, the stage's and the next one's.
        confidence: (flows,), the probability of the class said.
    """
    worth = curves.oracle_worth(label, said, later)
    return class_thresholds(said, confidence, _shrunk(worth, said, confidence), share)


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
    said: np.ndarray, confidence: np.ndarray, worth: np.ndarray, share: float
) -> dict[int, float]:
    """Return a threshold for each class said, so that `share` of flows goes where it helps most.

    Each class passes on its unsurest flows as long as a flow's worth is above a price that is
    the same for all; the price is the one at which about `share` of all flows goes on.

    Args:
        said: (flows,) int, the class.
        confidence: (flows,), its probability.
        worth: (flows,), what passing the flow on gains: 1, 0 or -1.
    """
    orders = {
        int(i): np.flatnonzero(said == i)[np.argsort(confidence[said == i], kind="stable")]
        for i in np.unique(said)
    }
    gains = {i: np.concatenate([[0.0], np.cumsum(worth[order])]) for i, order in orders.items()}

    def counts(price: float) -> dict[int, int]:
        return {i: int(np.argmax(gain - price * np.arange(len(gain)))) for i, gain in gains.items()}

    low, high = -1.0, 1.0
    for _ in range(30):
        price = (low + high) / 2
        if sum(counts(price).values()) > share * len(said):
            low = price
        else:
            high = price
    return {
        i: float(confidence[orders[i][n]]) if n < len(orders[i]) else 2.0
        for i, n in counts(high).items()
    }
