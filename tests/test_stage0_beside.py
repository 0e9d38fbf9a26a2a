"""The first stage of a cascade in the kernel, beside copies: sure flows are copied no further."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import struct
from dataclasses import replace
from pathlib import Path

import captures
import numpy as np
import pytest
from captures import ether
from kernel_fixtures import bench, wire
from test_settled_live import NEVER_IDLE_S, Watched, send
from test_stage0_live import CLASSES, OBJECTS, write_trees

from etcpipe.cascade.serving import load
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import UsageError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.kernel import bpf
from etcpipe.kernel import settings as tap_settings
from etcpipe.kernel.features_plan import plan_for
from etcpipe.live import attach as live
from etcpipe.model_file import DIGEST_KEY, NO_DIGEST, Description, seal
from etcpipe.verdict import SOURCE_KERNEL, VerdictBatch

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.root

LARGE, SMALL, BETWEEN = 21000, 21001, 21002  # source ports, whose flows have packets of one size
SIZES = {LARGE: 1200, SMALL: 100, BETWEEN: 700}  # the trees are not sure of those between
DEPTH, LAST = 3, 10
ALL = 14  # packets that are sent of a flow
HOOKS = pytest.mark.parametrize(
    "how",
    [
        {"mode": mode, "capture": capture}
        for mode in ("tc", "xdp")
        for capture in ("afxdp", "ringbuf")
    ],
    ids=lambda how: "-".join(how.values()),
)


def packet(port: int) -> bytes:
    addresses = {"src": "10.77.0.2", "dst": "10.77.0.1"}
    return ether(captures.udp(bytes(SIZES[port]), **addresses, sport=port, dport=4433))


def write_raw(path: Path, mask: str = "strict") -> str:
    """A model of raw packets: large, if the tenth one's length is more than a byte holds."""
    view = VIEWS["raw"]
    about = Description(
        name="raw10",
        classes=CLASSES,
        view="raw",
        columns=(),
        schema_hash=schema_hash(view, LAST, mask, ()),
        first_n=LAST,
        mask=mask,
    )
    weights = np.zeros((view.shape[0] * view.shape[1], len(CLASSES)), np.float32)
    weights[(LAST - 1) * view.shape[1] + 2, 1] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["rows"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["numbers", "w"], ["scores"]),
        ],
        "raw",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [None, *view.shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, len(CLASSES)])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    helper.set_model_props(model, {"etcpipe": about.to_json(), DIGEST_KEY: NO_DIGEST})
    path.write_bytes(seal(model.SerializeToString()))
    return path.name


def save(folder: Path, depth: int = DEPTH) -> Path:
    """Three stages: trees that are sure of large and small, others that never are, raw packets."""
    stages = (
        Stage(depth, write_trees(folder / "first.onnx", depth), rule=Rule(probability=0.7)),
        Stage(5, write_trees(folder / "second.onnx", 5), rule=Rule(probability=1.1)),
        Stage(LAST, write_raw(folder / "last.onnx")),
    )
    Cascade(stages, wait_s=0.5).save(folder / "c.toml")
    return folder / "c.toml"


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    return save(tmp_path)


class Answers(Watched):
    """What was said of flows, by port."""

    def __init__(self, tap: live.Live):
        super().__init__(tap)
        self.said: dict[int, tuple[str, int, int, bool]] = {}

    def _note(self, verdicts: VerdictBatch) -> None:
        super()._note(verdicts)
        for i, flow_id in enumerate(verdicts.flows.flow_id.tolist()):
            by_kernel = verdicts.source[i] == SOURCE_KERNEL
            used = int(verdicts.packets_used[i])
            said = verdicts.name(i), int(verdicts.stage[i]), used, bool(by_kernel)
            self.said[self.ports[flow_id]] = said


