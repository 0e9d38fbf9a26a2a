"""Which of the models that were trained answers which flow: the cascade that ships."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe import families
from etcpipe.cascade import calibrate, choose
from etcpipe.cascade.choose import Candidate, Flows, Settled
from etcpipe.cascade.pick import SLACK, Choice, Lead, pick
from etcpipe.cascade.rows import DepthRows, rows_for
from etcpipe.cascade.stages import Cascade, Stage
from etcpipe.model import is_refused, opened
from etcpipe.training.held_out import deal_folds
from etcpipe.training.train import Result

TARGET = "slow-share"


@dataclass(frozen=True)
class Answers:
    """What flows are told.

    Attributes:
        said: (flows,) int, the class.
        refused: (flows,) bool, whether it reads "unknown".
        probability: (flows,) of the class, by the stage that said it.
        packets: (flows,) int, what that stage waits for.
        family: (flows,) int, the family that is said of a refused one, -1: none.
    """

    said: np.ndarray
    refused: np.ndarray
    probability: np.ndarray
    packets: np.ndarray
    family: np.ndarray

    def put(self, at: np.ndarray, other: "Answers") -> None:
        """Take another's answers for some flows; at is (flows,) bool, of so many as it has."""
        for name in vars(self):
            getattr(self, name)[at] = getattr(other, name)

    @staticmethod
    def none(flows: int) -> "Answers":
        """Return room for so many."""
        said, packets = np.zeros(flows, int), np.zeros(flows, int)
        return Answers(said, np.zeros(flows, bool), np.zeros(flows), packets, said - 1)


class Stages:
    """Trained models at several depths, and what they said of flows that were held out."""

    def __init__(self, rows: DepthRows, results: dict[int, Result]):
        """Take what etcpipe.training.train.train() gave at each depth, deepest last."""
        deepest = rows.deepest
        self._dataset = deepest
        self.models = [
            opened(one.model, f"model at {depth} packets") for depth, one in results.items()
        ]
        ready = {depth: rows.at(depth) for depth in results}
        self._flows = Flows(deepest.label, deepest.capture, deepest.classes, ready)
        self._offered = [
            Candidate("default", depth, one.judged.scores, one.us_per_flow)
            for depth, one in results.items()
        ]
        self._strange = [one.judged.strange for one in results.values()]

    def choose(self, chooses: np.ndarray, seed: int) -> tuple[Choice, list[Settled]]:
        """Return the stages that some flows choose, and how; chooses is (flows,) bool."""
        flows = self._flows.select(chooses)
        offered = [one.select(chooses) for one in self._offered]
        search, slow = choose.Search(offered, flows), len(offered) - 1
        lead = Lead(flows, offered[slow].scores.argmax(axis=1), seed)
        choice = pick(
            search.plans(), TARGET, slow, lambda plan: lead.interval(search.said(plan)), SLACK
        )
        *early, last = choose.settle(choice.plan, offered, flows)
        # the last one answers as it would alone: its "unknown" is a matter of its own scale
        own = self.models[last.candidate].temperature
        return choice, [*early, replace(last, temperature=own)]

    def crossed(self, seed: int) -> Answers:
        """Return what each flow is told by stages that the other half of the captures chose."""
        half = deal_folds(self._dataset, 2, seed + 1)
        answers = Answers.none(len(half))
        for side in (0, 1):
            _, settled = self.choose(half != side, seed)
            here = half == side
            answers.put(here, self.answers(settled, [one.scores[here] for one in self._offered]))
        return answers

    def strangers(self, settled: Sequence[Settled]) -> Answers:
        """Return what flows of classes are told that no model had ever seen."""
        return self.answers(settled, self._strange)

    def told(self, settled: Sequence[Settled], rows: DepthRows) -> Answers:
        """Return what other flows are told; rows are at the depths of the stages."""
        scores = []
        for model in self.models:
            found = model.infer(rows_for(model, rows.datasets[model.first_n]))
            scores.append(np.log(np.clip(found, 1e-30, 1)) * model.temperature)
        return self.answers(settled, scores)

    def waits_s(self, answers: Answers) -> np.ndarray:
        """Return (flows,) when each flow had its answer, from its first packet."""
        ready_s = np.zeros(len(answers.said))
        for packets in np.unique(answers.packets):
            here = answers.packets == packets
            ready_s[here] = self._flows.ready_s[int(packets)][here]
        return ready_s

    def answers(self, settled: Sequence[Settled], scores: Sequence[np.ndarray]) -> Answers:
        """Return what stages tell flows; scores are (flows, classes), one for each depth."""
        classes, flows = self._flows.classes, len(scores[0])
        answers, open_ = Answers.none(flows), np.ones(flows, bool)
        for one in settled:
            depth = self._offered[one.candidate].packets
            probabilities = calibrate.probabilities_of(scores[one.candidate], one.temperature)
            said, probability = probabilities.argmax(axis=1), probabilities.max(axis=1)
            sure, model = open_.copy(), self.models[one.candidate]
            threshold, family_threshold = model.threshold, model.family_threshold
            if one.rule:
                sure &= choose.is_sure(one.rule, probabilities, classes)
                threshold, family_threshold = 0.0, np.inf
            refused = is_refused(said, probability, classes, threshold)
            family, together = families.best(probabilities, model.family_of)
            family = np.where(refused & (together >= family_threshold), family, -1)
            here = Answers(said, refused, probability, np.full(flows, depth), family)
            answers.put(sure, Answers(*(one[sure] for one in vars(here).values())))
            open_ &= ~sure
        return answers

    def cascade(self, settled: Sequence[Settled], wait_s: float) -> Cascade:
        """Return the cascade's file; its models are named by their depths."""
        stages = tuple(
            Stage(
                self._offered[one.candidate].packets,
                f"{self._offered[one.candidate].packets}.onnx",
                one.temperature,
                one.rule,
            )
            for one in settled
        )
        return Cascade(stages, wait_s, early=False)
