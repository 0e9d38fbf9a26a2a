"""The whole way from packets to verdicts, live and offline. Start reading here.

    source  ->  regroup  ->  views  ->  model  ->  verdicts
    PacketBatch  FlowBatch    tensor     scores     VerdictBatch

A source yields batches of packets, each with its flow's id and its rank in the flow: live
from the kernel (etcpipe/live_tap.py), offline from captures (etcpipe/capture.py). Everything
behind it is the same code, so both give the same answers. A cascade (etcpipe/cascade) stands in
the model's place: it has rows of flows that go on too, and ends those that it is sure of.
Where a GPU regroups and runs the
model, views and scores are made there (gpu/scorer_gpu.py), and only scores come back.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from etcpipe.batch import FlowBatch, FlowRecords, PacketBatch, concatenate
from etcpipe.gpu.regroup import Regroup
from etcpipe.verdict import VerdictBatch

if TYPE_CHECKING:
    from etcpipe.cascade.runtime import Runtime
    from etcpipe.gpu.scorer_gpu import Scorer

Clock = Callable[[], int]

# Rows that a model sees at once: more no longer make it faster, and take memory.
ROWS_MAX = 4096


class Source(FlowRecords, Protocol):
    """Yields packet batches and knows its flows."""

    def __iter__(self) -> Iterator[PacketBatch]: ...

    def clock_ns(self) -> int | None:
        """Return a time up to which all packets were yielded, or None if that is not known."""
        ...


class Judge(Protocol):
    """A model, or what stands for several (etcpipe/model_life.py); see etcpipe.model.Model."""

    def scorer(self, regroup: Regroup) -> "Scorer | None": ...

    def verdicts(
        self,
        flows: FlowBatch,
        records: np.ndarray,
        start_ns: int | None = None,
        scorer: "Scorer | None" = None,
    ) -> VerdictBatch: ...


def run(
    source: Source,
    regroup: Regroup,
    model: Judge,
    rows_min: int = 1,
    now_ns: Clock | None = None,
) -> Iterator[VerdictBatch]:
    """Yield verdicts as flows become ready, until the source ends.

    Args:
        rows_min: ready flows that are worth a call of the model: 1 where a verdict is
            waited for, more where throughput counts.
        now_ns: the packets' clock, to tell how long rows queued; None offline.
    """
    scorer = model.scorer(regroup)
    waiting: list[FlowBatch] = []
    for batch in source:
        ready = regroup.add(batch, source.clock_ns())
        if len(ready):
            waiting.append(ready)
        if sum(map(len, waiting)) >= rows_min:
            yield from judge(concatenate(waiting), model, source, now_ns, scorer)
            waiting.clear()
    yield from judge(concatenate([*waiting, regroup.flush()]), model, source, now_ns, scorer)


def serve(
    source: Source,
    regroup: Regroup,
    runtime: "Runtime",
    eager: bool = True,
    now_ns: Clock | None = None,
) -> Iterator[VerdictBatch]:
    """Yield verdicts of a cascade as its stages make them, until the source ends.

    Args:
        regroup: with the cascade's depths.
        eager: answer what there is after each batch of packets; else a stage waits until its
            own batch is full or late.
        now_ns: the packets' clock; None offline.
    """
    now = now_ns or (lambda: 0)
    for batch in source:
        closed = regroup.add(batch, source.clock_ns())
        early = regroup.take_early()
        runtime.add(early.flows, now(), early.depth)
        runtime.add(closed, now())
        yield from runtime.poll(now(), source.records, eager)
        regroup.leave(runtime.left())
    runtime.add(regroup.flush(), now())
    yield from runtime.drain(now, source.records)


def judge(
    flows: FlowBatch,
    model: Judge,
    records: FlowRecords,
    now_ns: Clock | None = None,
    scorer: "Scorer | None" = None,
) -> Iterator[VerdictBatch]:
    """Yield the model's verdicts on complete rows, at most ROWS_MAX at a time.

    Args:
        scorer: judges them on the GPU, in the order in which they came out of regrouping.
    """
    for start in range(0, len(flows), ROWS_MAX):
        rows = flows.select(slice(start, start + ROWS_MAX))
        yield model.verdicts(rows, records.records(rows), now_ns() if now_ns else None, scorer)
