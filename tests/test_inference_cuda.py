"""ONNX Runtime's CUDA provider, stood in for by its CPU provider: pointers are bound alike."""

import numpy as np
import pytest
from trt_stub import fake_cupy, fake_tensorrt

from etcpipe.errors import EngineError
from etcpipe.gpu.inference import open_runner

networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")


@pytest.mark.parametrize("flows", [0, 1, 7, 300])
@pytest.mark.parametrize("make", networks.NETWORKS.values(), ids=networks.NETWORKS)
def test_cuda_gives_the_scores_of_the_cpu(cuda, make, flows):
    model = make()
    cpu = open_runner(model)
    runner = open_runner(model, device="cuda")
    rows = networks.rows_for(cpu, flows)
    np.testing.assert_allclose(runner.infer(rows), cpu.infer(rows), atol=1e-3)
    stream = fake_cupy.Stream()
    scores = runner.infer_device(fake_cupy.asarray(rows), stream)
    np.testing.assert_allclose(fake_cupy.asnumpy(scores), cpu.infer(rows), atol=1e-3)


def test_cuda_waits_for_the_rows_and_the_caller_for_the_scores(cuda):
    runner = open_runner(networks.mlp(), device="cuda")
    inner = fake_cupy.Stream.by_pointer[runner._session.stream]
    stream = fake_cupy.Stream()
    runner.infer_device(fake_cupy.asarray(networks.rows_for(runner, 4)), stream)
    assert inner.waits == [("event of", stream)]
    assert stream.waits == [("event of", inner)]
    assert not stream.synchronized and not inner.synchronized


def test_cuda_follows_where_tensorrt_cannot(cuda, caplog):
    fake_tensorrt.failing.add("parse")
    runner = open_runner(networks.mlp(), device="auto")
    assert runner.engine.startswith("ONNX Runtime") and runner.engine.endswith("on NVIDIA Test")
    assert "on the CPU" not in caplog.text


def test_an_onnx_runtime_without_cuda_says_what_to_install(gpu):
    with pytest.raises(EngineError, match="pip install onnxruntime-gpu"):
        open_runner(networks.mlp(), device="cuda")
