"""The whole way from packets to verdicts, live and offline. Start reading here.

    source  ->  regroup  ->  views  ->  model  ->  verdicts
    PacketBatch  FlowBatch    tensor     scores     VerdictBatch

A source yields batches of packets, each with its flow's id and its rank in the flow: live
from the kernel (etcpipe/live.py), offline from captures (etcpipe/capture.py). Everything
behind it is the same code, so both give the same answers.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from etcpipe.batch import FlowBatch, FlowRecords, PacketBatch
from etcpipe.gpu.regroup import Regroup
from etcpipe.model import Model
from etcpipe.verdict import VerdictBatch

# Rows a model sees at once: enough to amortise a call, few enough to stay in cache.
ROWS_MAX = 1024


class Source(FlowRecords, Protocol):
    """Yields packet batches and knows its flows."""

    def __iter__(self) -> Iterator[PacketBatch]: ...

    def clock_ns(self) -> int | None:
        """Return a time up to which all packets were yielded, or None if that is not known."""
        ...


def run(source: Source, regroup: Regroup, model: Model) -> Iterator[VerdictBatch]:
    """Yield verdicts as flows become ready, until the source ends."""
    for batch in source:
        ready = regroup.add(batch, source.clock_ns())
        yield from judge(ready, model, source)
    yield from judge(regroup.flush(), model, source)


def judge(flows: FlowBatch, model: Model, source: FlowRecords) -> Iterator[VerdictBatch]:
    """Yield the model's verdicts on complete rows, at most ROWS_MAX at a time."""
    for start in range(0, len(flows), ROWS_MAX):
        rows = select(flows, slice(start, start + ROWS_MAX))
        yield model.verdicts(rows, source.records(rows))


def select(flows: FlowBatch, rows: slice | np.ndarray) -> FlowBatch:
    """Return some rows of a FlowBatch."""
    return FlowBatch(**{name: column[rows] for name, column in vars(flows).items()})