@HOOKS
def test_a_sure_flow_is_answered_in_the_kernel_and_an_unsure_one_by_all_stages(wire, cascade, how):
    with live.attach(
        wire.device, cascade=cascade, stage0="kernel", netns=wire.near, wait_s=NEVER_IDLE_S, **how
    ) as tap:
        answers = Answers(tap)
        send(wire, [packet(port) for _ in range(ALL) for port in SIZES])
        answers.until((lambda: answers.has_counted(3 * LAST) and len(answers.said) == 3, tap.stop))
        words = tap._tap.verdicts.copy()
        # of sure flows the packets before the one that the trees judged by are copied
        answers.assert_exact(settled=2 * (LAST - DEPTH + 1))
        counters = tap.counters()
    assert answers.by_port() == {LARGE: DEPTH - 1, SMALL: DEPTH - 1, BETWEEN: LAST}
    assert answers.said == {
        LARGE: ("large", 0, DEPTH, True),
        SMALL: ("small", 0, DEPTH, True),
        BETWEEN: ("large", 2, LAST, False),
    }
    assert (counters["FLOWS_TREE_SURE"], counters["FLOWS_TREE_UNSURE"]) == (2, 1)
    assert counters["CASCADE_LAST"] == 1
    for flow_id, port in answers.ports.items():
        label = CLASSES.index(answers.said[port][0])
        assert int(words[flow_id % len(words)]) == flow_id << 17 | 1 << 16 | label + 1


def test_a_flow_that_its_first_packet_tells_never_leaves_the_kernel(wire, tmp_path):
    with live.attach(
        wire.device,
        cascade=save(tmp_path, depth=1),
        stage0="kernel",
        netns=wire.near,
        mode="tc",
        wait_s=NEVER_IDLE_S,
    ) as tap:
        answers = Answers(tap)
        send(wire, [packet(LARGE)] * ALL)
        answers.until((lambda: answers.has_counted(LAST) and len(answers.said) == 1, tap.stop))
        answers.assert_exact(settled=LAST)
    assert answers.said == {LARGE: ("large", 0, 1, True)}


def test_a_flow_that_ended_before_its_packet_is_judged_in_user_space(wire, cascade):
    with live.attach(
        wire.device, cascade=cascade, stage0="kernel", netns=wire.near, mode="tc", wait_s=0.05
    ) as tap:
        answers = Answers(tap)
        send(wire, [packet(LARGE)] * (DEPTH - 1))
        answers.until((lambda: len(answers.said) == 1, tap.stop))
        answers.assert_exact(settled=0)
    assert answers.said == {LARGE: ("large", 0, DEPTH - 1, False)}


def test_a_flow_has_one_answer_though_its_copies_come_after_the_kernel_s(wire, cascade):
    """Rows that regrouping closes later are of a flow that was answered."""
    with live.attach(
        wire.device, cascade=cascade, stage0="kernel", netns=wire.near, mode="tc", wait_s=0.05
    ) as tap:
        answers = Answers(tap)

        def has_closed() -> bool:
            return tap.counters()["REGROUP_FLOWS"] == 1 and tap._regroup.pending == 0

        tap._regroup.leave = lambda flow_id: None  # as if no packet of it had come yet
        send(wire, [packet(LARGE)] * DEPTH)
        answers.until((lambda: len(answers.said) == 1, lambda: None), (has_closed, tap.stop))
    assert answers.said == {LARGE: ("large", 0, DEPTH, True)}


def test_flows_that_the_kernel_ends_have_no_shadow(cascade, tmp_path):
    with pytest.raises(UsageError, match="no shadow beside --stage0 kernel"):
        live.attach("lo", cascade=cascade, stage0="kernel", shadow=tmp_path / "second.onnx")


