"""The interface of a kind of model in training, and its implementation for boosted trees."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from etcpipe.dataset import STATS, Dataset
from etcpipe.kernel.stage0_trees import CONSTANTS, is_compared
from etcpipe.model_file import Description
from etcpipe.training import trees

Tell = Callable[[str], None]


def tell_nobody(text: str) -> None:
    """Ignore the progress of a fit."""


class Fitted(Protocol):
    """A classifier fitted to rows.

    Attributes:
        rounds: number of training rounds.
    """

    rounds: int

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        ...


@dataclass(frozen=True)
class Lesson:
    """Rows to fit, and settings of the fit.

    Attributes:
        rows: (flows, ...) from the learner's rows().
        label: (flows,) int, 0 .. classes - 1.
        key: identifies the fit among those of one training.
        rounds: of training, None for as many as the kind allows.
        stop: (flows,) bool, rows for early stopping.
        tell: called with the progress of the fit.
    """

    rows: np.ndarray
    label: np.ndarray
    classes: int
    key: str
    rounds: int | None = None
    stop: np.ndarray | None = None
    tell: Tell = tell_nobody


class Learner(ABC):
    """Fits classifiers of one kind.

    Attributes:
        view: name of its view.
        columns: of that view; empty for a view without columns.
        left_out: number of fits for judging unknown classes; None: one for each class.
        batch: rows of one call when its speed is measured.
        agreement: least share of flows on which the file must agree with the fit.
    """

    view: str
    columns: tuple[str, ...] = ()
    # One fit for each class would take longer than everything else.
    left_out: int | None = 3
    batch = 1024
    agreement = 1.0

    def rows(self, dataset: Dataset) -> np.ndarray:
        """Return (flows, ...), its input."""
        return dataset.rows(self.view)

    def fit(
        self,
        rows: np.ndarray,
        label: np.ndarray,
        classes: int,
        key: str,
        rounds: int | None = None,
        stop: np.ndarray | None = None,
        tell: Tell = tell_nobody,
    ) -> Any:
        """Return a Fitted; the arguments are those of a Lesson."""
        return self.learn(Lesson(rows, label, classes, key, rounds, stop, tell))

    @abstractmethod
    def learn(self, lesson: Lesson) -> Any:
        """Return a Fitted."""

    @abstractmethod
    def facts(self, fitted: Any, rows: np.ndarray) -> dict[str, Any]:
        """Return facts for the report about the final model, which was fitted to these rows."""

    def embed(self, fitted: Any, rows: np.ndarray) -> np.ndarray | None:
        """Return (flows, width) float, the embedding from which a fit computes scores.

        None for models without an embedding.
        """
        return None

    @abstractmethod
    def export(self, fitted: Any, description: Description) -> bytes:
        """Return the contents of a model file."""

    def export_for_gpu(self, fitted: Any, description: Description) -> bytes | None:
        """Return another model file of the same model, if GPUs need another graph."""
        return None


class TreeLearner(Learner):
    """Gradient boosted trees on the statistics that a mask leaves."""

    view = STATS.name
    left_out = None
    size = trees.USUAL

    def __init__(self, mask: str, seed: int) -> None:
        self.columns = STATS.column_names(mask)
        self._seed = seed

    def rows(self, dataset: Dataset) -> np.ndarray:
        return dataset.columns(self.columns)

    def learn(self, lesson: Lesson) -> trees.Trees:
        """Return an ensemble."""
        return fit_trees(lesson, lesson.rows, self._seed, self.size)

    def facts(self, fitted: trees.Trees, rows: np.ndarray) -> dict[str, Any]:
        gains = fitted.gains()
        most = np.argsort(-gains)[:10]
        return {
            "trees": fitted.rounds * fitted.classes,
            "columns_by_gain": {self.columns[i]: round(float(gains[i]), 4) for i in most},
        }

    def export(self, fitted: trees.Trees, description: Description) -> bytes:
        return trees.to_onnx(fitted, len(self.columns), description)


class KernelTreeLearner(TreeLearner):
    """Few small trees on the statistics that the kernel compares: a cascade's stage there."""

    # A binary tree of 8 leaves has 15 nodes; paths have at most 5 nodes.
    size = trees.Size(CONSTANTS["TREE_NODES_MAX"] // 15, leaves=8, depth=4)

    def __init__(self, mask: str, seed: int) -> None:
        super().__init__(mask, seed)
        # TREE_INPUTS_MAX limits the columns of the masks standard and none, not of strict
        compared = [name for name in self.columns if is_compared(name)]
        self.columns = tuple(compared[: CONSTANTS["TREE_INPUTS_MAX"]])


@dataclass(frozen=True)
class ViewTrees:
    """An ensemble on rows of a view, whatever their shape."""

    trees: trees.Trees

    @property
    def rounds(self) -> int:
        return self.trees.rounds

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        return self.trees.scores(_numbers(rows))


class ViewTreeLearner(Learner):
    """Gradient boosted trees on all values of a view: fields or bytes of packets.

    These hold information that statistics lack, above all at the first packet of a flow.
    """

    def __init__(self, view: str, seed: int) -> None:
        self.view = view
        self._seed = seed

    def learn(self, lesson: Lesson) -> ViewTrees:
        """Return an ensemble."""
        return ViewTrees(fit_trees(lesson, _numbers(lesson.rows), self._seed))

    def facts(self, fitted: ViewTrees, rows: np.ndarray) -> dict[str, Any]:
        used = int(np.count_nonzero(fitted.trees.gains()))
        return {"trees": fitted.rounds * fitted.trees.classes, "numbers_used": used}

    def export(self, fitted: ViewTrees, description: Description) -> bytes:
        return trees.view_to_onnx(fitted.trees, description)


def fit_trees(
    lesson: Lesson, rows: np.ndarray, seed: int, size: trees.Size = trees.USUAL
) -> trees.Trees:
    """Return an ensemble; rows for early stopping are fitted too, once the rounds are known.

    Args:
        rows: (flows, numbers) float32, the lesson's.
    """
    rounds = lesson.rounds
    if rounds is None:
        lesson.tell("rounds")
        fitted = trees.fit(
            rows, lesson.label, lesson.classes, seed, held_out=lesson.stop, size=size
        )
        rounds = fitted.rounds
    lesson.tell("fit")
    return trees.fit(rows, lesson.label, lesson.classes, seed, rounds, size=size)


def _numbers(rows: np.ndarray) -> np.ndarray:
    """Return (flows, numbers) float32."""
    return rows.reshape(len(rows), -1).astype(np.float32)
