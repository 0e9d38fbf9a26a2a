"""Runners: one model, rows in, scores out. Each engine is a module beside this one.

    tensorrt       TensorRT 10 or 11             networks; it cannot read tree ensembles
    tensorrt_rtx   TensorRT for RTX              the same code
    cuda           ONNX Runtime, CUDA provider   networks (it would run trees on the CPU)
    onnxruntime    ONNX Runtime, on the CPU      every model; the reference for the others
    trees          C, on the CPU                 trees of up to 32 leaves; preferred for "cpu"

On the GPU a model is computed in the precision of its file: nothing is lowered, TF32 is off.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from etcpipe.errors import EngineError, ModelError, UsageError
from etcpipe.gpu import cuda_device

log = logging.getLogger(__name__)

# In the order in which they are tried: module and class of each engine.
GPU_ENGINES = {
    "tensorrt": ("inference_tensorrt", "TensorRTRunner"),
    "tensorrt_rtx": ("inference_tensorrt", "TensorRTRunner"),
    "cuda": ("inference_cuda", "CudaRunner"),
}
ONNX_RUNTIME = "onnxruntime"
DEVICES = ("auto", "cpu", "gpu", *GPU_ENGINES, ONNX_RUNTIME)

# A network needs up to some MB of memory for each row. Empty batches never reach a runner: ONNX
# Runtime aborts the process when a recurrent layer gets no rows.
ROWS_AT_ONCE = 256

# ONNX files contain the names of operators as text. If the same text appears by chance, the model
# merely stays on the CPU, which runs everything.
_TREES = b"TreeEnsemble"


class Runner(Protocol):
    """Does the inference of one model, for one thread at a time.

    Attributes:
        metadata: the texts of the model file's metadata, by key.
        input_shape: of one row.
        input_dtype: of the rows, as NumPy names it.
        device: "cpu" or "gpu".
        engine: name and version of the engine.
    """

    metadata: dict[str, str]
    input_shape: tuple[int | str | None, ...]
    input_dtype: str

    @property
    def device(self) -> str: ...

    @property
    def engine(self) -> str: ...

    def infer(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float32, one unnormalised score a class.

        Args:
            rows: (flows, *input_shape) of input_dtype, C contiguous; flows may be 0.
        """
        ...

    def infer_device(self, rows: Any, stream: Any) -> Any:
        """Return the scores of rows that are on the GPU, as a CuPy array there.

        A runner on the GPU reads the rows in place and does not wait: the scores are ready
        when the stream has come to them, and the next call overwrites them.

        Args:
            rows: (flows, *input_shape) of input_dtype, C contiguous: a CuPy array, or any
                object with a __cuda_array_interface__, such as other libraries' arrays.
            stream: the CuPy stream that writes rows; not the legacy default one.
        """
        ...


def open_runner(model: bytes, threads: int = 1, device: str = "cpu") -> Runner:
    """Return a runner for the contents of an ONNX file.

    Args:
        threads: CPU threads that one call may use. Trees in C use one thread, so with more of
            them ONNX Runtime runs the trees.
        device: "cpu"; "gpu"; "auto", the GPU where there is one that can run the model; or
            ONNX_RUNTIME or a name of GPU_ENGINES for that engine and no other. What "auto" or
            "gpu" cannot run on the GPU runs on the CPU, after one warning that says why.

    Raises:
        ModelError: the bytes are not an ONNX model that the engine can run.
        UnsupportedError: a GPU or an engine was asked for by name and is not there.
        UsageError: device is none of these.
    """
    if device not in DEVICES:
        raise UsageError(f"device {device!r} is none of {', '.join(DEVICES)}")
    if device == ONNX_RUNTIME:
        return _open_onnx(model, threads)
    if device in GPU_ENGINES:
        return _open_engine(device, model, _open_onnx(model, threads))
    on_cpu = _open_on_cpu(model, threads)  # checks the file, and takes over if the GPU fails
    if device == "cpu":
        return on_cpu
    if device == "gpu":
        cuda_device.find()
    elif is_trees(model) or not cuda_device.is_present():
        return on_cpu
    if is_trees(model):
        log.warning("the model is made of trees: it runs on the CPU, its rows too")
        return on_cpu
    return _open_first(model, on_cpu)


def is_trees(model: bytes) -> bool:
    """Is the ONNX file an ensemble of trees?"""
    return _TREES in model


def installed() -> list[str]:
    """Return the GPU_ENGINES that are installed, with versions, without importing them."""
    packages = {
        "TensorRT": ("tensorrt_cu13_bindings", "tensorrt_cu12_bindings", "tensorrt"),
        "TensorRT for RTX": ("tensorrt_rtx_cu13_bindings", "tensorrt_rtx"),
        "ONNX Runtime with CUDA": ("onnxruntime-gpu",),
    }
    return [
        f"{engine} {found}" for engine, names in packages.items() if (found := version_of(*names))
    ]


