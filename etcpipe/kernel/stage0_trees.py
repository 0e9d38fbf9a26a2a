"""Trees of a model file as the kernel walks them: bpf/tree_plan.h.

A branch of the file compares a float32 with a threshold. Here it compares the whole numbers
that the float32 is made of: for each threshold the limit is found that decides every possible
value the same way, and that there is one is checked, for every count of packets of a mean.
Leaves are scores to base 2 in units of 2 ** -32, finer than float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe import runtime
from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.gpu.features import MISSING
from etcpipe.gpu.features_states import FLAGS, SIDES
from etcpipe.kernel.features_plan import HANDSHAKE, QUANTITY_WORDS, FeaturePlan, plan_for
from etcpipe.layout import BPF, read_header

_HEADER = read_header("".join((BPF / name).read_text() for name in ("etcpipe.h", "tree_plan.h")))
CONSTANTS, TREE = _HEADER[0], _HEADER[2]["tree"]
_NODE, _INPUT = _HEADER[2]["tree_node"], _HEADER[2]["tree_input"]
_FRACTION = CONSTANTS["TREE_FRACTION"]
_ONE = 1 << 32
_NS = 1e9
# The largest value: a sum of times; shifted and compared it stays within 64 bits.
_VALUE_MAX = (1 << 50) - 1
# Probabilities are float32 in user space: what is as near as that to the threshold is sure.
_TOLERANCE = 2.0**-22
_COUNTS = {"iat": "TREE_OF_GAPS", "winsize": "TREE_OF_TCP"}


@dataclass(frozen=True)
class Input:
    """A column as whole numbers.

    Attributes:
        record: struct tree_input.
        scale: the column is value / count / scale, or value / scale.
        counts: that a mean may be of; (1,) of other values.
    """

    record: np.ndarray
    scale: float
    counts: range

    def shown(self, value: int, count: int) -> np.float32:
        """Return the column, in the definition's order of operations."""
        return np.float32(np.float64(value) / count / self.scale)


def input_of(column: str, plan: FeaturePlan, depth: int) -> Input:
    """Return a column as an input of trees.

    Raises:
        UsageError: it takes fractions or single packets.
    """
    once = range(1, 2)
    if column == "dur":
        return Input(_record("TREE_DURATION"), _NS, once)
    if column == "proto":
        return Input(_record("TREE_PROTOCOL"), 1.0, once)
    if column in HANDSHAKE:
        start, end = (plan.at[word] + side for word, side in HANDSHAKE[column])
        return Input(_record("TREE_BETWEEN", at=start, to=end), _NS, once)
    if column.removesuffix("_cnt") in FLAGS:
        byte = len(FLAGS) - 1 - FLAGS.index(column.removesuffix("_cnt"))
        return Input(_record("TREE_FLAG", at=plan.at["FLAGS"], to=byte), 1.0, once)
    letter, _, rest = column.partition("_")
    side = list(SIDES).index(letter) if letter in SIDES else 0
    if rest == "pkt_cnt":
        return Input(_record("TREE_PACKETS", side=side), 1.0, once)
    if rest == "port":
        return Input(_record("TREE_PORT", side=side), 1.0, once)
    quantity, _, statistic = rest.partition("_")
    if quantity in QUANTITY_WORDS and statistic in ("sum", "mean", "min", "max"):
        return _statistic(plan, side, quantity, statistic, depth)
    raise UsageError(
        f"trees in the kernel cannot compare {column}: take sums, means, extrema, counts and times"
        " (docs/kernel-stage.md)"
    )


def is_compared(column: str) -> bool:
    """Return whether trees in the kernel can compare a column."""
    try:
        input_of(column, plan_for((column,), 1, 1.0, 1), 1)
    except UsageError:
        return False
    return True


def _statistic(plan: FeaturePlan, side: int, quantity: str, statistic: str, depth: int) -> Input:
    is_mean, is_sum = statistic == "mean", statistic == "sum"
    word = f"{QUANTITY_WORDS[quantity]}_{'SUM' if is_mean else statistic.upper()}"
    count = "TREE_OF_FLOW" if is_sum else _COUNTS.get(quantity, "TREE_OF_PACKETS")
    record = _record("TREE_WORD", count, is_mean=is_mean, side=side, at=plan.at[word] + side)
    counts = range(1, depth + 1) if is_mean else range(1, 2)
    return Input(record, _NS if quantity == "iat" else 1.0, counts)


