"""etcpipe model bench: figures of calls that were really made, for every kind of view."""

import json
import time
from importlib import metadata

import numpy as np
import pytest
from command import fails, run

from etcpipe import model_bench
from etcpipe.doctor import machine
from etcpipe.errors import UnsupportedError
from etcpipe.gpu import cuda_device, inference
from etcpipe.model import load


class Counting:
    """A model that says what it was called with."""

    def __init__(self, model):
        self.view, self.columns = model.view, model.columns
        self.batches = []

    def infer(self, rows):
        self.batches.append(rows.shape)
        return np.zeros((len(rows), 2), np.float32)


def test_each_batch_size_is_measured_on_rows_of_that_size():
    model = Counting(load())
    speeds = model_bench.measure(model, (3, 7), seconds=0)
    assert [(speed.flows, speed.calls) for speed in speeds] == [(3, 10), (7, 10)]
    width = len(model.columns)
    assert model.batches == [(3, width)] * 13 + [(7, width)] * 13  # three calls warm up


def test_figures_of_calls_that_take_10_ms():
    class Slow(Counting):
        def infer(self, rows):
            time.sleep(0.01)

    (speed,) = model_bench.measure(Slow(load()), (64,), seconds=0.15)
    assert 10 <= speed.calls <= 15
    assert 10_000 <= speed.p50_us <= speed.p99_us
    assert 0 < speed.flows_per_s <= 6400
    assert speed.cpu_us_per_flow < 10_000 / 64  # sleeping takes no processor


def test_the_verb_prints_a_line_for_each_batch():
    done = run("model", "bench", "--seconds", "0", "--batch", "1", "--batch", "16", check=0)
    title, _, header, *lines = done.stdout.splitlines()
    assert title == f"{load()}, trees in C, CPU, 1 thread"
    assert header.split()[0] == "flows" and [line.split()[0] for line in lines] == ["1", "16"]


def test_as_json_it_says_what_ran():
    done = run("-j", "model", "bench", "--seconds", "0", "--batch", "8", check=0)
    said = json.loads(done.stdout)
    assert said["model"] == str(load()) and said["engine"].endswith("CPU")
    assert [batch["flows"] for batch in said["batches"]] == [8]


def test_an_engine_of_no_name_is_refused():
    message = fails("model", "bench", "--device", "tpu", status=2)
    assert message.startswith("device 'tpu' is none of auto, cpu, gpu, tensorrt")


GPU = cuda_device.CudaDevice("NVIDIA Test", "9.0", "13.0")


@pytest.mark.parametrize(
    ("device", "packages", "engines", "status", "text", "remedy"),
    [
        (None, (), [], "ok", "no GPU: none; everything runs on the CPU", ""),
        (GPU, (), [], "warn", "not used", "pip install cupy-cuda13x"),
        (GPU, ("cupy",), [], "warn", "networks run on the CPU", "pip install tensorrt-cu13"),
        (GPU, ("cupy",), ["TensorRT 11.4"], "ok", "networks run by TensorRT 11.4", ""),
    ],
    ids=["no gpu", "no cupy", "no engine", "all there"],
)
def test_doctor_says_what_a_gpu_lacks(monkeypatch, device, packages, engines, status, text, remedy):
    def find():
        if device is None:
            raise UnsupportedError("no GPU: none")
        return device

    monkeypatch.setattr(cuda_device, "find", find)
    monkeypatch.setattr(machine, "find_spec", lambda name: name in packages or None)
    monkeypatch.setattr(inference, "installed", lambda: engines)
    finding = machine.gpu()
    assert finding.status == status and text in finding.text
    assert finding.remedy.startswith(remedy) and bool(finding.remedy) == bool(remedy)
    assert device is None or str(GPU) in finding.text


def test_installed_engines_have_versions(monkeypatch):
    there = {"tensorrt_cu12_bindings": "10.16.1", "onnxruntime-gpu": "1.31.1"}

    def version(package):
        if package not in there:
            raise metadata.PackageNotFoundError(package)
        return there[package]

    monkeypatch.setattr(metadata, "version", version)
    assert inference.installed() == ["TensorRT 10.16.1", "ONNX Runtime with CUDA 1.31.1"]
