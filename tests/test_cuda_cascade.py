"""A cascade whose flows the kernels regroup, on the shim and on hardware."""

from pathlib import Path

import numpy as np
import pytest
from lazy_cuda import lazy_device

from etcpipe.cascade.serving import load
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model_file import DIGEST_KEY, NO_DIGEST, Description, seal

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from onnx import helper, load_from_string
from test_cascade_offline import CLASSES, COLUMNS, cascade, verdicts, write_model  # noqa: F401
from test_tree_kernel import random_trees

DEPTH, LAST = 3, 10


def write_trees(path: Path) -> Path:
    """Trees that split at sizes and counts; what they say means nothing. Made without LightGBM."""
    random = np.random.default_rng(1)
    rows = random.integers(40, 1400, (100, len(COLUMNS))).astype(np.float32)
    rows[:, 2] = random.integers(1, DEPTH + 1, 100)
    model = load_from_string(random_trees(random, rows, 6, 3, len(CLASSES)))
    about = Description(
        name="trees",
        classes=CLASSES,
        view="stats",
        columns=COLUMNS,
        schema_hash=schema_hash(VIEWS["stats"], DEPTH, "strict", COLUMNS),
        first_n=DEPTH,
    )
    helper.set_model_props(model, {"etcpipe": about.to_json(), DIGEST_KEY: NO_DIGEST})
    path.write_bytes(seal(model.SerializeToString()))
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Trees, and flows that they are not sure of to a model that a GPU runs."""
    first, last = write_trees(tmp_path / "3.onnx"), write_model(tmp_path / "10.onnx", LAST)
    stages = (Stage(DEPTH, first.name, rule=Rule(probability=0.7)), Stage(LAST, last.name))
    Cascade(stages).save(tmp_path / "mixed.toml")
    return tmp_path / "mixed.toml"


def assert_answers_alike(file: Path) -> None:
    """Each flow has the same answer of the same stage, wherever rows are made and judged."""
    expected, counters = verdicts(cascade=file, device="cpu")
    got, also = verdicts(cascade=file, device="gpu")
    assert len(expected) > 100
    assert [said[0] for said in got.values()] == [said[0] for said in expected.values()]
    assert {name: also[name] for name in counters if name.startswith("CASCADE")} == {
        name: n for name, n in counters.items() if name.startswith("CASCADE")
    }


def assert_mixed(file: Path) -> None:
    assert [one.device for one in load(file, "gpu").stage_models] == ["cpu", "gpu"]
    assert_answers_alike(file)
    counters = verdicts(cascade=file, device="gpu")[1]
    assert counters["CASCADE_SURE"] > 10 and counters["CASCADE_LAST"] > 10


def test_a_cascade_answers_as_on_the_cpu(gpu, cascade, monkeypatch):  # noqa: F811
    devices = [lazy_device()]
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", devices.pop)
    assert_answers_alike(cascade)
    assert not devices  # it was asked for, once


def test_trees_stay_on_the_cpu_beside_a_network_on_the_gpu(gpu, mixed, monkeypatch):
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", lazy_device)
    assert_mixed(mixed)


@pytest.mark.gpu
def test_on_hardware_trees_stay_on_the_cpu_beside_a_network_on_the_gpu(mixed):
    assert_mixed(mixed)
