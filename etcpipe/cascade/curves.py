"""Macro-F1 against the share of flows that a fast stage passes on: ours, random and oracle.

The random curve is what the slow model's time alone is worth; the oracle's curve is what a perfect
measure of uncertainty would reach. A stage's measure is as good as its place between the two.
"""

from dataclasses import dataclass

import numpy as np

from etcpipe.evaluation import evaluate

SHARES = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Curves:
    """Macro-F1 at each share of escalated flows.

    Attributes:
        shares: of flows that are passed on, 0 .. 1.
        ours: macro-F1 if the flows of highest uncertainty go on.
        chance: if as many flows go on at random, the mean of some draws.
        oracle: if flows go on first that only the slow answer has right, and last those that
            only the fast answer has right.
    """

    shares: tuple[float, ...]
    ours: tuple[float, ...]
    chance: tuple[float, ...]
    oracle: tuple[float, ...]

    def gain(self) -> float:
        """Return the mean distance of our curve above the random one."""
        return float(np.mean(np.subtract(self.ours, self.chance)))


def escalation(
    label: np.ndarray,
    fast: np.ndarray,
    slow: np.ndarray,
    uncertainty: np.ndarray,
    classes: int,
    shares: tuple[float, ...] = SHARES,
    draws: int = 5,
    seed: int = 1,
) -> Curves:
    """Return the three curves of one fast and one slow answer to each flow.

    Args:
        label, fast, slow: (flows,) int, the class; true, by the fast and by the slow stage.
        uncertainty: (flows,), of the fast answer.
    """
    rng = np.random.default_rng(seed)

    def curve(priority: np.ndarray) -> np.ndarray:
        order = np.argsort(-priority, kind="stable")
        return np.array([_score(label, fast, slow, order, share, classes) for share in shares])

    chance = np.mean([curve(rng.random(len(label))) for _ in range(draws)], axis=0)
    worth = oracle_worth(label, fast, slow)
    return Curves(shares, *(tuple(c.tolist()) for c in (curve(uncertainty), chance, curve(worth))))


def oracle_worth(label: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Return (flows,) float64: 1 if the slow answer corrects an error, -1 if it makes one."""
    return (slow == label).astype(np.float64) - (fast == label)


def _score(
    label: np.ndarray,
    fast: np.ndarray,
    slow: np.ndarray,
    order: np.ndarray,
    share: float,
    classes: int,
) -> float:
    said = fast.copy()
    gone_on = order[: round(share * len(order))]
    said[gone_on] = slow[gone_on]
    return evaluate.macro_f1(evaluate.confusion_matrix(label, said, classes))
