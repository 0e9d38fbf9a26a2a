"""From flows that a GPU regrouped to a model's scores, without copying rows to the host.

While flows come out, their rows are appended to one buffer, from which the model reads. All work is
in one stream, so nothing waits in between. It is not the stream of regrouping, which processes the
next batch meanwhile.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from etcpipe.errors import DeviceLostError
from etcpipe.gpu.cuda import Device, Reading
from etcpipe.gpu.inference import ROWS_AT_ONCE, Runner
from etcpipe.gpu.views_gpu import ROWS_MAX, ViewComputer

SCORE_BYTES = np.dtype(np.float32).itemsize


class Scorer:
    """Scores of flows, in the order in which they were put in.

    Args:
        device: on which the flows are.
        computer: computes the model's view; its rows are overwritten.
        runner: the model, on the same GPU.

    Attributes:
        taken: number of flows whose scores were taken.
        when_lost: called when the GPU fails, and must call lose(); None: the error is raised.
    """

    def __init__(self, device: Device, computer: ViewComputer, runner: Runner):
        import cupy

        self._device = device
        self._computer = computer
        self._runner = runner
        self._rows = cupy.asarray(computer.rows)  # does not copy
        self._classes = 0
        self._built = self._judged = 0  # rows of the buffer
        # in order: scores that are there, or on their way, with what they are copied from
        self._scores: list[tuple[Reading | np.ndarray, Any]] = []
        self._there = 0  # number of flows in these
        self.taken = 0
        self.when_lost: Callable[[DeviceLostError], None] | None = None

    def put(self, flows: int, addresses: Mapping[str, int]) -> None:
        """Build the rows of at most ROWS_MAX flows; later work may overwrite their columns.

        Full batches of rows are judged at once, the rest when their scores are asked for.

        Args:
            addresses: of the flows' columns on the device, by name.
        """
        if self._built + flows > ROWS_MAX:
            self._judge(1)
        self._computer.run(flows, addresses, first=self._built)
        self._built += flows
        self._judge(ROWS_AT_ONCE)

    def take(self, flows: int) -> np.ndarray:
        """Return (flows, classes) float32, the scores of the next flows, at least one.

        Scores are NaN if the GPU failed before they came.

        Raises:
            ValueError: fewer flows were put in.
            DeviceLostError: the GPU failed and there is no when_lost.
        """
        try:
            scores = self._take(flows)
        except DeviceLostError as error:
            if self.when_lost is None:
                raise
            self.when_lost(error)
            scores = self._take(flows)
        self.taken += flows
        return scores

    def lose(self, scores: np.ndarray) -> None:
        """Drop what is on the GPU; scores: those of all flows that were put in and not taken."""
        self._built = self._judged = self._there = 0
        self._scores.clear()
        self.give(scores)

    def give(self, scores: np.ndarray) -> None:
        """Add (flows, classes) float32, the scores of the next flows, which the CPU judged."""
        if len(scores):
            self._scores.append((scores, None))
            self._there += len(scores)

    def _take(self, flows: int) -> np.ndarray:
        if self._there < flows:
            self._judge(1)
        if self._there < flows:
            raise ValueError(f"{flows} flows asked for, {self._there} are there")
        taken: list[np.ndarray] = []
        missing = flows
        while missing:
            scores = self._next()
            taken.append(scores[:missing])
            if len(scores) > missing:
                self._scores.insert(0, (scores[missing:], None))
            missing -= len(taken[-1])
        self._there -= flows
        return np.concatenate(taken)

    def _next(self) -> np.ndarray:
        """Return the scores of the oldest call of the model."""
        found, _ = self._scores.pop(0)
        if isinstance(found, np.ndarray):
            return found
        return found.bytes().view(np.float32).reshape(-1, self._classes)

    def _judge(self, at_least: int) -> None:
        """Run the model while at least so many rows wait."""
        while self._built - self._judged >= at_least:
            end = min(self._judged + ROWS_AT_ONCE, self._built)
            rows = self._rows[self._judged : end]
            try:
                there = self._runner.infer_device(rows, self._device.stream)
            except (RuntimeError, MemoryError) as error:  # CuPy's: no other runner can do it there
                raise DeviceLostError(f"the GPU failed: {error}") from error
            self._classes = there.shape[1]
            reading = self._device.read_later(there.data.ptr, there.size * SCORE_BYTES)
            self._scores.append((reading, there))
            self._there += len(rows)
            self._judged = end
        if self._judged == self._built:  # at its start again: graphs are tied to addresses
            self._built = self._judged = 0
