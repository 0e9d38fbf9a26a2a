"""Drift: distances by hand, what chance gives, and the verb on captures that changed."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from command import LAB
from labelled import EVERY, made_up, write_recordings

from etcpipe.cli.command import cli

pytest.importorskip("lightgbm", reason="drift needs etcpipe[train]")
from test_cascade_offline import write_model

from etcpipe import drift
from etcpipe.errors import UsageError

CLASSES = ("class0", "class1", "class2")
GAINS = {"s_bytes_mean": 0.9, "dur": 0.1}


def sure_of(dataset, probability=0.9):
    """Probabilities that say each flow's own label."""
    found = np.full((len(dataset), 3), (1 - probability) / 2, np.float32)
    found[np.arange(len(dataset)), dataset.label] = probability
    return found


def counted(dataset, like, probability=0.9):
    """What of_model() makes of flows, for a model that is always right."""
    edges = {name: np.array(one) for name, one in like["edges"].items()}
    rows = dataset.columns(tuple(edges))
    return drift._counts(rows, edges, sure_of(dataset, probability), CLASSES, 0.5)


@pytest.fixture(scope="module")
def before():
    dataset = made_up(flows=3000)
    return drift.reference(dataset, sure_of(dataset), CLASSES, 0.5, GAINS)


def test_psi_by_hand():
    """Two bins, 3 : 1 before and 1 : 3 now, with half a flow added to each bin."""
    found = drift._psi(np.array([299.5, 99.5]), np.array([[99.5, 299.5]]))
    assert found == pytest.approx([np.log(3)])


def test_the_same_traffic_on_another_day_has_not_moved(before):
    report = drift.compare(before, counted(made_up(flows=600, seed=8), before))
    assert not report["moved"] and report["which"] == []
    assert report["columns"]["s_bytes_mean"]["psi"] < 0.1
    assert report["classes"]["class1"]["share_now"] == pytest.approx(1 / 3, abs=0.1)


def test_the_class_that_moved_is_named(before):
    dataset = made_up(flows=600, seed=8)
    dataset.stats[dataset.label == 1, EVERY.index("s_bytes_mean")] += 150
    report = drift.compare(before, counted(dataset, before))
    assert report["which"] == ["class1"] and report["moved"]
    assert report["classes"]["class1"]["columns"]["s_bytes_mean"]["psi"] > 0.25
    assert not report["classes"]["class1"]["columns"]["dur"]["moved"]


def test_less_confidence_and_another_mix_are_told(before):
    dataset = made_up(flows=600, seed=8)
    report = drift.compare(before, counted(dataset, before, probability=0.6))
    assert report["confidence"]["moved"] and not report["mix"]["moved"]
    few = dataset.select(dataset.label != 2)
    report = drift.compare(before, counted(few, before))
    assert report["mix"]["moved"] and report["classes"]["class2"]["too_few"]


def test_flows_below_the_threshold_are_those_of_unknown(before):
    now = counted(made_up(flows=90, seed=8), before, probability=0.45)
    assert now["classes"]["unknown"]["flows"] == 90 == now["flows"]


def test_a_few_flows_say_nothing(before):
    with pytest.raises(UsageError, match="29 flows say nothing of a drift: give 30 or more"):
        drift.compare(before, counted(made_up(flows=29), before))


def etcpipe(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_drift_on_the_command_line(tmp_path):
    """A model knows its own days; of another day the large flows are gone."""
    days = [tmp_path / name for name in ("first", "second")]
    for i, day in enumerate(days):
        day.mkdir()
        write_recordings(day, first_seed=20 * i)
    model = tmp_path / "m.onnx"
    assert etcpipe("train", days[0], "-o", model, "--folds", "2").exception is None
    same = json.loads(etcpipe("drift", model, days[1], "-j").output)
    assert not same["moved"] and same["flows"] == 120
    labels = json.loads(etcpipe("drift", model, days[1], "--reference", days[0], "-j").output)
    assert not labels["moved"]
    small = tmp_path / "small"
    small.mkdir()
    for i in range(4):
        _keep_small(days[1] / f"{i}.pcap", small / f"{i}.pcap")
    done = CliRunner().invoke(cli, ["drift", str(model), str(small), "--check"])
    assert done.exit_code == 1 and "moved: " in done.output
    assert "  moved" in next(line for line in done.output.splitlines() if "classes said" in line)


def _keep_small(source, target):
    """Copy a capture of write_capture() without the flows of the server 198.18.0.2."""
    data = source.read_bytes()
    kept, at = [data[:24]], 24
    while at < len(data):
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        frame = data[at : at + 16 + length]
        if bytes([198, 18, 0, 2]) not in frame[16 + 26 : 16 + 34]:
            kept.append(frame)
        at += 16 + length
    target.write_bytes(b"".join(kept))


def test_a_model_without_a_reference_says_what_to_do(tmp_path):
    (tmp_path / "x").mkdir()
    write_recordings(tmp_path / "x")
    model = write_model(tmp_path / "plain.onnx", 10)
    done = etcpipe("drift", model, tmp_path / "x")
    assert "carries no reference: train it again" in str(done.exception)


def test_the_model_that_ships_carries_its_reference():
    done = etcpipe("-j", "drift", "default", LAB)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["flows"] > 100 and report["reference_flows"] > 5000
    # recordings of the same lab: what it tells apart looks as it did
    assert not {"wireguard", "srtp", "postgresql_tls"} & set(report["which"])
