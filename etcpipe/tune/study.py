"""A search in a folder, in Optuna's journal; several processes may add measurements.

The journal survives Ctrl-C and kill -9: all measurements are kept, and --resume continues. The next
choice comes from tune.search, which knows what all processes have measured and are measuring.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from etcpipe.errors import OutputError, UsageError
from etcpipe.tune.baselines import parameters_of, suggest
from etcpipe.tune.front import JOURNAL
from etcpipe.tune.search import Evaluate, FrontSearch, Measured, objectives
from etcpipe.tune.space import Choice, Space

_NAME = "tune"

OnMeasured = Callable[[Sequence[Measured]], None]


@dataclass(frozen=True)
class Budget:
    """When a search ends; if both are set, whichever comes first.

    Attributes:
        evaluations: of the study in total, including those before --resume.
        seconds: from now on.
    """

    evaluations: int | None = None
    seconds: float | None = None


class Study:
    """The measured points of a folder, for one of the processes that measure them.

    Raises:
        OutputError: the folder cannot be written.
        UsageError: the journal is damaged.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        self._space = space
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self._study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                directions=["minimize", "minimize"],
                load_if_exists=True,
            )
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:  # what Optuna raises for damaged lines
            raise UsageError(f"{folder / JOURNAL} is damaged: give another folder") from error

    @classmethod
    def begin(cls, folder: Path, space: Space, about: dict[str, Any], resume: bool) -> "Study":
        """Return a new or resumed study, as the first of its processes.

        Args:
            about: what is measured; a study of something else cannot be resumed.
            resume: continue an existing study.

        Raises:
            UsageError: a study exists and resume is False, or it is of something else.
            OutputError: the folder cannot be written.
        """
        if (folder / JOURNAL).exists() and not resume:
            raise UsageError(f"{folder} has a search: go on with --resume, or give another folder")
        study = cls(folder, space)
        study._check(folder, about)
        study._forget_running()
        return study

    def measured(self) -> list[Measured]:
        """Return the points, in the order in which they were finished."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done = sorted(trials, key=lambda one: str(one.datetime_complete))
        return [_measured(one, self._space) for one in done]

    def search(
        self,
        strategy: FrontSearch,
        evaluate: Evaluate,
        budget: Budget,
        seed: int,
        on_measured: OnMeasured = lambda measured: None,
        until: float | None = None,
    ) -> None:
        """Measure choices until the budget is spent; on Ctrl-C, what was measured is kept.

        Args:
            until: time.time() at which it ends, None for budget.seconds from now.
        """
        if until is None and budget.seconds is not None:
            until = time.time() + budget.seconds
        self._study.sampler = _Sampler(strategy, self._space, seed)
        while not self._is_spent(budget, until):
            trial = self._study.ask()
            try:
                one = evaluate(suggest(trial, self._space))
            except BaseException:
                self._study.tell(trial, state=TrialState.FAIL)
                raise
            trial.set_user_attr("cost", one.cost)
            trial.set_user_attr("others", one.others)
            self._study.tell(trial, objectives([one])[0].tolist())
            on_measured(self.measured())

    def _is_spent(self, budget: Budget, until: float | None) -> bool:
        if until is not None and time.time() >= until:
            return True
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        done = len(self._study.get_trials(deepcopy=False, states=states))
        return budget.evaluations is not None and done >= budget.evaluations

    def _forget_running(self) -> None:
        """Mark trials of killed processes as failed."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _check(self, folder: Path, about: dict[str, Any]) -> None:
        text = json.dumps(about, sort_keys=True)
        known = self._study.user_attrs.get("about")
        if known is None:
            self._study.set_user_attr("about", text)
        elif known != text:
            before = json.loads(known)
            other = [name for name, value in about.items() if before.get(name) != value]
            raise UsageError(
                f"{folder} has a search with another {', '.join(other) or 'space'}: "
                "give the same as before, or another folder"
            )


class _Sampler(BaseSampler):
    """Passes the choices of tune.search to Optuna."""

    def __init__(self, strategy: FrontSearch, space: Space, seed: int) -> None:
        self._strategy, self._space = strategy, space
        self._rng = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        pending = [
            _choice(one, self._space) for one in running if len(one.params) == len(search_space)
        ]
        measured = [_measured(one, self._space) for one in done]
        return parameters_of(self._strategy(measured, self._rng, pending), self._space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise NotImplementedError("every parameter comes from sample_relative()")


def distributions(space: Space) -> dict[str, IntDistribution]:
    """Return the parameters of Optuna's trials, as baselines.suggest() asks for them."""
    found = {name: IntDistribution(0, 1) for name in space.columns}
    found["depth"] = IntDistribution(1, space.depth_max, log=True)
    found["model"] = IntDistribution(0, len(space.models) - 1)
    return found | {"wait": IntDistribution(0, len(space.waits_s) - 1)}


def _choice(trial: FrozenTrial, space: Space) -> Choice:
    on = np.array([trial.params[name] for name in space.columns], bool)
    return space.choice(on, *(trial.params[name] for name in ("depth", "model", "wait")))


def _measured(trial: FrozenTrial, space: Space) -> Measured:
    attributes = trial.user_attrs
    assert trial.values is not None
    return Measured(
        _choice(trial, space), trial.values[0], attributes["cost"], attributes["others"]
    )


@dataclass(frozen=True)
class Work:
    """What another process needs to take part in a search; it is pickled.

    Attributes:
        evaluator: makes the evaluator, once in each process.
        until: time.time() at which the search ends; None if evaluations alone end it.
    """

    folder: Path
    strategy: FrontSearch
    evaluator: Callable[[], Evaluate]
    budget: Budget
    space: Space
    until: float | None


def search_together(
    study: Study,
    evaluate: Evaluate,
    work: Work,
    jobs: int,
    seed: int,
    on_measured: OnMeasured = lambda measured: None,
) -> None:
    """Search with this process and jobs - 1 others; they end when this one is interrupted."""
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_take_part, args=(work, seed + i), daemon=True)
        for i in range(1, jobs)
    ]
    for one in others:
        one.start()
    try:
        study.search(work.strategy, evaluate, work.budget, seed, on_measured, work.until)
        for one in others:
            one.join()
    finally:
        for one in others:
            one.terminate()
            one.join()


@threadpool_limits.wrap(limits=1)
def _take_part(work: Work, seed: int) -> None:
    """Search in a process of its own; a trial that is cut off does not count."""
    study = Study(work.folder, work.space)
    try:
        study.search(work.strategy, work.evaluator(), work.budget, seed, until=work.until)
    except KeyboardInterrupt:
        pass
