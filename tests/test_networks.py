"""Networks: what is learnt, what makes a training repeatable, and what the file answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import made_up

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch

from etcpipe.cli.command import cli
from etcpipe.dataset import Input
from etcpipe.errors import ModelError, UnsupportedError, UsageError
from etcpipe.evaluation import evaluate
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import load
from etcpipe.model_file import Description
from etcpipe.training import checkpoints, networks, train, trees
from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Lesson
from etcpipe.training.network_export import to_onnx
from etcpipe.training.network_steps import Rows, Steps
from etcpipe.zoo import ARCHS, Arch

LAB = Path(__file__).parent / "data" / "lab"
SMALL = replace(
    ARCHS["df30_lite"], options={"channels": (8,), "kernel": 3, "pools": (2,), "hidden": 8}
)
# Those of size base are the same graphs as small ones.
NOT_THE_LARGEST = [name for name in ARCHS if not name.endswith("_base")]
NOWHERE = Checkpoint(None, "", "")


@pytest.fixture(autouse=True)
def one_thread_and_few_trees(monkeypatch):
    """Many processes test at once here; a thread more would only wait."""
    monkeypatch.setattr(trees, "TREES_MAX", 30)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def packets_that_tell(label, rng):
    """First packets of random bytes of which 200 are higher the higher the class."""
    rows = rng.integers(0, 60, (len(label), 1, 1500)).astype(np.uint8)
    rows[:, 0, 5:205] += (60 * label[:, None]).astype(np.uint8)
    return {"packet": rows}


def settings(**fitting):
    return train.Settings(
        Input(1), folds=3, arch="datanet_mlp", fitting=Fitting(**{"rounds": 4, **fitting})
    )


def weights_of(network):
    return [value.numpy().copy() for value in network.module.state_dict().values()]


def fit(checkpoint=NOWHERE, rounds=4, **options):
    dataset = made_up(flows=200)
    fitting = Fitting(rounds=rounds)
    lesson = Lesson(dataset.seq, dataset.label, 3, "fold", **options)
    return networks.fit(SMALL, lesson, 1, fitting, checkpoint)


def test_a_network_learns_what_is_there_and_is_held_to_the_trees():
    dataset = made_up(flows=300, views=packets_that_tell)
    result = train.train(dataset, settings())
    report = result.report
    assert report["macro_f1"] > 0.9 and report["parameters"] == 1481 * 128 + 129 * 32 + 33 * 3
    assert report["arch"] == "datanet_mlp" and report["trained_on"] in ("cpu", "cuda")
    assert report["baselines"]["lightgbm"] > 0.9
    difference, low, high = report["above_baselines"]["majority"]
    assert low <= difference <= high and difference > 0.5


def test_shuffled_labels_stay_at_chance():
    dataset = made_up(flows=300, is_shuffled=True, views=packets_that_tell)
    dataset.views["packet"] = np.random.default_rng(7).permutation(dataset.views["packet"])
    assert train.train(dataset, settings()).report["macro_f1"] < 0.5


def test_same_seed_same_file(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    dataset = made_up(flows=120, views=packets_that_tell)
    first, second = (train.train(dataset, settings(rounds=1)) for _ in range(2))
    assert first.model == second.model


def test_the_callers_random_numbers_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(rounds=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_that_was_cut_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    stop = np.arange(200) % 4 == 0
    whole = fit(rounds=4, stop=stop)

    def cut(news):
        if news.startswith("round 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=Checkpoint(tmp_path, "fold", "x"), stop=stop, tell=cut)
    heard = []
    resumed = fit(checkpoint=Checkpoint(tmp_path, "fold", "x"), stop=stop, tell=heard.append)
    assert [news[:7] for news in heard] == ["round 3", "round 4"]
    for ours, theirs in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed.history == whole.history and resumed.rounds == whole.rounds


def test_a_training_that_was_cut_keeps_the_fits_that_were_done(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    dataset = made_up(flows=120, views=packets_that_tell)
    asked = settings(rounds=1, checkpoints=tmp_path)
    first = train.train(dataset, asked)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert {"all.pt", "fold-0.pt", "fold-1.pt", "fold-2.pt"} <= set(files)
    monkeypatch.setattr(Steps, "round", None)  # nothing is left to train
    assert train.train(dataset, asked).model == first.model


@pytest.mark.parametrize("damage", ["another", "cut", "no file of ours"])
def test_a_checkpoint_that_does_not_fit_is_not_used(tmp_path, damage):
    saved = Checkpoint(tmp_path, "fold", "x")
    saved.save({"done": 3})
    assert saved.load() == {"done": 3}
    file = tmp_path / "fold.pt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    if damage == "no file of ours":
        file.write_text("hello")
    assert Checkpoint(tmp_path, "fold", "y" if damage == "another" else "x").load() is None


def test_a_training_stops_when_held_out_flows_gain_no_more():
    stop = np.arange(200) % 4 == 0
    heard = []
    dataset = made_up(flows=200, is_shuffled=True, views=packets_that_tell)
    rows = np.random.default_rng(3).permutation(dataset.views["packet"])
    lesson = Lesson(rows, dataset.label, 3, "fold", stop=stop, tell=heard.append)
    fitting = Fitting(rounds=50, patience=2)
    network = networks.fit(ARCHS["datanet_mlp"], lesson, 1, fitting, NOWHERE)
    assert network.rounds + 2 == len(heard) < 50
    f1 = [f1 for _, f1 in network.history]
    assert network.rounds - 1 <= int(np.argmax(f1)) + 1


def test_each_pass_shows_every_row_once():
    rows = Rows(np.arange(25, dtype=np.float32), np.arange(25), batch=10, seed=1)
    shown = torch.cat([label for number in range(2) for _, label in rows.round(number)]).tolist()
    assert len(shown) == 200
    for one_pass in range(8):
        assert sorted(shown[25 * one_pass : 25 * one_pass + 25]) == list(range(25))


def test_a_loss_that_is_no_number_ends_the_training():
    rows = np.full((8, 30, 3), np.nan, np.float32)
    with pytest.raises(ModelError, match="diverged"):
        lesson = Lesson(rows, np.arange(8) % 2, 2, "fold")
        networks.fit(ARCHS["df30_lite"], lesson, 1, Fitting(rounds=1), NOWHERE)


def test_too_little_memory_is_told():
    def no_room(rows, label):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    module, rows = SMALL.build(2), Rows(np.zeros((8, 30, 3), np.float32), np.zeros(8), 4, 1)
    steps = Steps(module, SMALL, torch.device("cpu"), 10, 1)
    with pytest.raises(ModelError, match="smaller --batch"):
        steps.round(0, 10, rows.round(0), no_room)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(UnsupportedError, match="--device cpu"):
        networks.choose_device("cuda")


def test_bytes_read_under_another_mask_are_refused():
    dataset = made_up(views=packets_that_tell)
    with pytest.raises(UsageError, match="under mask strict, not none"):
        train.train(dataset, train.Settings(Input(1), mask="none", arch="datanet_mlp"))


def test_the_difference_of_two_models_is_resampled_together():
    """The second model errs in one more flow of every capture: the interval is a point."""
    label = np.tile([0, 0, 1, 1], 10)
    other = np.tile([0, 1, 1, 1], 10)
    capture = np.repeat(np.arange(10), 4)
    difference, low, high = evaluate.difference(label, label, other, capture, 2, seed=1)
    assert difference == low == high == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize("name", NOT_THE_LARGEST)
def test_the_file_answers_as_the_network_in_any_batch(name):
    arch: Arch = ARCHS[name]
    torch.manual_seed(1)
    module = arch.build(5).eval()
    view = VIEWS[arch.view]
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (7, *view.shape)).astype(view.dtype)
    if view.dtype == "float32":
        rows = np.abs(rng.normal(0, 1, rows.shape)).astype(np.float32)
    classes = tuple("abcde")
    runner = open_runner(to_onnx(module, Description(name, classes, arch.view, (), "", 10)))
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows)).numpy()
    assert runner.input_shape == view.shape and runner.input_dtype == view.dtype
    for part in (rows[:1], rows):
        np.testing.assert_allclose(runner.infer(part), expected[: len(part)], rtol=1e-3, atol=1e-4)


def test_no_flows_and_many_are_answered(tmp_path):
    """A recurrent layer that gets no rows would end the process, were it asked."""
    arch = ARCHS["fsnet"]
    schema = schema_hash(VIEWS["seq"], 30)
    description = Description("fsnet", ("a", "b"), "seq", (), schema, 30)
    (tmp_path / "fsnet.onnx").write_bytes(to_onnx(arch.build(2), description))
    model = load(tmp_path / "fsnet.onnx")
    rows = np.random.default_rng(1).normal(0, 1, (300, 30, 3)).astype(np.float32)
    assert model.infer(rows[:0]).shape == (0, 2)
    np.testing.assert_allclose(model.infer(rows)[299:], model.infer(rows[299:]), rtol=1e-3)


def test_train_and_classify_on_the_command_line(tmp_path):
    output = tmp_path / "net.onnx"
    args = ["-j", "train", str(LAB), "-o", str(output), "--arch", "datanet_mlp", "--rounds", "3"]
    done = CliRunner().invoke(cli, [*args, "--folds", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["macro_f1"] > 2 * report["baselines"]["majority"]
    assert not output.with_name("net.onnx.unfinished").exists()
    model = load(output)
    assert (model.view.name, model.first_n, model.mask) == ("packet", 1, "strict")
    captures = [str(LAB / f"lab-{i}.pcap") for i in (1, 2)]
    said = CliRunner().invoke(
        cli, ["-j", "classify", *captures, "--model", str(output)], catch_exceptions=False
    )
    verdicts = [json.loads(line) for line in said.stdout.splitlines()]
    labels = [one["etcpipe"]["label"] for one in verdicts if "etcpipe" in one]
    assert said.exit_code == 0 and len(labels) > 50 and len(set(labels)) > 2
