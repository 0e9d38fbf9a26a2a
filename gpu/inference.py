"""Runners: one model, rows in, scores out. Each engine is a module beside this one."""

import os
from typing import Protocol

import numpy as np


class Runner(Protocol):
    """Does the inference of one model.

    Attributes:
        metadata: the text that travels in the model file, by key.
        input_shape: of one row.
        input_dtype: of the rows, as NumPy names it.
    """

    metadata: dict[str, str]
    input_shape: tuple[int | str | None, ...]
    input_dtype: str

    def infer(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float32, one unnormalised score a class.

        Args:
            rows: (flows, *input_shape) of input_dtype, C contiguous; flows may be 0.
        """
        ...


def open_runner(model: bytes, threads: int = 1) -> Runner:
    """Return a runner for the contents of an ONNX file.

    Args:
        threads: CPU threads that one call may use.

    Raises:
        ModelError: the bytes are not an ONNX model that the engine can run.
    """
    # Official builds of ONNX Runtime send usage events to their vendor unless this is set
    # before they are loaded (their Privacy.md); a tool on a network tap sends nothing.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from etcpipe.gpu.inference_onnx import OnnxRunner

    return OnnxRunner(model, threads)
