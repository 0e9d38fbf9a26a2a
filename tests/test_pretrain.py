"""Pre-training: what is hidden, what is asked for, and that scores stay honest."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import made_up

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch

from etcpipe import dataset as datasets
from etcpipe.cli.command import cli
from etcpipe.dataset import Input
from etcpipe.errors import ModelError, UsageError
from etcpipe.gpu.mask import HIDDEN
from etcpipe.gpu.tokens import NO_BYTE, PAYLOAD, TOKENS
from etcpipe.model import load
from etcpipe.training import network_steps, pretrain, pretrained, train, trees
from etcpipe.training.fitting import Fitting
from etcpipe.zoo import ARCHS
from etcpipe.zoo.masked_fields import MaskedFields, hide, is_wanted

LAB = Path(__file__).parent / "data" / "lab"


@pytest.fixture(autouse=True)
def one_thread_and_few_trees(monkeypatch):
    monkeypatch.setattr(trees, "TREES_MAX", 30)
    monkeypatch.setattr(network_steps, "ROUND_MIN", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(before)


def fields(label, rng):
    """Rows of the view tok: sizes tell the class, and the length field tells the size."""
    rows = np.zeros((len(label), 10, 72), np.float32)
    rows[..., :TOKENS] = NO_BYTE
    size = (100 + 60 * label[:, None] + rng.integers(0, 20, (len(label), 4))).astype(np.int64)
    rows[:, :4, :PAYLOAD] = 0
    rows[:, :4, 0], rows[:, :4, 3], rows[:, :4, 9] = 0x45, size, 6
    rows[:, :4, PAYLOAD:TOKENS] = HIDDEN
    rows[:, :4, TOKENS], rows[:, :4, TOKENS + 1] = size / 1500, 1
    return {"tok": rows}


def pretraining(**options):
    fitting = Fitting(**{"rounds": 3, "batch": 32, **options})
    return pretrain.Settings("traffic_moe_tiny", Input(), fitting=fitting)


def test_hidden_fields_are_told_better_with_every_round():
    made = pretrain.pretrain(made_up(flows=120, views=fields), pretraining())
    assert made.report["held_out_loss"] < 0.7 * made.report["held_out_loss_before"]
    assert made.report["held_out_flows"] == 20 and made.report["flows"] == 100
    assert all(layer["dead"] == 0 for layer in made.report["experts"])


def test_same_seed_same_weights():
    dataset = made_up(flows=60, views=fields)
    first, second = (pretrain.pretrain(dataset, pretraining(rounds=1)) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_an_image_of_packets_is_pretrained_too():
    def images(label, rng):
        return {"image": rng.integers(100, 110, (len(label), 5, 320)).astype(np.uint8)}

    fitting = Fitting(rounds=2, batch=2)
    asked = pretrain.Settings("yatc", Input(5), fitting=fitting)
    made = pretrain.pretrain(made_up(flows=12, captures=3, views=images), asked)
    assert made.report["held_out_loss"] < 0.7 * made.report["held_out_loss_before"]
    network = ARCHS["yatc"].build(2)
    network.take_encoder({k: torch.from_numpy(v) for k, v in made.weights.items()}, is_frozen=True)
    assert sum(one.requires_grad for one in network.parameters()) == 2


def test_what_is_hidden_does_not_reach_the_encoder():
    """With everything of a packet hidden, it makes no difference what it was."""
    network = ARCHS["traffic_moe_tiny"].build(2).eval()
    module, seen = MaskedFields(network).eval(), []
    network.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
    rows = torch.from_numpy(fields(np.arange(8) % 3, np.random.default_rng(1))["tok"])
    for changed in (rows, rows.clone().where(torch.arange(72) == TOKENS + 1, 7)):
        torch.manual_seed(3)
        module(changed)
    torch.manual_seed(3)
    header, payload = hide(rows[..., TOKENS + 1] != 0)
    both = header & payload
    assert both.any() and not header[:, 4:].any() and not payload[:, 4:].any()
    for before, after in zip(seen[0][:2], seen[1][:2], strict=True):
        assert torch.equal(before[both], after[both])
        assert not torch.equal(before[~both], after[~both])


def test_nothing_is_asked_that_cannot_be_known():
    values = torch.full((1, 1, TOKENS), 5)
    values[0, 0, 2], values[0, 0, 3] = NO_BYTE, HIDDEN
    values[0, 0, PAYLOAD], values[0, 0, PAYLOAD + 1] = HIDDEN, 22
    wanted = is_wanted(values, MaskedFields(ARCHS["traffic_moe_tiny"].build(2)).learnable)[0, 0]
    assert wanted[[0, 3, 9, 33, PAYLOAD + 1]].all()  # a length may be 255
    assert not wanted[[2, PAYLOAD]].any()  # there is none; ciphertext
    assert not wanted[[1, 4, 5, 8, 12, 20, 24, 34, 36]].any()  # zero under the strict mask


def test_frozen_and_random_are_reported_beside_the_tuned_one(tmp_path):
    dataset = made_up(flows=90, captures=3, views=fields)
    weights = pretrain.pretrain(dataset, pretraining(rounds=1))
    file = tmp_path / "encoder.npz"
    file.write_bytes(weights.to_bytes())
    fitting = Fitting(rounds=2, batch=32, pretrained=file)
    settings = train.Settings(Input(), folds=2, arch="traffic_moe_tiny", fitting=fitting)
    result = train.train(dataset, settings)
    assert {"frozen", "random_init", "lightgbm"} <= set(result.report["baselines"])
    assert result.report["static"]["same_class"] >= 0.99
    assert result.gpu_model and result.gpu_model != result.model


def test_a_frozen_encoder_stays_and_a_tuned_one_learns_slower_far_from_the_head():
    network = ARCHS["traffic_moe_tiny"].build(2)
    weights = {name: value + 1 for name, value in network.encoder_weights().items()}
    network.take_encoder(weights, is_frozen=True)
    assert [len(group["params"]) for group in network.learning_rates(1.0)] == [2]
    assert torch.equal(network.encoder.flow, weights["flow"])
    network.take_encoder(weights, is_frozen=False)
    rates = [group["lr"] for group in network.learning_rates(1.0)]
    assert rates == pytest.approx([1, 0.75, 0.75**2, 0.75**3])


def test_weights_of_another_network_are_refused(tmp_path):
    dataset = made_up(flows=60, views=fields)
    file = tmp_path / "encoder.npz"
    file.write_bytes(pretrain.pretrain(dataset, pretraining(rounds=1)).to_bytes())
    fitting = Fitting(pretrained=file)
    for settings in (
        train.Settings(Input(), arch="dense_active_tiny", fitting=fitting),
        train.Settings(Input(9), arch="traffic_moe_tiny", fitting=fitting),
    ):
        with pytest.raises(ModelError, match="pre-train"):
            train.train(dataset, settings)


@pytest.mark.parametrize("contents", [b"", b"hello", b"PK\x03\x04 cut"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, contents):
    file = tmp_path / "encoder.npz"
    file.write_bytes(contents)
    with pytest.raises(ModelError, match="damaged"):
        pretrained.load(file)


def test_what_has_no_pretraining_is_refused():
    with pytest.raises(UsageError, match="df30_lite has no pre-training"):
        pretrain.pretrain(made_up(), pretrain.Settings("df30_lite", Input()))


def test_scores_of_captures_that_the_pretraining_saw_are_refused(tmp_path):
    weights = tmp_path / "encoder.npz"
    args = ["-j", "train", "--arch", "traffic_moe_tiny", "--rounds", "1", "--batch", "16"]
    capture = str(LAB / "lab-1.pcap")
    done = CliRunner().invoke(
        cli, [*args, "--pretrain", capture, "-o", str(weights)], catch_exceptions=False
    )
    assert done.exit_code == 0 and json.loads(done.stdout)["flows"] > 50
    again = [*args, str(LAB), "--pretrained", str(weights), "-o", str(tmp_path / "moe.onnx")]
    with pytest.raises(UsageError, match=r"lab-1\.pcap was in the pre-training"):
        CliRunner().invoke(cli, again, catch_exceptions=False)


def test_captures_that_are_gone_are_known_by_what_their_folder_notes(tmp_path):
    for name in ("lab-1.pcap", "lab-2.pcap", "labels.csv"):
        (tmp_path / name).write_bytes((LAB / name).read_bytes())
    built = datasets.build(datasets.find_recordings(tmp_path), tmp_path / "built", Input())
    seen = pretrained.Pretrained("traffic_moe_tiny", "", built.digests[1:])
    for capture in tmp_path.glob("*.pcap"):
        capture.unlink()
    with pytest.raises(UsageError, match=r"lab-2\.pcap was in the pre-training"):
        pretrained.check_disjoint(seen, datasets.open_folder(tmp_path / "built"))


def test_traffic_moe_from_captures_to_verdicts(tmp_path):
    output = tmp_path / "moe.onnx"
    args = ["-j", "train", str(LAB), "-o", str(output), "--arch", "traffic_moe_tiny"]
    done = CliRunner().invoke(
        cli, [*args, "--rounds", "3", "--batch", "32", "--folds", "2"], catch_exceptions=False
    )
    report = json.loads(done.stdout)
    assert report["macro_f1"] > 2 * report["baselines"]["majority"]
    assert report["experts"][0]["dead"] == 0 and len(report["experts"][0]["load"]) == 4
    for file in (output, tmp_path / "moe.gpu.onnx"):
        model = load(file)
        assert (model.view.name, model.first_n) == ("tok", 10)
        said = CliRunner().invoke(
            cli,
            ["-j", "classify", str(LAB / "lab-1.pcap"), "--model", str(file)],
            catch_exceptions=False,
        )
        assert said.exit_code == 0 and len(said.stdout.splitlines()) > 50
