"""Inference by TensorRT, on the device buffer that the rows are in."""

import logging
from typing import Any

import numpy as np

from etcpipe.errors import EngineError
from etcpipe.gpu import plan_cache, tensorrt_plan
from etcpipe.gpu.cuda_device import CudaDevice
from etcpipe.gpu.inference import Runner, check_rows, cuda_errors
from etcpipe.gpu.tensorrt_plan import Profile

log = logging.getLogger(__name__)

PROFILE = Profile()
# A batch of one of these sizes is launched as one CUDA graph instead of kernel by kernel.
GRAPH_SIZES = (1, 8, 32, 64, 128, 256)
# Each graph holds memory of its own; buffers beyond those that take turns get none.
GRAPHS_MAX = 4 * len(GRAPH_SIZES)


class TensorRTRunner:
    """A Runner; see etcpipe.gpu.inference. For one thread and one stream at a time."""

    device = "gpu"

    def __init__(
        self,
        name: str,
        model: bytes,
        on_cpu: Runner,
        gpu: CudaDevice,
        cache: plan_cache.PlanCache | None = None,
    ) -> None:
        """Load the model's plan, and build it where the cache has none.

        Args:
            name: "tensorrt" or "tensorrt_rtx".
            model: contents of an ONNX file.
            on_cpu: a runner of the same model, which knows its metadata and shapes.
            gpu: the device. That it was found is what makes TensorRT safe to call.

        Raises:
            EngineError: TensorRT is missing, cannot take the model, or lacks memory.
            ModuleNotFoundError: CuPy is not installed.
        """
        import cupy

        self.metadata = on_cpu.metadata
        self.input_shape, self.input_dtype = on_cpu.input_shape, on_cpu.input_dtype
        self._cupy = cupy
        self._trt = tensorrt_plan.bindings(name)
        self.engine = f"{name} {self._trt.__version__} on {gpu.name}"
        with cuda_errors():
            self._runtime = self._trt.Runtime(tensorrt_plan.messages(self._trt).logger)
            self._engine = self._load(model, gpu, cache or plan_cache.PlanCache())
            self._open()

    def infer(self, rows: np.ndarray) -> np.ndarray:
        check_rows(self, rows)
        scores = np.empty((len(rows), self._scores.shape[1]), np.float32)
        with cuda_errors():
            for start in range(0, len(rows), PROFILE.max):
                part = rows[start : start + PROFILE.max]
                scores[start : start + len(part)] = self._infer_part(part)
        return scores

    def infer_device(self, rows: Any, stream: Any) -> Any:
        rows = self._cupy.asarray(rows)  # copies nothing
        check_rows(self, rows)
        if len(rows) <= PROFILE.max:
            with cuda_errors():
                self._launch(rows, stream)
            return self._scores[: len(rows)]
        with cuda_errors(), stream:
            scores = self._cupy.empty((len(rows), self._scores.shape[1]), np.float32)
            for start in range(0, len(rows), PROFILE.max):
                part = rows[start : start + PROFILE.max]
                self._launch(part, stream)
                scores[start : start + len(part)] = self._scores[: len(part)]
        return scores

    def _load(self, model: bytes, gpu: CudaDevice, cache: plan_cache.PlanCache) -> Any:
        """Return the engine of a plan that was kept, or else of a new one."""
        trt = self._trt
        name = plan_cache.key(
            model,
            module=trt.__name__,
            version=trt.__version__,
            gpu=f"{gpu.name}, {gpu.capability}",
            driver=gpu.driver,
            options=tensorrt_plan.options(PROFILE),
        )
        kept = cache.load(name)
        engine = self._runtime.deserialize_cuda_engine(kept) if kept else None
        if engine is None:
            log.warning("%s compiles the model for %s: this once", trt.__name__, gpu.name)
            plan = tensorrt_plan.build(trt, model, PROFILE)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                told = tensorrt_plan.messages(trt).last_error
                raise EngineError(f"{gpu.name} does not take the plan: {told}")
            cache.store(name, plan)
        return engine

    def _open(self) -> None:
        """Make the context and the buffers that last as long as the runner."""
        trt, engine = self._trt, self._engine
        names = {
            engine.get_tensor_mode(name): name
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        self._input, self._output = names[trt.TensorIOMode.INPUT], names[trt.TensorIOMode.OUTPUT]
        if trt.nptype(engine.get_tensor_dtype(self._output)) is not np.float32:
            raise EngineError("scores are not float32: end the model with a cast")
        classes = engine.get_tensor_shape(self._output)[-1]
        # Contexts share their memory, as they do their stream: one works at a time.
        self._memory = self._cupy.empty(max(1, engine.device_memory_size_v2), np.uint8)
        self._context = self._new_context()
        self._rows = self._cupy.zeros((PROFILE.max, *self.input_shape), self.input_dtype)
        self._scores = self._cupy.empty((PROFILE.max, classes), np.float32)
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        # By address and rows of the input: a graph, and the context that it was captured from.
        self._graphs: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._captures = True

    def _new_context(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"no context: {tensorrt_plan.messages(self._trt).last_error}")
        context.set_device_memory(self._memory.data.ptr, self._memory.nbytes)
        return context

    def _infer_part(self, rows: np.ndarray) -> np.ndarray:
        """Run rows of the host, padded with zeros to a size that has a graph."""
        size = min((size for size in GRAPH_SIZES if size >= len(rows)), default=len(rows))
        with self._stream:
            self._rows[: len(rows)].set(rows, stream=self._stream)
            self._rows[len(rows) : size].fill(0)
            self._launch(self._rows[:size], self._stream)
            scores = self._scores[: len(rows)].get(stream=self._stream)
        self._stream.synchronize()
        return scores

    def _launch(self, rows: Any, stream: Any) -> None:
        """Put the inference of at most PROFILE.max rows into the stream."""
        if not len(rows):
            return
        graph = self._graphs.get((rows.data.ptr, len(rows)))
        if graph is not None:
            graph[0].launch(stream)
            return
        self._enqueue(rows, stream)
        if self._captures and len(rows) in GRAPH_SIZES and len(self._graphs) < GRAPHS_MAX:
            self._capture(rows, stream)

    def _enqueue(self, rows: Any, stream: Any) -> None:
        context = self._context
        is_bound = (
            context.set_input_shape(self._input, rows.shape)
            and context.set_tensor_address(self._input, rows.data.ptr)
            and context.set_tensor_address(self._output, self._scores.data.ptr)
        )
        if not (is_bound and context.execute_async_v3(stream.ptr)):
            raise EngineError(tensorrt_plan.messages(self._trt).last_error)

    def _capture(self, rows: Any, stream: Any) -> None:
        """Record what was just run as a graph for the next time.

        That run had to come first: it settles shapes, and loads kernels, which a capture
        must not. What cannot be captured goes on kernel by kernel. A graph is right as long as
        its context stays as it was, so another context goes on.

        Source: TensorRT's documentation, Best Practices, CUDA Graphs.
        """
        stream.synchronize()
        # TensorRT for RTX can say beforehand; the others can always be captured.
        ask = getattr(self._context, "is_stream_capturable", None)
        try:
            if ask and not ask(stream.ptr):
                raise EngineError("cannot be captured")
            next_context = self._new_context()
            stream.begin_capture()
            try:
                self._enqueue(rows, stream)
            finally:
                graph = stream.end_capture()
            self._graphs[rows.data.ptr, len(rows)] = graph, self._context
            self._context = next_context
        except (EngineError, RuntimeError):  # CuPy's errors are RuntimeErrors
            self._captures = False
