"""Which plan is taken: the best for a target among those that surely keep the F1.

Of thousands of plans, the one that looks best owes part of that to the flows that it was looked
at with: on a public task, a plan that kept the slow model's macro-F1 on the flows that chose it
was 0.031 below on others. So a plan counts as keeping the F1 only if the lower end of the 95 %
interval of its difference does, with captures drawn anew for both at once (a paired bootstrap).
What else is asked of a plan, a speed-up or a share of what an oracle answers early, must hold on
these flows. To ask for it five times out of six gave more of it than was wanted, paid for with F1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.cascade.choose import Flows, Plan
from etcpipe.errors import UsageError

DRAWS = 500
# Macro-F1 that a cascade may lose against the model that waits longest.
SLACK = 0.01
# By target: what of Figures is made least, once F1 is within reach.
TARGETS = {
    "f1": lambda one: -one.macro_f1,
    "median-latency": lambda one: one.median_s,
    "slow-share": lambda one: one.slow,
    "cost": lambda one: one.us,
    "early": lambda one: -one.early,
}


@dataclass(frozen=True)
class Choice:
    """The plan that was taken.

    Attributes:
        low, high: 95 % interval of its macro-F1 above that of the model that waits longest, on
            calibration flows.
        holds: whether low is within the slack; if not, no plan's is, and this one is nearest.
    """

    plan: Plan
    low: float
    high: float
    holds: bool


class Lead:
    """By how much the macro-F1 of some answers is above that of others, capture by capture."""

    def __init__(self, flows: Flows, reference: np.ndarray, seed: int = 1) -> None:
        """Compare with `reference`, (flows,) int, the class that it says of each flow."""
        _, self._capture = np.unique(flows.capture, return_inverse=True)
        captures = int(self._capture.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(captures, np.full(captures, 1 / captures), DRAWS)
        self._drawn = drawn.astype(np.float64)
        self._label, self._classes = flows.label, len(flows.classes)
        self._true = self._drawn @ self._counts(flows.label)
        self._reference = self._macro_f1(reference)

    def interval(self, said: np.ndarray) -> tuple[float, float]:
        """Return the ends of the 95 % interval, for (flows,) int, the class said of each flow."""
        low, high = np.quantile(self._macro_f1(said) - self._reference, [0.025, 0.975])
        return float(low), float(high)

    def _macro_f1(self, said: np.ndarray) -> np.ndarray:
        """Return (DRAWS,) float64, as evaluate.macro_f1 of each draw."""
        right = self._drawn @ self._counts(said, (said == self._label).astype(np.float64))
        either = self._true + self._drawn @ self._counts(said)
        there = self._true > 0
        f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=there)
        return f1.sum(axis=1) / np.maximum(there.sum(axis=1), 1)

    def _counts(self, said: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """Return (captures, classes) float64, how often each class was said in each capture."""
        captures = self._drawn.shape[1]
        cell = self._capture * self._classes + said
        counted = np.bincount(cell, weight, captures * self._classes)
        return counted.reshape(captures, self._classes).astype(np.float64)


def pick(
    plans: Sequence[Plan],
    target: str,
    slowest: int,
    interval: Callable[[Plan], tuple[float, float]],
    slack: float = SLACK,
    reaches: Callable[[Plan], bool] = lambda plan: True,
) -> Choice:
    """Return the best plan for a target that surely keeps the F1, else the one nearest to that.

    Args:
        target: a name of TARGETS.
        slowest: the candidate that waits longest. Alone it is only taken for "f1", or if there
            is nothing else.
        interval: of a plan's macro-F1 above the slowest candidate's, see Lead.
        slack: macro-F1 that may be lost.
        reaches: says of a plan whether it has what else is asked for.

    Raises:
        UsageError: no such target, or no plan has what is asked for.
    """
    check_target(target)
    measure = TARGETS[target]
    offered = [one for one in plans if target == "f1" or one.chain != (slowest,)] or list(plans)
    offered = [one for one in offered if reaches(one)]
    if not offered:
        raise UsageError("no cascade of these models is that early: ask for less, or offer others")
    reference = next(one.figures.macro_f1 for one in plans if one.chain == (slowest,))
    nearest: Choice | None = None
    for plan in sorted(offered, key=lambda one: (measure(one.figures), -one.figures.macro_f1)):
        if plan.figures.macro_f1 < reference - slack:
            continue
        low, high = interval(plan)
        if low >= -slack:
            return Choice(plan, low, high, True)
        if nearest is None or low > nearest.low:
            nearest = Choice(plan, low, high, False)
    if nearest is None:
        best = max(offered, key=lambda one: one.figures.macro_f1)
        nearest = Choice(best, *interval(best), False)
    return nearest


def pareto(plans: Sequence[Plan], target: str) -> list[Plan]:
    """Return the plans that none beats in both F1 and the target, the highest F1 first.

    For target "f1" the other measure is the median latency.
    """
    measure = TARGETS["median-latency" if target == "f1" else target]
    front: list[Plan] = []
    for plan in sorted(plans, key=lambda one: (-one.figures.macro_f1, measure(one.figures))):
        if not front or measure(plan.figures) < measure(front[-1].figures):
            front.append(plan)
    return front


def check_target(target: str) -> None:
    """Raise UsageError if a target is none of TARGETS."""
    if target not in TARGETS:
        raise UsageError(f"no target {target!r}: choose {', '.join(TARGETS)}")
