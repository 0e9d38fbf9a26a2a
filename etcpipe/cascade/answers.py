"""From the answers of stages to verdicts, and the counters of what became of flows."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import VERDICT
from etcpipe.layout import FLOW_STATE
from etcpipe.verdict import VerdictBatch

COUNTERS = (
    "CASCADE_SURE",  # flows answered before the last stage, with a sure answer
    "CASCADE_LAST",  # flows answered by the last stage
    "CASCADE_HELD",  # kept their unsure answer because the next stage had no time
    "CASCADE_QUEUE_FULL",  # ... because its queue was full
    "CASCADE_UNJUDGED",  # unknown: the first stage had no time or no room
    "CASCADE_SKIPPED",  # early rows that it had no time or room for; a later row tries again
    "CASCADE_EARLY",  # early answers told
    "CASCADE_REVISED",  # flows whose early answer was corrected later
    "CASCADE_FORGOTTEN",  # flows whose place in the table was taken by a newer flow
)

# of VERDICT, as VerdictBatch has them
_COLUMNS = tuple(name for name in VERDICT.names or () if name != "pad")

Records = Callable[[FlowBatch], np.ndarray]


def no_records(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) FLOW_STATE of flows that no tracker knows."""
    return np.zeros(len(flows), FLOW_STATE)


class Wording(NamedTuple):
    """The names in a cascade's answers.

    Attributes:
        classes: of its labels.
        models: name@digest of the model of each stage.
    """

    classes: tuple[str, ...]
    models: tuple[str, ...]


def verdicts_of(
    flows: FlowBatch, said: np.ndarray, wording: Wording, records: Records
) -> VerdictBatch:
    """Return answers, (rows,) of states.VERDICT, as verdicts."""
    return VerdictBatch(
        flows=flows,
        records=records(flows),
        classes=wording.classes,
        models=wording.models,
        **{name: said[name] for name in _COLUMNS},
    )
