"""Small networks as ONNX files, one for each view: what the engines are tried with.

Weights are random, and the same every time. add() is how a network of the zoo joins.
"""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from etcpipe.gpu.views import VIEWS

CLASSES = 5
TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


class Graph:
    """Nodes in order; each method returns the name of what it computes."""

    def __init__(self, seed: int):
        self.nodes: list = []
        self.constants: list = []
        self._rng = np.random.default_rng(seed)

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return self.constant((self._rng.normal(size=shape) * scale).astype(np.float32))

    def __call__(self, operator: str, *inputs: str, **attributes) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def shaped(self, value: str, *shape: int) -> str:
        return self("Reshape", value, self.constant(np.array(shape, np.int64)))

    def dense(self, value: str, inputs: int, outputs: int) -> str:
        return self(
            "Add", self("MatMul", value, self.weight(inputs, outputs)), self.weight(outputs)
        )

    def model(self, dtype: str, shape: tuple[int, ...], scores: str) -> bytes:
        self.nodes.append(helper.make_node("Identity", [scores], ["scores"]))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("rows", TYPES[dtype], ["flows", *shape])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["flows", CLASSES])],
            self.constants,
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def cnn() -> bytes:
    """A convolution over the bytes of the raw view, [10, 1000] uint8."""
    graph = Graph(1)
    value = graph("Cast", "rows", to=TensorProto.FLOAT)
    value = graph("Div", value, graph.constant(np.float32(255)))
    for channels, (inputs, kernel) in {16: (10, 9), 32: (16, 5)}.items():
        weights = graph("Transpose", graph.weight(inputs, kernel, channels), perm=[2, 0, 1])
        value = graph("Conv", value, weights, strides=[4], pads=[kernel // 2, kernel // 2])
        value = graph("Relu", value)
    value = graph("ReduceMean", value, axes=[2], keepdims=0)
    return graph.model("uint8", (10, 1000), graph.dense(value, 32, CLASSES))


def mlp(columns: int = 48) -> bytes:
    """Three layers over columns of the stats view."""
    graph = Graph(2)
    value = graph("Relu", graph.dense("rows", columns, 64))
    value = graph("Relu", graph.dense(value, 64, 64))
    return graph.model("float32", (columns,), graph.dense(value, 64, CLASSES))


def bits() -> bytes:
    """Two layers over nPrint's bits of the headers, [10, 1536] int8 of -1, 0 and 1."""
    shape = VIEWS["bits"].shape
    graph, inputs = Graph(4), int(np.prod(shape))
    value = graph.shaped(graph("Cast", "rows", to=TensorProto.FLOAT), -1, inputs)
    value = graph("Relu", graph.dense(value, inputs, 16))
    return graph.model("int8", shape, graph.dense(value, 16, CLASSES))


def transformer() -> bytes:
    """One block with one head of attention over the seq view, [30, 3] float32."""
    graph, width = Graph(3), 32
    value = graph.dense("rows", 3, width)
    query, key, seen = (graph.dense(_normal(graph, value), width, width) for _ in range(3))
    near = graph("MatMul", query, graph("Transpose", key, perm=[0, 2, 1]))
    near = graph("Softmax", graph("Div", near, graph.constant(np.float32(width**0.5))), axis=-1)
    value = graph("Add", value, graph.dense(graph("MatMul", near, seen), width, width))
    inner = graph("Relu", graph.dense(_normal(graph, value), width, 4 * width))
    value = graph("Add", value, graph.dense(inner, 4 * width, width))
    value = graph("ReduceMean", _normal(graph, value), axes=[1], keepdims=0)
    return graph.model("float32", (30, 3), graph.dense(value, width, CLASSES))


def _normal(graph: Graph, value: str, width: int = 32) -> str:
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return graph("LayerNormalization", value, graph.constant(ones), graph.constant(zeros), axis=-1)


NETWORKS: dict[str, Callable[[], bytes]] = {
    "cnn": cnn,
    "mlp": mlp,
    "bits": bits,
    "transformer": transformer,
}


def rows_for(runner, flows: int, seed: int = 0) -> np.ndarray:
    """Return random rows that a runner takes."""
    rng = np.random.default_rng(seed)
    shape = (flows, *runner.input_shape)
    if runner.input_dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if runner.input_dtype == "int8":
        return rng.integers(-1, 2, shape, np.int8)
    return rng.normal(size=shape).astype(np.float32)
