"""A cascade of two stages on columns: the kernel runs the first stage and copies no packets.

The kernel gathers the columns of both models. If its trees are sure of a flow, it sends the row
with the answer. For unsure flows it continues until the packets of the last stage are there, and
user space judges the row. A flow that ends before the first stage's packet passes through both
stages in user space.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.serving import CascadeModel
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.errors import UsageError
from etcpipe.kernel.features_plan import CONSTANTS
from etcpipe.kernel.features_rows import Gathered
from etcpipe.kernel.features_source import FeatureQueue, FeatureScorer, features_of
from etcpipe.model import Answers, Model, sources, verdicts_on
from etcpipe.verdict import SOURCE_KERNEL, VerdictBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etcpipe.gpu.inference import Runner
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.gpu.views import View

_SURE = CONSTANTS["FEATURES_SURE"]


def is_gatherable(cascade: CascadeModel) -> bool:
    """Can the kernel gather all columns of a cascade?"""
    models = cascade.stage_models
    return len(models) == 2 and all(model.view.is_choice for model in models)


class KernelCascade:
    """Takes the place of a model for Live and the pipeline.

    Args:
        cascade: for which is_gatherable() is true.
        stage: its first stage.

    Attributes:
        columns: of both models, each once.

    Raises:
        UsageError: the kernel cannot gather its columns.
    """

    def __init__(self, cascade: CascadeModel, stage: KernelStage):
        if len(cascade.stage_models) != 2:
            raise UsageError(
                "--capture features takes a cascade of two stages, not "
                f"{len(cascade.stage_models)}: leave the capture out"
            )
        self.stage_models = self.first, self.last = cascade.stage_models
        self.columns = tuple(dict.fromkeys((*features_of(self.first), *features_of(self.last))))
        self.first_n = cascade.first_n
        self.classes, self.labels = cascade.classes, cascade.labels
        self.mask, self.count = cascade.mask, cascade.count
        self.wait_s, self.raw_len = cascade.wait_s, 0
        self.name, self.digest, self.engine = cascade.name, cascade.digest, cascade.engine
        self.device, self.models, self.depths = "cpu", cascade.models, cascade.depths
        self._stage = stage
        self._sure = cascade.servings()[0].decider()
        self._scorers: list[Any] = []
        self._queue = FeatureQueue()

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"

    def close(self) -> None:
        """Nothing to close."""

    def scorer(self, regroup: Any) -> None:
        """Begin to judge the rows of FeatureRows."""
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
        found.put(sure, 0, self._stage.answers(entries[sure]))
        ended = ~sure & (flows.packets["present"].sum(axis=1) < self._stage.depth)
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

    def _ask(self, stage: int, gathered: Gathered, chosen: np.ndarray) -> Answers:
        """Return the answers of the model of a stage on some rows."""
        some = Gathered(gathered.entries[chosen], gathered.plan)
        scorer = self._scorers[stage]
        scorer.put(some)
        return (self.first, self.last)[stage].answers(some.flows, scorer)


_NONE = 0xFF


class _Found:
    """Collects the answers of several stages."""

    def __init__(self, flows: int) -> None:
        self.stage = np.full(flows, _NONE, np.uint8)
        self.label = np.zeros(flows, np.int16)
        self.probability = np.zeros(flows, np.float32)
        self.runner_up = np.zeros(flows, np.int16)
        self.packets_used = np.zeros(flows, np.uint16)
        self.infer_ns = np.zeros(flows, np.uint64)

    def put(self, chosen: np.ndarray, stage: int, answers: Answers) -> None:
        """Take the answers of a stage on the chosen rows, instead of earlier ones."""
        self.stage[chosen] = stage
        for name in ("label", "probability", "runner_up", "packets_used"):
            getattr(self, name)[chosen] = getattr(answers, name)
        self.infer_ns[chosen] += np.uint64(answers.took_ns // max(int(chosen.sum()), 1))


class _Rows:
    """Stands in for regrouping when a model is asked for a scorer."""

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: "Sequence[str]"
    ) -> FeatureScorer:
        """Return one of rows that are put into it."""
        return FeatureScorer(runner, tuple(columns))


def _scorer(model: Model) -> Any:
    rows: Any = _Rows()
    return model.scorer(rows)
