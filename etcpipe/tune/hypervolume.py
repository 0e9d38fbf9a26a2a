"""Pareto fronts of two objectives, both minimised, and their hypervolume."""

import numpy as np


def on_front(values: np.ndarray) -> np.ndarray:
    """Return (points,) bool, those that no other point dominates; of equal ones the first.

    Args:
        values: (points, 2) float, smaller is better.
    """
    order = np.lexsort((np.arange(len(values)), values[:, 1], values[:, 0]))
    second = values[order, 1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    mask = np.zeros(len(values), bool)
    mask[order] = second < best_before
    return mask


def hypervolume(values: np.ndarray, reference: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return the area between points and a reference point that is worse in both objectives.

    Args:
        values: (points, 2) float; points beyond the reference add nothing.

    Source: Zitzler and Thiele, PPSN 1998.
    """
    inside = values[(values < reference).all(axis=1)]
    front = inside[on_front(inside)]
    front = front[np.argsort(front[:, 0])]
    widths = np.append(front[1:, 0], reference[0]) - front[:, 0]
    return float((widths * (reference[1] - front[:, 1])).sum())


def growth(values: np.ndarray, reference: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Return (points,) float, the hypervolume after each point, in the order given."""
    return np.array([hypervolume(values[: i + 1], reference) for i in range(len(values))])


def knee(values: np.ndarray) -> int:
    """Return the row of the point that is farthest below the line between a front's ends.

    Args:
        values: (points, 2) float, a front; both objectives are scaled to 0 .. 1 first.
    """
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1)
    return int(np.argmin(scaled.sum(axis=1)))
