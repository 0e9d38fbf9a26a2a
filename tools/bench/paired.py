"""Ratios and differences of what was measured side by side, with an interval that tells noise.

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
class Interval:
    """The median of what was paired, and the interval of CONFIDENCE around it."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return "median (low .. high)"."""
        median, low, high = (f"{v:,.{digits}f}" for v in (self.median, self.low, self.high))
        return f"{median} ({low} .. {high})"


def ratio(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the ratio of two cases, whose values of one round stand at one place.

    Raises:
        ValueError: there are not as many of both, or none.
    """
    _check(values, base)
    return _interval(np.asarray(values, float) / np.asarray(base, float))


def difference(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return by how much one case is above the other; else as ratio()."""
    _check(values, base)
    return _interval(np.asarray(values, float) - np.asarray(base, float))


def _check(values: Sequence[float], base: Sequence[float]) -> None:
    if len(values) != len(base) or not len(values):
        raise ValueError(f"{len(values)} values beside {len(base)}")


def _interval(found: np.ndarray) -> Interval:
    rounds = np.random.default_rng(SEED).integers(len(found), size=(RESAMPLES, len(found)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.median(found[rounds], axis=1), [tail, 100 - tail])
    return Interval(float(np.median(found)), float(low), float(high))


def shuffled(cases: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Yield (round, case): all cases in every round, in an order drawn anew for each."""
    for turn in range(rounds):
        for place in _orders.permutation(len(cases)):
            yield turn, cases[place]
