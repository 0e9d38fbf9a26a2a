"""The models of a search: a decision tree, or boosted trees; both become a model file."""

from typing import Any, Protocol

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.model_file import Description
from etcpipe.training import trees
from etcpipe.tune.space import ModelKind

# Smoothing: a leaf's share of a class that it never saw, so that its logarithm is finite.
_SMOOTHING = 0.5
_LEAF_MIN = 3


class Fitted(Protocol):
    """A model fitted to rows."""

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        ...

    def to_onnx(self, columns: int, description: Description) -> bytes:
        """Return the contents of a model file."""
        ...


def fit(model: ModelKind, rows: np.ndarray, label: np.ndarray, classes: int, seed: int) -> Fitted:
    """Return a model of a kind, fitted.

    Args:
        rows: (flows, columns) float32.
        label: (flows,) int, 0 .. classes - 1.

    Raises:
        UsageError: there is no such kind, or the flows are of one class.
    """
    if len(np.unique(label)) < 2:
        raise UsageError("one class only: a model needs flows of two classes or more")
    settings = model.as_dict()
    if model.kind == "tree":
        return DecisionTree(rows, label, classes, settings["max_depth"], seed)
    if model.kind == "boosted":
        return Boosted(trees.fit(rows, label, classes, seed, settings["rounds"]))
    raise UsageError(f"no model {model.kind!r}: tree and boosted are there")


class DecisionTree:
    """A decision tree; the scores of a leaf are the logarithms of its class shares."""

    def __init__(
        self, rows: np.ndarray, label: np.ndarray, classes: int, max_depth: int, seed: int
    ) -> None:
        from sklearn.tree import DecisionTreeClassifier

        self._classes = classes
        weight = trees.class_weights(label, classes)[label]
        self._tree = DecisionTreeClassifier(
            max_depth=max_depth, min_samples_leaf=_LEAF_MIN, random_state=seed
        ).fit(rows, label, sample_weight=weight)
        self._leaf_scores = self._scores_of_nodes()

    def _scores_of_nodes(self) -> np.ndarray:
        """Return (nodes, classes) float32, with smoothing for absent classes."""
        grown = self._tree.tree_
        shares = np.zeros((grown.node_count, self._classes))
        shares[:, self._tree.classes_] = grown.value[:, 0] / grown.value[:, 0].sum(
            axis=1, keepdims=True
        )
        flows = shares * grown.weighted_n_node_samples[:, None] + _SMOOTHING
        return np.log(flows / flows.sum(axis=1, keepdims=True)).astype(np.float32)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self._leaf_scores[self._tree.apply(rows)].astype(np.float64)

    def to_onnx(self, columns: int, description: Description) -> bytes:
        return trees.ensemble_to_onnx(self._attributes(), self._classes, columns, description)

    def _attributes(self) -> dict[str, Any]:
        grown = self._tree.tree_
        is_leaf = grown.children_left < 0
        leaves = np.flatnonzero(is_leaf)
        at_leaves = np.repeat(leaves, self._classes)
        return {
            "nodes_treeids": [0] * grown.node_count,
            "nodes_nodeids": list(range(grown.node_count)),
            "nodes_featureids": np.where(is_leaf, 0, grown.feature).tolist(),
            "nodes_values": [
                0.0 if leaf else trees.floor32(threshold)
                for leaf, threshold in zip(is_leaf, grown.threshold, strict=True)
            ],
            "nodes_modes": np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
            "nodes_truenodeids": np.where(is_leaf, 0, grown.children_left).tolist(),
            "nodes_falsenodeids": np.where(is_leaf, 0, grown.children_right).tolist(),
            "target_treeids": [0] * len(at_leaves),
            "target_nodeids": at_leaves.tolist(),
            "target_ids": list(range(self._classes)) * len(leaves),
            "target_weights": self._leaf_scores[leaves].ravel().tolist(),
        }


class Boosted:
    """Boosted trees of etcpipe.training.trees."""

    def __init__(self, fitted: trees.Trees) -> None:
        self._fitted = fitted

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self._fitted.scores(rows)

    def to_onnx(self, columns: int, description: Description) -> bytes:
        return trees.to_onnx(self._fitted, columns, description)
