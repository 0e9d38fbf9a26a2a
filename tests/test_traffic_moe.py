"""Traffic-MoE: the tiny one learns within a minute."""

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch

from etcpipe import evaluate, networks
from etcpipe.checkpoints import Checkpoint
from etcpipe.dataset import Dataset, Input, find_recordings, read
from etcpipe.fitting import Fitting
from etcpipe.learner import Lesson
from etcpipe.zoo import ARCHS

LAB = Path(__file__).parent / "data" / "lab"
# Macro-F1 above what a guess of the commonest class gets, on a recording never seen.
MARGIN = 0.4


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
        fitting=Fitting(rounds=12, batch=64, device="cpu"),
        checkpoint=Checkpoint(None, "", ""),
    )
    took_s = time.process_time() - began
    said = network.scores(rows[judged]).argmax(axis=1)
    commonest = np.full(len(label), np.bincount(recordings.label[~judged]).argmax())
    assert macro_f1(label, said, classes) > macro_f1(label, commonest, classes) + MARGIN
    assert took_s < 60
