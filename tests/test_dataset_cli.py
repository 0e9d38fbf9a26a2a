"""Datasets on the command line: built, looked over, learnt from."""

import json

import numpy as np
import pytest
from captures import write
from click.testing import CliRunner
from labelled import EVERY, made_up, write_recordings

from etcpipe.cli.command import cli
from etcpipe.dataset import Input, open_folder
from etcpipe.errors import UsageError

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.dataset import report as reports
from etcpipe.training import held_out, train, trees


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(trees, "TREES_MAX", 30)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def built(recordings, tmp_path_factory):
    place = tmp_path_factory.mktemp("built") / "sizes"
    done = etcpipe("dataset", "build", recordings, "-o", place)
    assert done.exit_code == 0 and "120 flows of 4 captures, 2 classes" in done.output
    return place


def etcpipe(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_a_built_folder_trains_the_model_that_captures_train(
    recordings, built, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    one, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for data, output in ((recordings, one), (built, other)):
        done = etcpipe("train", data, "-o", output, "--folds", "2", "--name", "sizes")
        assert done.exit_code == 0, done.exception
    assert one.read_bytes() == other.read_bytes()


def test_files_that_their_names_would_belie_are_refused(built, tmp_path):
    for words in (("train", built, "-o"), ("dataset", "export", built)):
        output = tmp_path / "mine.csv"
        done = etcpipe(*words, output)
        assert isinstance(done.exception, UsageError) and "ends in ." in str(done.exception)
        assert not output.exists()


def test_other_settings_than_those_of_the_folder_are_refused(built, tmp_path):
    done = etcpipe("train", built, "-o", tmp_path / "a.onnx", "--first", "5")
    assert isinstance(done.exception, UsageError) and "--first 10" in str(done.exception)
    done = etcpipe("train", built, "-o", tmp_path / "a.onnx", "--arch", "datanet_mlp")
    assert "--view packet" in str(done.exception)
    done = etcpipe("train", built, built, "-o", tmp_path / "a.onnx")
    assert "one dataset alone" in str(done.exception)


def test_captures_left_out_are_named_and_the_status_is_3(recordings, tmp_path):
    for capture in recordings.glob("[012].pcap"):
        write(tmp_path / capture.name, capture.read_bytes())
    write(tmp_path / "3.pcap", b"no capture at all")
    labels = recordings / "labels.csv"
    done = etcpipe("dataset", "build", tmp_path, "--labels", labels, "-o", tmp_path / "built")
    assert done.return_value == 3 and "90 flows of 3 captures" in done.output
    assert "3.pcap" in done.output


def test_flows_at_random_are_refused_unless_meant(built):
    done = etcpipe("dataset", "report", built, "--split", "flow")
    assert "leak what is the same all over a capture" in str(done.exception)
    words = ["--split", "flow", "--i-know-this-leaks"]
    done = etcpipe("dataset", "report", built, *words, "-j")
    assert json.loads(done.output)["split"] == "flow"


def test_a_host_pair_that_is_the_class_cannot_be_held_out(built):
    done = etcpipe("dataset", "report", built, "--split", "host")
    assert "class large is in one host only" in str(done.exception)


def test_the_report_on_the_command_line(built):
    done = etcpipe("dataset", "report", built)
    assert "first payload: binary 100.0%" in done.output and done.exit_code == 0
    assert "trees on what strict shows: macro-F1 1.000" in done.output


def test_ids_only_reveals_a_planted_shortcut():
    dataset = made_up(is_shuffled=True)
    clean = reports.describe(dataset, folds=3)
    assert not clean["shortcut"] and clean["ids_only"]["macro_f1"] < 0.45
    dataset.stats[:, EVERY.index("s_ttl_mean")] = dataset.label
    planted = reports.describe(dataset, folds=3)
    assert planted["shortcut"] and planted["ids_only"]["interval"][0] > 0.95
    assert planted["masked"] == clean["masked"]


def test_duplicates_by_hand():
    """Flows 0 to 3 look the same; 0 and 1 are in one fold, 3 is of another class."""
    dataset = made_up(flows=8, classes=2)
    dataset.seq[:4] = dataset.seq[0]
    dataset.label[:] = [0, 0, 0, 1, 0, 0, 1, 1]
    found = reports.duplicates(dataset, np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    assert found == {"share": 0.5, "across": 0.5, "reachable": 0.875}
    found = reports.duplicates(dataset, np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    assert found == {"share": 0.5, "across": 0.0, "reachable": 0.875}


def test_no_host_pair_is_on_both_sides():
    dataset = made_up(captures=6)
    host = np.random.default_rng(2).integers(0, 9, len(dataset)).astype(np.int32)
    fold = held_out.deal_folds(
        dataset.__class__(**{**vars(dataset), "host": host}), 3, seed=1, split="host"
    )
    assert all(len(np.unique(fold[host == one])) == 1 for one in range(9))
    assert set(fold) == {0, 1, 2}


def in_time(hours=8):
    """Flows at random moments of some hours."""
    dataset = made_up(flows=400)
    first_us = np.random.default_rng(4).permutation(np.arange(len(dataset)) * int(3600e6 * hours))
    return dataset.__class__(**{**vars(dataset), "first_us": first_us // len(dataset)})


def test_split_by_time_learns_from_the_past_alone():
    dataset = in_time()
    fold = held_out.deal_folds(dataset, 4, seed=1, split="time")
    assert np.bincount(fold).tolist() == [100] * 4
    sides = held_out.sides_of(dataset, fold, "time")
    assert [side.fold for side in sides] == [1, 2, 3]
    for side in sides:
        gap_us = dataset.first_us[side.judged].min() - dataset.first_us[side.seen].max()
        assert gap_us > 120_000_000
        assert side.seen.sum() >= 100 * side.fold - 2  # all that came early enough


def test_a_training_by_time_reports_what_came_later_alone():
    report = train.train(in_time(), train.Settings(Input(), folds=4, split="time")).report
    assert (
        report["split"] == "time" and report["flows"] == sum(map(sum, report["confusion"])) == 300
    )
    assert report["macro_f1"] > 0.9
    assert reports.describe(in_time(), folds=4, split="time")["masked"]["macro_f1"] > 0.9


def test_captures_of_one_moment_cannot_be_split_by_time():
    dataset = in_time(hours=0.01)
    fold = held_out.deal_folds(dataset, 4, seed=1, split="time")
    with pytest.raises(UsageError, match="less than two classes came 120 s before stretch 2"):
        held_out.sides_of(dataset, fold, "time")


def test_a_built_folder_as_parquet(built, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs etcpipe[parquet]")
    done = etcpipe("dataset", "export", built, tmp_path / "sizes.parquet", "-j")
    assert json.loads(done.output)["flows"] == 120
    table = parquet.read_table(tmp_path / "sizes.parquet").to_pydict()
    rows = open_folder(built)
    assert table["label"] == [rows.classes[i] for i in rows.label]
    assert table["s_bytes_mean"] == rows.columns(("s_bytes_mean",))[:, 0].tolist()
    assert table["gap"][7] == rows.seq[7, :, 2].tolist()
    assert "s_port" not in table and table["payload"][0] == "binary"
    assert np.datetime64(table["first"][5]).astype(int) == rows.first_us[5]
    refused = etcpipe("dataset", "export", built, tmp_path / "none" / "x.parquet")
    assert "cannot write" in str(refused.exception) and "No such file" in str(refused.exception)
