"""Traffic-MoE: the tiny one learns within a minute, and the one that ships is whole."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch

from etcpipe.cli.command import cli
from etcpipe.dataset import Dataset, Input, find_recordings, read
from etcpipe.evaluation import evaluate
from etcpipe.gpu.inference import open_runner
from etcpipe.model import find, load
from etcpipe.training import networks
from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Lesson
from etcpipe.training.network_export import to_onnx
from etcpipe.zoo import ARCHS

LAB = Path(__file__).parent / "data" / "lab"
# Macro-F1 above what a guess of the commonest class gets, on a recording never seen.
MARGIN = 0.4
# The first weight's number: no other constant of a graph is as large, and all have their own.
FIRST = 1 << 20
# Flows as they look after so many packets, what an early answer sees: over 1,000 in all.
DEPTHS = (1, 2, 3, 4, 5, 7, 10)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recordings() -> Dataset:
    return read(find_recordings(LAB), Input(), views=["tok"])


def macro_f1(label, said, classes):
    return evaluate.macro_f1(evaluate.confusion_matrix(label, said, classes))


def test_tiny_beats_chance_within_a_minute(recordings):
    rows, classes = recordings.rows("tok"), len(recordings.classes)
    judged = recordings.capture == 2
    label = recordings.label[judged]
    began = time.process_time()
    network = networks.fit(
        ARCHS["traffic_moe_tiny"],
        Lesson(rows[~judged], recordings.label[~judged], classes, "all"),
        seed=1,
        fitting=Fitting(rounds=6, batch=64, device="cpu"),
        checkpoint=Checkpoint(None, "", ""),
    )
    took_s = time.process_time() - began
    said = network.scores(rows[judged]).argmax(axis=1)
    commonest = np.full(len(label), np.bincount(recordings.label[~judged]).argmax())
    assert macro_f1(label, said, classes) > macro_f1(label, commonest, classes) + MARGIN
    assert took_s < 60


def test_the_shipped_one_is_found_by_name_and_names_flows():
    model = load("traffic_moe")
    assert (model.view.name, model.first_n, model.mask) == ("tok", 10, "strict")
    assert set(model.classes) == set(load().classes)
    args = ["-j", "classify", str(LAB / "lab-1.pcap"), "--model", "traffic_moe"]
    said = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert said.exit_code == 0 and said.stdout.count('"model":"traffic_moe@') > 50


def test_the_shipped_one_on_recordings_that_it_never_saw(recordings):
    model = load("traffic_moe")
    said = model.infer(recordings.rows("tok")).argmax(axis=1)
    label = np.searchsorted(model.classes, recordings.classes)[recordings.label]
    chance = macro_f1(label, np.full(len(label), np.bincount(label).argmax()), len(model.classes))
    assert macro_f1(label, said, len(model.classes)) > chance + MARGIN


def test_the_form_for_gpu_engines_answers_alike(recordings):
    rows = recordings.rows("tok")
    said, expected = (load(name).infer(rows) for name in ("traffic_moe.gpu", "traffic_moe"))
    np.testing.assert_allclose(said, expected, rtol=1e-3, atol=1e-3)


def test_the_shipped_card_has_the_scores_of_the_file():
    scores = load("traffic_moe").description.scores
    card = find("traffic_moe").with_suffix(".md").read_text()
    assert f"{scores['macro_f1']:.3f}" in card and load("traffic_moe").description.data in card
    assert scores["split"] == "capture" and all(one["dead"] == 0 for one in scores["experts"])
    assert sum(file.stat().st_size for file in find("traffic_moe").parent.iterdir()) < 5e6


def constants(model: bytes) -> list[np.ndarray]:
    return [numpy_helper.to_array(one) for one in onnx.load_from_string(model).graph.initializer]


def number(tensors: Iterable[torch.Tensor]) -> np.ndarray:
    """Give each weight a number of its own that float32 holds exactly; return what finds them."""
    at = FIRST
    for tensor in tensors:
        tensor.copy_(torch.arange(at, at + tensor.numel()).reshape(tensor.shape))
        at += tensor.numel()
    return np.full(at - FIRST, np.nan, np.float32)


@torch.no_grad()
def test_the_shipped_one_answers_as_the_network_of_its_weights_on_1000_flows():
    """They go back into PyTorch: the file of a fresh network says which constant is which."""
    shipped = load("traffic_moe")
    module = ARCHS[shipped.description.scores["arch"]].build(len(shipped.classes)).eval()
    tensors = {k: v for k, v in module.state_dict().items() if not k.endswith(".load")}
    weights = number(tensors.values())
    fresh = constants(to_onnx(module, replace(shipped.description, scores={})))
    theirs = constants(find("traffic_moe").read_bytes())
    assert [one.shape for one in fresh] == [one.shape for one in theirs]
    for one, other in zip(fresh, theirs, strict=True):
        is_weight = (one >= FIRST) & (one < FIRST + len(weights)) & (one.dtype == np.float32)
        weights[one[is_weight].astype(int) - FIRST] = other[is_weight]
    for tensor in tensors.values():  # one that the file lacks and answers need makes them NaN
        tensor.copy_(torch.from_numpy(weights[tensor.numpy().astype(int) - FIRST]))
    captures = find_recordings(LAB)
    read_at = [read(captures, Input(), views=["tok"], depth=depth) for depth in DEPTHS]
    rows = np.unique(np.concatenate([one.rows("tok") for one in read_at]), axis=0)
    assert len(rows) >= 1000
    expected = module(torch.from_numpy(rows)).numpy()
    said = open_runner(find("traffic_moe").read_bytes()).infer(rows)
    np.testing.assert_allclose(said, expected, rtol=1e-3, atol=1e-3)
