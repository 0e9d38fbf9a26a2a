"""What a training needs of a kind of model, and gradient boosted trees as the first kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from etcpipe import trees
from etcpipe.dataset import STATS, Dataset
from etcpipe.model_file import Description

Tell = Callable[[str], None]


def tell_nobody(text: str) -> None:
    """Take the progress of a fit that nobody looks at."""


class Fitted(Protocol):
    """A classifier fitted to rows.

    Attributes:
        rounds: of training that it had.
    """

    rounds: int

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        ...


class Learner(Protocol):
    """Fits classifiers of one kind.

    Attributes:
        view: name of the view that it learns from.
        columns: of that view; empty for a view without columns.
        left_out: how many fits tell what becomes of classes never seen; None: one a class.
        batch: rows of one call when its speed is measured.
        agreement: least share of flows to which its file must give the fit's own answer.
    """

    view: str
    columns: tuple[str, ...]
    left_out: int | None
    batch: int
    agreement: float

    def rows(self, dataset: Dataset) -> np.ndarray:
        """Return (flows, ...), what it learns from."""
        ...

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
        """Return a Fitted.

        Args:
            label: (flows,) int, 0 .. classes - 1.
            key: names this fit among those of one training.
            rounds: of training, None for as many as the kind allows.
            stop: (flows,) bool, rows that tell when to stop.
            tell: called with how far the fit is.
        """
        ...

    def facts(self, fitted: Any, rows: np.ndarray) -> dict[str, Any]:
        """Return what the report says of the model that is written, fitted to these rows."""
        ...

    def export(self, fitted: Any, description: Description) -> bytes:
        """Return the contents of a model file."""
        ...

    def export_for_gpu(self, fitted: Any, description: Description) -> bytes | None:
        """Return another model file of the same model, if a GPU wants another graph."""
        ...


class TreeLearner:
    """Gradient boosted trees on the statistics that a mask leaves."""

    view = STATS.name
    left_out: int | None = None
    batch = 1024
    agreement = 1.0

    def __init__(self, mask: str, seed: int) -> None:
        self.columns = STATS.column_names(mask)
        self._seed = seed

    def rows(self, dataset: Dataset) -> np.ndarray:
        return dataset.columns(self.columns)

    def fit(
        self,
        rows: np.ndarray,
        label: np.ndarray,
        classes: int,
        key: str,
        rounds: int | None = None,
        stop: np.ndarray | None = None,
        tell: Tell = tell_nobody,
    ) -> trees.Trees:
        """Return an ensemble; rows that tell when to stop are fitted too, once that is known."""
        if rounds is None:
            tell("rounds")
            rounds = trees.fit(rows, label, classes, self._seed, held_out=stop).rounds
        tell("fit")
        return trees.fit(rows, label, classes, self._seed, rounds)

    def facts(self, fitted: trees.Trees, rows: np.ndarray) -> dict[str, Any]:
        gains = fitted.gains()
        most = np.argsort(-gains)[:10]
        return {
            "trees": fitted.rounds * fitted.classes,
            "columns_by_gain": {self.columns[i]: round(float(gains[i]), 4) for i in most},
        }

    def export(self, fitted: trees.Trees, description: Description) -> bytes:
        return trees.to_onnx(fitted, len(self.columns), description)

    def export_for_gpu(self, fitted: trees.Trees, description: Description) -> None:
        return None


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


class ViewTreeLearner:
    """Gradient boosted trees on all numbers of a view: fields or bytes of packets.

    Such rows say what statistics do not, above all at a flow's first packet.
    """

    columns: tuple[str, ...] = ()
    left_out: int | None = 3
    batch = 1024
    agreement = 1.0

    def __init__(self, view: str, mask: str, seed: int) -> None:
        self.view = view
        self._trees = TreeLearner(mask, seed)

    def rows(self, dataset: Dataset) -> np.ndarray:
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
    ) -> ViewTrees:
        """Return an ensemble, as TreeLearner does."""
        return ViewTrees(self._trees.fit(_numbers(rows), label, classes, key, rounds, stop, tell))

    def facts(self, fitted: ViewTrees, rows: np.ndarray) -> dict[str, Any]:
        used = int(np.count_nonzero(fitted.trees.gains()))
        return {"trees": fitted.rounds * fitted.trees.classes, "numbers_used": used}

    def export(self, fitted: ViewTrees, description: Description) -> bytes:
        return trees.view_to_onnx(fitted.trees, description)

    def export_for_gpu(self, fitted: ViewTrees, description: Description) -> None:
        return None


def _numbers(rows: np.ndarray) -> np.ndarray:
    """Return (flows, numbers) float32."""
    return rows.reshape(len(rows), -1).astype(np.float32)
