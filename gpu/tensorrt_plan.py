"""Builds plans from ONNX with TensorRT 10, TensorRT 11 or TensorRT for RTX.

Only calls that all three have are used. A plan is built for batches of 1 to Profile.max rows.
Networks are strongly typed: float32 in the file is computed in float32. TensorRT 11 supports no
other networks.
"""

import logging
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from etcpipe import runtime
from etcpipe.errors import EngineError

log = logging.getLogger(__name__)

# Memory for temporary buffers of the builder and of the plan.
WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True)
class Profile:
    """Rows of a batch: the minimum, the number that the plan is tuned for, and the maximum."""

    min: int = 1
    opt: int = 64
    max: int = 256

    def shapes(self, row: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the three shapes of a batch of rows of a shape."""
        return [(rows, *row) for rows in (self.min, self.opt, self.max)]


@cache
def bindings(name: str) -> ModuleType:
    """Return TensorRT's Python module.

    Args:
        name: "tensorrt" or "tensorrt_rtx". If the meta package of that name is not installed,
            its bindings alone are used.

    Raises:
        EngineError: it is not installed, or its libraries do not load.
    """
    found = [module for module in (name, f"{name}_bindings") if find_spec(module)]
    if not found:
        raise EngineError(f"not installed ({runtime.remedy(name.replace('_', '-') + '-cu13')})")
    try:
        return import_module(found[0])
    except (ImportError, OSError) as error:
        raise EngineError(f"{found[0]} cannot be loaded: {error}") from error


class Messages:
    """TensorRT's messages: all go to the log, the last error is kept."""

    def __init__(self, trt: ModuleType) -> None:
        severity = trt.ILogger.Severity
        messages = self

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in (severity.ERROR, severity.INTERNAL_ERROR):
                    messages.last_error = " ".join(text.split())
                log.debug("TensorRT: %s", text)

        self.last_error = "no reason given"
        self.logger = Logger()


@cache
def messages(trt: ModuleType) -> Messages:
    """Return the only logger of a module: TensorRT keeps the first one that it is given."""
    return Messages(trt)


def build(trt: ModuleType, model: bytes, profile: Profile) -> bytes:
    """Return the plan of a model. TensorRT for RTX needs no GPU for that.

    Args:
        model: contents of an ONNX file; no dimension but the batch may be dynamic.

    Raises:
        EngineError: TensorRT cannot read the model, or cannot build it here.
    """
    told = messages(trt)
    builder = trt.Builder(told.logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, told.logger)
    if not parser.parse(model) or (network.num_inputs, network.num_outputs) != (1, 1):
        raise EngineError(f"{_version(trt)} cannot read the model: {_parse_errors(parser)}")
    config = _config(trt, builder, network, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{_version(trt)} cannot build the model: {told.last_error}")
    return bytes(plan)


def options(profile: Profile) -> dict[str, Any]:
    """Return everything that build() depends on beside model, version and GPU."""
    return {"profile": asdict(profile), "workspace": WORKSPACE_BYTES}


def _config(trt: ModuleType, builder: Any, network: Any, profile: Profile) -> Any:
    rows = network.get_input(0)
    shape = tuple(rows.shape)
    if shape[0] != -1 or min(shape[1:]) < 1:
        raise EngineError(f"only the batch may be of any size, the input is {list(shape)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has ten bits of mantissa, float32 has 23
    shapes = builder.create_optimization_profile()
    shapes.set_shape(rows.name, *profile.shapes(shape[1:]))
    config.add_optimization_profile(shapes)
    return config


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [f"node {error.node()}: {error.desc()}" for error in errors[:3]]
    return "; ".join(told) or "it has not one input and one output"


def _version(trt: ModuleType) -> str:
    return f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}"
