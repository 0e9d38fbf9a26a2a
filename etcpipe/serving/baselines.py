"""Baselines for a cascade, each served by the same runtime.

wait         one slow model, once all of its packets are there
fast, slow   the cascade's first or last stage alone
random       the cascade, but each stage passes on as many flows at random
oracle       the cascade, but each stage knows whether it is right, or nobody will be
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.stages import Stage
from etcpipe.model import Answers, Model
from etcpipe.serving.arrivals import Schedule
from etcpipe.serving.recorded import Recorded
from etcpipe.serving.replay import Outcome

# Rows in one call, when only the answers of a stage matter and not the time.
AT_ONCE = 1024


@dataclass(frozen=True)
class System:
    """A way to answer flows."""

    name: str
    stages: list[Serving]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths at which it needs rows."""
        return tuple(sorted({one.stage.packets for one in self.stages}))


def alone(name: str, serving: Serving) -> System:
    """Return one stage that answers all flows."""
    return System(name, [replace(serving, stage=replace(serving.stage, rule=None), decide=None)])


def waiting(name: str, model: Model, like: Stage) -> System:
    """Return one model that waits for its packets, in batches like those of a stage."""
    stage = replace(like, packets=model.first_n, rule=None, temperature=None, model=model.name)
    return System(name, [Serving(stage, model.answers, model.classes, str(model))])


def random_escalation(stages: Sequence[Serving], outcome: Outcome, seed: int) -> System:
    """Return a cascade whose stages pass on the same shares as in an outcome, at random."""
    rng = np.random.default_rng(seed)

    def sure_of(share: float):
        return lambda label, probability: rng.random(len(label)) < share

    changed = []
    for i, one in enumerate(stages[:-1]):
        reached = outcome.stage >= i
        share = float((outcome.stage[reached] == i).mean()) if reached.any() else 0.0
        changed.append(replace(one, decide=sure_of(share)))
    return System("random", [*changed, stages[-1]])


def answers_of(stages: Sequence[Serving], recorded: Recorded) -> np.ndarray:
    """Return (stages, flows) int, the answer of each stage on each recorded flow."""
    said = np.zeros((len(stages), len(recorded)), np.int64)
    for i, one in enumerate(stages):
        rows = recorded.rows(one.stage.packets)
        for first in range(0, len(recorded), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            said[i, part] = one.judge(rows.select(part)).label
    return said


def oracle(stages: Sequence[Serving], recorded: Recorded, schedule: Schedule) -> System:
    """Return a cascade that passes on a flow only if a later stage is right and this one wrong."""
    right = answers_of(stages, recorded) == recorded.label
    hopeless = ~right.any(axis=0)
    changed = [
        replace(one, judge=_Knowing(one, right[i] | hopeless, schedule), decide=_is_one)
        for i, one in enumerate(stages[:-1])
    ]
    return System("oracle", [*changed, stages[-1]])


class _Knowing:
    """The model of a stage, with probabilities that tell what the oracle knows."""

    def __init__(self, serving: Serving, sure: np.ndarray, schedule: Schedule) -> None:
        self._judge, self._sure, self._base = serving.judge, sure, schedule.base

    def __call__(self, flows: FlowBatch) -> Answers:
        who = self._base[flows.flow_id.astype(np.int64) - 1]
        answers = self._judge(flows)
        return answers._replace(probability=self._sure[who].astype(np.float32))


def _is_one(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return probability == 1
