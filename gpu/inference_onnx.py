"""Inference on the CPU by ONNX Runtime."""

from typing import Any

import numpy as np
import onnxruntime

from etcpipe.errors import ModelError
from etcpipe.gpu.inference import infer_on_host

# ONNX's names of the tensor types that etcpipe's models take.
DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}

_ERRORS_ONLY = 3
onnxruntime.set_default_logger_severity(_ERRORS_ONLY)


class OnnxRunner:
    """A Runner; see etcpipe.gpu.inference."""

    device = "cpu"
    engine = f"ONNX Runtime {onnxruntime.__version__}, CPU"

    def __init__(self, model: bytes, threads: int = 1) -> None:
        """Load a model.

        Args:
            model: contents of an ONNX file.
            threads: CPU threads of one call; 1 keeps the other cores for packets.

        Raises:
            ModelError: the bytes are damaged, not ONNX, or need a newer ONNX Runtime.
        """
        options = session_options(threads)
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"damaged or not an ONNX model: {reason(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{len(inputs)} inputs and {len(outputs)} outputs; one of each needed")
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.input_shape = tuple(inputs[0].shape[1:])
        self.input_dtype = DTYPES.get(inputs[0].type, inputs[0].type)
        self._input, self._output = inputs[0].name, outputs[0].name

    def infer(self, rows: np.ndarray) -> np.ndarray:
        if not len(rows):  # its recurrent operators abort the process on an empty batch
            return self.infer(np.zeros((1, *rows.shape[1:]), rows.dtype))[:0]
        try:
            return self._session.run([self._output], {self._input: rows})[0]
        except Exception as error:
            raise ModelError(f"inference failed: {reason(error)}") from error

    def infer_device(self, rows: Any, stream: Any) -> Any:
        return infer_on_host(self, rows, stream)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options of every session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY + 1  # errors are raised anyway
    return options


def reason(error: Exception) -> str:
    """Return an error's message as one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."
