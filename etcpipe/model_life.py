"""A model in service, which another one can replace, and beside which a shadow can run.

Both happen between two batches of packets. The tap, its flow table and the rows that are
being filled stay as they are, so no packet is lost and each flow is answered once, by the model
that was active when its row was complete. If the new model needs other rows, flows that had begun
are answered by the old model (etcpipe/cascade/lanes.py). For cascades see etcpipe/cascade/life.py.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from etcpipe import pipeline
from etcpipe.batch import FlowBatch, FlowRecords
from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.model import Model
from etcpipe.pipeline import Clock
from etcpipe.shadow import Shadow
from etcpipe.verdict import VerdictBatch

if TYPE_CHECKING:
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.kernel.settings import TapSettings
    from etcpipe.model_choice import AnyModel


ANEW = "attach anew with its file as --model or --cascade"

AModel = TypeVar("AModel", bound="AnyModel")


class InService(Generic[AModel]):
    """The model that answers, and the one before.

    Attributes:
        active: the model that answers.
        previous: the model before; None until one was replaced.
    """

    def __init__(self, active: AModel) -> None:
        self.active = active
        self.previous: AModel | None = None

    def replace(self, model: AModel) -> None:
        """Let a model answer from the next batch on; it must pass check_fits()."""
        self.active, self.previous = model, self.active

    def roll_back(self) -> AModel:
        """Let the model before answer again, and return it.

        Raises:
            UsageError: there is none.
        """
        if self.previous is None:
            raise UsageError("no other model was loaded since the start")
        self.replace(self.previous)
        return self.active


class ModelInService(InService[Model]):
    """The model for pipeline.run(), whose thread must call all methods.

    Attributes:
        shadow: judges the same flows; its answers appear only in its report.
    """

    def __init__(self, active: Model) -> None:
        super().__init__(active)
        self.shadow: Shadow | None = None
        self._regroup: Regroup | None = None
        self._scorer: Scorer | None = None
        self._others: list[VerdictBatch] = []

    def scorer(self, regroup: Regroup) -> None:
        """Begin to judge the rows of a regrouping; see Model.scorer()."""
        self._regroup = regroup
        # a shadow needs rows on the host, which a scorer on the GPU does not provide
        self._scorer = self.active.scorer(regroup) if self.shadow is None else None

    def verdicts(
        self,
        flows: FlowBatch,
        records: np.ndarray,
        start_ns: int | None = None,
        scorer: "Scorer | None" = None,
    ) -> VerdictBatch:
        """See Model.verdicts(); the scorer is its own."""
        verdicts = self.active.verdicts(flows, records, start_ns, self._scorer)
        if self.shadow:
            self.shadow.ask(verdicts)
        return verdicts

    def keep_judging(self, records: FlowRecords, now_ns: Clock) -> Callable[[FlowBatch], None]:
        """Return a function that judges rows by the present model even after a change."""
        model = self.active

        def take(flows: FlowBatch) -> None:
            self._others += pipeline.judge(flows, model, records, now_ns)

        return take

    def others(self) -> list[VerdictBatch]:
        """Return the verdicts of replaced models since the last call."""
        found, self._others = self._others, []
        return found

    def replace(self, model: Model) -> None:
        """See InService.replace()."""
        super().replace(model)
        if self._regroup is not None:
            self.scorer(self._regroup)

    def set_shadow(self, model: Model) -> None:
        """Run a shadow from the next batch on; it must pass check_rows_fit().

        Raises:
            UsageError: flows are judged on the GPU, and their packets do not leave it.
        """
        if self._scorer:
            raise UsageError("flows are judged on the GPU: attach with --device cpu for a shadow")
        self.close()
        self.shadow = Shadow(model)

    def close(self) -> None:
        """End the shadow."""
        if self.shadow:
            self.shadow.close()


def check_fits(
    model: "AnyModel", active: "AnyModel", settings: "TapSettings", raw_len: int | None
) -> None:
    """Check that a model or cascade can take over from another while rows are being filled.

    Args:
        raw_len: bytes of each packet in the rows; None: other rows can be made.

    Raises:
        UsageError: it cannot without a restart.
    """
    if model.classes != active.classes:
        raise UsageError(
            f"model {model} has other classes than {active}: verdicts in the kernel and in "
            f"outputs are numbered by them, {ANEW}"
        )
    if settings.capture == "features" and _gathered(model) != _gathered(active):
        raise UsageError(f"model {model} has other columns than the kernel gathers: {ANEW}")
    check_rows_fit(model, active, settings.first_n, raw_len, settings.count)


def _gathered(model: "AnyModel") -> tuple[Any, ...]:
    """Return the columns that the kernel gathers for a model; a cascade gets packets instead."""
    return (model.view, model.columns, model.first_n) if isinstance(model, Model) else ()


def check_rows_fit(
    model: "AnyModel", active: "AnyModel", first_n: int, raw_len: int | None, count: str
) -> None:
    """Check that a model or cascade can use the rows that are made for another one.

    Raises:
        UsageError: it cannot; the message says why.
    """
    wanted: dict[str, tuple[Any, Any]] = {"packets that count": (model.count, count)}
    if raw_len is not None:
        wanted["mask"] = model.mask, active.mask
    for what, (needed, there) in wanted.items():
        if needed != there:
            raise UsageError(
                f"model {model} needs {what} {needed!r}, attached is {there!r}: {ANEW}"
            )
    if model.first_n > first_n:
        raise UsageError(
            f"model {model} needs {model.first_n} packets of a flow, attached with {first_n}: "
            f"attach anew with --first {model.first_n}"
        )
    if raw_len is not None and model.raw_len > raw_len:
        raise UsageError(
            f"model {model} needs {model.raw_len} bytes of a packet, rows have {raw_len}: {ANEW}"
        )
