"""The first stage of a cascade in the kernel: its own programs judge, and a tap serves both."""

import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from kernel_fixtures import NEEDS_FETCH_ADD, Wire, bench
from test_kernel_features_live import frames_of, table_of
from test_tree_kernel import COLUMNS, probabilities, random_trees
from waiting import stop_after

from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.kernel import bpf, netns
from etcpipe.kernel.features_plan import plan_for
from etcpipe.kernel.features_rows import Gathered
from etcpipe.kernel.stage0_trees import Trees
from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.live import attach as live
from etcpipe.model_file import Description
from etcpipe.verdict import SOURCE_KERNEL

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.training import trees

pytestmark = pytest.mark.root

LAB = sorted((Path(__file__).parent / "data/lab").glob("*.pcap"))
CLASSES, SEEN = ("small", "large"), ("s_bytes_mean", "s_pkt_cnt")
DEPTH, SLOTS = 4, 1 << 18
OBJECTS = ["tap.plain.bpf.o", pytest.param("tap.v3.bpf.o", marks=NEEDS_FETCH_ADD)]


@pytest.mark.parametrize("object_name", OBJECTS)
@pytest.mark.parametrize("program", ["tc_track", "xdp_track"])
def test_the_kernel_judges_as_onnx_runtime_does(object_name, program):
    random = np.random.default_rng(3)
    columns = tuple(np.sort(random.choice(COLUMNS, 20, replace=False)).tolist())
    how = dict(capture="features", features=columns, first_n=DEPTH, tree_depth=DEPTH)
    plan = plan_for(columns, DEPTH, 1.0, 4096)
    with bench("libbpf", object_name, **how, max_flows=4096, slots=SLOTS) as tap:
        frames = [frame for path in LAB for frame in frames_of(path)]
        some = plan_rows(frames, columns)
        contents = random_trees(random, some, trees=10, depth=4, classes=4)
        thresholds = np.quantile(probabilities(contents, some, 1.0).max(axis=1), [0.5] * 4)
        compiled = Trees(contents, columns, DEPTH, plan)
        tree = compiled.record(1.0, thresholds, [0x101, 0x102, 0x103, 0x104])
        bpf.update(tap.loaded.maps["trees"], np.zeros(1, np.uint32), tree)
        for frame in frames:
            tap.run(program, frame)
        entries, counters = table_of(tap, plan), tap.counters()
        told = entries[entries["judged"] != 0]
        words = np.zeros((len(told), 1), np.uint64)
        slots = (told["flow_id"] % np.uint64(SLOTS)).astype(np.uint32)
        bpf.lookup(tap.loaded.maps["verdicts"], slots, words)
    wanted = probabilities(contents, Gathered(told, plan).rows(columns), 1.0)
    label, best = wanted.argmax(axis=1), wanted.max(axis=1)
    sure = best >= thresholds[label]
    assert len(told) > 100 and 0.1 < sure.mean() < 0.9
    np.testing.assert_array_equal(told["class"], label)
    np.testing.assert_array_equal(told["judged"], np.where(sure, 1, 2))
    shift = np.uint64(VERDICT_CONSTANTS["VERDICT_FLOW_SHIFT"])
    final = np.uint64(VERDICT_CONSTANTS["VERDICT_FINAL"])
    stored = told["flow_id"] << shift | final | (0x101 + label).astype(np.uint64)
    np.testing.assert_array_equal(words[:, 0], np.where(sure, stored, 0))
    assert counters["FLOWS_TREE_SURE"] == sure.sum()
    assert counters["FLOWS_TREE_UNSURE"] == (~sure).sum()


def plan_rows(frames: list[bytes], columns: tuple[str, ...]) -> np.ndarray:
    """Return the rows of the same packets in an earlier run: what thresholds are taken from."""
    how = dict(capture="features", features=columns, first_n=DEPTH, max_flows=4096)
    with bench("libbpf", **how) as tap:
        for frame in frames:
            tap.run("tc_track", frame)
        plan = plan_for(columns, DEPTH, 1.0, 4096)
        return Gathered(table_of(tap, plan), plan).rows(columns)


