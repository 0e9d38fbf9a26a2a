"""Macro-F1 against the share of flows that a fast stage hands on: ours, random and oracle.

The curve at random is what any cascade gets for the slow model's time alone; the oracle's, what
a perfect notion of uncertainty would get. Ours is worth its share of what lies between.
"""

from dataclasses import dataclass

import numpy as np

from etcpipe.evaluation import evaluate

SHARES = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Curves:
    """Macro-F1 at each share of escalated flows.

    Attributes:
        shares: of flows that go on, 0 .. 1.
        ours: those of highest uncertainty go on.
        chance: as many at random, the mean of some draws.
        oracle: first those that only the slow answer has right, last those that only the
            fast one has.
    """

    shares: tuple[float, ...]
    ours: tuple[float, ...]
    chance: tuple[float, ...]
    oracle: tuple[float, ...]

    def gain(self) -> float:
        """Return how far ours is above random, on average over the shares."""
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
    """Return (flows,) float64: 1 where the slow answer mends an error, -1 where it makes one."""
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
