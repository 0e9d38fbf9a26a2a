"""Which stages, and how sure each must be: chosen on calibration flows for a target.

Every chain of up to three candidates is tried with every combination of shares of flows that its
stages pass on; etcpipe.cascade.pick takes one of them. A share becomes a threshold, which is what
the cascade's file holds; or one for each class, which are tried on captures that they were not
fitted to: there are so many of them that they would fit the flows at hand too well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from etcpipe.cascade import by_class, calibrate
from etcpipe.cascade.stages import Rule
from etcpipe.cascade.walk import Figures, Step, Walk, figures, walk
from etcpipe.errors import UsageError

STAGES_MAX = 3
SHARES = tuple(i / 20 for i in range(1, 20))
SHARES_OF_THREE = tuple(i / 10 for i in range(1, 10))
RULES = ("threshold", "per_class", "target")
# Parts of the captures; thresholds by class are fitted to all but one and tried on that.
PARTS = 4


@dataclass(frozen=True)
class Flows:
    """Flows to choose by.

    Attributes:
        label, capture: (flows,) int.
        classes: their names.
        ready_s: (flows,) by depth, when its packets were there.
    """

    label: np.ndarray
    capture: np.ndarray
    classes: tuple[str, ...]
    ready_s: dict[int, np.ndarray]

    def select(self, chosen: np.ndarray) -> "Flows":
        """Return some flows; chosen is (flows,) bool."""
        ready = {depth: one[chosen] for depth, one in self.ready_s.items()}
        return Flows(self.label[chosen], self.capture[chosen], self.classes, ready)


@dataclass(frozen=True)
class Candidate:
    """A model at a depth.

    Attributes:
        model: what to call it.
        scores: (flows, classes) unnormalised, on flows that it was not fitted to.
        us: processor time of one flow.
    """

    model: str
    packets: int
    scores: np.ndarray
    us: float

    def __str__(self) -> str:
        return f"{self.model}@{self.packets}"

    def select(self, chosen: np.ndarray) -> "Candidate":
        """Return it on some of the flows."""
        return Candidate(self.model, self.packets, self.scores[chosen], self.us)


@dataclass(frozen=True)
class Plan:
    """A chain of candidates, the share of flows that each passes on, and what that gives.

    Attributes:
        shares: of the flows that reach a stage; by class, of all flows.
    """

    chain: tuple[int, ...]
    shares: tuple[float, ...]
    figures: Figures


@dataclass(frozen=True)
class Settled:
    """A stage of the chosen cascade.

    Attributes:
        rule: None for the last one.
    """

    candidate: int
    temperature: float
    rule: Rule | None


class Search:
    """Every plan that is tried, on calibration flows."""

    def __init__(
        self, candidates: Sequence[Candidate], flows: Flows, rule: str = "threshold"
    ) -> None:
        """Make it for a name of RULES."""
        self._candidates, self._flows = candidates, flows
        self._views = [_View(one, flows) for one in candidates]
        self._is_by_class = rule == "per_class"
        _, capture = np.unique(flows.capture, return_inverse=True)
        self._part = np.random.default_rng(1).permutation(capture.max() + 1)[capture] % PARTS
        self._sure: dict[tuple[int, int, float], np.ndarray] = {}  # by class

    def plans(self) -> list[Plan]:
        """Return all plans with what they give."""
        return [
            Plan(chain, shares, self._figures(chain, shares))
            for chain in _chains(self._candidates)
            for shares in _shares(len(chain))
        ]

    def said(self, plan: Plan) -> np.ndarray:
        """Return (flows,) int, the class that a plan says."""
        return self._walk(plan.chain, plan.shares).said

    def _figures(self, chain: Sequence[int], shares: Sequence[float]) -> Figures:
        walked, flows = self._walk(chain, shares), self._flows
        return figures(walked, flows.label, len(flows.classes), len(chain))

    def _walk(self, chain: Sequence[int], shares: Sequence[float]) -> Walk:
        steps, open_ = [], np.ones(len(self._flows.label), bool)
        for place, (i, share) in enumerate(zip(chain, (*shares, 0.0), strict=True)):
            view = self._views[i]
            if self._is_by_class and place + 1 < len(chain):
                sure = self._sure_by_class(i, chain[place + 1], share)
            else:
                sure = view.confidence >= threshold_of(view.confidence[open_], share)
            steps.append(Step(view.said, sure, view.ready_s, view.us))
            open_ = open_ & ~sure
        return walk(steps)

    def _sure_by_class(self, i: int, later: int, share: float) -> np.ndarray:
        """Return (flows,) bool, by thresholds that were fitted to other captures."""
        key = i, later, share
        if key not in self._sure:
            view, after, label = self._views[i], self._views[later].said, self._flows.label
            sure = np.zeros(len(label), bool)
            for part in range(PARTS):
                fits, tries = self._part != part, self._part == part
                least = np.full(len(self._flows.classes), threshold_of(view.confidence, share))
                fitted = by_class.thresholds(
                    label[fits], view.said[fits], after[fits], view.confidence[fits], share
                )
                least[list(fitted)] = list(fitted.values())
                sure[tries] = (view.confidence >= least[view.said])[tries]
            self._sure[key] = sure
        return self._sure[key]


class _View:
    """A candidate's answers, with one temperature for all flows."""

    def __init__(self, candidate: Candidate, flows: Flows) -> None:
        everyone = np.ones(len(flows.label), bool)
        temperature = calibrate.fit_temperature(candidate.scores, flows.label, everyone)
        probabilities = calibrate.probabilities_of(candidate.scores, temperature)
        self.said = probabilities.argmax(axis=1)
        self.confidence = probabilities.max(axis=1)
        self.ready_s, self.us = flows.ready_s[candidate.packets], candidate.us


