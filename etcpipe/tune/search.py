"""Where to measure next: a surrogate of each objective, and what a place would add to the front.

It begins with everything at the greatest depth, which says what the data give at most and at
what price, and at the usual depth, with all columns and with the few that tell most; then with
sparse choices by the prior. Then every next choice is the one that is expected to add most to the
area that the front covers, among the neighbours of the front and many others; the prior leans on
that less and less.

A strategy is a function of what was measured; the baselines (tune.baselines, tune.cato) are
others. run() drives one, tune.study keeps one in a file and shares it between processes.
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
_FEW = 10  # columns of the most information, which are hard to beat
# Of the prior in the logarithm of what is expected, at the end of the starts; halved when as much
# again was measured. A prior three times as heavy loses a little (docs/benchmarks/tune.md).
PRIOR_WEIGHT = 0.1
# All choices of a space are looked at if there are no more; else so many at random and by change.
_ALL_MAX = 4000
_SPARSE, _CHANGED, _CLIMBS = 400, 600, 3


@dataclass(frozen=True)
class Measured:
    """What a choice gave.

    Attributes:
        error: 1 - macro-F1.
        cost: of the objective beside it, in its own unit, above 0.
        others: further costs, by name, that may have limits.
    """

    choice: Choice
    error: float
    cost: float
    others: dict[str, float] = field(default_factory=dict)


Strategy = Callable[[Sequence[Measured], np.random.Generator], Choice]
Evaluate = Callable[[Choice], Measured]


@dataclass(frozen=True)
class Limits:
    """What a point must keep to be of use; None: no limit.

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
    """Return the points that no other beats, cheapest first.

    And of the points that keep limits those that no other of them beats: a point that has too
    long a latency, say, is no reason to leave out a dearer one that has not.
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
    """Return what was measured, in order; a choice that comes again is not measured again.

    Stops early if a strategy comes up with nothing new for long.
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
        starts: choices before the surrogates are asked.
        prior_weight: 0 for none.
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
            pending: choices that other processes measure now.
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
        """Return a guess, the values that the front is of, and what is worse than all wanted."""
        values = objectives(measured)
        columns = {"error": values[:, 0], "cost": values[:, 1]}
        for name in self._limits.others:
            columns[name] = np.log([one.others[name] for one in measured])
        guess = Guess(self._prior, [one.choice for one in measured], columns, self._settings)
        self._settings = guess.settings
        reference = self._reference(values)
        values = objectives(one for one in measured if self._limits.hold(one))
        if pending:  # as if they gave what is expected, so that nobody measures beside them
            waiting = guess.of(pending)
            guessed = [waiting[name][0] for name in ("error", "cost")]
            values = np.concatenate([values, np.stack(guessed, axis=1)])
        return guess, values, reference

    def _reference(self, values: np.ndarray) -> np.ndarray:
        """Return what is worse than all that is wanted: a tenth beyond the worst, or the limit."""
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
        """Return the most promising candidate and the logarithm of its promise."""
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
