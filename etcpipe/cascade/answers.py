"""From what stages said of rows to verdicts."""

from collections.abc import Callable

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import Rows
from etcpipe.cascade.workers import Job
from etcpipe.layout import FLOW_STATE
from etcpipe.model import sources, waits_ns
from etcpipe.verdict import EVENT_VERDICT, VerdictBatch

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
    return job.rows.with_state(state)


def verdicts_of(rows: Rows, now_ns: int, depth_of: np.ndarray, records: np.ndarray) -> VerdictBatch:
    """Return the answers that rows have as verdicts, without the names of classes and models.

    Args:
        now_ns: the time; whatever passed since a row was complete and is no inference is queue.
        depth_of: (stages,) uint16, packets that each stage waits for.
    """
    flows, state = rows.flows, rows.state
    ready_ns = flows.ready_ns.astype(np.int64) + state["infer_ns"].astype(np.int64)
    return VerdictBatch(
        flows=flows,
        records=records,
        classes=(),
        label=state["label"],
        probability=state["probability"],
        runner_up=state["runner_up"],
        stage=state["stage"],
        depth=depth_of[state["stage"]],
        event=np.full(len(rows), EVENT_VERDICT, np.uint8),
        packets_used=state["packets_used"],
        source=sources(flows),
        wait_ns=waits_ns(flows),
        queue_ns=np.maximum(now_ns - ready_ns, 0).astype(np.uint64),
        infer_ns=state["infer_ns"],
        models=(),
    )
