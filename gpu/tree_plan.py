"""Converts a tree ensemble to the form of etcpipe/native/trees.h, by which C computes scores.

Each leaf is a bit. Each branch has a mask of the leaves that remain if its condition is false: all
but those below its "true" child. (QuickScorer; Lucchese et al., SIGIR 2015.)
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe import layout
from etcpipe.columns import address_of
from etcpipe.gpu import onnx_trees

_HEADER = Path(layout.__file__).parent / "native" / "trees.h"
CONSTANTS, _, RECORDS = layout.read_header(_HEADER.read_text())
BRANCH, LEAF, WEIGHT, SIZE, PLAN, ANSWER = (
    RECORDS[f"tree_{name}"] for name in ("branch", "leaf", "weight", "size", "plan", "answer")
)
_OPERATORS = (["TreeEnsembleRegressor"], ["Reshape", "Gather", "Cast", "TreeEnsembleRegressor"])
_ALL = 0xFFFFFFFF


class Plan:
    """An ensemble in the form that the C code reads.

    Attributes:
        address: of the struct tree_plan, which lives as long as this object.
        classes: number of scores.
        columns: number of values in a row.

    Raises:
        ValueError, KeyError, IndexError: an ensemble that the C code does not support. The
            checks guarantee that C stays within its arrays, whatever the file contains.
    """

    def __init__(self, ensemble: onnx_trees.Ensemble) -> None:
        _check(ensemble)
        given: dict[str, Any] = ensemble.attributes
        self.classes, self.columns = given["n_targets"], math.prod(ensemble.input_shape)
        # nodes by tree and number: ONNX Runtime adds up the trees in this order
        key = _keys(given["nodes_treeids"], given["nodes_nodeids"])
        order = np.argsort(key)
        key = key[order]
        is_leaf = np.array([mode == b"LEAF" for mode in given["nodes_modes"]])[order]
        yes, no = (
            _places(key, _keys(given["nodes_treeids"], given[f"nodes_{way}nodeids"])[order])
            for way in ("true", "false")
        )
        nodes = _Nodes(key, is_leaf, yes, no)
        at = nodes.branches
        number = given["nodes_featureids"][order][at]
        used, places = np.unique(number, return_inverse=True)
        picked = ensemble.constants["used"][used] if "used" in ensemble.constants else used
        _require(len(picked) <= CONSTANTS["TREES_NUMBERS_MAX"])
        _require(0 <= picked.min(initial=0) and picked.max(initial=-1) < self.columns)
        branches = np.zeros(len(at), BRANCH)
        branches["value"] = given["nodes_values"][order][at].view(np.uint32)
        branches["number"], branches["kept"] = places, nodes.kept
        leaves, weights = _leaves(given, nodes)
        base = np.zeros(self.classes, np.float32)
        if "base_values" in given:
            base[:] = given["base_values"]
        self._arrays = picked.astype(np.uint32), branches, leaves, weights, nodes.sizes, base
        addresses = map(address_of, self._arrays)
        kind = CONSTANTS[f"TREES_{ensemble.input_dtype.upper()}"]
        sizes = len(picked), len(nodes.sizes), self.classes
        self._record = np.array([(*addresses, *sizes, kind)], PLAN)
        self.address = address_of(self._record)


class _Nodes:
    """The nodes of all trees; a child comes after its parent.

    Attributes:
        key: (nodes,) int64 ascending, tree and number.
        branches: (branches,) int, the nodes that are not leaves.
        kept: (branches,) uint32, mask of the leaves that remain if the condition is false.
        leaves: (leaves,) int, the nodes that are leaves, those of the "true" side first.
        sizes: (trees,) of struct tree_size.
    """

    def __init__(self, key: np.ndarray, is_leaf: np.ndarray, yes: np.ndarray, no: np.ndarray):
        self.key = key
        self.branches = np.flatnonzero(~is_leaf)
        here = np.arange(len(key))
        children = np.concatenate([yes[self.branches], no[self.branches]])
        tree = key >> 32
        is_first = np.append(True, tree[1:] != tree[:-1])
        _require(bool((np.bincount(children, minlength=len(key)) == ~is_first).all()))
        _require(bool((np.minimum(yes, no) > here)[self.branches].all()))
        _require(bool((tree[children] == np.tile(tree[self.branches], 2)).all()))
        leaves = np.flatnonzero(is_leaf)
        number = np.cumsum(is_first) - 1
        self.sizes = np.zeros(int(is_first.sum()), SIZE)
        self.sizes["branches"] = np.bincount(number[self.branches], minlength=len(self.sizes))
        self.sizes["leaves"] = np.bincount(number[leaves], minlength=len(self.sizes))
        _require(int(self.sizes["leaves"].max()) <= CONSTANTS["TREE_LEAVES_MAX"])
        ways = np.stack([here, yes, no])[:, self.branches].T.tolist()
        below, start = is_leaf.astype(np.int64).tolist(), [0] * len(key)
        for at, left, right in reversed(ways):
            below[at] = below[left] + below[right]
        for at, left, right in ways:
            start[left], start[right] = start[at], start[at] + below[left]
        self.kept = np.array(
            [~(((1 << below[left]) - 1) << start[left]) & _ALL for _, left, _ in ways], np.uint32
        )
        self.leaves = leaves[np.lexsort((np.array(start)[leaves], tree[leaves]))]


def _leaves(given: dict[str, Any], nodes: _Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Return the leaves (struct tree_leaf) and their weights (struct tree_weight)."""
    node = _places(nodes.key, _keys(given["target_treeids"], given["target_nodeids"]))
    of_node = np.full(len(nodes.key), -1)
    of_node[nodes.leaves] = np.arange(len(nodes.leaves))
    leaf = of_node[node]
    target = given["target_ids"]
    _require(bool((leaf >= 0).all() and (target >= 0).all()))
    _require(int(target.max()) < given["n_targets"])
    order = np.argsort(leaf, kind="stable")
    weights = np.zeros(len(leaf), WEIGHT)
    weights["value"] = given["target_weights"][order].view(np.uint32)
    weights["target"] = target[order]
    leaves = np.zeros(len(nodes.leaves), LEAF)
    leaves["weights"] = np.bincount(leaf, minlength=len(leaves))
    leaves["first"] = np.cumsum(leaves["weights"]) - leaves["weights"]
    return leaves, weights


def _check(ensemble: onnx_trees.Ensemble) -> None:
    given: dict[str, Any] = ensemble.attributes
    _require(list(ensemble.operators) in _OPERATORS)
    _require(ensemble.input_dtype == "float32" or "Cast" in ensemble.operators)
    _require({*given["nodes_modes"]} <= {b"LEAF", b"BRANCH_LEQ"})
    _require(given.get("aggregate_function", b"SUM") == b"SUM")
    _require(given.get("post_transform", b"NONE") == b"NONE")
    _require(not np.any(given.get("nodes_missing_value_tracks_true", 0)))
    _require(1 <= given["n_targets"] <= CONSTANTS["TREES_CLASSES_MAX"])


def _keys(tree: np.ndarray, node: np.ndarray) -> np.ndarray:
    return tree << 32 | node


def _places(key: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the positions of nodes among ascending keys."""
    return np.minimum(np.searchsorted(key, wanted), len(key) - 1)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("trees that are not judged in C")
