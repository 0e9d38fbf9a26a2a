"""The model or cascade that answers the flows of a tap, and its replacement."""

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np

from etcpipe import model as models
from etcpipe import pipeline
from etcpipe.batch import FlowBatch
from etcpipe.cascade import serving
from etcpipe.cascade.beside import BesideKernel, SureRows
from etcpipe.cascade.gathered import KernelCascade
from etcpipe.cascade.lanes import Lanes, Take
from etcpipe.cascade.life import CascadeInService
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import CascadeModel
from etcpipe.cascade.shadowed import ShadowedStages
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.cascade.stages import SUFFIX as CASCADE_SUFFIX
from etcpipe.cascade.workers import Threads
from etcpipe.errors import UsageError
from etcpipe.kernel.settings import TapSettings
from etcpipe.model import Model
from etcpipe.model_choice import AnyModel
from etcpipe.model_life import ModelInService, check_fits, check_rows_fit
from etcpipe.shadow import Shadow
from etcpipe.verdict import VerdictBatch

NO_SHADOW = "no shadow beside --stage0 kernel: the kernel ends flows by itself, attach without it"


class Answering:
    """A model, a cascade, or trees in the kernel with a model for the other flows.

    All methods but load() are for the thread that takes verdicts, between two batches.

    Args:
        model: the first one to answer.
        settings: of the tap; they do not change.
        raw_len: bytes of each packet in the rows.
        device: for models that are loaded later, as of etcpipe.model.load().
        stage0: the first stage of a cascade, if the kernel runs it.

    Attributes:
        stage0: that of the present cascade.
    """

    def __init__(
        self,
        model: AnyModel | KernelCascade,
        settings: TapSettings,
        raw_len: int,
        device: str,
        stage0: KernelStage | None = None,
    ):
        self.stage0 = stage0
        self._sure_rows: SureRows | None = None
        self._lanes: Lanes | None = None
        self._source: pipeline.Source | None = None
        self._hear: Callable[[], object] = lambda: None
        self._settings, self._raw_len, self._device = settings, raw_len, device
        self._serving: CascadeInService | ModelInService | KernelCascade
        if isinstance(model, CascadeModel):
            model.warm_up()
            self._serving = CascadeInService(model, _runtime_of)
            self._stages = ShadowedStages(self._serving)
        elif isinstance(model, KernelCascade):
            self._serving = model
        else:
            self._serving = ModelInService(model)

    def hear(self, rows: SureRows) -> None:
        """Take the flows that the kernel was sure of, too."""
        self._sure_rows = rows

    def verdicts(self, source: pipeline.Source, regroup: Any) -> Iterator[VerdictBatch]:
        """Yield verdicts on the packets of a source until it ends."""
        self._source, self._lanes = source, regroup if isinstance(regroup, Lanes) else None
        if isinstance(self._serving, CascadeInService):
            stages: pipeline.Stages = self._stages
            if self._sure_rows:
                stages = beside = BesideKernel(self._serving, self._sure_rows, self._stage0_now)
                self._hear = beside.hear
            return pipeline.serve(source, regroup, stages, eager=False, now_ns=monotonic_ns)
        others = self._serving.others if isinstance(self._serving, ModelInService) else list
        return pipeline.run(source, regroup, self._serving, now_ns=monotonic_ns, others=others)

    def load(self, file: str | PathLike[str]) -> AnyModel:
        """Load a model or cascade for replace(); may be called from any thread.

        Raises:
            UsageError: a cascade cannot replace a single model.
            ModelError: as etcpipe.model.load().
        """
        if isinstance(self._serving, CascadeInService):
            model = serving.load_stages(file, self._device)
            model.warm_up()
            return model
        if Path(file).suffix == CASCADE_SUFFIX:
            raise UsageError(f"one model answers: attach anew with --cascade {file}")
        return models.load(file, device=self._device)

    def check(self, model: AnyModel) -> None:
        """Check that a model can take the place of the one that answers.

        Raises:
            UsageError: it does not fit what was attached, or does not come from load().
        """
        raw_len = None if self._lanes and not self._shadow else self._raw_len
        check_fits(model, self._replaceable().active, self._settings, raw_len)
        if isinstance(self._serving, CascadeInService) != isinstance(model, CascadeModel):
            raise UsageError(f"{model}: a cascade takes a cascade's place, a model a model's")
        if self.stage0 and isinstance(model, CascadeModel):
            _check_stage0(KernelStage(model), self._settings, model)

    def replace(self, model: Any) -> None:
        """Let a model that passed check() answer from now on."""
        self._make_rows_for(model)
        self._replaceable().replace(model)
        self._follow(model)

    @property
    def previous(self) -> AnyModel | None:
        """The model or cascade before replace()."""
        return self._replaceable().previous

    def roll_back(self) -> AnyModel:
        """Let the one before answer again, and return it.

        Raises:
            UsageError: there is none, or a later shadow needs other rows.
        """
        serving = self._replaceable()
        if serving.previous:
            self.check(serving.previous)
            self._make_rows_for(serving.previous)
        model = serving.roll_back()
        self._follow(model)
        return model

    def _make_rows_for(self, model: AnyModel) -> None:
        """Make rows for a model or cascade, of flows that begin from now on."""
        serving, lanes = self._serving, self._lanes
        if lanes is None or lanes.serves(model):
            return
        if isinstance(serving, CascadeInService):
            lanes.change(model, self._taken_by_stages(serving, lanes))
        elif isinstance(serving, ModelInService) and self._source:
            judge = serving.keep_judging(self._source, monotonic_ns)
            lanes.change(model, lambda flows, depth: judge(flows))

    def _taken_by_stages(self, serving: CascadeInService, lanes: Lanes) -> Take:
        """Return a function that passes rows to the present stages even after a change."""
        add = serving.keep_taking(lambda: lanes.has_older)

        def take(flows: FlowBatch, depth: np.ndarray | None) -> None:
            self._hear()  # flows that the kernel answered must not be judged
            if depth is None:
                self._stages.complete(flows)
            add(flows, monotonic_ns(), depth)

        return take

    def _follow(self, model: AnyModel) -> None:
        """Let the kernel run the first stage of the present cascade."""
        if self.stage0 and isinstance(model, CascadeModel):
            self.stage0 = KernelStage(model)

    def _stage0_now(self) -> KernelStage:
        assert self.stage0
        return self.stage0

    def set_shadow(self, model: Model) -> None:
        """Run a further model as a shadow; its answers appear only in shadow_report().

        Raises:
            UsageError: it does not fit what was attached; its classes may be others.
        """
        if self.stage0 or isinstance(self._serving, KernelCascade):
            raise UsageError(NO_SHADOW)
        if self._settings.capture == "features":
            raise UsageError("a shadow sees packets: take another --capture than features")
        check_rows_fit(
            model,
            self._serving.active,
            self._settings.first_n,
            self._raw_len,
            self._settings.count,
        )
        if self._lanes and self._lanes.masks != {model.mask}:
            raise UsageError(
                f"flows that began under another mask than {model.mask!r} are open still: "
                "set the shadow again when they are answered"
            )
        if isinstance(self._serving, CascadeInService):
            self._stages.set_shadow(model)
        else:
            self._serving.set_shadow(model)

    @property
    def _shadow(self) -> Shadow | None:
        if isinstance(self._serving, CascadeInService):
            return self._stages.shadow
        return self._serving.shadow if isinstance(self._serving, ModelInService) else None

    def need_packets(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, the answered flows of which a shadow needs more packets."""
        if isinstance(self._serving, CascadeInService) and self._shadow:
            return self._stages.need_packets(flow_id)
        return np.zeros(len(flow_id), bool)

    def shadow_report(self) -> dict[str, Any] | None:
        """Return how the shadow's answers compare, see Shadow.report(); None without one."""
        return self._shadow.report() if self._shadow else None

    @property
    def counters(self) -> dict[str, int]:
        """Flows of a cascade by outcome (CASCADE_*); empty for a model."""
        return self._serving.counters if isinstance(self._serving, CascadeInService) else {}

    def close(self) -> None:
        """End its threads."""
        self._serving.close()
        if isinstance(self._serving, CascadeInService):
            self._stages.close()

    def _replaceable(self) -> CascadeInService | ModelInService:
        if isinstance(self._serving, KernelCascade):
            raise UsageError("the kernel judges flows: its models change with a new attach")
        return self._serving


def _check_stage0(stage: KernelStage, settings: TapSettings, model: CascadeModel) -> None:
    """Check that the kernel gathers the columns of a stage."""
    others = sorted(set(stage.columns) - set(settings.features))
    if others or stage.depth != settings.tree_depth:
        raise UsageError(
            f"{model}: its first stage sees {', '.join(others) or 'the same columns'} after"
            f" {stage.depth} packets, the kernel judges after {settings.tree_depth}:"
            " attach anew with --cascade and --stage0 kernel"
        )
    stage.tree(settings.feature_plan, None)  # raises UsageError if the trees are too large


def _runtime_of(cascade: CascadeModel) -> Runtime:
    """Return a runtime that never waits for a network: each stage may use a thread."""
    workers = Threads(len(cascade.depths), inline=cascade.quick)
    return Runtime(cascade.servings(), workers, early=cascade.cascade.early)
