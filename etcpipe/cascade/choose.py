"""Which stages, and how sure each must be: chosen on calibration flows for a target.

Every chain of up to three candidates is tried with every combination of shares of flows that its
stages pass on; etcpipe.cascade.pick takes one of them. A share becomes a threshold, which is what
the cascade's file holds. Or there is one for each class, by a price for early answers; they are
tried on captures that they were not fitted to: there are so many of them that they would fit the
flows at hand too well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from etcpipe.cascade import by_class, calibrate
from etcpipe.cascade.stages import Rule
from etcpipe.cascade.walk import EARLY_S, Figures, Step, Walk, figures, oracle_steps, walk
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
        shares: of the flows that reach a stage; by class, the price of an early answer.
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
        self,
        candidates: Sequence[Candidate],
        flows: Flows,
        rule: str = "threshold",
        target: str = "early",
    ) -> None:
        """Make it for a name of RULES and one of pick.TARGETS."""
        self._candidates, self._flows = candidates, flows
        self._views = [_View(one, flows) for one in candidates]
        self._is_by_class, self._target = rule == "per_class", target
        _, capture = np.unique(flows.capture, return_inverse=True)
        self._part = np.random.default_rng(1).permutation(capture.max() + 1)[capture] % PARTS
        self._sure: dict[tuple[tuple[int, ...], float], list[np.ndarray]] = {}  # by class

    def plans(self) -> list[Plan]:
        """Return all plans with what they give."""
        return [
            Plan(chain, shares, self._figures(chain, shares))
            for chain in _chains(self._candidates)
            for shares in (_prices if self._is_by_class else _shares)(len(chain))
        ]

    def said(self, plan: Plan) -> np.ndarray:
        """Return (flows,) int, the class that a plan says."""
        return self.walked(plan).said

    def walked(self, plan: Plan) -> Walk:
        """Return what becomes of the flows by a plan."""
        return walk(self._steps(plan.chain, plan.shares))

    def oracle(self, plan: Plan) -> Walk:
        """Return what an oracle makes of the same stages."""
        return walk(oracle_steps(self._steps(plan.chain, plan.shares), self._flows.label))

    def _figures(self, chain: tuple[int, ...], shares: tuple[float, ...]) -> Figures:
        walked, flows = walk(self._steps(chain, shares)), self._flows
        return figures(walked, flows.label, len(flows.classes), len(chain))

    def _steps(self, chain: tuple[int, ...], shares: tuple[float, ...]) -> list[Step]:
        views = [self._views[i] for i in chain]
        everyone = np.ones(len(self._flows.label), bool)
        if self._is_by_class and len(chain) > 1:
            sure = self._sure_by_class(chain, shares[0])
        else:
            sure, open_ = [], everyone
            for view, share in zip(views, shares, strict=False):
                sure.append(view.confidence >= threshold_of(view.confidence[open_], share))
                open_ = open_ & ~sure[-1]
        return [
            Step(view.said, is_sure, view.ready_s, view.us)
            for view, is_sure in zip(views, [*sure, everyone], strict=True)
        ]

    def _sure_by_class(self, chain: tuple[int, ...], price: float) -> list[np.ndarray]:
        """Return (flows,) bool for each stage but the last, fitted to other captures."""
        if (chain, price) not in self._sure:
            label, classes = self._flows.label, len(self._flows.classes)
            said = _said([self._views[i] for i in chain], self._target)
            sure = [np.zeros(len(label), bool) for _ in chain[1:]]
            for part in range(PARTS):
                fits, tries = self._part != part, self._part == part
                fitted = [one.select(fits) for one in said]
                least = by_class.thresholds(label[fits], fitted, price, classes)
                for is_sure, one, its in zip(sure, said, least, strict=False):
                    is_sure[tries] = one.is_sure(its)[tries]
            self._sure[chain, price] = sure
        return self._sure[chain, price]


class _View:
    """A candidate's answers."""

    def __init__(
        self, candidate: Candidate, flows: Flows, reached: np.ndarray | None = None
    ) -> None:
        """Look at it; the temperature is that of the flows that reach it."""
        if reached is None:
            reached = np.ones(len(flows.label), bool)
        self.temperature = calibrate.fit_temperature(candidate.scores, flows.label, reached)
        probabilities = calibrate.probabilities_of(candidate.scores, self.temperature)
        self.said = probabilities.argmax(axis=1)
        self.confidence = probabilities.max(axis=1)
        self.ready_s, self.us = flows.ready_s[candidate.packets], candidate.us