def write_trees(path: Path, packets: int, mask: str = "strict") -> str:
    """A model that knows large packets from small ones, and those between as neither surely."""
    random = np.random.default_rng(packets)
    sizes = random.integers(60, 1500, 4000)
    rows = np.stack([sizes, random.integers(1, packets + 1, 4000)], axis=1).astype(np.float32)
    mixed = (sizes > 500) & (sizes < 1000)
    labels = np.where(mixed, random.integers(0, 2, 4000), sizes >= 1000)
    about = Description(
        name=f"at{packets}",
        classes=CLASSES,
        view="stats",
        columns=SEEN,
        schema_hash=schema_hash(VIEWS["stats"], packets, mask, SEEN),
        first_n=packets,
        mask=mask,
    )
    fitted = trees.fit(rows, labels, 2, seed=0, rounds=8)
    path.write_bytes(trees.to_onnx(fitted, len(SEEN), about))
    return path.name


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    stages = (
        Stage(2, write_trees(tmp_path / "2.onnx", 2), rule=Rule(probability=0.7)),
        Stage(5, write_trees(tmp_path / "5.onnx", 5)),
    )
    Cascade(stages, wait_s=0.5).save(tmp_path / "c.toml")
    return tmp_path / "c.toml"


# payload and packets by port: sure at the second packet, never sure, over before the second
SENT = {21000: (1200, 8), 21001: (100, 8), 21002: (700, 8), 21003: (1200, 1), 21004: (700, 3)}


@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_sure_flows_get_their_verdict_in_the_kernel(wire: Wire, cascade: Path, mode: str) -> None:
    found = {}
    with live.attach(
        wire.device, cascade=cascade, stage0="kernel", netns=wire.near, mode=mode, duration_s=60
    ) as tap:
        thread = threading.Thread(target=send, args=(wire,))
        thread.start()
        stop_after(tap, lambda: len(found) == len(SENT))
        for verdicts in tap:
            for i in range(len(verdicts)):
                key = verdicts.flows.key[i]
                port = max(int(key["a_port"]), int(key["b_port"]))
                if port in SENT:
                    assert port not in found
                    found[port] = (verdicts, i)
        thread.join()
        counters, lost, words = tap.counters(), tap.lost(), tap._tap.verdicts.copy()
    assert set(found) == set(SENT)
    said = {
        port: (v.name(i), int(v.stage[i]), int(v.packets_used[i]), v.source[i] == SOURCE_KERNEL)
        for port, (v, i) in found.items()
    }
    assert said[21000] == ("large", 0, 2, True)
    assert said[21001] == ("small", 0, 2, True)
    assert said[21002][1:] == (1, 5, False)
    assert said[21003] == ("large", 0, 1, False)
    assert said[21004][1:] == (1, 3, False)
    for port, (verdicts, i) in found.items():
        flow_id = int(verdicts.flows.flow_id[i])
        word = flow_id << 17 | 1 << 16 | int(verdicts.label[i]) + 1  # the flow, final, its class
        assert int(words[flow_id % len(words)]) == word, port
    assert counters["FLOWS_TREE_SURE"] >= 2 and counters["FLOWS_TREE_UNSURE"] >= 2
    assert counters["PACKETS_CLONED"] == 0 and lost == {}
    # ranks 2 to 4 of the two flows that were sure at their second packet
    gathered = counters["PACKETS_GATHERED"] + counters["PACKETS_GATHERED_LATE"]
    assert counters["PACKETS_SETTLED"] == 6
    assert counters["PACKETS_FIRST_N"] == gathered + counters["PACKETS_SETTLED"]


def send(wire: Wire) -> None:
    with netns.enter(wire.far):
        for port, (size, packets) in SENT.items():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("10.77.0.2", port))
                for _ in range(packets):
                    sender.sendto(bytes(size), ("10.77.0.1", 4433))


def test_what_the_kernel_cannot_begin_is_refused(cascade: Path, tmp_path: Path) -> None:
    for options, words in (
        ({}, "--stage0 kernel is of a cascade"),
        ({"model": "default", "cascade": cascade}, "and no model or point"),
    ):
        with pytest.raises(UsageError, match=words):
            live.attach("lo", stage0="kernel", **options)
    with (
        pytest.raises(UnsupportedError, match="need the loader libbpf"),
        bench("bcc", capture="features", features=SEEN, tree_depth=2),
    ):
        pass
    third = Stage(9, write_trees(tmp_path / "9.onnx", 9))
    names = [("2.onnx", 2), ("5.onnx", 5)]
    two = [Stage(n, name, rule=Rule(probability=0.7)) for name, n in names]
    Cascade((*two, third)).save(tmp_path / "three.toml")
    with pytest.raises(UsageError, match="takes a cascade of two stages, not 3: leave the capture"):
        live.attach("lo", stage0="kernel", cascade=tmp_path / "three.toml", capture="features")
    first = Stage(9, "9.onnx", rule=Rule("target", share=0.2))
    Cascade((first, third)).save(tmp_path / "target.toml")
    with pytest.raises(UsageError, match="no rule of a target"):
        live.attach("lo", stage0="kernel", cascade=tmp_path / "target.toml")
