"""From what stages said of rows to verdicts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import Rows
from etcpipe.cascade.workers import Job
from etcpipe.layout import FLOW_STATE
from etcpipe.model import sources, waits_ns
from etcpipe.verdict import SOURCE_DEGRADED, VerdictBatch

Records = Callable[[FlowBatch], np.ndarray]


def no_records(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) FLOW_STATE of flows that no tracker knows."""
    return np.zeros(len(flows), FLOW_STATE)


def answered(job: Job) -> Rows:
    """Return a batch's rows with what its stage said of them."""
    answers = job.answers
    state = job.rows.state.copy()
    state["label"], state["probability"] = answers.label, answers.probability
    state["runner_up"], state["packets_used"] = answers.runner_up, answers.packets_used
    state["stage"] = job.stage
    state["infer_ns"] += np.uint64(answers.took_ns // max(len(state), 1))
    return job.rows._replace(state=state)


class Wording(NamedTuple):
    """What the answers of a cascade are called.

    Attributes:
        classes: of its labels.
        models: name@digest of each stage's.
        depth_of: (stages,) uint16, packets that each stage waits for.
    """

    classes: tuple[str, ...]
    models: tuple[str, ...]
    depth_of: np.ndarray


def verdicts_of(
    rows: Rows,
    event: np.ndarray,
    now_ns: int,
    wording: Wording,
    records: Records,
    degraded: bool = False,
) -> VerdictBatch:
    """Return the answers that rows have as verdicts.

    Args:
        event: (rows,) uint8, index into EVENTS.
        now_ns: the time; whatever passed since a row was complete and is no inference is queue.
        degraded: there was no time for better ones.
    """
    flows, state = rows.flows, rows.state
    ready_ns = flows.ready_ns.astype(np.int64) + state["infer_ns"].astype(np.int64)
    return VerdictBatch(
        flows=flows,
        records=records(flows),
        classes=wording.classes,
        label=state["label"],
        probability=state["probability"],
        runner_up=state["runner_up"],
        stage=state["stage"],
        depth=wording.depth_of[state["stage"]],
        event=event,
        packets_used=state["packets_used"],
        source=np.full(len(flows), SOURCE_DEGRADED, np.uint8) if degraded else sources(flows),
        wait_ns=waits_ns(flows),
        queue_ns=np.maximum(now_ns - ready_ns, 0).astype(np.uint64),
        infer_ns=state["infer_ns"],
        models=wording.models,
    )
