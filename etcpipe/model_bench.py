"""Measures the speed of a model on this machine: inference alone, by batch size."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.model import Model

BATCHES = (1, 8, 32, 64, 128, 256, 1024)


@dataclass(frozen=True)
class Speed:
    """The measurements with one batch size.

    Attributes:
        flows: in a batch.
        calls: number of measured calls.
        flows_per_s: all flows divided by the wall-clock time.
        cpu_us_per_flow: processor time of the whole process for a flow.
        p50_us, p99_us: of a call, from rows to probabilities.
    """

    flows: int
    calls: int
    flows_per_s: float
    cpu_us_per_flow: float
    p50_us: float
    p99_us: float


def measure(
    model: Model, batches: Sequence[int] = BATCHES, seconds: float = 1.0, seed: int = 0
) -> list[Speed]:
    """Return the speed with each batch size, after warm-up calls.

    Args:
        seconds: for each batch size; at least ten calls are made.
        seed: of the rows, which are random: their content does not change the speed.
    """
    return [_measure(model, _rows(model, flows, seed), seconds) for flows in batches]


def _rows(model: Model, flows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (flows, len(model.columns)) if model.columns else (flows, *model.view.shape)
    if np.issubdtype(np.dtype(model.view.dtype), np.integer):
        return rng.integers(0, 256, shape).astype(model.view.dtype)
    return rng.normal(size=shape).astype(model.view.dtype)


def _measure(model: Model, rows: np.ndarray, seconds: float) -> Speed:
    for _ in range(3):  # warms up memory, and on a GPU kernels and graphs
        model.infer(rows)
    took: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    while len(took) < 10 or sum(took) < seconds:
        start = time.perf_counter()
        model.infer(rows)
        took.append(time.perf_counter() - start)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    done = len(rows) * len(took)
    p50, p99 = np.percentile(took, [50, 99]) * 1e6
    return Speed(
        flows=len(rows),
        calls=len(took),
        flows_per_s=done / wall,
        cpu_us_per_flow=cpu / done * 1e6,
        p50_us=float(p50),
        p99_us=float(p99),
    )
