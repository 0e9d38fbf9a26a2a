"""The benchmarks of models: what their tables say, by hand."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from labelled import made_up, write_recordings

pytest.importorskip("lightgbm", reason="trees need etcpipe[train]")
from etcpipe.training import trees

BENCH = Path(__file__).resolve().parents[1] / "tools" / "bench"


@pytest.fixture(autouse=True)
def bench_tools(monkeypatch):
    """The scripts' own modules, importable; and fits that end soon."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(trees, "TREES_MAX", 20)
    yield
    for name in ("common", "models", "shaped"):
        sys.modules.pop(name, None)


def judged_by_all():
    """A task of two classes, all of whose flows are judged."""
    dataset = made_up(classes=2, flows=200)
    every = np.arange(len(dataset))
    task = import_module("models").Task
    return task("made up", dataset, dataset.label, ("a", "b"), every[:0], every)


def test_intervals_are_of_the_mean_over_seeds():
    """A model that is right with one seed and wrong with the other has a mean between them."""
    models, task = import_module("models"), judged_by_all()
    right, wrong = task.label.tolist(), (1 - task.label).tolist()
    units = {
        "half": [{"said": right, "fit_s": 1.0}, {"said": wrong, "fit_s": 3.0}],
        "right": [{"said": right, "fit_s": 1.0}],
    }
    found = models.summarise(task, units, "right")
    assert (found["half"]["macro_f1"], found["half"]["deviation"]) == (0.5, 0.5)
    assert found["half"]["interval"] == (0.0, 1.0) and found["half"]["fit_s"] == 2.0
    assert found["half"]["beyond"] == (-0.5, -1.0, 0.0) and "beyond" not in found["right"]


def test_models_that_fail_with_the_same_seed_are_level():
    models, task = import_module("models"), judged_by_all()
    runs = [{"said": said.tolist(), "fit_s": 1.0} for said in (task.label, 1 - task.label)]
    found = models.summarise(task, {"one": runs, "other": runs}, "one")
    assert found["other"]["beyond"] == (0.0, 0.0, 0.0)


def test_an_overview_has_a_row_for_each_task():
    models, task = import_module("models"), judged_by_all()
    said = {"said": task.label.tolist(), "fit_s": 1.0}
    found = models.summarise(task, {"one": [said] * 2, "other": [said] * 2}, "one")
    scores, beyond = models.overview({"tls": found, "os": found}, "one")
    assert scores.columns == ["task", "seeds", "one", "other"]
    assert scores.rows[0] == ["tls", "2", "1.000 +- 0.000", "1.000 +- 0.000"]
    assert beyond.columns == ["task", "other"]
    assert beyond.rows[1] == ["os", "+0.000 (+0.000 to +0.000)"]
    assert len(models.overview({"tls": found}, "a third")) == 1


def test_shaping_is_measured_in_the_columns_that_were_asked_for(tmp_path):
    """Flows of two sizes: padded to one, what was learnt from clean ones is no use."""
    shaped, folder = import_module("shaped"), write_recordings(tmp_path)
    options = SimpleNamespace(bundle=folder, task=None, work=tmp_path, arch="lightgbm", rounds=None)
    found = shaped.measure(options, ["pad=mtu"], ["clean_trained"])
    assert found["clean"]["macro_f1"] == 1.0
    padded = found["shapings"]["pad=mtu"]
    assert set(padded) == {"overhead", "clean_trained"} and padded["overhead"]["bytes"] > 0.5
    assert padded["clean_trained"]["macro_f1"] < 0.7
