"""Gradient boosted trees: fitted by LightGBM, stored as an ONNX TreeEnsembleRegressor.

The ensemble computes an unnormalised score for each class. LightGBM has float64 thresholds, ONNX
float32 ones. Thresholds are therefore rounded down to float32, which does not change any decision
on float32 values: x <= t exactly if x <= floor32(t).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etcpipe.gpu.views import VIEWS
from etcpipe.model_file import DESCRIPTION_KEY, DIGEST_KEY, NO_DIGEST, Description, seal

# Serving cost grows with the number of trees: about 30 ns a flow each (docs/models.md).
TREES_MAX = 300
# With fewer rows than this, threads wait for each other longer than they work.
ROWS_A_THREAD = 20_000
_IR_VERSION = 8  # supported since ONNX 1.10 and ONNX Runtime 1.10
_OPSETS = {"": 15, "ai.onnx.ml": 3}

_PARAMETERS = {
    "objective": "multiclass",
    "learning_rate": 0.2,
    "min_data_in_leaf": 5,
    "min_sum_hessian_in_leaf": 0.1,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Size:
    """The maximum size of an ensemble.

    Attributes:
        trees: in total; None: TREES_MAX.
        leaves: of a tree.
        depth: branches on the path to a leaf; -1: unlimited.
    """

    trees: int | None = None
    leaves: int = 15
    depth: int = -1


USUAL = Size()


@dataclass(frozen=True)
class Trees:
    """A fitted ensemble.

    Attributes:
        rounds: boosting rounds, with one tree for each class.
    """

    booster: lightgbm.Booster
    rounds: int
    classes: int

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        return np.asarray(self.booster.predict(rows, raw_score=True, num_iteration=self.rounds))

    def gains(self) -> np.ndarray:
        """Return (columns,) float64, the contribution of each column to the fit; the sum is 1."""
        gain = self.booster.feature_importance("gain", iteration=self.rounds)
        return gain / max(gain.sum(), 1e-12)


def fit(
    rows: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    rounds: int | None = None,
    held_out: np.ndarray | None = None,
    size: Size = USUAL,
) -> Trees:
    """Return an ensemble fitted to rows.

    Args:
        rows: (flows, columns) float32.
        labels: (flows,) int, 0 .. classes - 1.
        rounds: boosting rounds, None for as many as the size allows.
        held_out: (flows,) bool, rows for early stopping, which are not fitted.
    """
    most = max((size.trees or TREES_MAX) // classes, 1) if rounds is None else rounds
    parameters = _PARAMETERS | {"num_class": classes, "seed": seed}
    parameters |= {"num_leaves": size.leaves, "max_depth": size.depth}
    parameters["num_threads"] = 1 if len(rows) < ROWS_A_THREAD else 0
    weights = class_weights(labels, classes)[labels]
    fitted = np.ones(len(rows), bool) if held_out is None else ~held_out
    dataset = lightgbm.Dataset(
        rows[fitted], labels[fitted], weight=weights[fitted], params=parameters
    )
    if held_out is None or not held_out.any():
        return Trees(lightgbm.train(parameters, dataset, most), most, classes)
    watched = dataset.create_valid(rows[held_out], labels[held_out], weight=weights[held_out])
    booster = lightgbm.train(
        parameters,
        dataset,
        most,
        valid_sets=[watched],
        callbacks=[lightgbm.early_stopping(8, verbose=False)],
    )
    return Trees(booster, booster.best_iteration or most, classes)


def class_weights(labels: np.ndarray, classes: int, beta: float = 0.999) -> np.ndarray:
    """Return (classes,) float64, weights by effective number of flows, 1 on average.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
    """
    count = np.maximum(np.bincount(labels, minlength=classes), 1)
    weights = (1 - beta) / (1 - beta**count)
    return weights * len(labels) / weights[labels].sum()


def to_onnx(trees: Trees, columns: int, description: Description) -> bytes:
    """Return the contents of a model file (see etcpipe.model_file)."""
    attributes = _ensemble(trees).attributes()
    return ensemble_to_onnx(attributes, trees.classes, columns, description)


def ensemble_to_onnx(
    attributes: dict[str, Any], classes: int, columns: int, description: Description
) -> bytes:
    """Return the contents of a model file of trees.

    Args:
        attributes: of the operator TreeEnsembleRegressor: nodes_* and target_*.
    """
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, columns])
    return _sealed([_ensemble_node("rows", attributes, classes)], rows, [], classes, description)


def view_to_onnx(trees: Trees, description: Description) -> bytes:
    """Return the contents of a model file of trees on all values of a view, in order.

    Only the values that a tree uses are gathered from a row and converted to float32.
    """
    view = VIEWS[description.view]
    attributes = _ensemble(trees).attributes()
    used, renamed = np.unique(attributes["nodes_featureids"], return_inverse=True)
    attributes["nodes_featureids"] = renamed.tolist()
    nodes = [
        helper.make_node("Reshape", ["rows", "flat"], ["numbers"]),
        helper.make_node("Gather", ["numbers", "used"], ["picked"], axis=1),
        helper.make_node("Cast", ["picked"], ["columns"], to=TensorProto.FLOAT),
        _ensemble_node("columns", attributes, trees.classes),
    ]
    constants = [
        numpy_helper.from_array(np.array([0, -1], np.int64), "flat"),
        numpy_helper.from_array(used.astype(np.int64), "used"),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(view.dtype))
    rows = helper.make_tensor_value_info("rows", kind, [None, *view.shape])
    return _sealed(nodes, rows, constants, trees.classes, description)


def _ensemble_node(rows: str, attributes: dict[str, Any], classes: int) -> onnx.NodeProto:
    return helper.make_node(
        "TreeEnsembleRegressor",
        [rows],
        ["scores"],
        domain="ai.onnx.ml",
        n_targets=classes,
        aggregate_function="SUM",
        post_transform="NONE",
        **attributes,
    )


def _sealed(
    nodes: list[onnx.NodeProto],
    rows: onnx.ValueInfoProto,
    constants: list[onnx.TensorProto],
    classes: int,
    description: Description,
) -> bytes:
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, classes])
    graph = helper.make_graph(nodes, description.name, [rows], [scores], constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = helper.make_model(
        graph, producer_name="etcpipe", opset_imports=opsets, ir_version=_IR_VERSION
    )
    helper.set_model_props(model, {DESCRIPTION_KEY: description.to_json(), DIGEST_KEY: NO_DIGEST})
    onnx.checker.check_model(model)
    return seal(model.SerializeToString())


@dataclass
class _Ensemble:
    """Collects the attributes of a TreeEnsembleRegressor."""

    nodes: list[tuple] = field(default_factory=list)
    leaves: list[tuple] = field(default_factory=list)

    def add(self, tree: int, target: int, root: dict[str, Any]) -> None:
        """Append a tree of LightGBM's dump."""
        first = len(self.nodes)
        for node_id, node, true_id, false_id in _walk(root):
            if "leaf_value" in node:
                self.nodes.append((tree, node_id, 0, 0.0, "LEAF", 0, 0))
                self.leaves.append((tree, node_id, target, node["leaf_value"]))
            else:
                if node["decision_type"] != "<=":
                    raise ValueError(f"cannot export a {node['decision_type']} split")
                threshold = floor32(node["threshold"])
                feature = node["split_feature"]
                self.nodes.append(
                    (tree, node_id, feature, threshold, "BRANCH_LEQ", true_id, false_id)
                )
        self.nodes[first:] = sorted(self.nodes[first:], key=lambda node: node[1])

    def attributes(self) -> dict[str, Any]:
        """Return the operator's attributes."""
        nodes, leaves = list(zip(*self.nodes, strict=True)), list(zip(*self.leaves, strict=True))
        node_names = "treeids nodeids featureids values modes truenodeids falsenodeids".split()
        named = {f"nodes_{name}": list(nodes[i]) for i, name in enumerate(node_names)}
        leaf_names = "treeids nodeids ids weights".split()
        return named | {f"target_{name}": list(leaves[i]) for i, name in enumerate(leaf_names)}


def _ensemble(trees: Trees) -> _Ensemble:
    ensemble = _Ensemble()
    dump = trees.booster.dump_model(num_iteration=trees.rounds)
    for i, tree in enumerate(dump["tree_info"]):
        ensemble.add(i, i % trees.classes, tree["tree_structure"])
    return ensemble


def _walk(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """Yield (id, node, id if true, id if false), ids in breadth-first order."""
    level, next_id = [(0, root)], 1
    while level:
        below = []
        for node_id, node in level:
            if "leaf_value" in node:
                yield node_id, node, 0, 0
                continue
            below += [(next_id, node["left_child"]), (next_id + 1, node["right_child"])]
            yield node_id, node, next_id, next_id + 1
            next_id += 2
        level = below


def floor32(value: float) -> float:
    """Return the largest float32 that is not above value."""
    rounded = np.float32(value)
    if float(rounded) > value:  # compare as float64: NumPy 2 would compare in float32
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)
