"""Predicts measurements from earlier ones by a Gaussian process.

Columns are on or off and the effect of depth flattens, so one length scale for each dimension says
how much it matters. NumPy and SciPy suffice for some hundred points. If steps are to be expected, a
random forest is mixed in.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

_SQRT5 = np.sqrt(5.0)
_JITTER = 1e-8
# Priors of log noise variance (targets have variance 1) and of log amplitude.
_NOISE_PRIOR = (-5.0, 1.5)
_AMPLITUDE_PRIOR = (0.0, 1.0)
_STEPS = 40
_TREES = 40
_SPREAD_LEAST = 0.02  # of the trees' guesses, in the values' own


class Surrogate:
    """A Gaussian process with a Matern 5/2 kernel and one length scale for each dimension.

    Length scales have a log-normal prior whose mean grows with the square root of the number of
    dimensions, which avoids overfitting in many dimensions.

    Source: Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions,
    ICML 2024; Rasmussen and Williams, Gaussian Processes for Machine Learning, algorithm 2.1.
    """

    def __init__(
        self, places: np.ndarray, values: np.ndarray, start: np.ndarray | None = None
    ) -> None:
        """Fit the process.

        Args:
            places: (points, dimensions) float, each dimension within 0 .. 1.
            values: (points,) float.
            start: settings of an earlier fit, as a start.
        """
        self._mean, spread = values.mean(), values.std()
        self._spread = spread if spread > 0 else 1.0
        self._give(places, (values - self._mean) / self._spread)
        dimensions = places.shape[1]
        self._length_prior = (np.sqrt(2) + np.log(dimensions) / 2, np.sqrt(3))
        if start is None:
            start = np.concatenate([np.full(dimensions, self._length_prior[0] - 1), [-5.0, 0.0]])
        bounds = [(-4.0, 6.0)] * dimensions + [(-12.0, 1.0), (-3.0, 4.0)]
        found = minimize(
            self._loss,
            start,
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"maxiter": _STEPS},
        )
        self.settings = found.x
        self._solve()

    def know(self, places: np.ndarray, values: np.ndarray) -> None:
        """Condition on further values without fitting the settings again."""
        targets = (values - self._mean) / self._spread
        self._give(np.vstack([self._places, places]), np.append(self._targets, targets))
        self._solve()

    def predict(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the value without noise, (places,) each."""
        lengths, amplitude = np.exp(self.settings[:-2]), np.exp(self.settings[-1])
        across = amplitude * _matern(_distances(places / lengths, self._places / lengths))
        mean = across @ self._weights
        explained = solve_triangular(self._factor, across.T, lower=True, check_finite=False)
        variance = np.maximum(amplitude - (explained**2).sum(axis=0), 1e-12)
        return mean * self._spread + self._mean, np.sqrt(variance) * self._spread

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the leave-one-out errors, (points,), and their expected standard deviations.

        The settings are not fitted again.

        Source: Rasmussen and Williams, equation 5.12.
        """
        inverse = np.diagonal(cho_solve((self._factor, True), np.eye(len(self._factor))))
        return self._weights / inverse * self._spread, self._spread / np.sqrt(inverse)

    def _give(self, places: np.ndarray, targets: np.ndarray) -> None:
        self._places, self._targets = places, targets
        self._squares = (places[:, None, :] - places[None, :, :]) ** 2

    def _solve(self) -> None:
        kernel, _ = self._kernel(self.settings)
        self._factor = np.linalg.cholesky(kernel)
        self._weights = cho_solve((self._factor, True), self._targets)

    def _kernel(self, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the covariance of the points, and their scaled distances."""
        scale = np.exp(-2 * settings[:-2])
        distance = np.sqrt(np.maximum(self._squares @ scale, 0))
        kernel = np.exp(settings[-1]) * _matern(distance)
        kernel[np.diag_indices_from(kernel)] += np.exp(settings[-2]) + _JITTER
        return kernel, distance

    def _loss(self, settings: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of settings, and its gradient."""
        kernel, distance = self._kernel(settings)
        try:
            factor = cho_factor(kernel, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(settings)
        weights = cho_solve(factor, self._targets, check_finite=False)
        inverse = cho_solve(factor, np.eye(len(kernel)), check_finite=False)
        outer = inverse - np.outer(weights, weights)
        amplitude, noise = np.exp(settings[-1]), np.exp(settings[-2])
        slope = amplitude * 5 / 3 * (1 + _SQRT5 * distance) * np.exp(-_SQRT5 * distance)
        by_length = np.tensordot(outer * slope, self._squares, axes=2) * np.exp(-2 * settings[:-2])
        smooth = kernel - (noise + _JITTER) * np.eye(len(kernel))
        gradient = 0.5 * np.concatenate(
            [by_length, [noise * np.trace(outer)], [(outer * smooth).sum()]]
        )
        loss = 0.5 * self._targets @ weights + np.log(np.diagonal(factor[0])).sum()
        priors = [*[self._length_prior] * len(by_length), _NOISE_PRIOR, _AMPLITUDE_PRIOR]
        middle, width = np.array(priors).T
        away = (settings - middle) / width
        return float(loss + 0.5 * (away**2).sum()), gradient + away / width


class Blend:
    """A mixture of a Gaussian process and a random forest, for values that may have steps.

    The error jumps when an informative column or packet is added; a Gaussian process alone then
    overfits to few points and is overconfident. The weight of each follows from the likelihood
    that it gives to values that were left out, so for smooth values the process soon has all.

    Source: Yao et al., Using Stacking to Average Bayesian Predictive Distributions, Bayesian
    Analysis 13, 2018 (pseudo-BMA).
    """

    def __init__(
        self, places: np.ndarray, values: np.ndarray, start: np.ndarray | None = None
    ) -> None:
        """Fit both; arguments as of Surrogate."""
        from sklearn.ensemble import RandomForestRegressor

        self._process = Surrogate(places, values, start)
        self.settings = self._process.settings
        self._least = _SPREAD_LEAST * (values.std() or 1.0)
        forest = RandomForestRegressor(
            _TREES, max_features=0.5, random_state=0, oob_score=True
        ).fit(places, values)
        self._trees = [one.tree_ for one in forest.estimators_]
        missed = values - forest.oob_prediction_
        deviation = max(float(np.sqrt((missed**2).mean())), self._least)
        ahead = _log_density(missed, deviation) - _log_density(*self._process.left_out())
        self._share = expit(ahead.sum())  # of the forest

    def know(self, places: np.ndarray, values: np.ndarray) -> None:
        """Condition the process on further values; the forest and the weights stay the same.

        Many equal values would make the process overconfident.
        """
        self._process.know(places, values)

    def predict(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the mixture, (places,) each."""
        mean, deviation = self._process.predict(places)
        there = places.astype(np.float32)  # trees compare these; their own predict() would check it
        guessed = np.stack([tree.predict(there).ravel() for tree in self._trees])
        apart = guessed.mean(axis=0) - mean
        spread = np.maximum(guessed.std(axis=0), self._least)
        share = self._share
        variance = (1 - share) * deviation**2 + share * spread**2 + share * (1 - share) * apart**2
        return mean + share * apart, np.sqrt(variance)


def _log_density(missed: np.ndarray, deviation: np.ndarray | float) -> np.ndarray:
    """Return (points,), the log density of a Gaussian up to a constant."""
    return -0.5 * (missed / deviation) ** 2 - np.log(deviation)


def _matern(distance: np.ndarray) -> np.ndarray:
    scaled = _SQRT5 * distance
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0))
