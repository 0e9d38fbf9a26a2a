"""Ratios of what was measured side by side, with an interval that tells truth from noise.

A machine's speed drifts and jumps; two runs one after the other meet nearly the same one. So
a ratio is the median of the ratios within rounds, each of which meets all cases in an order
of its own, and its interval is where that median lies when the rounds are drawn anew (the
bootstrap's percentiles). Source: B. Efron, Bootstrap methods: another look at the jackknife,
Ann. Statist. 7 (1979).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 1

T = TypeVar("T")
_orders = np.random.default_rng(SEED)


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, and the interval of CONFIDENCE around it."""

    median: float
    low: float
    high: float

    def text(self) -> str:
        """Return "median (low .. high)"."""
        return f"{self.median:.2f} ({self.low:.2f} .. {self.high:.2f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Return the ratio of two cases, whose values of one round stand at one place.

    Raises:
        ValueError: there are not as many of both, or none.
    """
    if len(values) != len(base) or not len(values):
        raise ValueError(f"{len(values)} values beside {len(base)}")
    ratios = np.asarray(values, float) / np.asarray(base, float)
    rounds = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.median(ratios[rounds], axis=1), [tail, 100 - tail])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def shuffled(cases: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Yield (round, case): all cases in every round, in an order drawn anew for each."""
    for turn in range(rounds):
        for place in _orders.permutation(len(cases)):
            yield turn, cases[place]
