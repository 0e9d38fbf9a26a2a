"""Trees in whole numbers, as the kernel walks them, against ONNX Runtime on the same flows."""

import numpy as np
import pytest
from test_kernel_features import FEATURES, gathered
from test_views import flow_batch, packet

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.errors import UsageError
from etcpipe.gpu.views import compute
from etcpipe.kernel.features_plan import FeaturePlan, plan_for
from etcpipe.kernel.stage0_trees import CONSTANTS, Trees, input_of, is_compared, limit_of
from etcpipe.layout import PACKET_FIELDS
from etcpipe.model import calibrated
from etcpipe.model_file import Description

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

DEPTH, CLASSES, FLOWS = 5, 4, 10_000
SIDES = tuple(
    f"{side}_{quantity}_{statistic}"
    for quantity in ("bytes", "iat", "winsize", "ttl", "payload")
    for statistic in ("sum", "mean", "min", "max")
    for side in "sd"
)
COLUMNS = ("dur", "proto", "s_port", "d_port", "s_pkt_cnt", "d_pkt_cnt", "psh_cnt", "syn_cnt")
COLUMNS += ("syn_ack", "tcp_rtt", "ack_dat", *SIDES)


def random_flows(random: np.random.Generator) -> FlowBatch:
    """Return flows of up to DEPTH + 2 packets, of UDP and TCP, some with a handshake."""
    shape = (FLOWS, DEPTH + 2)
    flows = flow_batch([[packet()] * shape[1]] * FLOWS)
    packets = flows.packets
    packets["present"] = np.arange(shape[1]) < random.integers(1, shape[1] + 1, FLOWS)[:, None]
    gaps = random.choice([0, 1, 1000, 20_000_000, 999_999_999], shape) + random.integers(
        0, 9, shape
    )
    packets["timestamp_ns"] = 1_700_000_000_000_000_000 + np.cumsum(gaps, axis=1)
    packets["ip_len"] = random.choice([40, 52, 1500, 65535], shape) + random.integers(0, 40, shape)
    packets["payload_len"] = packets["ip_len"] - 40
    packets["direction"] = random.integers(0, 2, shape)
    packets["tcp_flags"] = random.choice([2, 18, 16, 24, 17], shape)
    packets["tcp_window"] = random.integers(0, 65536, shape)
    packets["ttl"] = random.choice([63, 64, 128], shape)
    flows.key["protocol"] = random.choice([6, 17], FLOWS)
    flows.key["a_port"] = random.integers(1, 65536, FLOWS)
    udp = flows.key["protocol"] == 17
    packets["tcp_flags"][udp] = packets["tcp_window"][udp] = 0
    flows.initiator[:] = random.integers(0, 2, FLOWS)
    packets[packets["present"] == 0] = np.zeros((), PACKET_FIELDS)
    return flows


