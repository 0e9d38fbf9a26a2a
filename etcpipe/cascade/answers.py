"""From what stages said of rows to verdicts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import VERDICT
from etcpipe.layout import FLOW_STATE
from etcpipe.verdict import VerdictBatch

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

# of VERDICT, as VerdictBatch has them
_COLUMNS = tuple(name for name in VERDICT.names or () if name != "pad")

Records = Callable[[FlowBatch], np.ndarray]


def no_records(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) FLOW_STATE of flows that no tracker knows."""
    return np.zeros(len(flows), FLOW_STATE)


class Wording(NamedTuple):
    """What the answers of a cascade are called.

    Attributes:
        classes: of its labels.
        models: name@digest of each stage's.
    """

    classes: tuple[str, ...]
    models: tuple[str, ...]


def verdicts_of(
    flows: FlowBatch, said: np.ndarray, wording: Wording, records: Records
) -> VerdictBatch:
    """Return what is said of rows, (rows,) of states.VERDICT, as verdicts."""
    return VerdictBatch(
        flows=flows,
        records=records(flows),
        classes=wording.classes,
        models=wording.models,
        **{name: said[name] for name in _COLUMNS},
    )
