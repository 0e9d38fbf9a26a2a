"""Which stage answers each recorded flow, with which class, when and at what cost.

This is the cascade without queues: a good model if inference is fast compared to the waits for
packets, and fast enough for the thousands of evaluations in fitting. Serving is
etcpipe.cascade.runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.evaluation import evaluate

EARLY_S = 0.016


@dataclass(frozen=True)
class Step:
    """One stage's view of all flows.

    Attributes:
        said: (flows,) int, its best class.
        sure: (flows,) bool, whether its answer is final; ignored in the last step.
        ready_s: (flows,) when its packets were there, from the flow's first packet.
        us: processor time of one flow.
    """

    said: np.ndarray
    sure: np.ndarray
    ready_s: np.ndarray
    us: float


@dataclass(frozen=True)
class Walk:
    """The outcome for each flow.

    Attributes:
        stage: (flows,) int, which one answered.
        said: (flows,) int, the class.
        latency_s: (flows,) from the first packet to the answer, on an idle machine.
        us: (flows,) processor time of all stages that saw the flow.
    """

    stage: np.ndarray
    said: np.ndarray
    latency_s: np.ndarray
    us: np.ndarray


@dataclass(frozen=True)
class Figures:
    """The figures of a cascade on some flows.

    Attributes:
        median_s: of the time from a flow's first packet to its answer.
        early: share of flows answered within EARLY_S of their first packet.
        slow: share of flows that the last stage sees.
        us: processor time of a flow, on average.
        stages: share of flows that each stage answers.
    """

    macro_f1: float
    accuracy: float
    median_s: float
    early: float
    slow: float
    us: float
    stages: tuple[float, ...]

    @property
    def passed_on(self) -> tuple[float, ...]:
        """The share that each stage but the last passes on of the flows that reach it."""
        reached, shares = 1.0, []
        for answered in self.stages[:-1]:
            shares.append(1 - answered / reached if reached > 0 else 0.0)
            reached -= answered
        return tuple(shares)


def walk(steps: Sequence[Step]) -> Walk:
    """Let flows go from step to step until one is sure, and return the outcome."""
    flows = len(steps[0].said)
    stage = np.full(flows, len(steps) - 1)
    open_ = np.ones(flows, bool)
    us = np.zeros(flows)
    for i, step in enumerate(steps):
        us[open_] += step.us
        if i < len(steps) - 1:
            stage[open_ & step.sure] = i
            open_ &= ~step.sure
    each = np.arange(flows)
    said = np.stack([step.said for step in steps])[stage, each]
    ready = np.stack([step.ready_s for step in steps])[stage, each]
    return Walk(stage, said, ready + us / 1e6, us)


def oracle_steps(steps: Sequence[Step], label: np.ndarray) -> list[Step]:
    """Return steps that are sure at the first right answer, or at once if all are wrong."""
    hopeless = ~np.any([step.said == label for step in steps], axis=0)
    return [
        Step(step.said, (step.said == label) | hopeless, step.ready_s, step.us) for step in steps
    ]


def random_steps(steps: Sequence[Step], seed: int) -> list[Step]:
    """Return steps that are sure of as many flows, chosen at random."""
    rng = np.random.default_rng(seed)
    chance, reached = [], np.ones(len(steps[0].said), bool)
    for step in steps[:-1]:
        share = step.sure[reached].mean() if reached.any() else 0.0
        chance.append(Step(step.said, rng.random(len(reached)) < share, step.ready_s, step.us))
        reached = reached & ~step.sure
    return [*chance, steps[-1]]


def figures(walked: Walk, label: np.ndarray, classes: int, stages: int) -> Figures:
    """Return the figures of a walk; label: (flows,) int, the true classes."""
    confusion = evaluate.confusion_matrix(label, walked.said, classes)
    shares = np.bincount(walked.stage, minlength=stages) / len(label)
    return Figures(
        macro_f1=evaluate.macro_f1(confusion),
        accuracy=float(np.trace(confusion) / len(label)),
        median_s=float(np.median(walked.latency_s)),
        early=float((walked.latency_s <= EARLY_S).mean()),
        slow=float(shares[-1]),
        us=float(walked.us.mean()),
        stages=tuple(shares.tolist()),
    )
