"""A cascade of two stages whose first one is in the kernel.

The kernel gathers what both models see. At the first stage's packet its trees judge the flow:
a sure answer is in the verdict map before the next packet, its row is told, and no more is
gathered. Unsure flows are gathered on until the last stage's packets are there, and judged in
user space. A flow that ends before the first stage's packet passes through both stages here.
"""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade import serving
from etcpipe.cascade.serving import CascadeModel
from etcpipe.errors import UsageError
from etcpipe.kernel.features_plan import CONSTANTS, FeaturePlan
from etcpipe.kernel.features_rows import Gathered
from etcpipe.kernel.features_source import FeatureQueue, FeatureScorer, features_of
from etcpipe.kernel.stage0_trees import Trees
from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.model import Answers, Model, sources, verdicts_on
from etcpipe.verdict import SOURCE_KERNEL, UNKNOWN, VerdictBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etcpipe.gpu.inference import Runner
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.gpu.views import View
    from etcpipe.policy import Decider

_SURE = CONSTANTS["FEATURES_SURE"]


class KernelCascade:
    """In the place of a model: what Live and the pipeline ask of one.

    Args:
        cascade: of two stages; `contents` is the model file of the first one.

    Attributes:
        columns: of both models, each once.
        tree_depth: packets after which the kernel judges.

    Raises:
        UsageError: it is not one that the kernel can begin.
    """

    def __init__(self, cascade: CascadeModel, contents: bytes):
        _check(cascade)
        self.stage_models = self.first, self.last = cascade.stage_models
        stage = cascade.cascade.stages[0]
        self.columns = tuple(dict.fromkeys((*features_of(self.first), *features_of(self.last))))
        self.tree_depth, self.first_n = cascade.depths
        self.classes, self.labels = cascade.classes, cascade.labels
        self.mask, self.count = cascade.mask, cascade.count
        self.wait_s, self.raw_len = cascade.wait_s, 0
        self.name, self.digest, self.engine = cascade.name, cascade.digest, cascade.engine
        self.device, self.models, self.depths = "cpu", cascade.models, cascade.depths
        assert stage.rule  # of a stage that is not the last
        self._thresholds = stage.rule.thresholds(self.classes)
        self._sure = cascade.servings()[0].decider()
        self._contents = contents
        self._scorers: list[Any] = []
        self._queue = FeatureQueue()

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"

    def tree(self, plan: FeaturePlan, decide: "Decider | None") -> np.ndarray:
        """Return struct tree for the kernel, (1,).

        Args:
            decide: what the policy does with a verdict; it is asked with the least probability
                that is sure, and again with the flow's own when the verdict is told.

        Raises:
            UsageError: the trees are too large, or compare what the kernel cannot.
            UnsupportedError: the package onnx is missing.
        """
        trees = Trees(self._contents, self.first.columns, self.tree_depth, plan)
        label = np.arange(len(self.classes))
        label[[name == UNKNOWN for name in self.classes]] = -1
        action = decide(label, self._thresholds) if decide else np.zeros(len(label), np.uint8)
        words = (label + 1) | action.astype(np.int64) << VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"]
        return trees.record(self.first.temperature, self._thresholds, words.tolist())

    def close(self) -> None:
        """Nothing is open."""

    def scorer(self, regroup: Any) -> None:
        """Begin to judge what comes out of FeatureRows."""
        self._scorers = [_scorer(self.first), _scorer(self.last)]
        self._queue = regroup.queue()

    def verdicts(
        self,
        flows: FlowBatch,
        records: np.ndarray,
        start_ns: int | None = None,
        scorer: "Scorer | None" = None,
    ) -> VerdictBatch:
        """Return the answers of both stages, as Model.verdicts(); the scorers are its own."""
        gathered = self._queue.take(len(flows))
        found = _Found(len(flows))
        entries = gathered.entries
        sure = entries["judged"] == _SURE
        found.put(sure, 0, self._from_kernel(entries[sure]))
        ended = ~sure & (flows.packets["present"].sum(axis=1) < self.tree_depth)
        answers = self._ask(0, gathered, ended)
        is_sure = self._sure(answers.label, answers.probability)
        found.put(ended, 0, answers)
        ended[np.flatnonzero(ended)[is_sure]] = False
        rest = ended | (~sure & (found.stage == _NONE))
        found.put(rest, 1, self._ask(1, gathered, rest))
        return verdicts_on(
            flows,
            records,
            start_ns,
            classes=self.labels,
            models=self.models,
            label=found.label,
            probability=found.probability,
            runner_up=found.runner_up,
            stage=found.stage,
            depth=np.array(self.depths, np.uint16)[found.stage],
            packets_used=found.packets_used,
            source=np.where(sure, SOURCE_KERNEL, sources(flows)).astype(np.uint8),
            infer_ns=found.infer_ns,
        )

    def _from_kernel(self, entries: np.ndarray) -> Answers:
        label = entries["class"].astype(np.int16)
        if UNKNOWN in self.classes:
            label[label == self.classes.index(UNKNOWN)] = -1
        return Answers(
            label=label,
            probability=(2.0**32 / np.maximum(entries["sum"], 1)).astype(np.float32),
            runner_up=np.full(len(entries), -1, np.int16),
            packets_used=np.full(len(entries), self.tree_depth, np.uint16),
            took_ns=0,
        )

    def _ask(self, stage: int, gathered: Gathered, chosen: np.ndarray) -> Answers:
        """Return the answers of a stage's model on some rows."""
        some = Gathered(gathered.entries[chosen], gathered.plan)
        scorer = self._scorers[stage]
        scorer.put(some)
        return (self.first, self.last)[stage].answers(some.flows, scorer)