def _record(value: str, count: str = "TREE_OF_FLOW", **fields: int) -> np.ndarray:
    record = np.zeros((), _INPUT)
    record["value"], record["count"] = CONSTANTS[value], CONSTANTS[count]
    for name, number in fields.items():
        record[name] = number
    return record


def limit_of(threshold: np.float32, one: Input) -> int:
    """Return the limit with which value << TREE_FRACTION < limit * count says what <= says."""
    low, high = 0, 1 << 63
    for count in one.counts:
        most = _largest(threshold, one, count)
        low = max(low, ((most << _FRACTION) // count) + 1 if most >= 0 else 0)
        high = min(high, ((most + 1) << _FRACTION) // count)
    if low > high:
        raise AssertionError(f"no limit decides {threshold} for all counts")  # see the tests
    return low


def _largest(threshold: np.float32, one: Input, count: int) -> int:
    """Return the largest value of so many packets that is not above, -1 if none is."""
    low, high = -1, _VALUE_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if one.shown(middle, count) <= threshold:
            low = middle
        else:
            high = middle - 1
    return low


class Trees:
    """The trees of a model file, for the plan of a tap.

    Args:
        contents: of the file: one TreeEnsembleRegressor that adds up.
        columns: of its input, in order.
        depth: packets after which it judges.

    Attributes:
        steps: nodes on the longest way through all trees.

    Raises:
        UsageError: not such a file, too large, or with columns that cannot be compared.
        UnsupportedError: the package onnx is missing.
    """

    def __init__(self, contents: bytes, columns: Sequence[str], depth: int, plan: FeaturePlan):
        if plan.wait_ns * depth > _VALUE_MAX:
            raise UsageError("trees in the kernel need a shorter waiting time")
        self._attributes = _attributes(contents)
        self._columns, self._depth, self._plan = tuple(columns), depth, plan
        self._record = np.zeros(1, TREE)
        self._inputs: dict[int, tuple[int, Input]] = {}
        self._limits: dict[tuple[int, float], int] = {}
        self.steps = 0

    def record(
        self, temperature: float, thresholds: np.ndarray, verdicts: Sequence[int]
    ) -> np.ndarray:
        """Return struct tree, (1,).

        Args:
            temperature: scores are divided by it before the softmax.
            thresholds: (classes,) probability of the best class with which it is sure.
            verdicts: by class, the low half of the word that is stored.
        """
        classes = int(self._attributes["n_targets"])
        _require(classes <= CONSTANTS["TREE_CLASSES_MAX"], f"{classes} classes")
        record = self._record[0]
        record["classes_used"] = classes
        record["most"][:classes] = [_most(float(p)) for p in thresholds]
        record["verdict"][:classes] = verdicts
        n = CONSTANTS["TREE_POWERS"]
        record["powers"] = [round(2.0 ** (31 - i / n)) for i in range(n)]
        self._fill(_ONE * math.log2(math.e) / temperature)
        record["inputs_used"] = len(self._inputs)
        for place, one in self._inputs.values():
            record["inputs"][place] = one.record
        return self._record

    def _fill(self, unit: float) -> None:
        """Write all nodes, tree behind tree; a leaf goes on to the next tree's root."""
        trees = self._trees()
        base = self._attributes.get("base_values", [])
        leaves = [(i, value) for i, value in enumerate(base) if value]
        sizes = [sum(max(len(node["leaves"]), 1) for node in tree.values()) for tree in trees]
        starts = np.cumsum([len(leaves), *sizes]).tolist()
        _require(starts[-1] <= CONSTANTS["TREE_NODES_MAX"], f"{starts[-1]} nodes")
        end = CONSTANTS["TREE_END"]
        self._chain(0, leaves, unit, starts[0] if trees else end)
        self.steps = len(leaves)
        for i, tree in enumerate(trees):
            following = starts[i + 1] if i + 1 < len(trees) else end
            self._tree(tree, starts[i], following, unit)
            self.steps += _steps(tree)
        _require(self.steps <= CONSTANTS["TREE_STEPS_MAX"], f"{self.steps} steps")

    def _tree(self, tree: dict[int, dict], start: int, following: int, unit: float) -> None:
        places, at = {}, start
        for number, node in tree.items():
            places[number] = at
            at += max(len(node["leaves"]), 1)
        for number, node in tree.items():
            if node["is_leaf"]:
                self._chain(places[number], node["leaves"] or [(0, 0.0)], unit, following)
                continue
            place, one = self._input(node["feature"])
            kind = CONSTANTS["TREE_MISSING_YES"] if node["value"] >= MISSING else 0
            self._record[0]["nodes"][places[number]] = (
                self._limit(node["feature"], node["value"], one),
                places[node["yes"]],
                places[node["no"]],
                place,
                kind,
                [0, 0],
            )

    def _chain(self, at: int, leaves: list[tuple[int, float]], unit: float, following: int) -> None:
        nodes = self._record[0]["nodes"]
        for i, (target, weight) in enumerate(leaves):
            value = round(float(weight) * unit)
            after = at + i + 1 if i + 1 < len(leaves) else following
            limit = value & 0xFFFFFFFFFFFFFFFF
            nodes[at + i] = (limit, after, 0, target, CONSTANTS["TREE_LEAF"], [0, 0])

    def _input(self, feature: int) -> tuple[int, Input]:
        if feature not in self._inputs:
            place = len(self._inputs)
            _require(place < CONSTANTS["TREE_INPUTS_MAX"], f"{place + 1} columns or more")
            column = self._columns[feature]
            self._inputs[feature] = (place, input_of(column, self._plan, self._depth))
        return self._inputs[feature]

    def _limit(self, feature: int, threshold: float, one: Input) -> int:
        known = (feature, threshold)
        if known not in self._limits:
            self._limits[known] = limit_of(np.float32(threshold), one)
        return self._limits[known]

    def _trees(self) -> list[dict[int, dict]]:
        """Return each tree's nodes by number, the root first."""
        given, trees = self._attributes, dict[int, dict[int, dict[str, Any]]]()
        for tree, number, feature, value, mode, yes, no in zip(
            *(given[f"nodes_{name}"] for name in _NODE_ATTRIBUTES), strict=True
        ):
            if mode not in (b"LEAF", b"BRANCH_LEQ"):
                raise UsageError(f"trees in the kernel know no branch {mode.decode()}")
            node = {"is_leaf": mode == b"LEAF", "feature": feature, "value": value}
            trees.setdefault(tree, {})[number] = {**node, "yes": yes, "no": no, "leaves": []}
        for tree, number, target, weight in zip(
            *(given[f"target_{name}"] for name in _LEAF_ATTRIBUTES), strict=True
        ):
            trees[tree][number]["leaves"].append((target, weight))
        return [dict(sorted(tree.items())) for _, tree in sorted(trees.items())]


_NODE_ATTRIBUTES = "treeids nodeids featureids values modes truenodeids falsenodeids".split()
_LEAF_ATTRIBUTES = "treeids nodeids ids weights".split()


def _attributes(contents: bytes) -> dict[str, Any]:
    """Return the attributes of a model file's only operator."""
    try:
        import onnx
    except ImportError as error:
        raise UnsupportedError(
            f"trees in the kernel need a package: {runtime.remedy('onnx')}"
        ) from error
    nodes = onnx.load_from_string(contents).graph.node
    if [node.op_type for node in nodes] != ["TreeEnsembleRegressor"]:
        raise UsageError("no trees for the kernel: the model is not one of trees on columns alone")
    named = {one.name: onnx.helper.get_attribute_value(one) for one in nodes[0].attribute}
    if named.get("aggregate_function", b"SUM") != b"SUM":
        raise UsageError("trees in the kernel add up: the model aggregates otherwise")
    return named


def _steps(tree: dict[int, dict]) -> int:
    """Return the nodes on the longest way from the root to behind a leaf."""
    depth, level = 0, [next(iter(tree))]
    longest = 0
    while level:
        depth += 1
        for number in level:
            if tree[number]["is_leaf"]:
                longest = max(longest, depth - 1 + max(len(tree[number]["leaves"]), 1))
        branches = [tree[number] for number in level if not tree[number]["is_leaf"]]
        level = [child for node in branches for child in (node["yes"], node["no"])]
    return longest


def _most(probability: float) -> int:
    """Return the largest sum of a sure answer: its probability is 2 ** 32 / the sum."""
    if probability <= 0:
        return (1 << 64) - 1
    if probability > 1:
        return 0
    return int(_ONE / probability * (1 + _TOLERANCE))


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UsageError(
            f"trees with {what} are too large for the kernel: take lightgbm_kernel for the first"
            " stage (docs/kernel-stage.md)"
        )
