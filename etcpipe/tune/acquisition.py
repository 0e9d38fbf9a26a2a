"""The expected improvement of a front's hypervolume by a measurement."""

import numpy as np
from scipy.special import erfc

from etcpipe.tune.hypervolume import on_front


def expected_improvement(
    means: np.ndarray,
    deviations: np.ndarray,
    values: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Return (places,) float64, the expected growth of the hypervolume, exact for two objectives.

    The area that a new point adds is a sum over the strips between neighbours on the front. For
    two independent Gaussians, the expectation of each strip is a product.

    Args:
        means, deviations: (places, 2) of the predicted objectives, both to be minimised.
        values: (points, 2), the measured objectives.
        reference: (2,), worse than all that is wanted.

    Source: Yang et al., Efficient Computation of Expected Hypervolume Improvement,
    Journal of Global Optimization 75, 2019.
    """
    inside = values[(values < reference).all(axis=1)]
    front = inside[on_front(inside)]
    front = front[np.argsort(front[:, 0])]
    edges = np.append(front[:, 0], reference[0])
    heights = np.append(reference[1], front[:, 1])
    below = _shortfall(edges, means[:, 0], deviations[:, 0])
    widths = np.diff(below, axis=1, prepend=0.0)
    return (widths * _shortfall(heights, means[:, 1], deviations[:, 1])).sum(axis=1)


def within(limit: float, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return (places,) float64, the probability of a value of at most limit."""
    return _normal((limit - mean) / deviation)


def _shortfall(levels: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return (places, levels), the expected distance of a Gaussian below each level."""
    away = (levels[None, :] - mean[:, None]) / deviation[:, None]
    density = np.exp(-0.5 * away**2) / np.sqrt(2 * np.pi)
    return deviation[:, None] * (away * _normal(away) + density)


def _normal(away: np.ndarray) -> np.ndarray:
    return 0.5 * erfc(-away / np.sqrt(2))
