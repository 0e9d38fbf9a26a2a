"""Training learns what is there and nothing else, and the file answers as the fit does."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import EVERY, SERVERS, made_up, write_capture, write_recordings

from etcpipe import dataset as datasets
from etcpipe.cli.command import cli
from etcpipe.dataset import STATS, Input
from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.views import VIEWS
from etcpipe.model import load
from etcpipe.training.fitting import VIEW_TREES

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.model_file import Description
from etcpipe.training import held_out, train, trees

SETTINGS = train.Settings(Input(), folds=3)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Enough for what is learnt here, and fast."""
    monkeypatch.setattr(trees, "TREES_MAX", 60)


def test_a_separable_problem_is_learnt():
    report = train.train(made_up(), SETTINGS).report
    assert report["macro_f1"] > 0.9
    assert report["macro_f1_interval"][0] <= report["macro_f1"] <= report["macro_f1_interval"][1]
    assert next(iter(report["columns_by_gain"])) == "s_bytes_mean"
    assert sum(map(sum, report["confusion"])) == report["flows"] == 480
    assert not report["shortcut"]


def test_a_shuffled_problem_stays_at_chance():
    report = train.train(made_up(is_shuffled=True), SETTINGS).report
    assert report["accuracy"] == pytest.approx(1 / 3, abs=0.12)
    assert report["macro_f1"] < 0.45


def test_a_class_told_by_its_port_alone_is_a_shortcut_that_strict_does_not_see():
    dataset = made_up(is_shuffled=True)
    dataset.stats[:, EVERY.index("d_port")] = dataset.label
    strict = train.train(dataset, SETTINGS).report
    assert strict["shortcut"] and strict["baselines"]["ids_only"] > 0.95
    assert strict["macro_f1"] < 0.45
    none = train.train(dataset, train.Settings(Input(), folds=3, mask="none")).report
    assert none["macro_f1"] > 0.95


def test_same_seed_same_file(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    first, second = (train.train(made_up(), SETTINGS) for _ in range(2))
    assert first.model == second.model
    assert train.train(made_up(), train.Settings(Input(), folds=3, seed=2)).model != first.model


def test_no_capture_is_on_both_sides():
    dataset = made_up(captures=7)
    fold = held_out.deal_folds(dataset, 3, seed=1)
    for capture in range(7):
        assert len(np.unique(fold[dataset.capture == capture])) == 1
    assert set(fold) == {0, 1, 2}


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (made_up(classes=1), SETTINGS, "only class class0: two classes or more"),
        (made_up(captures=1), SETTINGS, "class0 is in one capture only"),
        (made_up(), train.Settings(Input(), folds=1), "1 folds: captures must be held out"),
        (made_up(), train.Settings(Input(), mask="loose"), "no mask 'loose'"),
    ],
)
def test_what_cannot_be_held_out_is_refused(dataset, settings, message):
    with pytest.raises(UsageError, match=message):
        train.train(dataset, settings)


def thresholds(node):
    if "leaf_value" in node:
        return []
    below = thresholds(node["left_child"]) + thresholds(node["right_child"])
    return [(node["split_feature"], node["threshold"]), *below]


def test_the_file_decides_as_lightgbm_does_at_every_threshold():
    """A float64 threshold between two float32 neighbours must not change sides."""
    dataset = made_up(flows=600)
    rows = dataset.columns(STATS.column_names())
    ensemble = trees.fit(rows, dataset.label, 3, seed=1, rounds=20)
    dump = ensemble.booster.dump_model()["tree_info"]
    found = [pair for tree in dump for pair in thresholds(tree["tree_structure"])]
    assert len(found) > 200
    edges = np.repeat(rows[:1], 3 * len(found), axis=0)
    for i, (column, threshold) in enumerate(found):
        at = np.float32(threshold)
        edges[3 * i : 3 * i + 3, column] = [np.nextafter(at, -np.inf), at, np.nextafter(at, np.inf)]
    columns = STATS.column_names()
    runner = open_runner(
        trees.to_onnx(ensemble, 41, Description("x", dataset.classes, "stats", columns, "", 10))
    )
    for probe in (rows, edges):
        expected = ensemble.scores(probe)
        np.testing.assert_allclose(runner.infer(probe), expected, rtol=1e-5, atol=1e-5)
        assert (runner.infer(probe).argmax(axis=1) == expected.argmax(axis=1)).all()


def test_floor32_never_rounds_up():
    for value in (1.4581725001335146, -2.1372944116592403, 0.1, 1.0, 0.0, -1e-30):
        floored = trees.floor32(value)
        assert floored <= value < float(np.nextafter(np.float32(floored), np.float32(np.inf)))


def test_rare_classes_weigh_more():
    weights = trees.class_weights(np.array([0] * 990 + [1] * 10), 2)
    assert weights[1] / weights[0] == pytest.approx(62.8, rel=0.01)
    assert weights[[0] * 990 + [1] * 10].mean() == pytest.approx(1)


def test_macro_f1_by_hand():
    confusion = evaluate.confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert evaluate.macro_f1(confusion) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_interval_resamples_captures_not_flows():
    """One capture all right, one all wrong: the truth may be anything."""
    label, predicted = np.zeros(200, int), np.repeat([0, 1], 100)
    scores = evaluate.score(label, predicted, np.repeat([0, 1], 100), 2, seed=1)
    assert (scores.low, scores.high) == (0, 1)


