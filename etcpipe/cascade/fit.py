"""Fitting a cascade: candidates in, its stages, their thresholds and what they give out.

Half of the captures choose (temperatures, stages, thresholds), and the other half tells what such
a choice is worth. For the file, all captures choose again. No flow is judged by a model that was
fitted to its capture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os.path import relpath
from pathlib import Path

import numpy as np

from etcpipe.cascade import calibrate, candidates, choose, curves
from etcpipe.cascade.candidates import Made, Training, Wanted
from etcpipe.cascade.choose import Candidate, Flows, Plan, Settled
from etcpipe.cascade.pick import SLACK, Choice, Lead, check_target, pareto, pick
from etcpipe.cascade.rows import DepthRows
from etcpipe.cascade.stages import Cascade, Stage
from etcpipe.cascade.walk import EARLY_S, Figures, Step, figures, oracle_steps, random_steps, walk
from etcpipe.errors import OutputError
from etcpipe.evaluation import evaluate
from etcpipe.training.held_out import OnStep, deal_folds


@dataclass(frozen=True)
class Target:
    """What to choose for.

    Attributes:
        target: a name of pick.TARGETS.
        rule: a name of choose.RULES.
        slack: macro-F1 that may be lost against the model that waits longest.
        speed_up: how many times sooner than that one half of the flows have their answer.
        of_oracle: share of what an oracle of the same stages answers within walk.EARLY_S.
    """

    target: str = "f1"
    rule: str = "threshold"
    slack: float = SLACK
    speed_up: float = 0.0
    of_oracle: float = 0.0

    @property
    def gains_by(self) -> str:
        """What thresholds by class are fitted to: early answers also if a share of them is asked.

        A flow that is late at its first stage loses nothing then if it waits for a later one.
        """
        return "early" if self.of_oracle else self.target

    def is_reached(self, plan: Plan, search: choose.Search, slow_s: float) -> bool:
        """Has a plan that speed-up and that share? slow_s is the slow model's median."""
        if plan.figures.median_s * self.speed_up > slow_s:
            return False
        by_oracle = float((search.oracle(plan).latency_s <= EARLY_S).mean())
        return plan.figures.early >= self.of_oracle * by_oracle


@dataclass(frozen=True)
class StageReport:
    """What one stage of the chosen cascade does with the flows that were kept for the test.

    Attributes:
        reached, answered: share of all flows.
        accuracy: of the answers that left here.
        macro_f1: of the model on all flows.
        separation: by name of calibrate.MEASURES, on the flows that reach it.
        curves: of passing its flows on to the next stage; None for the last one.
    """

    candidate: Candidate
    settled: Settled
    reached: float
    answered: float
    accuracy: float
    macro_f1: float
    separation: dict[str, calibrate.Separation]
    curves: curves.Curves | None


@dataclass(frozen=True)
class Result:
    """A fitted cascade.

    Attributes:
        front: the Pareto choices, with their figures on all flows.
        choice: which one was taken of them, and how surely it keeps the F1.
        test: of what half of the captures chose, by name, figures on the other captures: "cascade",
            "random", "oracle", and each candidate alone.
        lead: on the same flows, by how much the cascade's macro-F1 is above that of the model
            that waits longest, and the 95 % interval by captures.
        stages: of the cascade that half of the captures chose, in order.
        settled: of the one that all chose.
        flows: how many chose for the test, and how many tested.
    """

    made: list[Made]
    front: list[Plan]
    choice: Choice
    test: dict[str, Figures]
    lead: tuple[float, float, float]
    stages: list[StageReport]
    settled: list[Settled]
    flows: tuple[int, int]
    wait_s: float

    @property
    def weak(self) -> list[int]:
        """The stages whose uncertainty is no better than random."""
        return [
            i
            for i, one in enumerate(self.stages[:-1])
            if one.separation["least_confidence"].is_weak
        ]


def fit(
    wanted: Sequence[Wanted],
    rows: DepthRows,
    how: Training,
    target: Target,
    on_step: OnStep = lambda what, done, total: None,
) -> Result:
    """Return a cascade of some models, chosen for a target.

    Raises:
        UsageError: too little data to split by capture, or a model does not fit them.
    """
    check_target(target.target)
    made = candidates.make(wanted, rows, how, on_step)
    offered = [one.candidate for one in made]
    dataset = rows.deepest
    ready = {depth: rows.at(depth) for depth in rows.depths}
    flows = Flows(dataset.label, dataset.capture, dataset.classes, ready)
    chooses = deal_folds(dataset, 2, how.seed + 1) == 0
    on_step("choosing", len(made), len(made))
    ours, theirs = flows.select(chooses), flows.select(~chooses)
    choosing, testing = ([one.select(its) for one in offered] for its in (chooses, ~chooses))
    tried = _chosen(choosing, ours, target, how.seed)[1]
    settle = partial(choose.settle, kind=target.rule, target=target.gains_by)
    settled = settle(tried.plan, choosing, ours)
    stages, test = judge(settled, testing, theirs, how.seed)
    ahead = ahead_of(settled, testing, theirs, how.seed)
    plans, choice = _chosen(offered, flows, target, how.seed)
    final, front = settle(choice.plan, offered, flows), pareto(plans, target.target)
    sizes = int(chooses.sum()), int((~chooses).sum())
    return Result(made, front, choice, test, ahead, stages, final, sizes, rows.input.wait_s)


