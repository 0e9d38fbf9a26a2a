"""A TensorRT that computes with ONNX Runtime, and notes every call that is made of it.

Its classes and methods have the names of the real ones; test_inference_api.py holds what
was noted to the interfaces of the real bindings. A plan is the model behind a line with the
version, and another version refuses it, as the real one does.
"""

import ctypes
import enum
from collections.abc import Callable
from functools import wraps

import numpy as np
import onnxruntime
from trt_stub.fake_cupy import Stream

__version__ = "10.16.1.11"

# (class, member, what it was called with), of methods and properties.
calls: list[tuple[str, str, tuple]] = []
# What is to fail: "parse", "build", "deserialize", "context", "bind" or "execute".
failing: set[str] = set()


class Noted:
    """A class whose methods and properties are noted when they are used."""

    def __init_subclass__(cls):
        for name, member in list(vars(cls).items()):
            if isinstance(member, property):
                setattr(cls, name, property(_noted(cls, name, member.fget, 0), member.fset))
            elif callable(member) and (name == "__init__" or not name.startswith("_")):
                setattr(cls, name, _noted(cls, name, member))


def _noted(cls: type, name: str, function: Callable, arguments: int | None = None) -> Callable:
    @wraps(function)
    def call(self, *positional, **named):
        if arguments is None:
            calls.append((cls.__name__, name, tuple(map(type, positional))))
            assert not named, "only positions have the same meaning in all versions"
        else:
            calls.append((cls.__name__, name, ()))
        return function(self, *positional)

    return call


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 6


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger(Noted):
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        INFO = 3

    def __init__(self):
        pass


class ITensor(Noted):
    def __init__(self, argument):
        self._argument = argument

    @property
    def name(self):
        return self._argument.name

    @property
    def shape(self):
        return tuple(n if isinstance(n, int) else -1 for n in self._argument.shape)


class INetworkDefinition(Noted):
    model = None

    @property
    def num_inputs(self):
        return len(_session(self.model).get_inputs())

    @property
    def num_outputs(self):
        return len(_session(self.model).get_outputs())

    def get_input(self, index):
        return ITensor(_session(self.model).get_inputs()[index])


class ParserError(Noted):
    def node(self):
        return 7

    def desc(self):
        return "no such operator"


class OnnxParser(Noted):
    def __init__(self, network, logger):
        self._network = network

    def parse(self, model):
        self._network.model = model
        return "parse" not in failing

    @property
    def num_errors(self):
        return 1

    def get_error(self, index):
        return ParserError()


class IOptimizationProfile(Noted):
    def set_shape(self, name, smallest, usual, largest):
        self.shapes = (smallest, usual, largest)


class IBuilderConfig(Noted):
    def set_memory_pool_limit(self, pool, size):
        assert size > 0

    def clear_flag(self, flag):
        pass

    def add_optimization_profile(self, profile):
        self.profile = profile
        return 0


class Builder(Noted):
    built = 0

    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        Builder.built += 1
        if "build" in failing:
            self._logger.log(ILogger.Severity.ERROR, "Out of\nmemory")
            return None
        most = config.profile.shapes[2][0]
        return f"{__version__} {most}\n".encode() + network.model


class Runtime(Noted):
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        version, most = plan.partition(b"\n")[0].decode().split(" ")
        if "deserialize" in failing or version != __version__:
            self._logger.log(ILogger.Severity.ERROR, "Version tag does not match")
            return None
        return ICudaEngine(plan.partition(b"\n")[2], int(most))


class ICudaEngine(Noted):
    def __init__(self, model, most):
        self._session, self._most = _session(model), most

    def _tensors(self):
        return [*self._session.get_inputs(), *self._session.get_outputs()]

    def _tensor(self, name):
        return next(tensor for tensor in self._tensors() if tensor.name == name)

    @property
    def num_io_tensors(self):
        return len(self._tensors())

    def get_tensor_name(self, index):
        return self._tensors()[index].name

    def get_tensor_mode(self, name):
        is_input = name == self._session.get_inputs()[0].name
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(n if isinstance(n, int) else -1 for n in self._tensor(name).shape)

    def get_tensor_dtype(self, name):
        return self._tensor(name).type

    @property
    def device_memory_size_v2(self):
        return 4096

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        if "context" in failing:
            return None
        return IExecutionContext(self._session, self._most, strategy)


class IExecutionContext(Noted):
    """A graph that was captured from it computes garbage once the context was changed."""

    def __init__(self, session, most, strategy):
        self._session, self._most = session, most
        self._addresses, self._shape = {}, ()
        self._has_memory = strategy is ExecutionContextAllocationStrategy.STATIC
        self._changes = 0

    def set_device_memory(self, memory, size):
        self._has_memory = bool(memory) and size >= 4096

    def set_input_shape(self, name, shape):
        self._shape = shape
        self._changes += 1
        return shape[0] <= self._most and "bind" not in failing

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        self._changes += 1
        return True

    def execute_async_v3(self, stream_handle):
        if "execute" in failing or not self._has_memory:
            return False
        addresses, shape, changes = dict(self._addresses), self._shape, self._changes
        stream = Stream.by_pointer[stream_handle]
        is_captured = stream.captured is not None

        def compute():
            assert not is_captured or changes == self._changes, "the graph's context was changed"
            self._compute(addresses, shape)

        stream.enqueue(compute)
        return True

    def _compute(self, addresses, shape):
        (rows,), (scores,) = self._session.get_inputs(), self._session.get_outputs()
        taken = _memory(addresses[rows.name], shape, nptype(rows.type))
        given = self._session.run(None, {rows.name: np.array(taken)})[0]
        _memory(addresses[scores.name], given.shape, np.float32)[...] = given


def nptype(dtype):
    return {
        "tensor(float)": np.float32,
        "tensor(uint8)": np.uint8,
        "tensor(int8)": np.int8,
        "tensor(double)": np.float64,
    }[dtype]


def _session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _memory(pointer, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape)