def test_temperature_and_calibration():
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 2, (20_000, 3))
    chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    label = (chance.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert evaluate.fit_temperature(3 * scores, label) == pytest.approx(3, rel=0.05)
    right = chance.argmax(axis=1) == label
    assert evaluate.calibration_error(chance.max(axis=1), right) < 0.02
    assert evaluate.calibration_error(np.ones(4), np.array([1, 1, 0, 0])) == pytest.approx(0.5)


def test_threshold_gives_up_five_percent_at_most():
    right, unknown = np.linspace(0.5, 1, 1000), np.full(100, 0.51)
    threshold = evaluate.choose_threshold(right, unknown)
    assert 0.51 < threshold and (right >= threshold).mean() >= 0.95
    assert evaluate.choose_threshold(right, np.full(10, 0.99)) <= 0.5
    assert evaluate.area_under_roc(np.array([0.9, 0.8]), np.array([0.8, 0.1])) == 0.875


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


def test_rows_of_captures_are_labelled_by_their_server(recordings):
    dataset = datasets.read(datasets.find_recordings(recordings), Input())
    assert dataset.classes == ("large", "small")
    assert np.bincount(dataset.label).tolist() == [60, 60]
    assert np.bincount(dataset.capture).tolist() == [30] * 4
    packets = dataset.columns(["s_pkt_cnt", "d_pkt_cnt"])
    assert (packets == 3).all()
    assert (dataset.columns(["s_bytes_max"])[dataset.label == 1] < 120).all()


def test_a_bundle_is_labelled_by_flow(recordings, tmp_path):
    (tmp_path / "pcap").mkdir()
    write_capture(tmp_path / "pcap" / "a.pcap", seed=9, flows=1)
    dataset = datasets.read(datasets.find_recordings(recordings), Input())
    first = (tmp_path / "pcap" / "a.pcap").read_bytes()[24:32]
    seconds, micros = np.frombuffer(first, "<u4")
    header = "flow_uid,pcap,proto,init_ip,init_port,resp_ip,resp_port,first_ts"
    rows = [
        f"{name},pcap/a.pcap,17,198.18.9.9,20000,{server},4433,{seconds}.{micros:06d}"
        for name, server in SERVERS.items()
    ]
    (tmp_path / "flows.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "tasks.csv").write_text("task,flow_uid,label\nsize,small,S\nsize,large,L\n")
    with pytest.raises(UsageError, match="choose a task of size"):
        datasets.find_recordings(tmp_path)
    found = datasets.read(datasets.find_recordings(tmp_path, "size"), Input())
    assert len(found) + found.unlabelled == 2 and len(found) >= 1  # only one has that timestamp
    assert dataset.digest() != found.digest()
    parts = "task,flow_uid,label,split\nsize,small,S,train\nsize,large,L,test\n"
    (tmp_path / "tasks.csv").write_text(parts)
    with pytest.raises(UsageError, match="no part 'dev' of size: there is test, train"):
        datasets.find_recordings(tmp_path, "size", "dev")
    of_parts = [datasets.find_recordings(tmp_path, "size", part) for part in ("train", "test")]
    assert [len(part) for part in of_parts] == [1, 1]
    labels = [set(datasets.read(part, Input()).classes) for part in of_parts[:1]]
    assert labels == [{"S"}]


def test_train_and_show_on_the_command_line(recordings, tmp_path):
    output = tmp_path / "sizes.onnx"
    args = ["-j", "train", str(recordings), "-o", str(output), "--folds", "3"]
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["macro_f1"] == 1.0 and report["trees"] > 0
    model = load(output)
    assert (model.name, model.classes, model.mask) == ("sizes", ("large", "small"), "strict")
    shown = CliRunner().invoke(cli, ["model", "show", str(output)], catch_exceptions=False)
    assert "macro-F1 1.000" in shown.output and "large, small" in shown.output
    listed = CliRunner().invoke(cli, ["model", "list", "-j"], catch_exceptions=False)
    names = [one["name"] for one in json.loads(listed.stdout)]
    assert names == ["default", "traffic_moe", "traffic_moe.gpu"]


def test_output_is_checked_before_the_work(recordings, tmp_path):
    args = ["train", str(recordings), "-o", str(tmp_path / "nowhere" / "model.onnx")]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 2 and "no folder" in done.output


def test_captures_without_a_labelled_flow_are_refused(recordings):
    mute = [datasets.Recording(recordings / "0.pcap", lambda flow: None)]
    with pytest.raises(UsageError, match="no flow of these captures has a label"):
        datasets.read(mute, Input())


def test_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no labels\.csv there"):
        datasets.find_recordings(tmp_path)


@pytest.mark.parametrize(
    "arch, shape",
    [
        ("lightgbm_tok", (10, 72)),
        pytest.param("lightgbm_bits", (10, 1536), marks=pytest.mark.exhaustive),
        pytest.param("lightgbm_packet", (1, 1500), marks=pytest.mark.exhaustive),
    ],
)
def test_trees_on_a_view_read_its_numbers_where_they_are(tmp_path, arch, shape):
    def views(label, rng):
        rows = rng.integers(0, 50, (len(label), *shape))
        rows[:, -1, 7] = 60 * label + rng.integers(0, 50, len(label))  # the class, in one number
        return {VIEW_TREES[arch]: rows.astype(VIEWS[VIEW_TREES[arch]].dtype)}

    dataset = made_up(is_shuffled=False, views=views)
    result = train.train(dataset, train.Settings(Input(), folds=3, arch=arch))
    assert result.report["macro_f1"] > 0.9
    (tmp_path / "m.onnx").write_bytes(result.model)
    model = load(tmp_path / "m.onnx")
    rows = dataset.rows(model.view.name)
    assert (model.infer(rows).argmax(axis=1) == dataset.label).mean() > 0.95
    with pytest.raises(UsageError, match="mask"):
        train.train(dataset, train.Settings(Input(), folds=3, arch=arch, mask="none"))
