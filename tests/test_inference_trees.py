"""Trees in C: the answers of ONNX Runtime, or none of their own."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trt_stub import fake_cupy

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")

from etcpipe import offline
from etcpipe.batch import FlowBatch, rows_of
from etcpipe.cascade import serving
from etcpipe.cascade.stages import Cascade, Stage
from etcpipe.errors import ModelError
from etcpipe.gpu.inference_onnx import OnnxRunner
from etcpipe.gpu.inference_trees import TreesRunner
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import Model, load
from etcpipe.model_file import Description
from etcpipe.shares import Shares
from etcpipe.training import trees as training

LAB = sorted((Path(__file__).parent / "data/lab").glob("*.pcap"))
COLUMNS = ("s_bytes_mean", "d_bytes_mean", "s_pkt_cnt", "s_bytes_max")
N = 4
RAW_LEN = VIEWS["image"].raw_len


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
    """Flows of no to N packets, with their bytes."""
    rng = np.random.default_rng(seed)
    flows = rows_of(n, N, RAW_LEN)
    packets, there = flows.packets, np.arange(N) < rng.integers(0, N + 1, n)[:, None]
    packets["present"] = there
    packets["ip_len"] = np.where(there, rng.integers(40, 1500, (n, N)), 0)
    packets["direction"] = rng.integers(0, 2, (n, N)) * there
    packets["timestamp_ns"] = np.cumsum(rng.integers(1, 10**9, (n, N)), axis=1) * there
    packets["raw_len"] = np.where(there, RAW_LEN, 0)
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


def opened(tmp_path, contents: bytes) -> tuple[Model, Model]:
    """A model by ONNX Runtime, and as it is opened for the CPU."""
    file = tmp_path / "model.onnx"
    file.write_bytes(contents)
    return both(file)


def both(file) -> tuple[Model, Model]:
    return load(file, device="onnxruntime"), load(file)


def by_hand(tmp_path, nodes, weights, classes=2, **attributes) -> tuple[Model, Model]:
    return opened(tmp_path, made_by_hand(nodes, weights, classes, **attributes))


def made_by_hand(nodes, weights, classes=2, **attributes) -> bytes:
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
    return training.ensemble_to_onnx(given, classes, len(COLUMNS), about)


def agreed(model: Model, in_c: Model, flows: FlowBatch) -> set[int]:
    """Return the labels that two engines give to flows, alike; -1: nothing to judge."""
    assert (model.engine, in_c.engine) == (OnnxRunner.engine, TreesRunner.engine)
    theirs, ours = model.answers(flows), in_c.answers(flows)
    for name in ("label", "runner_up", "packets_used"):
        there, here = getattr(theirs, name), getattr(ours, name)
        assert here.dtype == there.dtype
        assert here.tolist() == there.tolist()
    assert ours.probability.dtype == np.float32
    assert ours.probability == pytest.approx(theirs.probability, abs=2e-6)
    rows = in_c.rows(flows)
    assert in_c.infer(rows) == pytest.approx(model.infer(rows), abs=2e-6)
    return set(ours.label.tolist())


@pytest.mark.parametrize("view", ["stats", "tok", "bits", "image"])
@pytest.mark.parametrize(("classes", "rounds"), [(2, 1), (3, 20), (21, 6)])
def test_labels_are_those_of_onnx_runtime(tmp_path, view, classes, rounds):
    about = description(view, classes)
    model, in_c = opened(tmp_path, fitted(about, rounds))
    for n in (1, 7, 8, 9, 300):
        assert agreed(model, in_c, flows_at_random(n, seed=n)) <= set(range(-1, classes))


def test_temperature_threshold_and_the_class_unknown_are_the_models(tmp_path):
    about = description(temperature=1.7, threshold=0.4)
    model, in_c = opened(tmp_path, fitted(replace(about, classes=("a", "b", "unknown")), 10))
    flows = flows_at_random(500)
    assert agreed(model, in_c, flows)
    assert 0 < (in_c.answers(flows).label < 0).sum() < len(flows)
    for one in (model, in_c):
        one.temperature, one.threshold = 0.5, 0.0  # a cascade's stage has its own
    assert agreed(model, in_c, flows)


def test_families_and_probabilities_are_the_models(tmp_path):
    of = {"first": ("class0", "class3"), "second": ("class1", "class2")}
    about = description(classes=6, families=of, threshold=0.5, family_threshold=0.5)
    model, in_c = opened(tmp_path, fitted(about, 10))
    flows = flows_at_random(500)
    flows.flow_id[:] = np.arange(500)
    for one in (model, in_c):
        one.shares = Shares(6)
    assert agreed(model, in_c, flows)
    label = in_c.answers(flows).label
    assert {-1, 0, 6, 7} <= set(label.tolist())
    shares = in_c.shares.of(flows.flow_id)
    assert shares == pytest.approx(model.shares.of(flows.flow_id), abs=2e-6)
    has_input = flows.packets["present"].any(axis=1)
    assert shares.sum(axis=1) == pytest.approx(has_input.astype(float), abs=1e-5)


def leaf(tree, node):
    return tree, node, 0, 0.0, "LEAF", 0, 0


@pytest.mark.parametrize("kind", [TreesRunner, OnnxRunner])
def test_rows_on_the_gpu_are_judged_on_the_host(gpu, kind):
    about = description()
    runner = kind(fitted(about, 10))
    rows, stream = about_rows(about, flows_at_random(20)).astype(np.float32), fake_cupy.Stream()
    scores = runner.infer_device(fake_cupy.asarray(rows), stream)
    np.testing.assert_array_equal(fake_cupy.asnumpy(scores), runner.infer(rows))
    assert stream.synchronized


def test_one_tree_by_hand(tmp_path):
    nodes = [(0, 0, 2, 2.0, "BRANCH_LEQ", 1, 2), leaf(0, 1), leaf(0, 2)]
    _, in_c = by_hand(tmp_path, nodes, [(0, 1, 0, 3.0), (0, 2, 1, 1.0)])
    flows = rows_of(3, N, 0)
    for row, packets in enumerate((1, 2, 3)):  # s_pkt_cnt: 2 is not above 2
        flows.packets["present"][row, :packets] = 1
    said = in_c.answers(flows)
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
    model, in_c = by_hand(tmp_path, nodes, [*weights, (1, 0, 1, 0.5)], base_values=[0.25, -0.5])
    assert agreed(model, in_c, flows_at_random(200)) == {-1, 0, 1}


def chain(leaves: int):
    """A tree of so many leaves, each but the last the first side of its branch."""
    nodes, weights = [], []
    for i in range(leaves - 1):
        nodes += [(0, 2 * i, 0, 40.0 * i, "BRANCH_LEQ", 2 * i + 1, 2 * i + 2), leaf(0, 2 * i + 1)]
        weights.append((0, 2 * i + 1, i % 2, float(i)))
    return [*nodes, leaf(0, 2 * leaves - 2)], [*weights, (0, 2 * leaves - 2, 0, -1.0)]


def test_a_tree_has_at_most_as_many_leaves_as_a_word_has_bits(tmp_path):
    assert agreed(*by_hand(tmp_path, *chain(32)), flows_at_random(100))
    assert by_hand(tmp_path, *chain(33))[1].engine == OnnxRunner.engine


@pytest.mark.parametrize("cut", [10, 1000, 5000])
def test_what_is_no_whole_file_is_not_judged(tmp_path, cut):
    contents = fitted(description(), 5)
    assert TreesRunner(contents).metadata == OnnxRunner(contents).metadata
    with pytest.raises(ValueError, match="not judged in C"):
        TreesRunner(contents[:cut])


@pytest.mark.parametrize(
    ("feature", "yes", "target"),
    [(4, 1, 0), (-1, 1, 0), (0, 1, 2), (0, 1, -1), (0, 0, 0), (0, 2, 0)],
)
def test_what_lies_outside_its_arrays_is_refused(feature, yes, target):
    nodes = [(0, 0, feature, 2.0, "BRANCH_LEQ", yes, 2), leaf(0, 1), leaf(0, 2)]
    with pytest.raises(ValueError, match="not judged in C"):
        TreesRunner(made_by_hand(nodes, [(0, 1, target, 3.0), (0, 2, 1, 1.0)]))


def test_children_in_other_trees_are_refused():
    nodes = [(0, 0, 0, 2.0, "BRANCH_LEQ", 1, 2), leaf(0, 1), leaf(1, 0), leaf(1, 1)]
    with pytest.raises(ValueError, match="not judged in C"):
        TreesRunner(made_by_hand(nodes, [(0, 1, 0, 3.0), (1, 0, 1, 1.0), (1, 1, 1, 1.0)]))


def test_rows_of_another_shape_are_refused(tmp_path):
    _, in_c = opened(tmp_path, fitted(description(), 2))
    assert in_c.infer(np.zeros((0, len(COLUMNS)), np.float32)).shape == (0, 3)
    with pytest.raises(ModelError, match="takes rows of float32"):
        in_c.infer(np.zeros((2, len(COLUMNS) - 1), np.float32))


def test_the_models_that_ship_say_the_same_of_recordings():
    in_c, by_runtime = (serving.load_inside(None, one) for one in ("cpu", "onnxruntime"))
    assert (in_c.engine, by_runtime.engine) == (TreesRunner.engine, OnnxRunner.engine)
    with offline.classify(LAB, model="default") as verdicts:
        flows = [batch.flows for batch in verdicts]
    assert sum(map(len, flows)) > 100
    for ours, theirs in zip(in_c.stage_models, by_runtime.stage_models, strict=True):
        for some in flows:
            mine, its = ours.answers(some), theirs.answers(some)
            assert mine.label.tolist() == its.label.tolist()
            assert mine.probability == pytest.approx(its.probability, abs=1e-6)


def test_trees_need_no_onnx_runtime():
    code = (
        "import sys; sys.modules['onnxruntime'] = None; from etcpipe import classify;"
        f"print(sum(map(len, classify({str(LAB[0])!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.stderr and int(done.stdout) > 10


def test_more_threads_are_those_of_onnx_runtime(tmp_path):
    (tmp_path / "trees.onnx").write_bytes(fitted(description(), 2))
    assert load(tmp_path / "trees.onnx", threads=2).engine == OnnxRunner.engine


def test_other_branches_are_left_to_onnx_runtime(tmp_path):
    nodes = [(0, 0, 2, 2.0, "BRANCH_LT", 1, 2), leaf(0, 1), leaf(0, 2)]
    assert by_hand(tmp_path, nodes, [(0, 1, 0, 3.0), (0, 2, 1, 1.0)])[1].engine == OnnxRunner.engine


def test_a_cascade_has_its_trees_judged_in_c(tmp_path):
    (tmp_path / "trees.onnx").write_bytes(fitted(description(), 5))
    Cascade((Stage(N, "trees.onnx"),)).save(tmp_path / "cascade.toml")
    opened = serving.load(tmp_path / "cascade.toml")
    assert opened.engine == TreesRunner.engine
    assert opened.quick == {0}