def version_of(*packages: str) -> str | None:
    """Return the version of the first installed package of several."""
    from importlib.metadata import (  # 15 ms, which `attach` need not spend
        PackageNotFoundError,
        version,
    )

    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _open_on_cpu(model: bytes, threads: int) -> Runner:
    if threads == 1 and is_trees(model):
        from etcpipe.gpu.inference_trees import TreesRunner

        try:
            return TreesRunner(model)
        except ValueError as error:
            log.debug("ONNX Runtime runs the model: %s", error)
    return _open_onnx(model, threads)


def _open_onnx(model: bytes, threads: int) -> Runner:
    # Official builds of ONNX Runtime send usage events to their vendor unless this is set
    # before they are loaded (their Privacy.md); a tool on a network tap sends nothing.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        from etcpipe.gpu.inference_onnx import OnnxRunner
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        from etcpipe import runtime

        raise EngineError(f"no ONNX Runtime here: {runtime.remedy()}") from error
    return OnnxRunner(model, threads)


def _open_first(model: bytes, on_cpu: Runner) -> Runner:
    """Return the first engine that runs the model on the GPU, or the CPU with a warning."""
    failures = []
    for name in GPU_ENGINES:
        try:
            runner = FallbackRunner(_open_engine(name, model, on_cpu), on_cpu)
        except EngineError as error:
            failures.append(f"{name}: {error}")
            continue
        for failure in failures:
            log.info("not used, %s", failure)
        return runner
    log.warning("the model runs on the CPU: %s", "; ".join(failures))
    return on_cpu


def _open_engine(name: str, model: bytes, on_cpu: Runner) -> Runner:
    device = cuda_device.find()
    module, runner = GPU_ENGINES[name]
    try:
        opened = getattr(import_module(f"etcpipe.gpu.{module}"), runner)
        return opened(name, model, on_cpu, device)
    except ModuleNotFoundError as error:
        raise EngineError(f"needs the Python package {error.name}") from error


def check_rows(runner: Runner, rows: Any) -> None:
    """Check that rows fit the model: engines get nothing but an address.

    Raises:
        ModelError: they have another shape or dtype, or are not C contiguous.
    """
    fits = tuple(rows.shape[1:]) == runner.input_shape and rows.dtype == runner.input_dtype
    if not (fits and rows.flags.c_contiguous):
        taken = f"{runner.input_dtype} {list(runner.input_shape)}, C contiguous"
        given = f"{rows.dtype} {list(rows.shape[1:])}"
        raise ModelError(f"inference failed: the model takes rows of {taken}, not {given}")


def infer_on_host(runner: Runner, rows: Any, stream: Any) -> Any:
    """Return the scores, on the GPU, of rows on the GPU, computed by a runner of the CPU."""
    import cupy

    stream.synchronize()
    scores = runner.infer(cupy.asnumpy(cupy.asarray(rows)))
    with stream:
        return cupy.asarray(scores)


@contextmanager
def cuda_errors() -> Iterator[None]:
    """Turn CuPy's errors about CUDA in the block into an EngineError."""
    from cupy import cuda

    try:
        yield
    except (RuntimeError, cuda.memory.OutOfMemoryError) as error:  # runtime API, driver API
        raise EngineError(" ".join(str(error).split())) from error


class FallbackRunner:
    """A runner on the GPU until that fails, then on the CPU; see Runner.

    The batch that failed is run again, so every flow gets its scores.
    """

    def __init__(self, on_gpu: Runner, on_cpu: Runner) -> None:
        self.metadata = on_cpu.metadata
        self.input_shape, self.input_dtype = on_cpu.input_shape, on_cpu.input_dtype
        self._runner, self._on_cpu = on_gpu, on_cpu

    @property
    def device(self) -> str:
        return self._runner.device

    @property
    def engine(self) -> str:
        return self._runner.engine

    def infer(self, rows: np.ndarray) -> np.ndarray:
        try:
            return self._runner.infer(rows)
        except EngineError as error:
            self._fall_back(error)
            return self._runner.infer(rows)

    def infer_device(self, rows: Any, stream: Any) -> Any:
        try:
            return self._runner.infer_device(rows, stream)
        except EngineError as error:
            self._fall_back(error)
            return self._runner.infer_device(rows, stream)

    def _fall_back(self, error: EngineError) -> None:
        log.warning("the model goes on on the CPU: %s: %s", self._runner.engine, error)
        self._runner = self._on_cpu
