"""Regrouping on a GPU until that fails, then on the CPU.

After a kernel or a copy has failed, its CUDA context is unusable. Everything on the GPU is lost,
and the CPU continues with what the host has:

    batches not yet regrouped   are regrouped by the CPU; no packet is counted twice
    open rows on the GPU        are lost and counted as GPU_LOST; later packets of their flows, and
                                of flows that were answered, open new rows
    rows already on the host    are judged, as "unknown" if their scores were lost
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch, rows_of
from etcpipe.errors import DeviceLostError
from etcpipe.gpu import regroup_gpu, regroup_native
from etcpipe.gpu.inference import ROWS_AT_ONCE, Runner
from etcpipe.gpu.regroup import EarlyRows, Settings, Staged
from etcpipe.gpu.scorer_gpu import Scorer
from etcpipe.gpu.views import View, compute

log = logging.getLogger(__name__)

GPU_LOST = "REGROUP_GPU_LOST"


class Backend:
    """See etcpipe.gpu.regroup.

    Args:
        on_gpu: the backend that works until it fails; None: that of the GPU.

    Raises:
        UnsupportedError: there is no GPU that can be used.
    """

    def __init__(self, settings: Settings, on_gpu: regroup_gpu.Backend | None = None):
        self._settings = settings
        self._on_gpu = on_gpu or regroup_gpu.Backend(settings)
        self._on_cpu: regroup_native.Backend | None = None
        self._came = self._lost = 0  # rows that came out of the GPU, and rows that were lost
        self._to_score = 0  # rows that came out of the GPU since there is a scorer
        self._scorer: Scorer | None = None
        self._score: Callable[[FlowBatch], np.ndarray]  # on the CPU; set if there is a scorer

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        return self.stage(batch, now_ns)()()

    def stage(self, batch: PacketBatch, now_ns: int | None) -> Staged:
        """See etcpipe.gpu.regroup.Regroup.stage()."""
        settle = None if self._on_cpu else self._try(self._on_gpu.stage, batch, now_ns)
        return partial(self._settle, batch, now_ns, settle)

    def _settle(
        self, batch: PacketBatch, now_ns: int | None, settle: Staged | None
    ) -> Callable[[], FlowBatch]:
        take = self._try(settle) if settle and not self._on_cpu else None
        if take:
            return partial(self._take, take)
        flows = self._scored(self._cpu().add(batch, now_ns))
        return lambda: flows

    def _take(self, take: Callable[[], FlowBatch]) -> FlowBatch:
        """Return rows from the GPU, or none if it failed before they came."""
        flows = None if self._on_cpu else self._try(take)
        if flows is None:
            return rows_of(0, self._settings.first_n, 0 if self._scorer else self._settings.raw_len)
        self._came += len(flows)
        self._to_score += len(flows)
        return flows

    def expire(self, now_ns: int) -> FlowBatch:
        return self._rows("expire", now_ns)

    def flush(self) -> FlowBatch:
        return self._rows("flush")

    def take_early(self) -> EarlyRows:
        return self._either("take_early")

    def leave(self, flow_id: np.ndarray) -> None:
        self._either("leave", flow_id)

    def scorer(
        self, runner: Runner, view: View, depth: int, columns: Sequence[str]
    ) -> Scorer | None:
        """See etcpipe.gpu.regroup.Regroup.scorer()."""
        if self._on_cpu:
            return None

        def score(flows: FlowBatch) -> np.ndarray:
            rows = compute(view, flows, depth, columns)
            parts = range(0, len(rows), ROWS_AT_ONCE)
            return np.concatenate([runner.infer(rows[at : at + ROWS_AT_ONCE]) for at in parts])

        self._scorer, self._score = self._on_gpu.scorer(runner, view, depth, columns), score
        self._scorer.when_lost, self._to_score = self._fall_back, 0
        return self._scorer

    @property
    def counters(self) -> dict[str, int]:
        if self._on_cpu is None:
            return {**self._on_gpu.counters, GPU_LOST: 0}
        before, now = self._on_gpu.settled_counters, self._on_cpu.counters
        return {**{name: n + before[name] for name, n in now.items()}, GPU_LOST: self._lost}

    @property
    def pending(self) -> int:
        return (self._on_cpu or self._on_gpu).pending

    def _try(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the GPU's backend; if it fails, switch to the CPU and return None."""
        try:
            return call(*arguments)
        except DeviceLostError as error:
            self._fall_back(error)
            return None

    def _either(self, name: str, *arguments: Any) -> Any:
        """Call a method of the GPU's backend, or of the CPU's once the GPU has failed."""
        if self._on_cpu is None:
            done = self._try(getattr(self._on_gpu, name), *arguments)
            if self._on_cpu is None:
                return done
        return getattr(self._on_cpu, name)(*arguments)

    def _rows(self, name: str, *arguments: Any) -> FlowBatch:
        """Return the rows of a method of the GPU's or the CPU's backend."""
        if self._on_cpu is None:
            flows = self._try(getattr(self._on_gpu, name), *arguments)
            if flows is not None:
                return self._take(lambda: flows)
        return self._scored(getattr(self._cpu(), name)(*arguments))

    def _cpu(self) -> regroup_native.Backend:
        assert self._on_cpu is not None, "the GPU failed before"
        return self._on_cpu

    def _fall_back(self, error: DeviceLostError) -> None:
        """Switch to the CPU for good."""
        if self._on_cpu:
            return
        log.warning("flows are regrouped on the CPU from now on: %s", error)
        self._on_cpu = regroup_native.Backend(self._settings)
        counted = self._on_gpu.settled_counters
        self._lost = counted["REGROUP_FLOWS"] - counted["REGROUP_LEFT"] - self._came
        if self._scorer:
            no_flow = rows_of(1, self._settings.first_n, self._settings.raw_len)
            missing = self._to_score - self._scorer.taken
            self._scorer.lose(np.full((missing, self._score(no_flow).shape[1]), np.nan, np.float32))

    def _scored(self, flows: FlowBatch) -> FlowBatch:
        """Return rows of the CPU in the form of the GPU's: the scorer gets their scores."""
        if self._scorer is None:
            return flows
        if len(flows):
            self._scorer.give(self._score(flows))
        return replace(flows, raw=flows.raw[:, :, :0])
