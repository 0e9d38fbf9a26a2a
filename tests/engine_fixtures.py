"""A machine with a GPU, for tests on machines without one."""

import sys

import pytest


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """CuPy and TensorRT that compute on the host, a device, and an empty cache of plans."""
    from trt_stub import fake_cupy, fake_tensorrt

    from etcpipe.errors import EngineError
    from etcpipe.gpu import cuda_device, tensorrt_plan

    def bindings(name):
        if name != "tensorrt":
            raise EngineError("not installed (pip install)")
        return fake_tensorrt

    device = cuda_device.CudaDevice("NVIDIA Test", "9.0", "13.0")
    monkeypatch.setattr(cuda_device, "find", lambda: device)
    monkeypatch.setattr(tensorrt_plan, "bindings", bindings)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fake_tensorrt.Builder, "built", 0)
    monkeypatch.setattr(fake_tensorrt, "failing", set())
    return fake_tensorrt
