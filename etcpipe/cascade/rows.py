"""Recorded flows as a cascade sees them: a row at each depth, and when that depth was reached.

A stage at depth n fires when the n-th counted packet arrives, or earlier when the flow ends or is
silent for the waiting time; then it sees the packets that are there. Times are those of the
recording, so a replay waits exactly as long as the live tap would have waited.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.dataset import Dataset, Input, Labelled, Recording, read_labelled, rows_of
from etcpipe.dataset.reading import OnProgress, dataset_of, views_wanted
from etcpipe.errors import UsageError
from etcpipe.model import Model


@dataclass(frozen=True)
class DepthRows:
    """Labelled flows at several depths.

    Attributes:
        datasets: by depth, the same flows in the same order.
        ready_s: (flows, depths) float64, seconds from a flow's first packet (whether it counts
            or not) until each depth was reached; never less at a greater depth.
        packets: (flows,) int, packets that count, at most the greatest depth.
        input: how packets became rows, at the greatest depth.
    """

    datasets: dict[int, Dataset]
    ready_s: np.ndarray
    packets: np.ndarray
    input: Input

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths, in order of ready_s."""
        return tuple(self.datasets)

    @property
    def deepest(self) -> Dataset:
        """The rows at the greatest depth."""
        return self.datasets[self.depths[-1]]

    def __len__(self) -> int:
        return len(self.packets)

    def at(self, depth: int) -> np.ndarray:
        """Return (flows,) float64, when a depth was reached."""
        return self.ready_s[:, self.depths.index(depth)]

    def select(self, chosen: np.ndarray) -> "DepthRows":
        """Return some flows; chosen is (flows,) bool or row numbers."""
        datasets = {depth: one.select(chosen) for depth, one in self.datasets.items()}
        return replace(
            self, datasets=datasets, ready_s=self.ready_s[chosen], packets=self.packets[chosen]
        )


def read_at_depths(
    recordings: Sequence[Recording],
    depths: Sequence[int],
    settings: Input,
    views: Sequence[str] = (),
    mask: str = "strict",
    on_progress: OnProgress = lambda done, total: None,
) -> DepthRows:
    """Return the labelled flows of captures at each of some depths.

    Args:
        settings: how packets become rows; first_n is taken from the depths.
        views: beside stats and seq.

    Raises:
        UsageError: depths are not in ascending order, or no flow has a label.
        CaptureError: a capture cannot be read.
    """
    if not depths or list(depths) != sorted(set(depths)):
        raise UsageError(f"depths {','.join(map(str, depths))}: give ascending numbers of packets")
    settings = replace(settings, first_n=depths[-1])
    wanted = views_wanted(views)
    parts: list[Labelled] = []
    rows: dict[int, dict[str, list[np.ndarray]]] = {d: {v: [] for v in wanted} for d in depths}
    times, counts = [], []
    for part in read_labelled(recordings, settings, wanted, mask, on_progress):
        for depth in depths:
            for view in wanted:
                rows[depth][view].append(rows_of(view, part.flows, depth))
        times.append(ready_s(part.flows, depths, part.first_us))
        counts.append((part.flows.packets["present"] != 0).sum(axis=1))
        parts.append(replace(part, flows=part.flows.select(slice(0, 0))))  # drops the packets
    datasets = {
        depth: dataset_of(parts, recordings, by_view, mask) for depth, by_view in rows.items()
    }
    return DepthRows(datasets, np.concatenate(times), np.concatenate(counts), settings)


def ready_s(flows: FlowBatch, depths: Sequence[int], first_us: np.ndarray) -> np.ndarray:
    """Return (flows, depths) float64, seconds from the first packet until a depth was reached.

    Args:
        first_us: (flows,) when each flow's first packet came, by the packets' clock.
    """
    present = flows.packets["present"] != 0
    closed_ns = flows.ready_ns.astype(np.int64)
    came_ns = np.where(present, flows.packets["timestamp_ns"].astype(np.int64), 0)
    latest_ns = np.maximum.accumulate(came_ns, axis=1)
    count = present.cumsum(axis=1)
    ready = np.empty((len(flows), len(depths)))
    for i, depth in enumerate(depths):
        is_there = count[:, -1] >= depth
        rank = np.where(is_there, (count >= depth).argmax(axis=1), 0)
        at_ns = np.where(is_there, latest_ns[np.arange(len(flows)), rank], closed_ns)
        ready[:, i] = np.maximum(at_ns - first_us * 1000, 0) / 1e9
    return np.maximum.accumulate(ready, axis=1)


def rows_for(model: Model, dataset: Dataset) -> np.ndarray:
    """Return (flows, ...), the input of a model from a dataset."""
    return dataset.columns(model.columns) if model.columns else dataset.rows(model.view.name)
