"""CATO's optimiser, reimplemented from its paper and artefact for comparison.

Random forests predict a random weighting of the objectives (as in HyperMapper), and expected
improvement is multiplied by a prior whose exponent decays (piBO). The public HyperMapper ignores
priors if there are two objectives; here they are applied, as the paper describes.

Source: Wan et al., CATO, NSDI 2025, section 3.3; prior_injection.py and cato_optimize.py of its
artefact; Hvarfner et al., piBO, ICLR 2022.
"""

from collections.abc import Sequence

import numpy as np

from etcpipe.tune.hypervolume import on_front
from etcpipe.tune.priors import Prior
from etcpipe.tune.search import Measured
from etcpipe.tune.space import Choice

DAMPING = 0.4
STARTS = 3  # of 50, as in the paper
PRIOR_POWER = 5.0  # piBO's beta, a tenth of the evaluations; divided by those that were made
_DEPTH_PRIOR = (1.0, 2.0)  # Beta: linear decay; the artefact asks for "decay", which is flatter
_TREES = 40
_DRAWN, _CHANGED = 300, 200


class Cato:
    """A strategy: random forest, random scalarisation, priors of columns and depth."""

    def __init__(self, prior: Prior, starts: int = STARTS) -> None:
        best = max(float(prior.information.max()), 1e-9)
        self._space, self._starts = prior.space, starts
        self._chance = (1 - DAMPING) * prior.information / best + DAMPING / 2

    def __call__(self, measured: Sequence[Measured], rng: np.random.Generator) -> Choice:
        taken = {one.choice for one in measured}
        if len(taken) < self._starts:
            return self._draw(rng)
        candidates = self._candidates(measured, rng, taken)
        promise = self._improvement(measured, candidates, rng)
        power = PRIOR_POWER / len(taken)
        promise = np.log(promise + 1e-12) + power * self._log_prior(candidates)
        return candidates[int(promise.argmax())]

    def _draw(self, rng: np.random.Generator) -> Choice:
        on = np.zeros(len(self._chance), bool)
        while not on.any():
            on = rng.random(len(on)) < self._chance
        depth = 1 + int(rng.beta(*_DEPTH_PRIOR) * self._space.depth_max)
        model = int(rng.integers(len(self._space.models)))
        return self._space.choice(on, depth, model, len(self._space.waits_s) - 1)

    def _candidates(
        self, measured: Sequence[Measured], rng: np.random.Generator, taken: set[Choice]
    ) -> list[Choice]:
        front = [measured[i].choice for i in np.flatnonzero(on_front(_values(measured))).tolist()]
        found = {self._draw(rng) for _ in range(_DRAWN)}
        each = max(_CHANGED // len(front), 4)
        found |= {self._space.changed(one, rng) for one in front for _ in range(each)}
        return sorted(found - taken) or [self._draw(rng)]

    def _improvement(
        self, measured: Sequence[Measured], candidates: list[Choice], rng: np.random.Generator
    ) -> np.ndarray:
        """Return (candidates,) expected improvement of a random weighting of the objectives."""
        from scipy.stats import norm
        from sklearn.ensemble import RandomForestRegressor

        values = _values(measured)
        span = np.maximum(np.ptp(values, axis=0), 1e-9)
        weighted = rng.dirichlet([1, 1]) * (values - values.min(axis=0)) / span
        single = weighted.max(axis=1) + 0.05 * weighted.sum(axis=1)
        places = self._space.places([one.choice for one in measured])
        forest = RandomForestRegressor(
            _TREES, max_features=0.5, random_state=int(rng.integers(1 << 31))
        ).fit(places, single)
        there = self._space.places(candidates)
        guessed = np.stack([tree.predict(there) for tree in forest.estimators_])
        mean, deviation = guessed.mean(axis=0), guessed.std(axis=0) + 1e-6
        away = (single.min() - mean) / deviation
        return deviation * (away * norm.cdf(away) + norm.pdf(away))

    def _log_prior(self, candidates: list[Choice]) -> np.ndarray:
        on = np.array([self._space.bits(one) for one in candidates])
        columns = np.where(on, np.log(self._chance), np.log1p(-self._chance)).sum(axis=1)
        depth = np.array([one.depth for one in candidates])
        return columns + np.log(1 - np.minimum((depth - 0.5) / self._space.depth_max, 0.999))


def _values(measured: Sequence[Measured]) -> np.ndarray:
    """Return (points, 2) float64, error and cost as CATO has them: not logarithmic."""
    return np.array([(one.error, one.cost) for one in measured])
