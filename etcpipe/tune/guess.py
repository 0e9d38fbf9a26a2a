"""Predicts error and cost of choices from measured ones and from what columns tell."""

from collections.abc import Mapping, Sequence

import numpy as np

from etcpipe.tune.priors import Prior
from etcpipe.tune.space import Choice
from etcpipe.tune.surrogate import Blend, Surrogate

_ALIKE_MAX = 100  # fitting a Gaussian process takes the cube of their number
_SURE = 1e-6  # standard deviation of an error that is known


class Guess:
    """A surrogate of the error and one of each cost.

    If the prior knows what columns tell at a depth, this is an input for predicting the error, and
    a choice that tells the same as a measured one gets the same error. The smoothness of the error
    is fitted to measured choices alone, since the others may contain many equal values.

    Args:
        choices: that were measured.
        values: (choices,) float64 by name: "error", and the logarithms of costs.
        settings: of an earlier guess, as a start.

    Attributes:
        settings: of the surrogates, by name.
    """

    def __init__(
        self,
        prior: Prior,
        choices: list[Choice],
        values: Mapping[str, np.ndarray],
        settings: Mapping[str, np.ndarray],
    ) -> None:
        self._space, self._told = prior.space, prior.told
        errors = values["error"]
        self._known = {
            self._least(one): error for one, error in zip(choices, errors.tolist(), strict=True)
        }
        blend = Blend(self._places("error", choices), errors, settings.get("error"))
        if alike := self._alike(set(choices)):
            same = np.array([self._known[self._least(one)] for one in alike])
            blend.know(self._places("error", alike), same)
        self._surrogates: dict[str, Surrogate | Blend] = {"error": blend}
        for name in values.keys() - {"error"}:
            places = self._places(name, choices)
            self._surrogates[name] = Surrogate(places, values[name], settings.get(name))
        self.settings = {name: one.settings for name, one in self._surrogates.items()}

    def of(self, choices: Sequence[Choice]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return mean and standard deviation of each value for choices, by name."""
        found = {
            name: one.predict(self._places(name, choices)) for name, one in self._surrogates.items()
        }
        if self._told:
            mean, deviation = found["error"]
            for i, one in enumerate(choices):
                error = self._known.get(self._least(one))
                if error is not None:
                    mean[i], deviation[i] = error, _SURE
        return found

    def _places(self, name: str, choices: Sequence[Choice]) -> np.ndarray:
        places = self._space.places(choices)
        if self._told and name == "error":
            return np.hstack([places, self._told.places(choices)])
        return places

    def _least(self, choice: Choice) -> Choice:
        return self._told.least(choice) if self._told else choice

    def _alike(self, measured: set[Choice]) -> list[Choice]:
        """Return choices that need no measurement.

        For each measured choice, the smallest and the largest choice that tell the same. They
        show that some columns add nothing at a depth.
        """
        if not self._told:
            return []
        found = {one for least in self._known for one in (least, self._told.most(least))}
        return sorted(found - measured)[:_ALIKE_MAX]
