"""Stages of trees judged in C (etcpipe/native/trees.c): scores, probabilities, labels in one go.

ONNX Runtime with NumPy behind it (etcpipe.model.Model.answers) is the definition, and judges what
is not read here. A batch of a few rows takes it a tenth of a millisecond and more, most of that
between its calls; here it is a few microseconds.
"""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.cascade import onnx_trees
from etcpipe.cascade.tree_plan import ANSWER, Plan
from etcpipe.layout import PACKET_FIELDS
from etcpipe.model import Answers, Model
from etcpipe.verdict import UNKNOWN


def judge_of(model: Model, contents: bytes) -> Callable[[FlowBatch], Answers] | None:
    """Return what answers as a model does, see Model.answers(); None where it must itself.

    Args:
        contents: of the model's file.
    """
    try:
        ensemble = onnx_trees.read(contents)
        plan = Plan(ensemble, len(model.classes))
    except (ValueError, KeyError):
        return None
    columns = len(model.columns or ()) if model.view.is_choice else int(np.prod(model.view.shape))
    takes = model.view.is_choice or model.view.dtype == "float32"
    return Judge(model, plan) if takes and plan.numbers <= columns else None


class Rows(Protocol):
    """What a judge asks of a model; see etcpipe.model.Model."""

    classes: tuple[str, ...]
    first_n: int
    temperature: float
    threshold: float

    def rows(self, flows: FlowBatch) -> np.ndarray: ...


class Judge:
    """A model's answers on flows."""

    def __init__(self, model: Rows, plan: Plan) -> None:
        self._model, self._plan = model, plan
        classes = model.classes
        self._unknown = classes.index(UNKNOWN) if UNKNOWN in classes else -1

    def __call__(self, flows: FlowBatch) -> Answers:
        began = time.perf_counter_ns()
        model, n = self._model, len(flows)
        rows = model.rows(flows).reshape(n, -1)
        packets = np.ascontiguousarray(flows.packets, PACKET_FIELDS)
        said = np.empty(n, ANSWER)
        _native.trees_judge(
            self._plan.address,
            rows.ctypes.data,
            packets.ctypes.data,
            said.ctypes.data,
            *(*rows.shape, packets.shape[1], model.first_n, self._unknown),
            *(model.temperature, model.threshold),
        )
        return Answers(
            label=said["label"].view(np.int16),
            probability=said["probability"].view(np.float32),
            runner_up=said["runner_up"].view(np.int16),
            packets_used=said["packets_used"],
            took_ns=time.perf_counter_ns() - began,
        )
