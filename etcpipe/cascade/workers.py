"""Where models run: in the caller's thread, or in threads of their own.

ONNX Runtime and TensorRT release the interpreter lock while they compute, so threads suffice.
"""

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

from etcpipe.batch import FlowBatch
from etcpipe.cascade.pool import Batch
from etcpipe.model import Answers

Judge = Callable[[FlowBatch], Answers]


class Job(NamedTuple):
    """A batch for a stage; it has been judged once `answers` is set."""

    stage: int
    rows: Batch
    answers: Answers


class Workers(Protocol):
    """Runs batches for a runtime; see Inline.

    Attributes:
        sheds: rows may be turned away if there are too many; otherwise they wait.
    """

    sheds: bool

    def has_room(self, stage: int) -> bool: ...

    def is_in_turn(self, stage: int) -> bool: ...

    def submit(self, stage: int, rows: Batch, judge: Judge) -> None: ...

    def done(self) -> list[Job]: ...

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Inline:
    """Runs each batch when it is submitted: the same packets give the same verdicts."""

    def __init__(self, sheds: bool = False):
        self.sheds = sheds
        self._done: list[Job] = []

    def has_room(self, stage: int) -> bool:
        """Can a batch of a stage be submitted now?"""
        return True

    def is_in_turn(self, stage: int) -> bool:
        """Does the caller wait for a stage's batches?"""
        return True

    def submit(self, stage: int, rows: Batch, judge: Judge) -> None:
        """Run a batch, at once or in the background."""
        self._done.append(Job(stage, rows, judge(rows.flows)))

    def done(self) -> list[Job]:
        """Return the batches that were finished since the last call.

        Raises:
            EtcpipeError: a model raised it.
        """
        done, self._done = self._done, []
        return done

    def wait(self) -> None:
        """Wait until a batch is finished, or none is running."""

    def close(self) -> None:
        """End; running batches are dropped."""


class Threads(Inline):
    """Runs batches in the background, one in each of several threads.

    Args:
        inline: stages that run in the caller's thread nevertheless, because they take less time
            than waking up a thread.
    """

    def __init__(self, threads: int, inline: Collection[int] = ()):
        super().__init__(sheds=True)
        self._threads, self._inline = threads, inline
        self._pool = ThreadPoolExecutor(threads, "stage")
        self._running: list[Future[Job]] = []

    def has_room(self, stage: int) -> bool:
        return stage in self._inline or len(self._running) < self._threads

    def is_in_turn(self, stage: int) -> bool:
        return stage in self._inline

    def submit(self, stage: int, rows: Batch, judge: Judge) -> None:
        if stage in self._inline:
            super().submit(stage, rows, judge)
            return
        run = self._pool.submit(lambda: Job(stage, rows, judge(rows.flows)))
        self._running.append(run)

    def done(self) -> list[Job]:
        ended = [run for run in self._running if run.done()]
        self._running = [run for run in self._running if run not in ended]
        return [*super().done(), *(run.result() for run in ended)]

    def wait(self) -> None:
        if self._running:
            wait(self._running, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
