"""What a process of its own does with TensorRT for RTX: whatever that library does to its
process, torch and the tests' own are not in it.
"""

import logging
import sys

from etcpipe.errors import EngineError
from etcpipe.gpu import cuda_device, tensorrt_plan
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.tensorrt_plan import Profile

PLACE = cuda_device.CudaDevice("NVIDIA Nowhere", "8.9", "13.0")


def plan_size(model: bytes, profile: Profile) -> int:
    """Return the size of the plan that is built of a model."""
    return len(tensorrt_plan.build(tensorrt_plan.bindings("tensorrt_rtx"), model, profile))


def run_where_no_gpu_is(model: bytes) -> tuple[str, str, list[str]]:
    """Pretend that there is a GPU: return the engine's error, the device then, the log."""
    from trt_stub import fake_cupy

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    sys.modules["cupy"] = fake_cupy  # type: ignore[assignment]
    cuda_device.find = lambda: PLACE  # type: ignore[assignment, misc]
    try:
        open_runner(model, device="tensorrt_rtx")
        refused = ""
    except EngineError as error:
        refused = str(error)
    return refused, open_runner(model, device="auto").device, lines
