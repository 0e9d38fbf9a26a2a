"""A model file is used as it was meant, or refused with a line that says why."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etcpipe.batch import FlowBatch
from etcpipe.cascade import serving
from etcpipe.cascade.choose import is_sure
from etcpipe.cascade.rows import read_at_depths, rows_for
from etcpipe.dataset import Input, find_recordings
from etcpipe.errors import ModelError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.layout import FLOW_KEY, FLOW_STATE, PACKET_FIELDS, READY_REASONS
from etcpipe.model import calibrated, find, list_shipped, load
from etcpipe.model_file import (
    DESCRIPTION_KEY,
    DIGEST_KEY,
    NO_DIGEST,
    Description,
    parse_description,
    seal,
)
from etcpipe.verdict import SOURCES

onnx = pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

COLUMNS = ("s_pkt_cnt", "d_pkt_cnt")
SCHEMA = schema_hash(VIEWS["stats"], 4, "strict", COLUMNS)
PLAIN = Description(
    name="counts", classes=("up", "down"), view="stats", columns=COLUMNS, schema_hash=SCHEMA,
    first_n=4, threshold=0.6, temperature=0.5,
)  # fmt: skip


def model_bytes(description=PLAIN, matrix=None, metadata=None, columns=None, kind="float"):
    """A linear model: scores = rows @ matrix."""
    width = len(COLUMNS) if columns is None else columns
    matrix = np.eye(width, 2, dtype=np.float32) if matrix is None else matrix
    element = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE}[kind]
    weights = numpy_helper.from_array(matrix.astype({"float": "f4", "double": "f8"}[kind]), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("rows", element, [None, width])],
        [helper.make_tensor_value_info("scores", element, [None, matrix.shape[1]])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    if metadata is None:
        metadata = {DESCRIPTION_KEY: description.to_json(), DIGEST_KEY: NO_DIGEST}
    helper.set_model_props(model, metadata)
    data = model.SerializeToString()
    return seal(data) if DIGEST_KEY in metadata else data


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.onnx"


def flow_batch(directions, reason="depth"):
    """Flows with packets of the given directions, one each 10 ms from 1 s on."""
    ranks = max(map(len, directions))
    packets = np.zeros((len(directions), ranks), PACKET_FIELDS)
    for row, sent in zip(packets, directions, strict=True):
        for rank, direction in enumerate(sent):
            row["direction"][rank], row["present"][rank] = direction, 1
            row["timestamp_ns"][rank] = 10**9 + 10**7 * rank
    count = len(directions)
    return FlowBatch(
        flow_id=np.arange(1, count + 1, dtype="u8"),
        key=np.zeros(count, FLOW_KEY),
        initiator=np.zeros(count, "u1"),
        vlan=np.zeros(count, "u2"),
        ifindex=np.zeros(count, "u4"),
        packets=packets,
        raw=np.zeros((count, ranks, 0), "u1"),
        lost=np.zeros(count, "u2"),
        reason=np.full(count, READY_REASONS.index(reason), "u1"),
        ready_ns=np.full(count, 10**9 + 5 * 10**7, "u8"),
    )


def records(flows):
    return np.zeros(len(flows), FLOW_STATE)


def test_load_gives_what_the_file_says(file):
    file.write_bytes(model_bytes())
    model = load(file)
    assert model.description == PLAIN
    assert (model.first_n, model.raw_len, model.count, model.wait_s) == (4, 0, "payload", 1.0)
    assert str(model) == f"counts@{model.digest}" and len(model.digest) == 12


def test_verdicts_by_hand(file):
    file.write_bytes(model_bytes())
    flows = flow_batch([[0, 0, 0, 1], [1, 1], [0, 1], []], "idle")
    verdicts = load(file).verdicts(flows, records(flows), start_ns=10**9 + 6 * 10**7)
    assert [verdicts.name(i) for i in range(4)] == ["up", "down", "unknown", "unknown"]
    sure = 1 / (1 + np.exp(-4))  # scores 3 and 1 or 2 and 0, temperature 0.5
    np.testing.assert_allclose(verdicts.probability, [sure, sure, 0.5, 0], rtol=1e-6)
    assert verdicts.runner_up.tolist() == [1, 0, 1, -1]
    assert verdicts.packets_used.tolist() == [4, 2, 2, 0]
    assert [SOURCES[i] for i in verdicts.source] == ["timeout"] * 3 + ["unknown"]
    assert verdicts.wait_ns.tolist() == [5 * 10**7] * 3 + [0]
    assert verdicts.queue_ns.tolist() == [10**7] * 4
    assert verdicts.models[0].startswith("counts@")


def test_packets_beyond_the_models_depth_do_not_count(file):
    file.write_bytes(model_bytes())
    flows = flow_batch([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]])
    verdicts = load(file).verdicts(flows, records(flows))
    assert verdicts.name(0) == "down" and verdicts.packets_used[0] == 4
    assert SOURCES[verdicts.source[0]] == "model" and verdicts.queue_ns[0] == 0


def test_no_flows_no_verdicts(file):
    file.write_bytes(model_bytes())
    flows = flow_batch([[0]])
    none = FlowBatch(**{name: column[:0] for name, column in vars(flows).items()})
    assert len(load(file).verdicts(none, records(none))) == 0


def test_class_unknown_is_no_label(file):
    file.write_bytes(model_bytes(replace(PLAIN, classes=("up", "unknown"))))
    flows = flow_batch([[0, 0, 0, 0], [1, 1, 1, 1]])
    verdicts = load(file).verdicts(flows, records(flows))
    assert verdicts.label.tolist() == [0, -1]


def test_calibrated_is_a_softmax_that_does_not_overflow():
    scores = np.array([[1000.0, 998.0, 0.0]], np.float32)
    even = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(calibrated(scores, 2.0), [[even, 1 - even, 0]], atol=1e-6)


def flipped(data):
    """One bit of the weights changed: still ONNX, another model."""
    at = data.index(np.float32(1).tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"not a model\n" * 9, "damaged or not an ONNX model", id="text"),
        pytest.param(model_bytes()[:-200], "damaged or not an ONNX model", id="cut"),
        pytest.param(flipped(model_bytes()), "damaged: its contents do not match", id="one bit"),
        pytest.param(model_bytes(metadata={}), "made by another program", id="foreign"),
        pytest.param(
            model_bytes(metadata={DESCRIPTION_KEY: PLAIN.to_json()}), "damaged", id="no digest"
        ),
        pytest.param(
            model_bytes(metadata={DESCRIPTION_KEY: "{", DIGEST_KEY: NO_DIGEST}),
            "its description cannot be read",
            id="no JSON",
        ),
        pytest.param(model_bytes(replace(PLAIN, format=2)), "of format 2", id="newer format"),
        pytest.param(
            model_bytes(replace(PLAIN, schema_hash="0123456789abcdef")),
            f"schema 0123456789abcdef, this etcpipe makes {SCHEMA}",
            id="other schema",
        ),
        pytest.param(
            model_bytes(replace(PLAIN, first_n=5)), "trained on inputs of schema", id="other N"
        ),
        pytest.param(model_bytes(replace(PLAIN, view="sound")), "needs view 'sound'", id="view"),
        pytest.param(model_bytes(replace(PLAIN, mask="lax")), "needs mask 'lax'", id="mask"),
        pytest.param(
            model_bytes(replace(PLAIN, count="odd")), "needs count rule 'odd'", id="count rule"
        ),
        pytest.param(
            model_bytes(replace(PLAIN, columns=("s_pkt_cnt", "s_mood"))),
            "needs column 's_mood'",
            id="column",
        ),
        pytest.param(model_bytes(replace(PLAIN, first_n=0)), "asks for 0 packets", id="no packets"),
        pytest.param(model_bytes(columns=3), r"takes float32 \[3\], view stats gives", id="shape"),
        pytest.param(model_bytes(kind="double"), "takes tensor", id="dtype"),
        pytest.param(
            model_bytes(matrix=np.ones((2, 3), np.float32)),
            "gives 3 scores for 2 classes",
            id="scores",
        ),
    ],
)
def test_bad_file_is_refused_with_one_line(file, contents, message):
    file.write_bytes(contents)
    with pytest.raises(ModelError, match=message) as error:
        load(file)
    assert str(error.value).startswith(f"model {file}: ")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ModelError, match=r"no model .*nowhere\.onnx: give a \.onnx file or one"):
        load(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="cannot read model"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '{"name": "x"}', '{"format": "a"}', "\x00"])
def test_odd_descriptions_are_refused(text):
    with pytest.raises(ModelError):
        parse_description(text)


def test_seal_needs_the_zeros_once():
    with pytest.raises(ValueError, match="no unique"):
        seal(b"no zeros here")


def test_the_shipped_model_knows_the_labs_kinds():
    model = load()
    assert find("default") in list_shipped()
    assert {"https_page", "ssh_shell", "wireguard", "quic_h3"} <= set(model.classes)
    assert (model.first_n, model.count, model.mask) == (50, "payload", "strict")
    assert serving.load(find("default")).depths == (10, 50)
    assert model.columns == VIEWS["stats"].column_names("strict")
    flows = flow_batch([[0, 1] * 5, [0, 0]])
    verdicts = model.verdicts(flows, records(flows))
    assert ((verdicts.probability > 0) & (verdicts.probability <= 1)).all()


def test_shipped_scores_are_of_held_out_captures():
    scores = load().description.scores
    low, high = scores["macro_f1_interval"]
    assert scores["split"] == "capture" and low <= scores["macro_f1"] <= high
    assert scores["macro_f1"] > scores["baselines"]["knn"] > scores["baselines"]["majority"]
    card = (find(None).parent / "default.md").read_text()
    assert f"{scores['macro_f1']:.3f}" in card and load().description.data in card


@pytest.mark.parametrize("system", ["lab", "lab-debian-13"])
def test_the_shipped_model_on_recordings_that_it_never_saw(system):
    """Small recordings of the lab, on two systems, not among those that it was trained on."""
    shipped = serving.load_inside(None)
    folder = Path(__file__).parent / "data" / system
    rows = read_at_depths(find_recordings(folder), shipped.depths, Input())
    flows, said = rows.deepest, np.full(len(rows), "", "U20")
    for stage, model in zip(shipped.cascade.stages, shipped.stage_models, strict=True):
        probabilities = model.infer(rows_for(model, rows.datasets[stage.packets]))
        sure = (said == "") & (
            stage.rule is None or is_sure(stage.rule, probabilities, model.classes)
        )
        said[sure] = np.array(model.classes)[probabilities.argmax(axis=1)][sure]
    truth = np.array(flows.classes)[flows.label]
    assert len(flows) > 100
    assert (said == truth).mean() > 0.8
    tells_apart = ["wireguard", "openvpn", "quic_h3", "imaps", "srtp", "shadowsocks"]
    assert (said == truth)[np.isin(truth, tells_apart)].mean() > 0.95


def test_engine_is_imported_only_when_used():
    code = (
        "import sys, json, etcpipe, etcpipe.model; "
        "print(json.dumps([m for m in ('onnxruntime', 'onnx', 'lightgbm') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_loading_and_inference_say_nothing_on_stderr():
    code = (
        "import numpy as np; from etcpipe.model import load; m = load(); "
        "m.infer(np.zeros((5, len(m.columns)), np.float32))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
