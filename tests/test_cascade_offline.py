"""Captures through a cascade: what its stages would have said alone, by the rule, for each flow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etcpipe import offline
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.cli import command
from etcpipe.errors import ModelError, UsageError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import load
from etcpipe.model_file import DIGEST_KEY, NO_DIGEST, Description, seal

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_model import model_bytes

LAB = sorted((Path(__file__).parent / "data/lab").glob("*.pcap"))
CLASSES = ("small", "large", "unknown")
COLUMNS = ("s_bytes_mean", "d_bytes_mean", "s_pkt_cnt")
DEPTHS = (1, 3, 10)
RULES = (Rule("threshold", 0.9), Rule("per_class", 0.9, {"small": 0.6, "unknown": 0.99}), None)


def write_model(path: Path, packets: int, classes=CLASSES, **changes) -> Path:
    """A linear model of mean sizes, which answers differently at each depth."""
    about = Description(
        name=f"at{packets}",
        classes=classes,
        view="stats",
        columns=COLUMNS,
        schema_hash=schema_hash(VIEWS["stats"], packets, "strict", COLUMNS),
        first_n=packets,
        threshold=0.35,
    )
    weights = np.array([[-1, 4, 0], [0, 3, 1], [80, 0, 70 * packets]], np.float32) / 150
    path.write_bytes(model_bytes(replace(about, **changes), weights[:, : len(classes)], None, 3))
    return path


@pytest.fixture
def cascade(tmp_path):
    stages = [
        Stage(depth, write_model(tmp_path / f"{depth}.onnx", depth).name, rule=rule, batch=64)
        for depth, rule in zip(DEPTHS, RULES, strict=True)
    ]
    Cascade(tuple(stages)).save(tmp_path / "cascade.toml")
    return tmp_path / "cascade.toml"


def verdicts(**options):
    """Flow id -> what was said of it; each flow once."""
    found = {}
    with offline.classify(LAB, **options) as flows:
        for batch in flows:
            for i in range(len(batch)):
                flow = int(batch.flows.flow_id[i])
                assert flow not in found
                found[flow] = (batch.name(i), batch.probability[i], batch.packets_used[i], batch, i)
        return found, flows.counters()


def test_each_flow_is_answered_by_the_first_stage_that_is_sure(cascade, tmp_path):
    served, counters = verdicts(cascade=cascade)
    # without a threshold of its own, an early model says what it takes for most probable
    for depth in DEPTHS[:2]:
        write_model(tmp_path / f"{depth}.onnx", depth, threshold=0.0)
    alone = [verdicts(model=tmp_path / f"{depth}.onnx")[0] for depth in DEPTHS]
    stages = np.zeros(3, int)
    assert len(served) == len(alone[0]) > 100
    for flow, (label, probability, packets, batch, i) in served.items():
        said = [one[flow][:3] for one in alone]
        if not said[0][2]:
            assert (label, packets) == ("unknown", 0)
            continue
        sure = [
            said[0][1] >= 0.9,
            said[1][1] >= {"small": 0.6, "unknown": 0.99}.get(said[1][0], 0.9),
            True,
        ]
        stage = sure.index(True)
        assert (label, probability, packets) == said[stage]
        assert (batch.stage[i], batch.depth[i]) == (stage, DEPTHS[stage])
        assert batch.models[stage].startswith(f"at{DEPTHS[stage]}@")
        stages[stage] += 1
    assert (stages > 5).all(), stages
    assert counters["CASCADE_SURE"] == stages[0] + stages[1]
    assert counters["CASCADE_LAST"] == stages[2]


def test_a_pipe_is_answered_as_a_file_is(cascade, monkeypatch):
    from etcpipe import pipeline

    in_large_batches, _ = verdicts(cascade=cascade)
    monkeypatch.setattr(pipeline, "ROWS_MAX", 1)  # as at the end of a pipe: whatever is there
    at_once, _ = verdicts(cascade=cascade)
    assert {flow: one[:3] for flow, one in at_once.items()} == {
        flow: one[:3] for flow, one in in_large_batches.items()
    }


def test_more_packets_than_the_last_stage_needs(cascade):
    known, _ = verdicts(cascade=cascade)
    found, _ = verdicts(cascade=cascade, first_n=20)
    assert {flow: one[:2] for flow, one in found.items()} == {
        flow: one[:2] for flow, one in known.items()
    }
    with pytest.raises(UsageError, match="needs 10 packets"):
        offline.classify(LAB, cascade=cascade, first_n=5)


def test_a_cascade_in_one_file_says_the_same(cascade, tmp_path):
    one = tmp_path / "apart" / "one.onnx"
    one.parent.mkdir()
    assert command.run(["cascade", "embed", str(cascade), "-o", str(one)]) == 0
    known, _ = verdicts(cascade=cascade)
    found, _ = verdicts(cascade=one)
    assert {flow: said[:3] for flow, said in found.items()} == {
        flow: said[:3] for flow, said in known.items()
    }
    assert load(one).name == "at10"  # as a model it is the last stage


def sealed_again(file, old, new):
    """The contents of a model file with other words in it, and the digest of these."""
    import onnx

    graph = onnx.load_model_from_string(file.read_bytes().replace(old, new))
    properties = {one.key: one.value for one in graph.metadata_props} | {DIGEST_KEY: NO_DIGEST}
    onnx.helper.set_model_props(graph, properties)
    return seal(graph.SerializeToString())


def test_the_cascade_that_ships_is_had_by_its_name():
    shipped, by_name = verdicts()[0], verdicts(cascade="default")[0]
    assert {flow: said[:3] for flow, said in by_name.items()} == {
        flow: said[:3] for flow, said in shipped.items()
    }


def test_files_that_hold_no_cascade_are_refused(cascade, tmp_path, capfd):
    with pytest.raises(ModelError, match=r"10\.onnx: holds no cascade: give its cascade\.toml"):
        offline.classify(LAB, cascade=tmp_path / "10.onnx")
    with pytest.raises(ModelError, match="cannot read cascade"):
        offline.classify(LAB, cascade=tmp_path / "none.onnx")
    one = tmp_path / "one.onnx"
    assert command.run(["cascade", "embed", str(cascade), "-o", str(one)]) == 0
    one.write_bytes(sealed_again(one, b"wait_s", b"wait_t"))
    with pytest.raises(UsageError, match="unknown key 'wait_t'"):
        offline.classify(LAB, cascade=one)
    assert command.run(["cascade", "embed", str(cascade), "-o", str(tmp_path / "x.toml")]) == 2
    assert "a model file ends in .onnx" in capfd.readouterr().err


def test_models_that_do_not_fit_are_refused(cascade, tmp_path):
    with pytest.raises(UsageError, match="a model or a cascade, not both"):
        offline.classify(LAB, "default", cascade=cascade)
    write_model(tmp_path / "3.onnx", 3, classes=("small", "large"))
    with pytest.raises(ModelError, match="toml: stage 1: model at3 differs in classes from at10"):
        offline.classify(LAB, cascade=cascade)
    write_model(tmp_path / "3.onnx", 2, name="short")
    with pytest.raises(ModelError, match="stage 1: waits for 3 packets, model short looks at 2"):
        offline.classify(LAB, cascade=cascade)
    (tmp_path / "3.onnx").unlink()
    with pytest.raises(ModelError, match=r"cascade\.toml: stage 1: no model 3\.onnx"):
        offline.classify(LAB, cascade=cascade)
    nobody = Stage(1, "10.onnx", rule=Rule("per_class", 0.5, {"nobody": 0.5}))
    Cascade((nobody, Stage(10, "10.onnx"))).save(cascade)
    with pytest.raises(UsageError, match="stage 0: rule: the model has no class 'nobody'"):
        offline.classify(LAB, cascade=cascade)
