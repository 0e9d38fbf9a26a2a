"""Counts of values by fixed bounds, as Prometheus wants them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Seconds: from a batch on a fast engine to flows that waited for their packets.
LATENCIES_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Histogram:
    """Counts values; those above the last bound too.

    Args:
        bounds: upper bounds, inclusive, rising.
    """

    def __init__(self, bounds: Sequence[float]):
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def asdict(self) -> dict[str, Any]:
        """Return bounds, how many values were at most each bound and all, and their sum."""
        return {
            "bounds": self._bounds.tolist(),
            "counts": np.cumsum(self._counts).tolist(),
            "sum": self._sum,
        }


def quantile(histogram: dict[str, Any], q: float) -> float | None:
    """Return a quantile of a histogram's values, linear within its bounds; None without values.

    Args:
        histogram: as asdict() returns it.
        q: 0 to 1; a quantile above the last bound is told as that bound.

    Source: the way of Prometheus' histogram_quantile().
    """
    counts, bounds = histogram["counts"], histogram["bounds"]
    if not counts[-1]:
        return None
    wanted = q * counts[-1]
    i = int(np.searchsorted(counts, wanted))
    if i >= len(bounds):
        return bounds[-1]
    below, lower = (counts[i - 1], bounds[i - 1]) if i else (0, 0.0)
    inside = counts[i] - below
    return lower + (bounds[i] - lower) * (wanted - below) / inside if inside else bounds[i]