def _said(views: Sequence[_View], target: str) -> list[by_class.Said]:
    """Return what stages say; for "early" answers in time are kept, else each stage's are."""
    return [
        by_class.Said(
            view.said,
            view.confidence,
            view.ready_s <= EARLY_S if target == "early" else np.full(len(view.said), -place),
        )
        for place, view in enumerate(views)
    ]


def _chains(candidates: Sequence[Candidate]) -> Iterator[tuple[int, ...]]:
    """Yield chains whose stages wait for more packets one by one, or cost more for the same."""
    order = sorted(range(len(candidates)), key=lambda i: (candidates[i].packets, candidates[i].us))
    for length in range(1, STAGES_MAX + 1):
        yield from combinations(order, length)


def _shares(stages: int) -> Iterator[tuple[float, ...]]:
    yield from product(SHARES if stages < 3 else SHARES_OF_THREE, repeat=stages - 1)


def _prices(stages: int) -> Iterator[tuple[float, ...]]:
    yield from ((price,) for price in by_class.PRICES) if stages > 1 else [()]


def threshold_of(confidence: np.ndarray, share: float) -> float:
    """Return the probability below which are about `share` of some flows; 2 for all of them."""
    position = round(share * len(confidence))
    if position >= len(confidence):
        return 2.0
    return float(np.partition(confidence, position)[position])


def settle(
    plan: Plan,
    candidates: Sequence[Candidate],
    flows: Flows,
    kind: str = "threshold",
    target: str = "early",
) -> list[Settled]:
    """Return the plan's stages, each calibrated on the flows that reach it.

    Args:
        kind: of the rules, a name of RULES.
        target: a name of pick.TARGETS.

    Raises:
        UsageError: the plan has no stage.
    """
    chain = [candidates[i] for i in plan.chain]
    if kind == "per_class" and len(chain) > 1:
        return _settled_by_class(plan, chain, flows, target)
    settled: list[Settled] = []
    reached = np.ones(len(flows.label), bool)
    for place, (i, one) in enumerate(zip(plan.chain, chain, strict=True)):
        view, goes_on = _View(one, flows, reached), np.zeros(len(reached), bool)
        if place + 1 < len(chain):
            threshold = _rounded(threshold_of(view.confidence[reached], plan.shares[place]))
            share = plan.shares[place] if kind == "target" else 0.0
            goes_on = reached & (view.confidence < threshold)
        if not goes_on.any():
            return [*settled, Settled(i, view.temperature, None)]
        settled.append(Settled(i, view.temperature, Rule(kind, threshold, share=share)))
        reached = goes_on
    raise UsageError("a cascade needs a stage")


def _settled_by_class(
    plan: Plan, chain: Sequence[Candidate], flows: Flows, target: str
) -> list[Settled]:
    """Return the stages: thresholds say who reaches whom, and are fitted again to calibrated ones.

    A stage that passes nobody on is the last.
    """
    reached = [np.ones(len(flows.label), bool)] * len(chain)
    for _ in range(2):
        views = [_View(one, flows, its) for one, its in zip(chain, reached, strict=False)]
        said = _said(views, target)
        least = by_class.thresholds(flows.label, said, plan.shares[0], len(flows.classes))
        reached = reached[:1]
        for one, its in zip(said, least, strict=False):
            if (goes_on := reached[-1] & ~one.is_sure(its)).any():
                reached.append(goes_on)
            else:
                break
    rules: list[Rule | None] = []
    for its in least[: len(reached) - 1]:
        *named, others = map(_rounded, its)
        rules.append(Rule("per_class", others, dict(zip(flows.classes, named, strict=True))))
    return [
        Settled(i, view.temperature, rule)
        for i, view, rule in zip(plan.chain, views, [*rules, None], strict=False)
    ]


def is_sure(rule: Rule, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return (flows,) bool, which answers a rule lets go."""
    return probabilities.max(axis=1) >= rule.thresholds(classes)[probabilities.argmax(axis=1)]


def _rounded(threshold: float) -> float:
    """Return the threshold as float32 has it: what the runtime compares with."""
    return float(np.float32(threshold))
