"""Evaluates choices: macro-F1 on held-out captures, and measured cost.

Captures are divided into folds. One fold is put aside for the end, so that the scores of the front
come from flows that no step of the search has seen. The others are judged in turn by fits to the
rest.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.gpu.inference import Runner, open_runner
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model_file import Description
from etcpipe.training.family_choice import of_labels
from etcpipe.training.held_out import deal_folds
from etcpipe.training.train import made_at
from etcpipe.tune import models
from etcpipe.tune.cost import Cost, Profiler
from etcpipe.tune.data import LabelledFlows
from etcpipe.tune.search import Measured
from etcpipe.tune.space import Choice, Space

FOLDS = 4
_GROUPS_MIN = 3  # least number of captures of a class
_TEST_FOLD = 0
# Fields of Cost that can be the objective or have a limit.
COSTS = ("cpu_ns", "latency_s")


@dataclass(frozen=True)
class Parts:
    """How the flows are divided.

    Attributes:
        fold: (flows,) int; fold 0 is judged at the end.
        split: what is never in two folds, a name of dataset.SPLITS.
    """

    fold: np.ndarray
    split: str

    @property
    def is_test(self) -> np.ndarray:
        return self.fold == _TEST_FOLD

    @property
    def folds(self) -> range:
        """The folds that the search judges in turn."""
        return range(1, int(self.fold.max()) + 1)

    def of(self, before: LabelledFlows, again: LabelledFlows) -> "Parts":
        """Return the same division for the same captures, read in another way."""
        names = _names(before, self.split)
        fold = dict(zip(names, self.fold.tolist(), strict=True))
        dealt = [fold.get(name, _TEST_FOLD) for name in _names(again, self.split)]
        return Parts(np.array(dealt), self.split)


def _names(flows: LabelledFlows, split: str) -> list[Any]:
    """Return what determines a flow's fold, however captures are read."""
    dataset = flows.dataset
    if split == "capture":
        return [dataset.captures[i] for i in dataset.capture]
    return dataset.groups(split).tolist()


def divide(flows: LabelledFlows, seed: int, split: str = "capture") -> Parts:
    """Divide flows into a fold for the end and folds for the search.

    Raises:
        UsageError: one class, a class in fewer than three captures, or no such split.
    """
    if split == "time":
        raise UsageError("a search does not split by time: choose capture or host")
    fold = deal_folds(flows.dataset, FOLDS, seed, split)
    if rare := rare_classes(flows, split):
        raise UsageError(
            f"class {rare[0]} is in two {split}s only, a search needs {_GROUPS_MIN}: to fit, to "
            "choose, to judge; record it again, or leave such classes out with --skip-rare"
        )
    return Parts(fold, split)


def rare_classes(flows: LabelledFlows, split: str = "capture") -> list[str]:
    """Return the classes that are in too few captures (or hosts) to be divided."""
    dataset = flows.dataset
    group = dataset.groups(split)
    return [
        name
        for i, name in enumerate(dataset.classes)
        if len(np.unique(group[dataset.label == i])) < _GROUPS_MIN
    ]


@dataclass(frozen=True)
class Score:
    """Macro-F1 with its 95 % interval by captures."""

    f1: float
    low: float
    high: float


