"""Inference of trees in C (etcpipe/native/trees.c), several times as fast as ONNX Runtime.

ONNX Runtime is the reference, and runs the models that are refused here. A call for a few rows
takes ONNX Runtime at least a tenth of a millisecond; here it takes a few microseconds.
"""

import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.columns import address_of
from etcpipe.gpu import onnx_trees
from etcpipe.gpu.inference import check_rows, infer_on_host
from etcpipe.gpu.tree_plan import ANSWER, Plan
from etcpipe.layout import PACKET_FIELDS
from etcpipe.verdict import UNKNOWN, Answers

if TYPE_CHECKING:
    from etcpipe.shares import Shares


class TreesRunner:
    """A Runner; see etcpipe.gpu.inference.

    Attributes:
        plan: the trees in the form that the C code reads.
    """

    device = "cpu"
    engine = "trees in C, CPU"

    def __init__(self, model: bytes) -> None:
        """Read a model.

        Args:
            model: contents of an ONNX file.

        Raises:
            ValueError: damaged, or a model that the C code does not support: ONNX Runtime tells
                which.
        """
        try:
            graph = onnx_trees.read(model)
            self.plan = Plan(graph)
        except Exception as error:  # a damaged file can raise anything
            raise ValueError("trees that are not judged in C") from error
        self.metadata = graph.metadata
        self.input_shape: tuple[int | str | None, ...] = graph.input_shape
        self.input_dtype = graph.input_dtype

    def infer(self, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows)
        check_rows(self, rows)
        scores = np.empty((len(rows), self.plan.classes), np.float32)
        places = self.plan.address, address_of(rows), address_of(scores)
        _native.trees_score(*places, len(rows), self.plan.columns)
        return scores

    def infer_device(self, rows: Any, stream: Any) -> Any:
        return infer_on_host(self, rows, stream)


class Rows(Protocol):
    """The part of etcpipe.model.Model that a Judge uses."""

    classes: tuple[str, ...]
    first_n: int
    temperature: float
    threshold: float
    family_of: np.ndarray
    family_threshold: float
    shares: "Shares | None"

    def rows(self, flows: FlowBatch) -> np.ndarray: ...


class Judge:
    """A model's answers on flows: scores, probabilities and labels in one call.

    The definition is etcpipe.model.Model.answers(): NumPy on the scores of ONNX Runtime.
    """

    def __init__(self, model: Rows, runner: TreesRunner) -> None:
        self._model, self._runner = model, runner
        classes = model.classes
        self._unknown = classes.index(UNKNOWN) if UNKNOWN in classes else -1

    def __call__(self, flows: FlowBatch) -> Answers:
        began = time.perf_counter_ns()
        model, plan, n = self._model, self._runner.plan, len(flows)
        rows = np.ascontiguousarray(model.rows(flows))
        check_rows(self._runner, rows)
        packets = np.ascontiguousarray(flows.packets, PACKET_FIELDS)
        said = np.empty(n, ANSWER)
        shares = None if model.shares is None else np.empty((n, plan.classes), np.float32)
        _native.trees_judge(
            plan.address,
            address_of(rows),
            address_of(packets),
            address_of(model.family_of),
            address_of(said),
            0 if shares is None else address_of(shares),
            *(n, plan.columns, packets.shape[1], model.first_n, self._unknown),
            *(model.temperature, model.threshold, model.family_threshold),
        )
        if model.shares is not None and shares is not None:
            model.shares.add(flows.flow_id, shares)
        return Answers(
            label=said["label"].view(np.int16),
            probability=said["probability"].view(np.float32),
            runner_up=said["runner_up"].view(np.int16),
            packets_used=said["packets_used"],
            took_ns=time.perf_counter_ns() - began,
        )
