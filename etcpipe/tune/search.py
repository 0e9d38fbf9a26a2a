"""Which point to measure next: by surrogate models and expected hypervolume improvement.

It starts with all columns at the greatest depth, which shows the best F1 and its price, then with
all and with the most informative columns at the usual depth, then with sparse choices from the
prior. After that it measures the choice with the highest expected hypervolume improvement among the
neighbours of the front and many random choices. The weight of the prior decays.

A strategy is a function of the measurements; the baselines (tune.baselines, tune.cato) are others.
run() drives a strategy; tune.study stores a search in a file and shares it between processes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import log

import numpy as np

from etcpipe.tune.acquisition import expected_improvement, within
from etcpipe.tune.guess import Guess
from etcpipe.tune.hypervolume import on_front
from etcpipe.tune.priors import Prior
from etcpipe.tune.space import Choice

STARTS = 10
_USUAL_DEPTH = 10  # of etcpipe train
_FEW = 10  # the most informative columns, which are hard to beat
# Weight of the prior in the log of the expected improvement after the starts; it is halved when as
# many again were measured. Three times the weight is a little worse (docs/benchmarks/tune.md).
PRIOR_WEIGHT = 0.1
# Candidates: all choices of a space if there are no more, else so many random and changed ones.
_ALL_MAX = 4000
_SPARSE, _CHANGED, _CLIMBS = 400, 600, 3


@dataclass(frozen=True)
class Measured:
    """The measurement of a choice.

    Attributes:
        error: 1 - macro-F1.
        cost: the second objective, in its own unit, above 0.
        others: further costs by name, which may have limits.
    """

    choice: Choice
    error: float
    cost: float
    others: dict[str, float] = field(default_factory=dict)


Strategy = Callable[[Sequence[Measured], np.random.Generator], Choice]
Evaluate = Callable[[Choice], Measured]


@dataclass(frozen=True)
class Limits:
    """Limits that a useful point must keep; None: no limit.

    Attributes:
        error: at most.
        cost: at most, of the objective.
        others: at most, by name of Measured.others.
    """

    error: float | None = None
    cost: float | None = None
    others: dict[str, float] = field(default_factory=dict)

    def hold(self, one: Measured) -> bool:
        """Return whether a point keeps them all."""
        return (
            (self.error is None or one.error <= self.error)
            and (self.cost is None or one.cost <= self.cost)
            and all(one.others[name] <= limit for name, limit in self.others.items())
        )


def objectives(measured: Iterable[Measured]) -> np.ndarray:
    """Return (points, 2) float64, error and the logarithm of cost."""
    return np.array([(one.error, log(one.cost)) for one in measured], float).reshape(-1, 2)


def front_of(measured: Sequence[Measured], limits: Limits | None = None) -> list[Measured]:
    """Return the Pareto front, cheapest first.

    It includes the front of the points within the limits: a point with too long a latency, say,
    must not exclude a more expensive one without that fault.
    """
    kept = [one for one in measured if limits is None or limits.hold(one)]
    found: dict[Choice, Measured] = {}
    for some in (measured, kept):
        mask = on_front(objectives(some))
        found |= {one.choice: one for one, on in zip(some, mask, strict=True) if on}
    return sorted(found.values(), key=lambda one: one.cost)


def run(
    strategy: Strategy,
    evaluate: Evaluate,
    evaluations: int,
    seed: int,
) -> list[Measured]:
    """Run a strategy and return the measurements in order; no choice is measured twice.

    Stops early if the strategy repeats known choices for too long.
    """
    rng = np.random.default_rng(seed)
    measured: list[Measured] = []
    asked: list[Measured] = []
    known: dict[Choice, Measured] = {}
    while len(measured) < evaluations and len(asked) < 20 * evaluations:
        choice = strategy(asked, rng)
        if choice not in known:
            known[choice] = evaluate(choice)
            measured.append(known[choice])
        asked.append(known[choice])
    return measured


class FrontSearch:
    """The strategy of etcpipe tune.

    Args:
        starts: number of choices before the surrogates are used.
        prior_weight: 0 for no prior.
    """

    def __init__(
        self,
        prior: Prior,
        limits: Limits | None = None,
        starts: int = STARTS,
        prior_weight: float = PRIOR_WEIGHT,
    ) -> None:
        self._prior = prior
        self._space = prior.space
        self._limits = limits or Limits()
        self._starts = starts
        self._prior_weight = prior_weight
        usual = min(_USUAL_DEPTH, self._space.depth_max)
        everything = self._space.everything(usual)
        few = replace(everything, features=prior.top(_FEW))
        self._anchors = (self._space.everything(), everything, few)
        self._settings: dict[str, np.ndarray] = {}
        self._all = list(self._space.all_choices()) if self._space.size() <= _ALL_MAX else None

    def __call__(
        self,
        measured: Sequence[Measured],
        rng: np.random.Generator,
        pending: Sequence[Choice] = (),
    ) -> Choice:
        """Return the next choice, neither measured nor pending unless all are.

        Args:
            pending: choices that other processes are measuring.
        """
        measured = list({one.choice: one for one in measured}.values())
        taken = {one.choice for one in measured} | set(pending)
        if len(taken) >= self._space.size():
            return self._space.everything()
        for anchor in self._anchors:
            if anchor not in taken:
                return anchor
        if len(taken) < self._starts or len(measured) < 3:
            return self._new(self._prior.sparse, taken, rng)
        fitted = self._fit(measured, pending)
        best = self._best(self._candidates(measured, rng, taken), *fitted, len(taken))
        for _ in range(0 if self._all else _CLIMBS):
            around = [one for one in self._space.neighbours(best[0]) if one not in taken]
            better = self._best(around, *fitted, len(taken))
            if better[1] <= best[1]:
                break
            best = better
        return best[0]

    def _new(
        self, draw: Callable[[np.random.Generator], Choice], taken: set[Choice], rng
    ) -> Choice:
        choice = draw(rng)
        for _ in range(100):
            if choice not in taken:
                break
            choice = draw(rng)
        return choice

    def _candidates(
        self, measured: Sequence[Measured], rng: np.random.Generator, taken: set[Choice]
    ) -> list[Choice]:
        if self._all:
            return [one for one in self._all if one not in taken]
        front = [one.choice for one in front_of(measured, self._limits)]
        found = {near for one in front for near in self._space.neighbours(one)}
        changes = max(_CHANGED // len(front), 4)
        found |= {self._space.changed(one, rng) for one in front for _ in range(changes)}
        found |= {self._prior.sparse(rng) for _ in range(_SPARSE)}
        return sorted(found - taken)

    def _fit(
        self, measured: Sequence[Measured], pending: Sequence[Choice]
    ) -> tuple[Guess, np.ndarray, np.ndarray]:
        """Return a guess, the objectives of the measured points, and the reference point."""
        values = objectives(measured)
        columns = {"error": values[:, 0], "cost": values[:, 1]}
        for name in self._limits.others:
            columns[name] = np.log([one.others[name] for one in measured])
        guess = Guess(self._prior, [one.choice for one in measured], columns, self._settings)
        self._settings = guess.settings
        reference = self._reference(values)
        values = objectives(one for one in measured if self._limits.hold(one))
        if pending:  # as if they gave their expected values: others explore elsewhere
            waiting = guess.of(pending)
            guessed = [waiting[name][0] for name in ("error", "cost")]
            values = np.concatenate([values, np.stack(guessed, axis=1)])
        return guess, values, reference

    def _reference(self, values: np.ndarray) -> np.ndarray:
        """Return the reference point: a tenth beyond the worst value, or the limit."""
        reference = values.max(axis=0) + 0.1 * np.ptp(values, axis=0)
        if self._limits.error is not None:
            reference[0] = min(reference[0], self._limits.error + 1e-9)
        if self._limits.cost is not None:
            reference[1] = min(reference[1], log(self._limits.cost) + 1e-9)
        return reference

    def _best(
        self,
        candidates: list[Choice],
        guess: Guess,
        values: np.ndarray,
        reference: np.ndarray,
        evaluations: int,
    ) -> tuple[Choice, float]:
        """Return the candidate with the highest acquisition value, and its logarithm."""
        if not candidates:
            return self._space.everything(), -np.inf
        guessed = guess.of(candidates)
        means, deviations = (
            np.stack([guessed[name][i] for name in ("error", "cost")], axis=1) for i in (0, 1)
        )
        expected = expected_improvement(means, deviations, values, reference)
        promise = np.log(np.maximum(expected, 0) + 1e-300)
        for name, limit in self._limits.others.items():
            promise += np.log(within(log(limit), *guessed[name]) + 1e-300)
        if self._prior_weight:
            decay = self._prior_weight * self._starts / evaluations
            promise += decay * self._prior.log_weight(candidates)
        best = int(promise.argmax())
        return candidates[best], float(promise[best])
