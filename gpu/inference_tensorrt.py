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
# Batches of these sizes are launched as one CUDA graph instead of kernel by kernel.
GRAPH_SIZES = (1, 8, 32, 64, 128, 256)
# Each graph takes memory. Two buffers take turns; if callers use many more, some get no graph.
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
        """Load the model's plan from the cache, or build it.

        Args:
            name: "tensorrt" or "tensorrt_rtx".
            model: contents of an ONNX file.
            on_cpu: a runner of the same model, for its metadata and shapes.
            gpu: the device; without one, calls of TensorRT would crash.

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
        rows = self._cupy.asarray(rows)  # does not copy
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
        """Return the engine of the cached plan, or of a new one."""
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
        """Make the context and the buffers; they last as long as the runner."""
        trt, engine = self._trt, self._engine
        names = {
            engine.get_tensor_mode(name): name
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        self._input, self._output = names[trt.TensorIOMode.INPUT], names[trt.TensorIOMode.OUTPUT]
        if trt.nptype(engine.get_tensor_dtype(self._output)) is not np.float32:
            raise EngineError("scores are not float32: end the model with a cast")
        classes = engine.get_tensor_shape(self._output)[-1]
        # Contexts share one piece of memory: they share a stream too, so one works at a time.
        self._memory = self._cupy.empty(max(1, engine.device_memory_size_v2), np.uint8)
        self._context = self._new_context()
        self._rows = self._cupy.zeros((PROFILE.max, *self.input_shape), self.input_dtype)
        self._scores = self._cupy.empty((PROFILE.max, classes), np.float32)
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        # (address, rows) of the input -> a graph and the context that it was captured from
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
        """Run rows from the host, padded with zeros to a size of GRAPH_SIZES."""
        size = min((size for size in GRAPH_SIZES if size >= len(rows)), default=len(rows))
        with self._stream:
            self._rows[: len(rows)].set(rows, stream=self._stream)
            self._rows[len(rows) : size].fill(0)
            self._launch(self._rows[:size], self._stream)
            scores = self._scores[: len(rows)].get(stream=self._stream)
        self._stream.synchronize()
        return scores

    def _launch(self, rows: Any, stream: Any) -> None:
        """Enqueue the inference of at most PROFILE.max rows."""
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
        """Capture the same inference as a graph for the next time.

        The ordinary run must come first: it sets shapes and loads kernels, which is forbidden
        during a capture. Networks that cannot be captured keep running kernel by kernel. A graph
        is valid only while its context is unchanged, so later calls use another context.

        Source: TensorRT's documentation, Best Practices, CUDA Graphs.
        """
        stream.synchronize()
        # TensorRT for RTX tells whether it can; the other versions can always be captured.
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
        except (EngineError, RuntimeError):  # CuPy's errors are RuntimeErrors too
            self._captures = False