_NONE = 0xFF


class _Found:
    """Answers of several stages, put together."""

    def __init__(self, flows: int) -> None:
        self.stage = np.full(flows, _NONE, np.uint8)
        self.label = np.zeros(flows, np.int16)
        self.probability = np.zeros(flows, np.float32)
        self.runner_up = np.zeros(flows, np.int16)
        self.packets_used = np.zeros(flows, np.uint16)
        self.infer_ns = np.zeros(flows, np.uint64)

    def put(self, chosen: np.ndarray, stage: int, answers: Answers) -> None:
        """Take the answers of a stage on the chosen rows, in place of any before."""
        self.stage[chosen] = stage
        for name in ("label", "probability", "runner_up", "packets_used"):
            getattr(self, name)[chosen] = getattr(answers, name)
        self.infer_ns[chosen] += np.uint64(answers.took_ns // max(int(chosen.sum()), 1))


class _Rows:
    """Stands for regrouping where a model is asked for a scorer of rows."""

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: "Sequence[str]"
    ) -> FeatureScorer:
        """Return one of rows that are put into it."""
        return FeatureScorer(runner, tuple(columns))


def _scorer(model: Model) -> Any:
    rows: Any = _Rows()
    return model.scorer(rows)


def _check(cascade: CascadeModel) -> None:
    stages = cascade.cascade.stages
    if len(stages) != 2:
        raise UsageError(f"--stage0 kernel takes a cascade of two stages, not {len(stages)}")
    if stages[0].rule and stages[0].rule.kind == "target":
        raise UsageError("--stage0 kernel takes no rule of a target: the kernel does not adapt")


def load(path: str | PathLike[str], device: str = "cpu") -> KernelCascade:
    """Return the cascade of a file, its first stage to be run in the kernel.

    Raises:
        UsageError, ModelError: as etcpipe.cascade.serving.load(), or the kernel cannot begin it.
    """
    opened = serving.load(path, device)
    file = serving.files(opened.cascade, Path(path).parent)[0]
    return KernelCascade(opened, file.read_bytes())