def random_trees(random, rows: np.ndarray, trees: int, depth: int, classes: int) -> bytes:
    """Return a model file whose thresholds are values that flows have, or beside them."""
    names = "treeids nodeids featureids values modes truenodeids falsenodeids".split()
    nodes, leaves = [], []
    for tree in range(trees):
        for number in range(2 ** (depth + 1) - 1):
            if number >= 2**depth - 1:
                nodes.append((tree, number, 0, 0.0, "LEAF", 0, 0))
                wanted = [tree % classes] if trees > 1 else range(classes)
                leaves += [(tree, number, one, float(random.normal(0, 2))) for one in wanted]
                continue
            column = int(random.integers(0, rows.shape[1]))
            value = np.float32(random.choice(rows[:, column]))
            value = random.choice([value, np.nextafter(value, np.float32(-np.inf))])
            children = 2 * number + 1, 2 * number + 2
            nodes.append((tree, number, column, float(value), "BRANCH_LEQ", *children))
    attributes = {f"nodes_{n}": [node[i] for node in nodes] for i, n in enumerate(names)}
    for i, name in enumerate("treeids nodeids ids weights".split()):
        attributes[f"target_{name}"] = [leaf[i] for leaf in leaves]
    node = onnx.helper.make_node(
        "TreeEnsembleRegressor",
        ["rows"],
        ["scores"],
        domain="ai.onnx.ml",
        n_targets=classes,
        **attributes,
    )
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "trees",
        [onnx.helper.make_tensor_value_info("rows", kind, [None, rows.shape[1]])],
        [onnx.helper.make_tensor_value_info("scores", kind, [None, classes])],
    )
    opsets = [onnx.helper.make_opsetid("", 15), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def judged(flows: FlowBatch, plan: FeaturePlan, tree: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return class, probability, and whether it is sure, by the kernel's code."""
    entries, record = gathered(flows, plan).entries, plan.record()
    sure = np.zeros(len(entries), np.uint8)
    _native.features_judge(
        record.ctypes.data, tree.ctypes.data, entries.ctypes.data, len(entries), sure.ctypes.data
    )
    return entries["class"], 2.0**32 / entries["sum"], sure.astype(bool)


def probabilities(contents: bytes, rows: np.ndarray, temperature: float) -> np.ndarray:
    session = ort.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return calibrated(session.run(None, {"rows": rows})[0], temperature)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("trees", "depth", "classes"), [(1, 6, 4), (12, 4, 4), (32, 3, 16), (2, 8, 2)]
)
def test_class_and_rule_are_onnx_runtime_s_on_10_000_flows(trees, depth, classes, seed):
    random = np.random.default_rng([seed, trees])
    flows = random_flows(random)
    rows = compute(FEATURES, flows, DEPTH, COLUMNS)
    used = np.sort(random.choice(len(COLUMNS), 30, replace=False))
    columns, rows = tuple(COLUMNS[i] for i in used), np.ascontiguousarray(rows[:, used])
    contents = random_trees(random, rows, trees, depth, classes)
    temperature = float(random.uniform(0.5, 2))
    wanted = probabilities(contents, rows, temperature)
    best = wanted.max(axis=1)
    # a threshold that some flow's probability is, and others by class
    thresholds = np.quantile(best, random.uniform(0.2, 0.9, classes), method="nearest")

    plan = plan_for(columns, DEPTH, 1.0, 64)
    compiled = Trees(contents, columns, DEPTH, plan)
    tree = compiled.record(temperature, thresholds.astype(np.float32), range(classes))
    label, probability, sure = judged(flows, plan, tree)

    np.testing.assert_array_equal(label, wanted.argmax(axis=1))
    np.testing.assert_array_equal(sure, best >= thresholds[wanted.argmax(axis=1)])
    np.testing.assert_allclose(probability, best, rtol=1e-6)
    assert 0 < sure.mean() < 1 and compiled.steps <= 512


def test_a_limit_decides_every_value_near_the_threshold():
    random = np.random.default_rng(1)
    plan = plan_for(SIDES, 50, 1.0, 64)
    for column in ("s_bytes_mean", "d_iat_mean", "s_bytes_sum", "s_iat_max"):
        one = input_of(column, plan, 50)
        for _ in range(50):
            count = int(random.choice(list(one.counts)))
            threshold = one.shown(int(random.integers(0, count * 70_000)), count)
            limit = limit_of(threshold, one)
            near = int(float(threshold) * one.scale * count)
            for value in range(max(near - 200, 0), near + 200):
                is_yes = (value << 13) < limit * count
                assert is_yes == (one.shown(value, count) <= threshold), (column, value, count)


def test_what_the_kernel_cannot_do_is_said():
    random, rows = np.random.default_rng(0), np.zeros((9, 1), np.float32)
    for column in ("s_bytes_std", "s_load", "s_bytes_med", "d_bytes_share", "pkt1_size"):
        contents, plan = random_trees(random, rows, 1, 1, 2), plan_for((column,), 5, 1.0, 64)
        with pytest.raises(UsageError, match=f"cannot compare {column}"):
            Trees(contents, (column,), 5, plan).record(1.0, np.ones(2), (1, 2))
    plan = plan_for(("dur",), 5, 1.0, 64)
    for trees, depth, classes, words in (
        (1, 10, 2, "nodes"),
        (341, 1, 2, "steps"),
        (1, 1, 17, "17 classes"),
    ):
        contents = random_trees(random, rows, trees, depth, classes)
        with pytest.raises(UsageError, match=f"{words} are too large for the kernel"):
            Trees(contents, ("dur",), 5, plan).record(1.0, np.ones(classes), range(classes))


@pytest.mark.parametrize("mask", ["strict", "none"])
@pytest.mark.parametrize("classes", [2, 16])
def test_trees_that_are_trained_for_the_kernel_fit_it(mask, classes):
    pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
    from etcpipe.training.learner import KernelTreeLearner

    learner, random = KernelTreeLearner(mask, seed=1), np.random.default_rng(classes)
    assert {"s_bytes_mean", "tcp_rtt"} <= set(learner.columns)
    assert not {"s_bytes_med", "s_iat_std", "s_load"} & set(learner.columns)
    rows = random.integers(0, 1500, (3000, len(learner.columns))).astype(np.float32)
    # labels that nothing tells: trees grow as large as they may
    fitted = learner.fit(rows, random.integers(0, classes, 3000), classes, "all")
    names = tuple(f"c{i}" for i in range(classes))
    of = Description("small", names, "stats", learner.columns, "", DEPTH)
    plan = plan_for(learner.columns, DEPTH, 1.0, 64)
    taken = Trees(learner.export(fitted, of), learner.columns, DEPTH, plan)
    record = taken.record(1.0, np.full(classes, 0.9), range(classes))
    assert record["classes_used"] == classes
    assert 100 < taken.steps <= CONSTANTS["TREE_STEPS_MAX"]


def test_what_takes_fractions_or_single_packets_is_not_compared():
    assert is_compared("d_iat_mean") and is_compared("tcp_rtt")
    assert not is_compared("d_iat_med") and not is_compared("s_load")
