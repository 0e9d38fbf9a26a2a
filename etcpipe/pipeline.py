"""The whole way from packets to verdicts, live and offline. Start reading here.

    source  ->  regroup  ->  views  ->  model  ->  verdicts
    PacketBatch  FlowBatch    tensor     scores     VerdictBatch

A source yields batches of packets, each with its flow's id and its rank in the flow: live
from the kernel (etcpipe/live/tap.py), offline from captures (etcpipe/capture.py). Everything
behind it is the same code, so both give the same answers. A cascade (etcpipe/cascade) takes the
model's place: it also judges rows of flows that go on, and ends those that it is sure of. If a GPU
regroups and runs the model, views and scores are computed there (gpu/scorer_gpu.py), and only the
scores come back.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from etcpipe.batch import FlowBatch, FlowRecords, PacketBatch, concatenate
from etcpipe.gpu.regroup import EarlyRows, Regroup, Staged
from etcpipe.verdict import VerdictBatch

if TYPE_CHECKING:
    from etcpipe.gpu.scorer_gpu import Scorer

Clock = Callable[[], int]
Records = Callable[[FlowBatch], np.ndarray]

# Rows in one call of a model: more need memory without being faster.
ROWS_MAX = 4096


class Source(FlowRecords, Protocol):
    """Yields packet batches and knows its flows."""

    def __iter__(self) -> Iterator[PacketBatch]: ...

    def clock_ns(self) -> int | None:
        """Return the time up to which all packets were yielded, or None if it is not known."""
        ...


class Lender(Source, Protocol):
    """A source with up to two batches on loan, for a device that reads frames itself."""

    def ahead(self) -> Iterator[PacketBatch]:
        """Yield batches as __iter__() does; each is valid until it is released.

        At most one batch may be unreleased when the next one is requested. An empty batch means
        that there is no further one yet: the source does not wait for packets until all batches
        have been released.
        """
        ...

    def release(self, batch: PacketBatch) -> None:
        """Take back the frames of a batch, in the order in which they were yielded."""
        ...


class Judge(Protocol):
    """A model, or one in service (etcpipe/model_life.py); see etcpipe.model.Model."""

    def scorer(self, regroup: Regroup) -> "Scorer | None": ...

    def verdicts(
        self,
        flows: FlowBatch,
        records: np.ndarray,
        start_ns: int | None = None,
        scorer: "Scorer | None" = None,
    ) -> VerdictBatch: ...


class Stages(Protocol):
    """A cascade's Runtime, or one in service (etcpipe/cascade/life.py)."""

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None: ...

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]: ...

    def drain(self, now: Clock, records: Records | None = None) -> list[VerdictBatch]: ...

    def left(self) -> np.ndarray: ...


def run(
    source: Source,
    regroup: Regroup,
    model: Judge,
    rows_min: int = 1,
    now_ns: Clock | None = None,
    others: Callable[[], list[VerdictBatch]] = list,
) -> Iterator[VerdictBatch]:
    """Yield verdicts as flows become ready, until the source ends.

    Args:
        rows_min: number of ready flows for a call of the model: 1 for low latency, more for
            throughput.
        now_ns: the packets' clock, for the queueing times; None offline.
        others: returns verdicts on rows that regrouping passed elsewhere, since the last call.
    """
    scorer = model.scorer(regroup)
    waiting: list[FlowBatch] = []
    for ready in completed(source, regroup):
        if len(ready):
            waiting.append(ready)
        if sum(map(len, waiting)) >= rows_min:
            yield from judge(concatenate(waiting), model, source, now_ns, scorer)
            waiting.clear()
        yield from others()
    yield from judge(concatenate([*waiting, regroup.flush()]), model, source, now_ns, scorer)
    yield from others()


def completed(source: Source, regroup: Regroup) -> Iterator[FlowBatch]:
    """Yield the flows that each batch completes; with two batches on their way if possible."""
    if regroup.is_ahead and hasattr(source, "ahead"):
        yield from _ahead(cast(Lender, source), regroup)
        return
    for batch in source:
        yield regroup.add(batch, source.clock_ns())


def _ahead(source: Lender, regroup: Regroup) -> Iterator[FlowBatch]:
    """Yield the flows that each batch completes, after the next batch was staged.

    While a batch is regrouped, the next batch is copied to the device, and the rows of the
    previous one to the host.
    """
    staged: deque[tuple[PacketBatch, Staged]] = deque()
    begun: list[Callable[[], FlowBatch]] = []

    def go_on() -> Iterator[FlowBatch]:
        batch, settle = staged.popleft()
        begun.append(settle())
        source.release(batch)
        if len(begun) > 1:
            yield begun.pop(0)()

    def land() -> Iterator[FlowBatch]:
        while staged:
            yield from go_on()
        while begun:
            yield begun.pop(0)()

    for batch in source.ahead():
        if not len(batch) and (staged or begun):
            yield from land()
            continue
        staged.append((batch, regroup.stage(batch, source.clock_ns())))
        if len(staged) > 1:
            yield from go_on()
    yield from land()


def serve(
    source: Source,
    regroup: Regroup,
    runtime: Stages,
    eager: bool = True,
    now_ns: Clock | None = None,
    rows_min: int = 0,
) -> Iterator[VerdictBatch]:
    """Yield verdicts of a cascade as its stages make them, until the source ends.

    Args:
        regroup: with the cascade's depths.
        eager: answer all rows after each batch of packets; otherwise a stage waits until its
            batch is full or due.
        now_ns: the packets' clock; None offline.
        rows_min: number of rows for a turn of the cascade, as for run(); 0: after each batch of
            packets, so that no deadline is missed.
    """
    now = now_ns or (lambda: 0)
    early: list[EarlyRows] = []
    closed: list[FlowBatch] = []
    rows = 0
    for batch in source:
        closed.append(regroup.add(batch, source.clock_ns()))
        early.append(regroup.take_early())
        rows += len(closed[-1]) + len(early[-1].depth)
        if rows >= rows_min:
            rows = 0
            _hand_over(runtime, early, closed, now())
            yield from runtime.poll(now(), source.records, eager)
            regroup.leave(runtime.left())
    _hand_over(runtime, early, [*closed, regroup.flush()], now())
    yield from runtime.drain(now, source.records)


def _hand_over(
    runtime: Stages, early: list[EarlyRows], closed: list[FlowBatch], now_ns: int
) -> None:
    """Pass rows to a cascade, the early rows of a flow before its last one."""
    if early:
        depth = np.concatenate([one.depth for one in early])
        runtime.add(concatenate([one.flows for one in early]), now_ns, depth)
    if closed:
        runtime.add(concatenate(closed), now_ns)
    early.clear()
    closed.clear()


def judge(
    flows: FlowBatch,
    model: Judge,
    records: FlowRecords,
    now_ns: Clock | None = None,
    scorer: "Scorer | None" = None,
) -> Iterator[VerdictBatch]:
    """Yield the model's verdicts on complete rows, at most ROWS_MAX at a time.

    Args:
        scorer: judges them on the GPU, in the order of regrouping.
    """
    for start in range(0, len(flows), ROWS_MAX):
        rows = flows.select(slice(start, start + ROWS_MAX))
        yield model.verdicts(rows, records.records(rows), now_ns() if now_ns else None, scorer)
