"""The first stage of a cascade in the kernel: trees that answer the flows that they are sure of.

The kernel gathers the columns of the stage's model. At the stage's packet its trees judge the flow;
a sure answer is in the verdict map before the next packet, and the row is sent to user space. For
what happens to all other flows see gathered.py (no packets are copied) and beside.py (they are).
"""

from typing import TYPE_CHECKING

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.serving import CascadeModel
from etcpipe.errors import UsageError
from etcpipe.kernel.features_plan import FeaturePlan
from etcpipe.kernel.stage0_trees import Trees
from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.model import Answers, verdicts_of
from etcpipe.verdict import SOURCE_KERNEL, UNKNOWN, VerdictBatch

if TYPE_CHECKING:
    from etcpipe.policy.rules import Decider


class KernelStage:
    """The first stage of a cascade in the form of the kernel's trees, and its answers.

    Attributes:
        columns: of the stage's model.
        depth: packets after which the kernel judges.

    Raises:
        UsageError: the kernel cannot run the stage.
    """

    def __init__(self, cascade: CascadeModel) -> None:
        stage, self._model = cascade.cascade.stages[0], cascade.stage_models[0]
        if stage.rule is None:
            raise UsageError(f"{cascade}: a cascade of one stage leaves no flow to another one")
        if stage.rule.kind == "target":
            raise UsageError("--stage0 kernel takes no rule of a target: the kernel does not adapt")
        if not self._model.view.is_choice:
            raise UsageError(
                f"--stage0 kernel takes trees on columns (views stats, features): the first stage's"
                f" model {self._model.name} sees packets (view {self._model.view.name})"
            )
        self.columns, self.depth = self._model.columns, stage.packets
        self._classes, self._labels = cascade.classes, cascade.labels
        self._models = cascade.models
        self._thresholds = stage.rule.thresholds(cascade.classes)
        self._contents = cascade.first_file

    def tree(self, plan: FeaturePlan, decide: "Decider | None") -> np.ndarray:
        """Return struct tree for the kernel, (1,).

        Args:
            decide: the policy's action for a verdict. It is asked with the least probability
                that is sure, and again with the flow's own when the verdict is reported.

        Raises:
            UsageError: the trees are too large, or use comparisons that the kernel cannot make.
            UnsupportedError: the package onnx is missing.
        """
        trees = Trees(self._contents, self.columns, self.depth, plan)
        label = self._label_of(np.arange(len(self._classes)))
        action = decide(label, self._thresholds) if decide else np.zeros(len(label), np.uint8)
        words = (label + 1) | action.astype(np.int64) << VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"]
        return trees.record(self._model.temperature, self._thresholds, words.tolist())

    def answers(self, entries: np.ndarray) -> Answers:
        """Return the answers on flows that the kernel was sure of.

        Args:
            entries: (flows,) of the plan's dtype.
        """
        return Answers(
            label=self._label_of(entries["class"]),
            probability=(2.0**32 / np.maximum(entries["sum"], 1)).astype(np.float32),
            runner_up=np.full(len(entries), -1, np.int16),
            packets_used=np.full(len(entries), self.depth, np.uint16),
            took_ns=0,
        )

    def verdicts(
        self, flows: FlowBatch, entries: np.ndarray, records: np.ndarray, now_ns: int
    ) -> VerdictBatch:
        """Return the verdicts on flows that the kernel was sure of."""
        answers, source = self.answers(entries), np.full(len(flows), SOURCE_KERNEL, np.uint8)
        said_by = self._labels, self._models, self.depth
        return verdicts_of(flows, records, now_ns, answers, source, *said_by)

    def _label_of(self, classes: np.ndarray) -> np.ndarray:
        label = classes.astype(np.int16)
        if UNKNOWN in self._classes:
            label[label == self._classes.index(UNKNOWN)] = -1
        return label
