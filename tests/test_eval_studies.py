"""Studies beside the scores: parts hidden, few flows, shaping; and the page of all of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import EVERY, made_up, write_recordings

from etcpipe.cli.command import cli
from etcpipe.gpu.views import VIEWS

pytest.importorskip("lightgbm", reason="evaluation needs etcpipe[train]")
from etcpipe.evaluation import few_shot, occlusion
from etcpipe.training import trees
from etcpipe.training.learner import TreeLearner


class Looker:
    """A model that looks at one column: above its mean is class b."""

    classes, view, columns = ("a", "b"), VIEWS["stats"], ("dur", "s_bytes_mean", "syn_cnt")

    def infer(self, rows):
        return np.stack([rows[:, 1] < 0, rows[:, 1] >= 0], axis=1).astype(np.float32)


def test_only_the_part_that_a_model_looks_at_is_missed():
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (400, 3)).astype(np.float32)
    label = (rows[:, 1] >= 0).astype(int)
    found = occlusion.measure(Looker(), rows, label, np.arange(400) % 8)
    assert list(found) == ["times", "sizes", "flags"]
    assert found["times"]["drop"] == found["flags"]["drop"] == 0
    assert 0.4 < found["sizes"]["drop"] < 0.6
    low, high = found["sizes"]["drop_interval"]
    assert low < found["sizes"]["drop"] < high


def test_every_column_of_the_statistics_has_a_quantity():
    parts = occlusion.parts_of("stats", EVERY, np.zeros((1, len(EVERY)), np.float32))
    assert "other" not in parts
    assert sum(int(part.sum()) for part in parts.values()) == len(EVERY)
    assert parts["counts"].sum() == 2 and parts["flags"].sum() == 8


def test_headers_end_where_the_payload_begins():
    """IPv4 with options before TCP with options, and IPv6 before UDP."""
    rows = np.zeros((1, 2, 100), np.uint8)
    rows[0, 0, [0, 9, 24 + 12]] = 0x46, 6, 0x80
    rows[0, 1, [0, 6]] = 0x60, 17
    header = occlusion.parts_of("raw", (), rows)["headers"]
    assert header.sum(axis=2).tolist() == [[24 + 32, 40 + 8]]


def test_more_flows_help_where_there_is_something_to_learn(monkeypatch):
    monkeypatch.setattr(trees, "TREES_MAX", 30)
    dataset = made_up(flows=600)
    found = few_shot.measure(dataset, TreeLearner("strict", 1), shots=(1, 50), draws=3, folds=2)
    assert found[50]["macro_f1"] > 0.9 > found[1]["macro_f1"] + 0.2
    assert found[50]["nearest_neighbour"] < 0.6  # sizes, directions and gaps tell nothing here


def test_a_draw_has_as_many_of_each_class_as_there_are():
    label = np.array([0] * 9 + [1] * 2 + [2] * 9)
    seen = np.arange(1, 20)
    drawn = few_shot._draw(label, seen, 3, np.random.default_rng(0))
    assert np.bincount(label[drawn]).tolist() == [3, 2, 3]
    assert len(set(drawn)) == 8 and 0 not in drawn


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_recordings(tmp_path_factory.mktemp("recordings"))
    words = ["train", str(folder), "-o", str(folder / "m.onnx"), "--folds", "2"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("other"), first_seed=50)


def etcpipe(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_shaping_on_the_command_line(model, other):
    """Flows of two sizes: padding all to one size hides them, longer gaps hardly do."""
    words = ["--shape", "pad=mtu", "--shape", "delay=exp:100us", "-j"]
    found = json.loads(etcpipe("eval", model, other, *words).output)["shape"]
    assert found["clean"]["macro_f1"] == 1.0
    padded, delayed = found["shapings"]["pad=mtu"], found["shapings"]["delay=exp:100us"]
    for column in ("clean_trained", "augmented", "adaptive"):
        assert delayed[column]["macro_f1"] > 0.8
        assert padded[column]["macro_f1"] < 0.7
    assert padded["model"] < 0.7 and delayed["model"] > 0.8
    assert padded["overhead"]["bytes"] > 0.5 and padded["overhead"]["packets"] == 0
    assert delayed["overhead"]["time"] == pytest.approx(0.1, abs=0.03)


def test_all_of_it_on_one_page(model, other, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need etcpipe[plot]")
    page = tmp_path / "page.html"
    words = ["--occlude", "--few-shot", "--shape", "split=200", "--html", page]
    text = etcpipe("eval", model, other, *words).output
    assert "split=200" in text and "50 flows a class" in text and "without" in text
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 4
    assert "split=200" in html and "&quot;few_shot&quot;" in html
    refused = etcpipe("eval", model, other, "--html", tmp_path)
    assert "is a directory" in str(refused.exception)


def test_shaping_needs_captures_and_a_form(model, other, tmp_path):
    assert "no shaping 'x'" in str(etcpipe("eval", model, other, "--shape", "x").exception)
    etcpipe("dataset", "build", other, "-o", tmp_path / "built")
    done = etcpipe("eval", model, tmp_path / "built", "--shape", "pad=mtu")
    assert "--shape needs the captures" in str(done.exception)
