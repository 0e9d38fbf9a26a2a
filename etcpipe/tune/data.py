"""Labelled flows with their packets, so that a search can choose any depth or waiting time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.dataset import Dataset, Input, Recording, read
from etcpipe.dataset.reading import OnProgress
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.layout import READY_REASONS


@dataclass(frozen=True)
class LabelledFlows:
    """Flows with their packets, and the Dataset of the same flows.

    Attributes:
        dataset: label, capture, classes and so on, one row for each flow; views of all packets.
        flows: the same rows, settings.first_n packets of each at most.
        settings: how packets became rows.
        view: to which the columns belong.
    """

    dataset: Dataset
    flows: FlowBatch
    settings: Input
    view: str = "stats"
    _computed: dict[tuple[int, float], np.ndarray] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.flows)

    def rows(self, columns: Sequence[str], depth: int, wait_s: float | None = None) -> np.ndarray:
        """Return (flows, columns) float32, the input of a model with these columns at a depth.

        Args:
            wait_s: waiting time of the model, at most settings.wait_s, which is the default.
        """
        view = VIEWS[self.view]
        every = view.column_names("none")
        place = depth, self.settings.wait_s if wait_s is None else wait_s
        if place not in self._computed:
            flows = until_silent(self.flows, place[1])
            self._computed[place] = compute(view, flows, depth, every)
        chosen = [every.index(name) for name in columns]
        return np.ascontiguousarray(self._computed[place][:, chosen])

    def packets(self) -> np.ndarray:
        """Return (flows,) int, the number of counted packets."""
        return (self.flows.packets["present"] != 0).sum(axis=1)

    def without(self, classes: Sequence[str]) -> "LabelledFlows":
        """Return the flows of all other classes."""
        dataset = self.dataset
        kept = np.array([name not in classes for name in dataset.classes])
        rest = self.select(kept[dataset.label])
        names = tuple(name for name in dataset.classes if name not in classes)
        label = (np.cumsum(kept) - 1)[rest.dataset.label].astype(dataset.label.dtype)
        return replace(rest, dataset=replace(rest.dataset, classes=names, label=label))

    def select(self, chosen: np.ndarray) -> "LabelledFlows":
        """Return some flows.

        Args:
            chosen: (flows,) bool, or row numbers.
        """
        return LabelledFlows(
            self.dataset.select(chosen), self.flows.select(chosen), self.settings, self.view
        )


def read_flows(
    recordings: Sequence[Recording],
    settings: Input,
    on_progress: OnProgress = lambda done, total: None,
    view: str = "stats",
) -> LabelledFlows:
    """Return the labelled flows of captures with their packets.

    Raises:
        CaptureError: a capture cannot be read.
        UsageError: no flow has a label.
    """
    kept: list[FlowBatch] = []

    def keep(flows: FlowBatch) -> FlowBatch:
        kept.append(flows)
        return flows

    dataset = read(recordings, settings, on_progress, change=keep)
    return LabelledFlows(dataset, concatenate(kept), settings, view)


def until_silent(flows: FlowBatch, wait_s: float) -> FlowBatch:
    """Return flows as regrouping with a waiting time makes them: cut at the first longer gap.

    Args:
        flows: regrouped with at least that waiting time; flows that are cut become idle.
    """
    packets = flows.packets
    present = packets["present"] != 0
    times = np.where(present, packets["timestamp_ns"].astype(np.int64), 0)
    before = np.maximum.accumulate(times, axis=1)[:, :-1]
    is_late = present[:, 1:] & (before > 0) & (times[:, 1:] - before > round(wait_s * 1e9))
    is_cut = is_late.any(axis=1)
    if not is_cut.any():
        return flows
    kept = packets.copy()
    kept[:, 1:][np.logical_or.accumulate(is_late, axis=1)] = np.zeros((), packets.dtype)
    idle = READY_REASONS.index("idle")
    return replace(flows, packets=kept, reason=np.where(is_cut, idle, flows.reason).astype("u1"))
