"""Stages of trees in C: the answers of ONNX Runtime, or none of their own."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")

from etcpipe import trees as training
from etcpipe.batch import FlowBatch, rows_of
from etcpipe.cascade import serving
from etcpipe.cascade.stages import Cascade, Stage
from etcpipe.cascade.trees import Judge, judge_of
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import Model, load
from etcpipe.model_file import Description

COLUMNS = ("s_bytes_mean", "d_bytes_mean", "s_pkt_cnt", "s_bytes_max")
N = 4


def description(view="stats", classes=3, **changes) -> Description:
    columns = COLUMNS if view == "stats" else ()
    about = Description(
        name="trees",
        classes=tuple(f"class{i}" for i in range(classes)),
        view=view,
        columns=columns,
        schema_hash=schema_hash(VIEWS[view], N, columns=columns or None),
        first_n=N,
    )
    return replace(about, **changes)


def flows_at_random(n: int, seed: int = 0) -> FlowBatch:
    """Flows of no to N packets, with bytes that tok looks at."""
    rng = np.random.default_rng(seed)
    flows = rows_of(n, N, 144)
    packets, there = flows.packets, np.arange(N) < rng.integers(0, N + 1, n)[:, None]
    packets["present"] = there
    packets["ip_len"] = np.where(there, rng.integers(40, 1500, (n, N)), 0)
    packets["direction"] = rng.integers(0, 2, (n, N)) * there
    packets["timestamp_ns"] = np.cumsum(rng.integers(1, 10**9, (n, N)), axis=1) * there
    packets["raw_len"] = np.where(there, 144, 0)
    flows.raw[:] = rng.integers(0, 256, flows.raw.shape) * there[:, :, None]
    flows.raw[:, :, 0] = np.where(there, 0x45, 0)
    flows.key["protocol"] = 6
    return flows


def fitted(about: Description, rounds: int) -> bytes:
    """Trees on random flows with random labels: as large as they may be."""
    flows = flows_at_random(400, seed=3)
    classes = len(about.classes)
    labels = np.random.default_rng(4).integers(0, classes, len(flows))
    rows = about_rows(about, flows)
    made = training.fit(rows, labels, classes, 1, rounds)
    if about.view == "stats":
        return training.to_onnx(made, rows.shape[1], about)
    return training.view_to_onnx(made, about)


def about_rows(about: Description, flows: FlowBatch) -> np.ndarray:
    from etcpipe.gpu.views import compute

    return compute(VIEWS[about.view], flows, N, about.columns or None).reshape(len(flows), -1)


def opened(tmp_path, contents: bytes) -> tuple[Model, Judge | None]:
    file = tmp_path / "model.onnx"
    file.write_bytes(contents)
    model = load(file)
    return model, judge_of(model, contents)


def by_hand(tmp_path, nodes, weights, classes=2, **attributes) -> tuple[Model, Judge | None]:
    """A model of trees; nodes (tree, node, feature, value, mode, yes, no), weights
    (tree, node, class, weight)."""
    names = "treeids nodeids featureids values modes truenodeids falsenodeids".split()
    given = {
        f"nodes_{name}": list(of) for name, of in zip(names, zip(*nodes, strict=True), strict=True)
    }
    names = "treeids nodeids ids weights".split()
    of_leaves = zip(names, zip(*weights, strict=True), strict=True)
    given |= {f"target_{name}": list(of) for name, of in of_leaves} | attributes
    about = description(classes=classes)
    return opened(tmp_path, training.ensemble_to_onnx(given, classes, len(COLUMNS), about))


def agree(model: Model, judge: Judge | None, flows: FlowBatch) -> None:
    assert judge is not None
    theirs, ours = model.answers(flows), judge(flows)
    for name in ("label", "runner_up", "packets_used"):
        there, here = getattr(theirs, name), getattr(ours, name)
        assert here.dtype == there.dtype
        assert here.tolist() == there.tolist()
    assert ours.probability.dtype == np.float32
    assert ours.probability == pytest.approx(theirs.probability, abs=2e-6)


@pytest.mark.parametrize("view", ["stats", "tok"])
@pytest.mark.parametrize(("classes", "rounds"), [(2, 1), (3, 20), (21, 6)])
def test_labels_are_those_of_onnx_runtime(tmp_path, view, classes, rounds):
    about = description(view, classes)
    model, judge = opened(tmp_path, fitted(about, rounds))
    for n in (1, 7, 8, 9, 300):
        agree(model, judge, flows_at_random(n, seed=n))


def test_temperature_threshold_and_the_class_unknown_are_the_models(tmp_path):
    about = description(temperature=1.7, threshold=0.4)
    model, judge = opened(tmp_path, fitted(replace(about, classes=("a", "b", "unknown")), 10))
    flows = flows_at_random(500)
    agree(model, judge, flows)
    assert 0 < (judge(flows).label < 0).sum() < len(flows)
    model.temperature, model.threshold = 0.5, 0.0  # a cascade's stage has its own
    agree(model, judge, flows)


def leaf(tree, node):
    return tree, node, 0, 0.0, "LEAF", 0, 0


def test_one_tree_by_hand(tmp_path):
    nodes = [(0, 0, 2, 2.0, "BRANCH_LEQ", 1, 2), leaf(0, 1), leaf(0, 2)]
    _, judge = by_hand(tmp_path, nodes, [(0, 1, 0, 3.0), (0, 2, 1, 1.0)])
    flows = rows_of(3, N, 0)
    for row, packets in enumerate((1, 2, 3)):  # s_pkt_cnt: 2 is not above 2
        flows.packets["present"][row, :packets] = 1
    said = judge(flows)
    assert said.label.tolist() == [0, 0, 1]
    assert said.runner_up.tolist() == [1, 1, 0]
    expected = 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))
    assert said.probability == pytest.approx(expected, abs=1e-6)
    assert said.packets_used.tolist() == [1, 2, 3]


def test_leaves_of_several_classes_and_base_values(tmp_path):
    nodes = [
        *((0, 0, 0, 500.0, "BRANCH_LEQ", 1, 2), leaf(0, 1)),
        *((0, 2, 1, 700.0, "BRANCH_LEQ", 3, 4), leaf(0, 3), leaf(0, 4)),
        leaf(1, 0),  # a tree that is a leaf
    ]
    weights = [
        (0, n, c, w) for n, ws in ((1, (1, 2)), (3, (0, 3)), (4, (2, 0))) for c, w in enumerate(ws)
    ]
    model, judge = by_hand(tmp_path, nodes, [*weights, (1, 0, 1, 0.5)], base_values=[0.25, -0.5])
    agree(model, judge, flows_at_random(200))


def chain(leaves: int):
    """A tree of so many leaves, each but the last the first side of its branch."""
    nodes, weights = [], []
    for i in range(leaves - 1):
        nodes += [(0, 2 * i, 0, 40.0 * i, "BRANCH_LEQ", 2 * i + 1, 2 * i + 2), leaf(0, 2 * i + 1)]
        weights.append((0, 2 * i + 1, i % 2, float(i)))
    return [*nodes, leaf(0, 2 * leaves - 2)], [*weights, (0, 2 * leaves - 2, 0, -1.0)]


def test_a_tree_has_at_most_as_many_leaves_as_a_word_has_bits(tmp_path):
    agree(*by_hand(tmp_path, *chain(32)), flows_at_random(100))
    assert by_hand(tmp_path, *chain(33))[1] is None


@pytest.mark.parametrize("cut", [10, 1000, 5000])
def test_what_is_no_whole_file_is_not_judged(tmp_path, cut):
    contents = fitted(description(), 5)
    model, _ = opened(tmp_path, contents)
    assert judge_of(model, contents[:cut]) is None


def test_other_branches_are_left_to_onnx_runtime(tmp_path):
    nodes = [(0, 0, 2, 2.0, "BRANCH_LT", 1, 2), leaf(0, 1), leaf(0, 2)]
    assert by_hand(tmp_path, nodes, [(0, 1, 0, 3.0), (0, 2, 1, 1.0)])[1] is None


def test_a_cascade_has_its_trees_judged_in_c(tmp_path):
    (tmp_path / "trees.onnx").write_bytes(fitted(description(), 5))
    Cascade((Stage(N, "trees.onnx"),)).save(tmp_path / "cascade.toml")
    opened = serving.load(tmp_path / "cascade.toml")
    assert isinstance(opened.servings()[0].judge, Judge)
    assert opened.quick == {0}