@dataclass
class Evaluator:
    """Measures choices; the same choice gives the same F1.

    Attributes:
        objective: the cost to be minimised, a name of COSTS.
        has_throughput: measure zero-loss throughput of points at the end, ten seconds each.
        disturbed: number of costs that were measured while the machine was too busy.
    """

    flows: LabelledFlows
    space: Space
    parts: Parts
    profiler: Profiler
    objective: str = "cpu_ns"
    mask: str = "strict"
    seed: int = 1
    has_throughput: bool = False
    disturbed: int = field(default=0, init=False)
    _seen: dict[Choice, models.Fitted] = field(default_factory=dict, init=False, repr=False)
    _runners: dict[Choice, Runner] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, choice: Choice) -> Measured:
        """Measure a choice: error over the folds, and the cost of the last fold's fit."""
        error, fitted = self.error(choice)
        cost = self.cost(choice, self._runner(choice, fitted), keep=True)
        return self.measured(choice, error, cost)

    def measured(self, choice: Choice, error: float, cost: Cost) -> Measured:
        """Return a choice with its error and cost."""
        others = {name: getattr(cost, name) for name in (*COSTS, "cpu_ns_mad")}
        return Measured(choice, error, others[self.objective], others)

    def error(self, choice: Choice) -> tuple[float, models.Fitted]:
        """Return 1 - macro-F1 of the folds, judged in turn, and the last fit."""
        rows, label, parts = self.rows(choice), self.flows.dataset.label, self.parts
        said = np.zeros(len(label), np.int64)
        for fold in parts.folds:
            seen = (parts.fold != fold) & ~parts.is_test
            fitted = self.fit(choice, rows, seen)
            said[parts.fold == fold] = fitted.scores(rows[parts.fold == fold]).argmax(axis=1)
        there, classes = ~parts.is_test, len(self.flows.dataset.classes)
        confusion = evaluate.confusion_matrix(label[there], said[there], classes)
        return 1 - evaluate.macro_f1(confusion), fitted

    def rows(self, choice: Choice) -> np.ndarray:
        """Return the input of a choice's model for all flows."""
        names, wait_s = self.space.names(choice), self.space.wait_s(choice)
        return self.flows.rows(names, choice.depth, wait_s)

    def fit(self, choice: Choice, rows: np.ndarray, seen: np.ndarray) -> models.Fitted:
        """Return the model of a choice, fitted to some flows."""
        label, classes = self.flows.dataset.label, len(self.flows.dataset.classes)
        kind = self.space.models[choice.model]
        return models.fit(kind, rows[seen], label[seen], classes, self.seed)

    def fit_seen(self, choice: Choice) -> models.Fitted:
        """Return the model of a choice, fitted to all flows but those that were put aside."""
        if choice not in self._seen:
            self._seen[choice] = self.fit(choice, self.rows(choice), ~self.parts.is_test)
        return self._seen[choice]

    def runner_seen(self, choice: Choice) -> Runner:
        """Return a runner of the model of fit_seen()."""
        if choice not in self._runners:
            self._runners[choice] = self._runner(choice, self.fit_seen(choice))
        return self._runners[choice]

    def cost(self, choice: Choice, runner: Runner, keep: bool) -> Cost:
        """Return the cost of a choice.

        Args:
            runner: of the fitted model.
            keep: use the profiler's cache.
        """
        key = f"{self.space.models[choice.model]} seed {self.seed}" if keep else ""
        cost = self.profiler.measure(
            self.space.names(choice), choice.depth, runner, key, self.space.wait_s(choice)
        )
        self.disturbed += cost.is_disturbed
        return cost

    def flows_per_s(self, choice: Choice) -> float:
        """Return the zero-loss throughput of one core with the model of fit_seen()."""
        found = self.profiler.throughput(
            self.space.names(choice),
            choice.depth,
            self.runner_seen(choice),
            wait_s=self.space.wait_s(choice),
        )
        return found.flows_per_s

    def _runner(self, choice: Choice, fitted: models.Fitted) -> Runner:
        columns = self.space.names(choice)
        return open_runner(fitted.to_onnx(len(columns), self.describe(choice, "point")))

    def judge(self, choice: Choice) -> Score:
        """Return the score on the captures that were put aside, by a fit to all others."""
        is_test = self.parts.is_test
        said = self.fit_seen(choice).scores(self.rows(choice)[is_test]).argmax(axis=1)
        dataset = self.flows.dataset
        found = evaluate.score(
            dataset.label[is_test],
            said,
            dataset.groups(self.parts.split)[is_test],
            len(dataset.classes),
            self.seed,
        )
        return Score(found.macro_f1, found.low, found.high)

    def calibrate(self, choice: Choice) -> float:
        """Return the temperature of a choice's model, by the captures that were put aside."""
        is_test = self.parts.is_test
        scores = self.fit_seen(choice).scores(self.rows(choice)[is_test])
        return evaluate.fit_temperature(scores, self.flows.dataset.label[is_test])

    def describe(
        self,
        choice: Choice,
        name: str,
        temperature: float = 1.0,
        scores: dict[str, Any] | None = None,
    ) -> Description:
        """Return the description for the model file of a choice."""
        view, columns = VIEWS[self.flows.view], self.space.names(choice)
        settings, dataset = self.flows.settings, self.flows.dataset
        return Description(
            name=name,
            classes=dataset.classes,
            view=view.name,
            columns=columns,
            schema_hash=schema_hash(view, choice.depth, self.mask, columns),
            first_n=choice.depth,
            mask=self.mask,
            count=settings.count,
            wait_s=self.space.wait_s(choice),
            temperature=temperature,
            families=of_labels(dataset.classes),
            data=dataset.digest(),
            created=made_at(),
            scores=scores or {},
        )
