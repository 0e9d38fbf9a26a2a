"""From flows that a GPU regrouped to a model's scores, without a detour through the host.

Rows are built behind each other in one buffer while flows come out, and the model reads that
buffer. All work is in the stream of regrouping, so that nothing is waited for in between.
"""

from collections.abc import Mapping

import numpy as np

from etcpipe.gpu.cuda import Device
from etcpipe.gpu.inference import ROWS_AT_ONCE, Runner
from etcpipe.gpu.views_gpu import ROWS_MAX, ViewComputer


class Scorer:
    """Scores of flows, in the order in which they were put in.

    Args:
        device: where the flows are.
        computer: of the model's view; its rows are overwritten.
        runner: the model, on the same GPU.
    """

    def __init__(self, device: Device, computer: ViewComputer, runner: Runner):
        import cupy

        self._device = device
        self._computer = computer
        self._runner = runner
        self._rows = cupy.asarray(computer.rows)  # copies nothing
        self._waiting = 0
        self._scores: list[np.ndarray] = []

    def put(self, flows: int, addresses: Mapping[str, int]) -> None:
        """Build the rows of at most ROWS_MAX flows; their columns may be overwritten behind it.

        Args:
            addresses: of the flows' columns on the device, by name.
        """
        if self._waiting + flows > ROWS_MAX:
            self._judge()
        self._computer.run(flows, addresses, first=self._waiting)
        self._waiting += flows

    def take(self, flows: int) -> np.ndarray:
        """Return (flows, classes) float32, the scores of the next flows; one flow or more.

        Raises:
            ValueError: fewer were put in.
        """
        if sum(map(len, self._scores)) < flows:
            self._judge()
        there = sum(map(len, self._scores))
        if there < flows:
            raise ValueError(f"{flows} flows asked for, {there} are there")
        scores = np.concatenate(self._scores)
        self._scores = [scores[flows:]]
        return scores[:flows]

    def _judge(self) -> None:
        """Run the model on the rows that wait."""
        for first in range(0, self._waiting, ROWS_AT_ONCE):
            rows = self._rows[first : min(first + ROWS_AT_ONCE, self._waiting)]
            there = self._runner.infer_device(rows, self._device.stream)
            scores = np.empty(there.shape, np.float32)
            self._device.read(there.data.ptr, scores)
            self._scores.append(scores)
        self._waiting = 0
