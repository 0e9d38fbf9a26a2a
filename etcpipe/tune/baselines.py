"""Baselines: random search, annealing, NSGA-II, TPE; and columns chosen by a rule.

Strategies have the interface of tune.search. Optuna's samplers are asked for one choice at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from etcpipe import runtime
from etcpipe.errors import UnsupportedError
from etcpipe.tune.priors import Prior
from etcpipe.tune.search import Measured, Strategy, objectives
from etcpipe.tune.space import Choice, Space

# Settings of simulated annealing in CATO's artefact (simulated_annealing.py).
_COOLING, _COLDEST = 0.99, 1e-3
_STEP_MAX = 10  # packets; single steps would hardly get anywhere


def random(prior: Prior) -> Strategy:
    """Return a strategy of random choices."""
    return lambda measured, rng: prior.uniform(rng)


class Annealing:
    """Simulated annealing; the weights of the two objectives are drawn for each step.

    A neighbour adds, removes or replaces a column, or has another depth or model. It is accepted
    if it is better, and otherwise with a probability that falls with the temperature.

    Source: CATO's artefact, simulated_annealing.py: cooling 0.99, 1e-3 at the coldest; the
    length of a step in depth is ours.
    """

    def __init__(self, prior: Prior, cost_max: float) -> None:
        self._prior, self._cost_max = prior, cost_max
        self._here: Measured | None = None
        self._temperature = 1.0

    def __call__(self, measured: Sequence[Measured], rng: np.random.Generator) -> Choice:
        if not measured:
            return self._prior.uniform(rng)
        self._step(measured[-1], rng)
        assert self._here is not None
        return self._neighbour(self._here.choice, rng)

    def _step(self, there: Measured, rng: np.random.Generator) -> None:
        weight = rng.random()
        if self._here is None:
            self._here = there
        worse = self._energy(there, weight) - self._energy(self._here, weight)
        if worse <= 0 or rng.random() < np.exp(-worse / self._temperature):
            self._here = there
        self._temperature = max(self._temperature * _COOLING, _COLDEST)

    def _energy(self, one: Measured, weight: float) -> float:
        return weight * one.error + (1 - weight) * one.cost / self._cost_max

    def _neighbour(self, choice: Choice, rng: np.random.Generator) -> Choice:
        space = self._prior.space
        on = space.bits(choice)
        depth, model, wait = choice.depth, choice.model, choice.wait
        kind = rng.integers(3 + (len(space.models) > 1) + (len(space.waits_s) > 1))
        if kind == 2:
            step = int(rng.integers(1, _STEP_MAX + 1)) * int(rng.choice([-1, 1]))
            return space.choice(on, depth + step, model, wait)
        if kind == 3 and len(space.models) > 1:
            return space.choice(on, depth, model + int(rng.choice([-1, 1])), wait)
        if kind > 2:
            return space.choice(on, depth, model, wait + int(rng.choice([-1, 1])))
        i = int(rng.integers(len(on)))
        on[i] = not on[i]
        others = np.flatnonzero(on)[np.flatnonzero(on) != i]
        if kind == 1 and on[i] and len(others):  # replaced: another one goes
            on[rng.choice(others)] = False
        if not on.any():
            on[i] = True
        return space.choice(on, depth, model, wait)


class OfOptuna:
    """An Optuna sampler as a strategy; columns are integers 0 or 1.

    Args:
        sampler: makes the sampler from a seed.
        starts: first choices, instead of the sampler's own.

    Raises:
        UnsupportedError: Optuna, or what the sampler needs, is not installed.
    """

    def __init__(
        self,
        space: Space,
        sampler: Callable[[Any, int], Any],
        starts: Callable[[np.random.Generator], list[Choice]] | None = None,
    ) -> None:
        self._space, self._sampler, self._starts = space, sampler, starts
        self._study: Any = None
        self._trial: Any = None

    def __call__(self, measured: Sequence[Measured], rng: np.random.Generator) -> Choice:
        if self._study is None:
            self._begin(rng)
        if self._trial is not None:
            self._study.tell(self._trial, objectives(measured[-1:])[0].tolist())
        while True:
            self._trial = self._study.ask()
            choice = suggest(self._trial, self._space)
            if choice.features:
                return choice
            self._study.tell(self._trial, [1.0, float(objectives(measured)[:, 1].max(initial=0))])

    def _begin(self, rng: np.random.Generator) -> None:
        optuna = import_optuna()
        sampler = self._sampler(optuna.samplers, int(rng.integers(1 << 31)))
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        for choice in self._starts(rng) if self._starts else ():
            self._study.enqueue_trial(parameters_of(choice, self._space))


def nsga2(space: Space, population: int = 10) -> Strategy:
    """Return NSGA-II; its population is small, for searches of some fifty evaluations."""
    return OfOptuna(
        space, lambda samplers, seed: samplers.NSGAIISampler(seed=seed, population_size=population)
    )


def tpe(prior: Prior, starts: int = 10) -> Strategy:
    """Return multivariate TPE; half of the starts are sparse, half are uniform."""

    def begin(rng: np.random.Generator) -> list[Choice]:
        draws = [prior.sparse, prior.uniform]
        return [draws[i % 2](rng) for i in range(starts)]

    return OfOptuna(
        prior.space,
        lambda samplers, seed: samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=starts
        ),
        begin,
    )


def gp_of_optuna(prior: Prior, starts: int = 10) -> Strategy:
    """Return Optuna's GPSampler with sparse starts; it needs PyTorch."""
    return OfOptuna(
        prior.space,
        lambda samplers, seed: samplers.GPSampler(seed=seed, n_startup_trials=starts),
        lambda rng: [prior.sparse(rng) for _ in range(starts)],
    )


def import_optuna() -> Any:
    """Return the module, quiet.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"the search needs Optuna: {runtime.remedy_for('tune')}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def suggest(trial: Any, space: Space) -> Choice:
    """Return the choice of an Optuna trial; it may have no column."""
    on = np.array([trial.suggest_int(name, 0, 1) for name in space.columns], bool)
    depth = trial.suggest_int("depth", 1, space.depth_max, log=True)
    model = trial.suggest_int("model", 0, len(space.models) - 1)
    return space.choice(on, depth, model, trial.suggest_int("wait", 0, len(space.waits_s) - 1))


def parameters_of(choice: Choice, space: Space) -> dict[str, int]:
    """Return the parameters of an Optuna trial for a choice."""
    on = space.bits(choice)
    columns = {name: int(bit) for name, bit in zip(space.columns, on, strict=True)}
    return columns | {"depth": choice.depth, "model": choice.model, "wait": choice.wait}


def by_elimination(rows: np.ndarray, label: np.ndarray, number: int, seed: int) -> tuple[int, ...]:
    """Return the columns that recursive elimination leaves; ten of them are CATO's RFE10.

    Source: Guyon et al., Machine Learning 46, 2002; a decision tree ranks the columns.
    """
    from sklearn.feature_selection import RFE
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=15, random_state=seed)
    chosen = RFE(tree, n_features_to_select=min(number, rows.shape[1])).fit(rows, label)
    return tuple(np.flatnonzero(chosen.support_).tolist())