def test_another_first_stage_takes_the_kernel_s_place_if_it_sees_the_same(wire, cascade, tmp_path):
    """The same trees, sure of nothing; others judge after another number of packets."""
    stages = load(cascade).cascade.stages
    never = replace(stages[0], rule=Rule(probability=1.1))
    Cascade((never, *stages[1:])).save(tmp_path / "never.toml")
    (tmp_path / "deeper").mkdir()
    deeper = save(tmp_path / "deeper", depth=2)
    with live.attach(
        wire.device,
        cascade=cascade,
        stage0="kernel",
        netns=wire.near,
        mode="tc",
        wait_s=NEVER_IDLE_S,
    ) as tap:
        answers = Answers(tap)

        def change() -> None:
            tap.set_model(tap.load_model(tmp_path / "never.toml"))
            send(wire, [packet(SMALL)] * LAST)

        def back() -> None:
            tap.roll_back_model()
            with pytest.raises(UsageError, match="the kernel judges after 3: attach"):
                tap.set_model(tap.load_model(deeper))
            send(wire, [packet(BETWEEN)] * LAST)

        send(wire, [packet(LARGE)] * DEPTH)
        answers.until(
            (lambda: len(answers.said) == 1, change),
            (lambda: len(answers.said) == 2, back),
            (lambda: len(answers.said) == 3, tap.stop),
        )
        counters = tap.counters()
    assert answers.said[LARGE] == ("large", 0, DEPTH, True)
    assert answers.said[SMALL][1:] == (2, LAST, False)
    assert (counters["FLOWS_TREE_SURE"], counters["FLOWS_TREE_UNSURE"]) == (1, 2)


def loaded(tmp_path: Path, object_name: str, **settings: object):
    """Programs that judge by the cascade's first stage, attached to nothing."""
    stage = KernelStage(load(save(tmp_path)))
    how = {"features": stage.columns, "tree_depth": stage.depth, "slots": 1 << 18}
    return stage, bench("libbpf", object_name, **how, **settings)


def set_tree(tap, stage: KernelStage) -> None:
    tree = stage.tree(plan_for(stage.columns, stage.depth, 1.0, 65536), None)
    bpf.update(tap.loaded.maps["trees"], np.zeros(1, np.uint32), tree)


@pytest.mark.parametrize("object_name", OBJECTS)
def test_a_super_packet_is_judged_by_its_third_segment(tmp_path, object_name):
    stage, programs = loaded(tmp_path, object_name)
    with programs as tap:
        set_tree(tap, stage)
        context = bytearray(184)  # struct __sk_buff: gso_segs at byte 164, gso_size at 176
        struct.pack_into("<I", context, 164, 5)
        struct.pack_into("<I", context, 176, 100)
        frame = ether(captures.tcp(500, captures.ACK))
        moved = tap.run("tc_track", frame, bytes(context))[1]
    copies = moved["PACKETS_CLONE_FAILED"]  # there is no device for them
    assert (moved["PACKETS_FIRST_N"], copies, moved["PACKETS_SETTLED"]) == (5, 2, 3)
    assert moved["FLOWS_TREE_SURE"] == 1


@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
def test_where_the_kernel_cannot_tell_a_flow_it_leaves_it_to_the_copies(
    tmp_path, program, monkeypatch
):
    monkeypatch.setattr(tap_settings, "TREE_RECORDS_BYTES", 0)  # a page: room for some flows
    stage, programs = loaded(tmp_path, "", capture="ringbuf")
    with programs as tap:
        set_tree(tap, stage)
        flows = 0
        while not tap.counters()["FLOWS_TREE_UNSURE"]:
            frame = ether(captures.udp(bytes(1200), sport=1024 + flows, dport=4433))
            for _ in range(DEPTH + 1):
                tap.run(program, frame)
            flows += 1
        counters = tap.counters()
    assert flows > 1
    assert counters["FLOWS_TREE_SURE"] == counters["FLOWS_GATHERED"] == flows - 1
    assert counters["PACKETS_SETTLED"] == 2 * (flows - 1)
    assert counters["PACKETS_FIRST_N"] == counters["PACKETS_CLONED"] + counters["PACKETS_SETTLED"]
    assert counters["FLOWS_NOT_GATHERED"] == counters["PACKETS_GATHERED"] == 0
