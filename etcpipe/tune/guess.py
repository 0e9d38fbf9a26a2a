"""What choices would give, guessed from those that were measured and from what columns tell."""

from collections.abc import Mapping, Sequence

import numpy as np

from etcpipe.tune.priors import Prior
from etcpipe.tune.space import Choice
from etcpipe.tune.surrogate import Blend, Surrogate

_ALIKE_MAX = 100  # a process takes the cube of their number
_SURE = 1e-6  # standard deviation of an error that is known


class Guess:
    """A surrogate of the error and one of each cost.

    Where the prior knows what columns tell at a depth, the guess of the error sees it too, and a
    choice that tells the same as a measured one has its error. How smooth the error is, is fitted
    to the measured alone: of those that need no measurement there may be as many of one value.

    Args:
        choices: that were measured.
        values: (choices,) float64 each; "error", and costs as logarithms by their names.
        settings: of an earlier guess to begin with.

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
        """Return mean and standard deviation of each value of choices, by its name."""
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

        Of each that was measured the least and the most that tell the same: they teach a guess
        that columns add nothing at a depth.
        """
        if not self._told:
            return []
        found = {one for least in self._known for one in (least, self._told.most(least))}
        return sorted(found - measured)[:_ALIKE_MAX]
