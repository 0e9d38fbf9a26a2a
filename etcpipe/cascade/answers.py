"""From what stages said of rows to verdicts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.layout import FLOW_STATE
from etcpipe.model import Answers, sources, waits_ns
from etcpipe.verdict import SOURCE_DEGRADED, VerdictBatch

COUNTERS = (
    "CASCADE_SURE",  # flows answered before the last stage, being sure
    "CASCADE_LAST",  # by the last stage
    "CASCADE_HELD",  # not passed on: the next stage had no time, the answer stays
    "CASCADE_QUEUE_FULL",  # nor room
    "CASCADE_UNJUDGED",  # the first stage had neither: unknown
    "CASCADE_SKIPPED",  # early rows for which it had neither; a later row tries again
    "CASCADE_EARLY",  # early answers told
    "CASCADE_REVISED",  # and told otherwise later
    "CASCADE_FORGOTTEN",  # flows that lost their place to one a whole table later
)

Records = Callable[[FlowBatch], np.ndarray]


def no_records(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) FLOW_STATE of flows that no tracker knows."""
    return np.zeros(len(flows), FLOW_STATE)


def take_answers(state: np.ndarray, stage: int, answers: Answers) -> None:
    """Note what a stage said of rows.

    Args:
        state: (rows,) STATE, changed in place.
    """
    state["label"], state["probability"] = answers.label, answers.probability
    state["runner_up"], state["packets_used"] = answers.runner_up, answers.packets_used
    state["stage"] = stage
    state["infer_ns"] += np.uint64(answers.took_ns // max(len(state), 1))


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
    flows: FlowBatch,
    state: np.ndarray,
    event: np.ndarray,
    now_ns: int,
    wording: Wording,
    records: Records,
    degraded: bool = False,
) -> VerdictBatch:
    """Return the answers that rows have as verdicts.

    Args:
        state: (flows,) STATE; it is kept.
        event: (flows,) uint8, index into EVENTS.
        now_ns: the time; whatever passed since a row was complete and is no inference is queue.
        degraded: there was no time for better ones.
    """
    infer_ns = state["infer_ns"]
    queue_ns = now_ns - flows.ready_ns.view(np.int64) - infer_ns.view(np.int64)
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
        queue_ns=np.maximum(queue_ns, 0).view(np.uint64),
        infer_ns=infer_ns,
        models=wording.models,
    )
