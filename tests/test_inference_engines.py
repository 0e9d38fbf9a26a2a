"""Which engine runs a model, what happens when one cannot, and that all say the same.

TensorRT and CuPy are stood in for by tests/trt_stub. What really runs on a GPU is marked gpu.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from trt_stub import fake_cupy, fake_tensorrt

from etcpipe.errors import EngineError, ModelError, UnsupportedError, UsageError
from etcpipe.gpu import cuda_device, inference, inference_tensorrt, tensorrt_plan
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.plan_cache import PlanCache
from etcpipe.model import find

networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")

SIZES = (0, 1, 2, 8, 9, 64, 200, 255, 256, 257, 600)


@pytest.fixture(params=networks.NETWORKS)
def model(request):
    return networks.NETWORKS[request.param]()


def on_cpu(model):
    return open_runner(model)


def test_auto_takes_the_first_engine_that_is_there(gpu, model, caplog):
    runner = open_runner(model, device="auto")
    assert (runner.device, runner.engine) == ("gpu", "tensorrt 10.16.1.11 on NVIDIA Test")
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.endswith("compiles the model for NVIDIA Test: this once")
    open_runner(model, device="auto")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("flows", SIZES)
def test_tensorrt_gives_the_scores_of_the_cpu(gpu, model, flows):
    cpu = on_cpu(model)
    runner = open_runner(model, device="tensorrt")
    rows = networks.rows_for(cpu, flows)
    for _ in range(3):  # kernel by kernel, then from graphs
        scores = runner.infer(rows)
        assert scores.shape == (flows, networks.CLASSES) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, cpu.infer(rows), atol=1e-3)


@pytest.mark.parametrize("flows", SIZES)
def test_rows_on_the_device_are_read_where_they_lie(gpu, model, flows):
    cpu = on_cpu(model)
    runner = open_runner(model, device="tensorrt")
    buffer = fake_cupy.zeros((max(flows, 1), *cpu.input_shape), cpu.input_dtype)
    stream = fake_cupy.Stream()
    for seed in range(3):
        rows = networks.rows_for(cpu, flows, seed)
        buffer[:flows] = rows
        scores = runner.infer_device(buffer[:flows], stream)
        np.testing.assert_allclose(fake_cupy.asnumpy(scores), cpu.infer(rows), atol=1e-3)


def test_any_array_that_names_its_address_will_do(gpu):
    cpu = on_cpu(networks.mlp())
    rows = networks.rows_for(cpu, 9)

    there = fake_cupy.asarray(rows)
    foreign = SimpleNamespace(__cuda_array_interface__=there.__cuda_array_interface__)
    runner = open_runner(networks.mlp(), device="tensorrt")
    scores = runner.infer_device(foreign, fake_cupy.Stream())
    np.testing.assert_allclose(fake_cupy.asnumpy(scores), cpu.infer(rows), atol=1e-3)


def test_a_batch_size_becomes_a_graph_once(gpu):
    model = networks.mlp()
    runner = open_runner(model, device="tensorrt")
    stream = fake_cupy.Stream()
    rows = fake_cupy.asarray(networks.rows_for(on_cpu(model), 64))
    for _ in range(5):
        runner.infer_device(rows, stream)
    (graph,) = stream.graphs
    assert graph.launches == 4
    runner.infer_device(rows[:63], stream)  # of no size that has a graph
    assert len(stream.graphs) == 1


def test_what_cannot_be_captured_runs_without_graphs(gpu, monkeypatch):
    monkeypatch.setattr(fake_cupy.Stream, "refuses_capture", True)
    cpu = on_cpu(networks.mlp())
    runner = open_runner(networks.mlp(), device="tensorrt")
    rows = networks.rows_for(cpu, 8)
    for _ in range(3):
        np.testing.assert_allclose(runner.infer(rows), cpu.infer(rows), atol=1e-3)


@pytest.mark.parametrize(("engine", "machine"), [("tensorrt", "gpu"), ("cuda", "cuda")])
def test_rows_that_do_not_fit_are_refused_before_anybody_reads_them(request, engine, machine):
    request.getfixturevalue(machine)
    runner = open_runner(networks.mlp(), device=engine)
    rows = networks.rows_for(runner, 6)
    for wrong in (rows[:, :47], rows.astype(np.float64), rows.astype(np.uint8), rows[:, ::-1]):
        with pytest.raises(ModelError, match=r"the model takes rows of float32 \[48\]"):
            runner.infer(wrong)
        with pytest.raises(ModelError, match="the model takes rows of"):
            runner.infer_device(wrong.view(fake_cupy.Array), fake_cupy.Stream())


def test_rows_beyond_the_batch_are_zeros(gpu, monkeypatch):
    runner = open_runner(networks.mlp(), device="tensorrt")
    rows = networks.rows_for(runner, 8)
    runner.infer(rows)
    seen = []
    monkeypatch.setattr(runner, "_launch", lambda part, stream: seen.append(part.get()))
    runner.infer(rows[:3])
    (padded,) = seen
    assert padded.shape == (8, 48) and not padded[3:].any()
    np.testing.assert_array_equal(padded[:3], rows[:3])


def test_a_plan_is_built_once(gpu, tmp_path):
    model = networks.mlp()
    for _ in range(3):
        open_runner(model, device="tensorrt")
    assert gpu.Builder.built == 1
    open_runner(networks.transformer(), device="tensorrt")
    assert gpu.Builder.built == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda mp: mp.setattr(fake_tensorrt, "__version__", "11.4.0.106"),
        lambda mp: mp.setattr(inference_tensorrt, "PROFILE", tensorrt_plan.Profile(max=128)),
        lambda mp: mp.setattr(
            cuda_device, "find", lambda: cuda_device.CudaDevice("NVIDIA Test", "9.0", "13.1")
        ),
        lambda mp: mp.setattr(
            cuda_device, "find", lambda: cuda_device.CudaDevice("NVIDIA Other", "8.0", "13.0")
        ),
    ],
    ids=["version", "profile", "driver", "gpu"],
)
def test_another_machine_builds_a_plan_of_its_own(gpu, monkeypatch, change):
    open_runner(networks.mlp(), device="tensorrt")
    change(monkeypatch)
    open_runner(networks.mlp(), device="tensorrt")
    assert gpu.Builder.built == 2
    assert len(list(PlanCache().folder.iterdir())) == 2


def test_a_damaged_plan_is_built_again(gpu, caplog):
    open_runner(networks.mlp(), device="tensorrt")
    (file,) = PlanCache().folder.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    cpu = on_cpu(networks.mlp())
    rows = networks.rows_for(cpu, 5)
    np.testing.assert_allclose(
        open_runner(networks.mlp(), device="auto").infer(rows), cpu.infer(rows), atol=1e-3
    )
    assert gpu.Builder.built == 2 and "damaged: it is built again" in caplog.text


def test_a_kept_plan_that_is_refused_is_built_again(gpu):
    open_runner(networks.mlp(), device="tensorrt")
    (file,) = PlanCache().folder.iterdir()
    foreign = b"9.9 256\n" + networks.mlp()
    PlanCache().store(file.stem, foreign)
    open_runner(networks.mlp(), device="tensorrt")
    assert gpu.Builder.built == 2
    assert PlanCache().load(file.stem) != foreign


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("parse", "cannot read the model: node 7: no such operator"),
        ("build", "cannot build the model: Out of memory"),
        ("deserialize", "NVIDIA Test does not take the plan: Version tag does not match"),
        ("context", "no context"),
    ],
)
def test_an_engine_that_cannot_leaves_it_to_the_cpu(gpu, failing, reason, caplog):
    fake_tensorrt.failing.add(failing)
    with pytest.raises(EngineError, match=reason):
        open_runner(networks.mlp(), device="tensorrt")
    runner = open_runner(networks.mlp(), device="gpu")
    assert runner.device == "cpu"
    warning = caplog.records[-1].getMessage()
    assert warning.startswith("the model runs on the CPU: tensorrt: ") and reason in warning
    assert "\n" not in warning
    assert runner.infer(networks.rows_for(runner, 3)).shape == (3, networks.CLASSES)


@pytest.mark.parametrize("failing", ["bind", "execute"])
def test_a_gpu_that_fails_later_leaves_the_batch_to_the_cpu(gpu, failing, caplog):
    cpu = on_cpu(networks.mlp())
    runner = open_runner(networks.mlp(), device="auto")
    rows = networks.rows_for(cpu, 70)
    runner.infer(rows[:1])
    fake_tensorrt.failing.add(failing)
    for _ in range(2):
        np.testing.assert_array_equal(runner.infer(rows), cpu.infer(rows))
    device_rows = fake_cupy.asarray(rows)
    scores = runner.infer_device(device_rows, fake_cupy.Stream())
    np.testing.assert_array_equal(fake_cupy.asnumpy(scores), cpu.infer(rows))
    assert runner.device == "cpu" and runner.engine.endswith(", CPU")
    assert caplog.text.count("the model goes on on the CPU") == 1


def test_a_device_that_is_lost_leaves_the_batch_to_the_cpu(gpu, monkeypatch, caplog):
    def lost(*_, **__):
        raise fake_cupy.CUDARuntimeError("cudaErrorDeviceUnavailable")

    cpu = on_cpu(networks.mlp())
    runner = open_runner(networks.mlp(), device="auto")
    rows = networks.rows_for(cpu, 5)
    monkeypatch.setattr(fake_cupy.Array, "set", lost)
    np.testing.assert_array_equal(runner.infer(rows), cpu.infer(rows))
    assert "cudaErrorDeviceUnavailable" in caplog.text and runner.device == "cpu"


def test_memory_that_is_short_leaves_it_to_the_cpu(gpu, monkeypatch, caplog):
    def short(*_):
        raise fake_cupy.OutOfMemoryError("out of memory allocating 2,560,000 bytes")

    monkeypatch.setattr(fake_cupy, "zeros", short)
    assert open_runner(networks.mlp(), device="auto").device == "cpu"
    assert "out of memory allocating" in caplog.text


def test_without_cupy_it_runs_on_the_cpu(gpu, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert open_runner(networks.mlp(), device="auto").device == "cpu"
    assert "tensorrt: needs the Python package cupy" in caplog.text


def test_trees_stay_on_the_cpu(gpu, caplog):
    trees = find(None).read_bytes()
    assert open_runner(trees, device="auto").device == "cpu"
    assert caplog.text == ""
    assert open_runner(trees, device="gpu").device == "cpu"
    assert "made of trees" in caplog.text


def test_without_a_gpu_auto_is_the_cpu_and_says_nothing(monkeypatch, caplog):
    def none():
        raise UnsupportedError("no GPU: none")

    monkeypatch.setattr(cuda_device, "find", none)
    assert open_runner(networks.mlp(), device="auto").device == "cpu"
    assert caplog.text == ""
    for device in ("gpu", *inference.GPU_ENGINES):
        with pytest.raises(UnsupportedError, match="no GPU: none"):
            open_runner(networks.mlp(), device=device)


def test_an_unknown_device_is_named():
    with pytest.raises(UsageError, match="device 'tpu' is none of auto, cpu, gpu"):
        open_runner(networks.mlp(), device="tpu")


@pytest.mark.parametrize("engine", ["tensorrt", "cuda"])
def test_scores_of_another_type_are_refused(request, engine):
    import onnx

    request.getfixturevalue("gpu" if engine == "tensorrt" else "cuda")

    model = onnx.load_from_string(networks.mlp())
    model.graph.node[-1].CopyFrom(
        onnx.helper.make_node("Cast", list(model.graph.node[-1].input), ["scores"], to=11)
    )
    model.graph.output[0].type.tensor_type.elem_type = 11
    with pytest.raises(EngineError, match=r"scores are .*not float32"):
        open_runner(model.SerializeToString(), device=engine)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", inference.GPU_ENGINES)
@pytest.mark.parametrize("flows", SIZES)
def test_on_hardware_the_scores_are_those_of_the_cpu(engine, model, flows):
    import cupy

    cpu = on_cpu(model)
    try:
        runner = open_runner(model, device=engine)
    except EngineError as error:
        pytest.skip(str(error))
    stream = cupy.cuda.Stream(non_blocking=True)
    for seed in range(3):
        rows = networks.rows_for(cpu, flows, seed)
        np.testing.assert_allclose(runner.infer(rows), cpu.infer(rows), atol=1e-3)
        with stream:
            buffer = cupy.asarray(rows)
        scores = runner.infer_device(buffer, stream)
        stream.synchronize()
        np.testing.assert_allclose(cupy.asnumpy(scores), cpu.infer(rows), atol=1e-3)