def _chains(candidates: Sequence[Candidate]) -> Iterator[tuple[int, ...]]:
    """Yield chains whose stages wait for more packets one by one, or cost more for the same."""
    order = sorted(range(len(candidates)), key=lambda i: (candidates[i].packets, candidates[i].us))
    for length in range(1, STAGES_MAX + 1):
        yield from combinations(order, length)


def _shares(stages: int) -> Iterator[tuple[float, ...]]:
    yield from product(SHARES if stages < 3 else SHARES_OF_THREE, repeat=stages - 1)


def threshold_of(confidence: np.ndarray, share: float) -> float:
    """Return the probability below which are about `share` of some flows; 2 for all of them."""
    position = round(share * len(confidence))
    if position >= len(confidence):
        return 2.0
    return float(np.partition(confidence, position)[position])


def settle(
    plan: Plan, candidates: Sequence[Candidate], flows: Flows, kind: str = "threshold"
) -> list[Settled]:
    """Return the plan's stages, each calibrated on the flows that reach it.

    Args:
        kind: of the rules, a name of RULES.

    Raises:
        UsageError: the plan has no stage.
    """
    chain = [candidates[i] for i in plan.chain]
    settled: list[Settled] = []
    reached = np.ones(len(flows.label), bool)
    for place, (i, one) in enumerate(zip(plan.chain, chain, strict=True)):
        temperature = calibrate.fit_temperature(one.scores, flows.label, reached)
        probabilities = calibrate.probabilities_of(one.scores, temperature)
        goes_on = np.zeros(len(reached), bool)
        if place + 1 < len(chain):
            later = chain[place + 1].scores.argmax(axis=1)
            rule = _rule(kind, plan.shares[place], probabilities, later, flows, reached)
            goes_on = reached & ~is_sure(rule, probabilities, flows.classes)
        if not goes_on.any():  # by class it may be none
            return [*settled, Settled(i, temperature, None)]
        settled.append(Settled(i, temperature, rule))
        reached = goes_on
    raise UsageError("a cascade needs a stage")


def is_sure(rule: Rule, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return (flows,) bool, which answers a rule lets go."""
    return probabilities.max(axis=1) >= rule.thresholds(classes)[probabilities.argmax(axis=1)]


def _rule(
    kind: str,
    share: float,
    probabilities: np.ndarray,
    later: np.ndarray,
    flows: Flows,
    reached: np.ndarray,
) -> Rule:
    confidence = probabilities.max(axis=1)
    if kind == "per_class":
        said = probabilities.argmax(axis=1)
        least = by_class.thresholds(flows.label, said, later, confidence, share)
        named = {flows.classes[i]: _rounded(value) for i, value in least.items()}
        return Rule("per_class", _rounded(threshold_of(confidence, share)), named)
    threshold = _rounded(threshold_of(confidence[reached], share))
    if kind == "threshold":
        return Rule("threshold", threshold)
    return Rule("target", threshold, share=share)


def _rounded(threshold: float) -> float:
    """Return the threshold as float32 has it: what the runtime compares with."""
    return float(np.float32(threshold))
