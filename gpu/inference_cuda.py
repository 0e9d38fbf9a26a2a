"""Inference on the GPU by ONNX Runtime's CUDA provider, on the buffer that the rows are in."""

from typing import Any

import numpy as np
import onnxruntime

from etcpipe import runtime
from etcpipe.errors import EngineError
from etcpipe.gpu.cuda_device import CudaDevice
from etcpipe.gpu.inference import Runner, check_rows, cuda_errors
from etcpipe.gpu.inference_onnx import reason, session_options

PROVIDER = "CUDAExecutionProvider"
# Allocate what is needed instead of doubling each time; compute float32, not TF32.
OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


class CudaRunner:
    """A Runner; see etcpipe.gpu.inference. For one thread at a time."""

    device = "gpu"

    def __init__(self, name: str, model: bytes, on_cpu: Runner, gpu: CudaDevice) -> None:
        """Load a model.

        Args:
            name: "cuda".
            model: contents of an ONNX file.
            on_cpu: a runner of the same model, for its metadata and shapes.
            gpu: the device.

        Raises:
            EngineError: this ONNX Runtime has no CUDA provider, or cannot load the model.
            ModuleNotFoundError: CuPy is not installed.
        """
        if PROVIDER not in onnxruntime.get_available_providers():
            remedy = runtime.remedy("onnxruntime-gpu")
            raise EngineError(f"onnxruntime is without CUDA ({remedy} instead)")
        import cupy

        self.metadata = on_cpu.metadata
        self.input_shape, self.input_dtype = on_cpu.input_shape, on_cpu.input_dtype
        self.engine = f"ONNX Runtime {onnxruntime.__version__} on {gpu.name}"
        self._cupy = cupy
        # The session's own stream, so that the callers' streams can wait for it.
        with cuda_errors():
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self._session = _open(model, self._stream)
        (rows,), (scores,) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output, self._classes = rows.name, scores.name, scores.shape[-1]
        if scores.type != "tensor(float)" or not isinstance(self._classes, int):
            raise EngineError(f"scores are {scores.type} {scores.shape}, not float32 of each class")

    def infer(self, rows: np.ndarray) -> np.ndarray:
        check_rows(self, rows)
        if not len(rows):  # not every CUDA kernel accepts an empty batch
            return np.empty((0, self._classes), np.float32)
        try:
            return self._session.run([self._output], {self._input: rows})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(reason(error)) from error

    def infer_device(self, rows: Any, stream: Any) -> Any:
        rows = self._cupy.asarray(rows)  # does not copy
        check_rows(self, rows)
        with cuda_errors(), stream:
            scores = self._cupy.empty((len(rows), self._classes), np.float32)
        if not len(rows):
            return scores
        binding = self._session.io_binding()
        for bind, name, array in (
            (binding.bind_input, self._input, rows),
            (binding.bind_output, self._output, scores),
        ):
            bind(name, "cuda", 0, array.dtype, array.shape, array.data.ptr)
        self._stream.wait_event(stream.record())
        try:
            self._session.run_with_iobinding(binding, _run_options())
        except Exception as error:
            raise EngineError(reason(error)) from error
        stream.wait_event(self._stream.record())
        return scores


def _open(model: bytes, stream: Any) -> onnxruntime.InferenceSession:
    options = {**OPTIONS, "user_compute_stream": str(stream.ptr)}
    try:
        session = onnxruntime.InferenceSession(
            model, session_options(threads=1), providers=[(PROVIDER, options)]
        )
    except Exception as error:
        raise EngineError(reason(error)) from error
    if PROVIDER not in session.get_providers():
        raise EngineError("its libraries of CUDA or cuDNN are missing")
    return session


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # The caller's stream waits for the session's; the thread does not.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
