"""Evaluation of a model file: what it says of labelled flows, counted by hand."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import EVERY, made_up, write_recordings

from etcpipe.cli import families_text
from etcpipe.cli.command import cli
from etcpipe.dataset import Input
from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.families import LabelNames
from etcpipe.gpu.views import VIEWS

pytest.importorskip("lightgbm", reason="evaluation needs etcpipe[train]")
from etcpipe.evaluation import model_eval, open_set
from etcpipe.training import train, trees
from etcpipe.training.learner import TreeLearner


class Sayer:
    """A model that says what a column of the statistics says."""

    classes, view, columns, threshold = ("a", "b", "unknown"), VIEWS["stats"], ("dur",), 0.75
    labels = LabelNames(classes)

    def __str__(self):
        return "sayer@0"

    def infer(self, rows):
        best, sure = rows[:, 0].astype(int), rows[:, 0] % 1
        probabilities = np.repeat((1 - sure[:, None]) / 2, 3, axis=1)
        probabilities[np.arange(len(rows)), best] = sure
        return probabilities


def said(label, best, sure, classes=("a", "b")):
    dataset = made_up(flows=len(label), classes=len(classes), captures=2)
    dataset.label[:] = label
    dataset.stats[:, EVERY.index("dur")] = np.array(best) + np.array(sure)
    return dataset.__class__(**{**vars(dataset), "classes": classes})


def test_scores_by_hand():
    #              right ------------  wrong           of a class that the model has not
    label = [0, 0, 0, 1, 1, 1, 2, 2]
    best = [0, 0, 1, 1, 1, 2, 0, 1]
    sure = [0.9, 0.9, 0.9, 0.9, 0.6, 0.9, 0.5, 0.9]
    report = model_eval.evaluate_model(Sayer(), said(label, best, sure, ("a", "b", "other")))
    assert report["confusion"] == [[2, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert report["strange_classes"] == ["other"] and report["flows"] == 6
    assert report["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-4)
    assert report["balanced_accuracy"] == report["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["classes"]["b"]["precision"] == pytest.approx(2 / 3, abs=1e-4)
    # refused: one below the threshold, one called "unknown"; of the others 3 of 4 are right
    unknown = report["unknown"]
    assert (unknown["known_refused"], unknown["right_of_kept"]) == (0.3333, 0.75)
    assert (unknown["strange_flows"], unknown["strange_refused"]) == (2, 0.5)
    # probability .9: 3 of 5 right, .6: 1 of 1
    assert report["calibration_error"] == pytest.approx((5 * 0.3 + 1 * 0.4) / 6, abs=1e-3)
    assert [one["flows"] for one in report["reliability"]] == [1, 5]


def test_what_families_give_by_hand():
    sayer = Sayer()
    sayer.labels, sayer.family_threshold = LabelNames(sayer.classes, {"ab": ("a", "b")}), 0.7
    # not sure: a "b" (together 0.8), one called "unknown" (0.1); a stranger (0.75)
    label, best = [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 0, 1]
    sure = [0.9, 0.9, 0.9, 0.9, 0.6, 0.9, 0.5, 0.9]
    report = model_eval.evaluate_model(sayer, said(label, best, sure, ("a", "b", "other")))
    assert report["families"] == {
        "threshold": 0.7,
        "refused": 0.3333,
        "told": 0.1667,
        "right": 1.0,
        "strange_wrong": 0.5,
    }
    assert families_text.as_text(report["families"]) == [
        "no class is sure of 33.3% of flows; a family is named of 16.7% (from 0.700 on), 100.0% "
        "of them right; wrongly of 50.0% of strange flows"
    ]


def test_labels_that_the_model_does_not_know_are_refused():
    with pytest.raises(UsageError, match="no label of the data is a class of sayer@0"):
        model_eval.evaluate_model(Sayer(), said([0, 1], [0, 1], [0.9, 0.9], ("A", "B")))


def test_fpr95_by_hand():
    known = np.arange(101) / 100  # 95 % of them are at 0.05 or above
    assert evaluate.false_positives_at_95(known, np.array([0.01, 0.04, 0.06, 0.9])) == 0.5


def three_blobs(is_strange_far):
    """Classes 0 and 1 side by side; class 2 far from both, or like class 0."""
    dataset = made_up(classes=3, flows=600)
    dataset.stats[:, EVERY.index("s_bytes_mean")] -= 400 * dataset.label
    where = np.array([0, 800, 20000 if is_strange_far else 0])
    dataset.stats[:, EVERY.index("s_bytes_mean")] += where[dataset.label]
    return dataset


@pytest.mark.parametrize("is_strange_far", [True, False])
def test_distances_tell_a_class_that_is_far_and_none_that_is_not(monkeypatch, is_strange_far):
    monkeypatch.setattr(trees, "TREES_MAX", 20)
    dataset = three_blobs(is_strange_far)
    found = open_set.measure(dataset, TreeLearner("strict", 1), "strict", folds=2)
    areas = found["without"]["class2"]
    if is_strange_far:
        assert areas["mahalanobis"] == {"area_under_roc": 1.0, "fpr95": 0.0}
        assert areas["knn"]["area_under_roc"] > 0.99
    else:
        assert all(0.25 < areas[name]["area_under_roc"] < 0.75 for name in ("mahalanobis", "knn"))
    assert set(found["without"]) == {"class0", "class1", "class2"}


class Embedding(TreeLearner):
    """Trees whose fits are said to embed flows: by their statistic a direction and a length."""

    def embed(self, fitted, rows):
        turned = rows[:, self.columns.index("s_bytes_mean")] / 20_000
        return np.stack([np.cos(turned), np.sin(turned)], axis=1) * (1 + turned[:, None])


def test_what_a_fit_embeds_is_judged_by_distance_too(monkeypatch):
    monkeypatch.setattr(trees, "TREES_MAX", 5)
    found = open_set.measure(three_blobs(True), Embedding("strict", 1), "strict", folds=2)
    areas = found["without"]["class2"]
    assert areas["embedded_mahalanobis"] == {"area_under_roc": 1.0, "fpr95": 0.0}
    assert areas["embedded_knn"] == {"area_under_roc": 1.0, "fpr95": 0.0}
    trees_alone = open_set.measure(three_blobs(True), TreeLearner("strict", 1), "strict", folds=2)
    assert set(trees_alone["fpr95"]) == {"msp", "energy", "mahalanobis", "knn"}


def test_mahalanobis_by_hand():
    """Two classes around 0 and 10 in one column of variance 1, the other column constant."""
    learnt = np.array([[-1, 5], [1, 5], [9, 5], [11, 5]], float)
    found = open_set.mahalanobis(np.array([[2, 5], [13, 5]], float), learnt, np.array([0, 0, 1, 1]))
    assert found == pytest.approx([-4, -9])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def model(recordings):
    done = CliRunner().invoke(
        cli, ["train", str(recordings), "-o", str(recordings / "m.onnx"), "--folds", "2"]
    )
    assert done.exit_code == 0
    return recordings / "m.onnx"


def etcpipe(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_eval_on_the_command_line(model, tmp_path):
    other = write_recordings(tmp_path, first_seed=50)
    done = etcpipe("eval", model, other, "--depths", "1,3,6", "-j")
    report = json.loads(done.output)
    assert report["macro_f1"] == 1.0 and report["flows"] == 120 and report["captures"] == 4
    assert list(report["depths"]) == ["1", "3", "6"]
    assert report["depths"]["6"] == {"macro_f1": 1.0, "macro_f1_interval": [1.0, 1.0]}
    text = etcpipe("eval", model, other).output
    assert "macro-F1 1.000 (1.000 to 1.000)" in text and "large" in text


def test_what_the_model_was_trained_on_is_refused_unless_meant(model, recordings):
    done = etcpipe("eval", model, recordings)
    assert "was trained on these flows" in str(done.exception)
    assert "macro-F1 1.000" in etcpipe("eval", model, recordings, "--i-know-this-leaks").output


def test_a_capture_of_the_training_among_others_is_refused(model, recordings, tmp_path):
    other = write_recordings(tmp_path, first_seed=50)
    (other / "2.pcap").write_bytes((recordings / "1.pcap").read_bytes())
    done = etcpipe("eval", model, other)
    assert f"was trained on {other / '2.pcap'}: " in str(done.exception)
    etcpipe("dataset", "build", other, "-o", tmp_path / "built")
    (other / "2.pcap").unlink()
    done = etcpipe("eval", model, tmp_path / "built")
    assert "2.pcap: " in str(done.exception)  # the folder notes the digests of its captures


def test_depths_that_cannot_be_are_refused(model, tmp_path):
    other = write_recordings(tmp_path, first_seed=50)
    assert "depth 11" in str(etcpipe("eval", model, other, "--depths", "11").exception)
    assert "give numbers" in str(etcpipe("eval", model, other, "--depths", "x").exception)
    etcpipe("dataset", "build", other, "-o", tmp_path / "built", "--first", "5")
    done = etcpipe("eval", model, tmp_path / "built")
    assert "built with --first 5" in str(done.exception)
    done = etcpipe("eval", model, tmp_path / "built", "--depths", "1")
    assert "needs the captures" in str(done.exception)


def test_plots_are_written(model, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need etcpipe[plot]")
    other = write_recordings(tmp_path, first_seed=50)
    words = ["--depths", "1,6", "--plot", tmp_path / "plots", "-j"]
    report = json.loads(etcpipe("eval", model, other, *words).output)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "confusion.png",
        "depths.png",
        "reliability.png",
    ]
    assert len(report["plots"]) == 3
    assert (tmp_path / "plots" / "depths.png").read_bytes().startswith(b"\x89PNG")


def test_the_split_is_in_the_report_of_a_training(monkeypatch):
    monkeypatch.setattr(trees, "TREES_MAX", 10)
    dataset = made_up(flows=120)
    dataset = dataset.__class__(**{**vars(dataset), "host": dataset.capture.copy()})
    settings = train.Settings(Input(), folds=2, split="host")
    assert train.train(dataset, settings).report["split"] == "host"


def test_the_open_set_needs_three_classes(model, tmp_path):
    other = write_recordings(tmp_path, first_seed=50)
    done = etcpipe("eval", model, other, "--open-set")
    assert "data of three classes or more are needed" in str(done.exception)


def test_the_open_set_on_the_command_line(model, tmp_path):
    """Small flows have another name in half of the captures: three classes."""
    other = write_recordings(tmp_path, first_seed=50)
    labels = (other / "labels.csv").read_text()
    for pair in ("2.pcap", "3.pcap"):
        labels = labels.replace(f"{pair},small", f"{pair},mouse")
    (other / "labels.csv").write_text(labels)
    report = json.loads(etcpipe("eval", model, other, "--open-set", "-j").output)
    assert report["strange_classes"] == ["mouse"] and report["unknown"]["strange_flows"] == 30
    found = report["open_set"]
    assert found["best"] in found["area_under_roc"] and "large" in found["without"]
    assert found["without"]["large"]["knn"]["area_under_roc"] > 0.95
