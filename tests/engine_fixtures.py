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


@pytest.fixture
def cuda(gpu, monkeypatch):
    """ONNX Runtime as if its CPU provider were the CUDA one: pointers are bound alike."""
    import onnxruntime

    from etcpipe.gpu import inference_cuda

    real = onnxruntime.InferenceSession

    class Binding:
        def __init__(self, binding):
            self._binding = binding

        def bind_input(self, name, device, *rest):
            assert device == "cuda"
            self._binding.bind_input(name, "cpu", *rest)

        def bind_output(self, name, device, *rest):
            assert device == "cuda"
            self._binding.bind_output(name, "cpu", *rest)

    class Session(real):
        def __init__(self, model, options, providers):
            if providers == ["CPUExecutionProvider"]:
                self.stream = None
            else:
                ((name, settings),) = providers
                assert name == inference_cuda.PROVIDER and settings["use_tf32"] == "0"
                self.stream = int(settings["user_compute_stream"])
            super().__init__(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [inference_cuda.PROVIDER]

        def io_binding(self):
            return Binding(super().io_binding())

        def run_with_iobinding(self, binding, options):
            assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
            super().run_with_iobinding(binding._binding, options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [inference_cuda.PROVIDER])
    return Session