def _chosen(
    offered: Sequence[Candidate], flows: Flows, target: Target, seed: int
) -> tuple[list[Plan], Choice]:
    """Return all plans on some flows, and the one that is taken."""
    search, slow = choose.Search(offered, flows, target.rule, target.gains_by), slowest(offered)
    plans, slow_s = search.plans(), float(np.median(flows.ready_s[offered[slow].packets]))
    lead = Lead(flows, offered[slow].scores.argmax(axis=1), seed)
    choice = pick(
        plans,
        target.target,
        slow,
        lambda plan: lead.interval(search.said(plan)),
        target.slack,
        lambda plan: target.is_reached(plan, search, slow_s),
    )
    return plans, choice


def ahead_of(
    settled: Sequence[Settled], offered: Sequence[Candidate], flows: Flows, seed: int
) -> tuple[float, float, float]:
    """Return by how much a cascade's macro-F1 is above the slowest candidate's, with interval."""
    said = walk([_step(one, offered[one.candidate], flows) for one in settled]).said
    slow = offered[slowest(offered)].scores.argmax(axis=1)
    _, capture = np.unique(flows.capture, return_inverse=True)
    return evaluate.difference(flows.label, said, slow, capture, len(flows.classes), seed)


def slowest(offered: Sequence[Candidate]) -> int:
    """Return which candidate waits longest; of several, the one that costs most."""
    return max(range(len(offered)), key=lambda i: (offered[i].packets, offered[i].us))


def judge(
    settled: Sequence[Settled], offered: Sequence[Candidate], flows: Flows, seed: int
) -> tuple[list[StageReport], dict[str, Figures]]:
    """Return what the stages do with flows, and what that is worth beside other ways."""
    label, classes = flows.label, len(flows.classes)
    steps = [_step(one, offered[one.candidate], flows) for one in settled]
    ways = {
        "cascade": steps,
        "random": random_steps(steps, seed),
        "oracle": oracle_steps(steps, label),
    }
    for candidate in offered:
        said = candidate.scores.argmax(axis=1)
        ready_s = flows.ready_s[candidate.packets]
        ways[str(candidate)] = [Step(said, said >= 0, ready_s, candidate.us)]
    test = {name: figures(walk(way), label, classes, len(way)) for name, way in ways.items()}
    stages, reached = [], np.ones(len(label), bool)
    for i, one in enumerate(settled):
        after = steps[i + 1] if i + 1 < len(steps) else None
        stages.append(_on_stage(one, offered[one.candidate], steps[i], after, reached, flows, seed))
        reached = reached & ~steps[i].sure
    return stages, test


def _step(settled: Settled, candidate: Candidate, flows: Flows) -> Step:
    probabilities = calibrate.probabilities_of(candidate.scores, settled.temperature)
    everyone = np.ones(len(probabilities), bool)
    sure = choose.is_sure(settled.rule, probabilities, flows.classes) if settled.rule else everyone
    said = probabilities.argmax(axis=1)
    return Step(said, sure, flows.ready_s[candidate.packets], candidate.us)


def _on_stage(
    settled: Settled,
    candidate: Candidate,
    step: Step,
    after: Step | None,
    reached: np.ndarray,
    flows: Flows,
    seed: int,
) -> StageReport:
    label, classes = flows.label, len(flows.classes)
    right = step.said == label
    left = reached & step.sure if after else reached
    probabilities = calibrate.probabilities_of(candidate.scores, settled.temperature)
    separations = {
        name: calibrate.separation(
            measure(probabilities[reached]), ~right[reached], flows.capture[reached], seed
        )
        for name, measure in calibrate.MEASURES.items()
    }
    its_curves = None
    if after:
        uncertainty = calibrate.least_confidence(probabilities)[reached]
        answers = label[reached], step.said[reached], after.said[reached]
        its_curves = curves.escalation(*answers, uncertainty, classes, seed=seed)
    alone = Step(step.said, np.ones(len(label), bool), step.ready_s, step.us)
    return StageReport(
        candidate,
        settled,
        float(reached.mean()),
        float(left.mean()),
        float(right[left].mean()) if left.any() else float("nan"),
        figures(walk([alone]), label, classes, 1).macro_f1,
        separations,
        its_curves,
    )


def write(result: Result, path: Path, with_slow: bool = False) -> Cascade:
    """Write the cascade's file, and beside it the models of its stages that were trained.

    Args:
        with_slow: write the model that waits longest too, as STEM-slow.onnx, to compare with.

    Raises:
        OutputError: a file cannot be written.
    """
    stages = []
    for one in result.settled:
        made = result.made[one.candidate]
        model = made.path or path.with_name(f"{path.stem}-{made.file_name}")
        _write(made, model)
        stages.append(
            Stage(
                made.candidate.packets,
                relpath(model.absolute(), path.absolute().parent),
                one.temperature,
                one.rule,
            )
        )
    if with_slow:
        slow = slowest([one.candidate for one in result.made])
        _write(result.made[slow], path.with_name(f"{path.stem}-slow.onnx"))
    cascade = Cascade(tuple(stages), result.wait_s)
    cascade.save(path)
    return cascade


def _write(made: Made, path: Path) -> None:
    if made.contents is None:
        return
    try:
        path.write_bytes(made.contents)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
