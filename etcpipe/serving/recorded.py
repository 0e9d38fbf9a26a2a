"""Labelled flows as recorded: packets, labels, and when each depth was reached."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.cascade.rows import ready_s
from etcpipe.dataset import Input, Recording, read_labelled
from etcpipe.dataset.reading import OnProgress
from etcpipe.errors import UsageError

# The largest number of flows: their packets are kept in memory.
FLOWS_MAX = 20_000


@dataclass(frozen=True)
class Recorded:
    """Flows that can be replayed.

    Attributes:
        flows: closing rows, with the packets of the greatest depth.
        label: (flows,) int, index into the serving classes.
        capture: (flows,) int, the capture of each.
        depths: ascending; the last one is that of the closing rows.
        ready_s: (flows, depths) seconds from a flow's first packet until each was reached.
        packets: (flows,) int, counted packets, at most the greatest depth.
    """

    flows: FlowBatch
    label: np.ndarray
    capture: np.ndarray
    depths: tuple[int, ...]
    ready_s: np.ndarray
    packets: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def at(self, depth: int) -> np.ndarray:
        """Return (flows,) float64, seconds until a depth was reached."""
        return self.ready_s[:, self.depths.index(depth)]

    def rows(self, depth: int) -> FlowBatch:
        """Return (flows,) early rows at a depth."""
        if depth == self.depths[-1]:
            return self.flows
        packets, raw = self.flows.packets.copy(), self.flows.raw
        packets[:, depth:] = 0
        if raw.shape[2]:
            raw = raw.copy()
            raw[:, depth:] = 0
        return replace(self.flows, packets=packets, raw=raw)


def read(
    recordings: Sequence[Recording],
    classes: Sequence[str],
    depths: Sequence[int],
    settings: Input,
    views: Sequence[str],
    mask: str,
    on_progress: OnProgress = lambda done, total: None,
    seed: int = 1,
) -> Recorded:
    """Return flows of labelled captures, a random FLOWS_MAX of them if there are more.

    Args:
        classes: of the models; flows of other classes are left out.
        settings: as of the models; first_n is taken from the depths.

    Raises:
        UsageError: no flow is of one of the classes.
        CaptureError: a capture cannot be read.
    """
    settings = replace(settings, first_n=depths[-1])
    index = {name: i for i, name in enumerate(classes)}
    flows, labels, captures, times = [], [], [], []
    for part in read_labelled(recordings, settings, views, mask, on_progress):
        label = np.array([index.get(name, -1) for name in part.labels], np.int64)
        known = label >= 0
        flows.append(part.flows.select(known))
        labels.append(label[known])
        captures.append(np.full(known.sum(), part.recording))
        times.append(ready_s(flows[-1], depths, part.first_us[known]))
    if not any(map(len, labels)):
        raise UsageError(f"no flow of these captures is of a class of the models: {classes}")
    every = concatenate(flows)
    label, capture, ready = map(np.concatenate, (labels, captures, times))
    if len(label) > FLOWS_MAX:
        chosen = np.random.default_rng(seed).choice(len(label), FLOWS_MAX, replace=False)
        every, label, capture = every.select(chosen), label[chosen], capture[chosen]
        ready = ready[chosen]
    packets = (every.packets["present"] != 0).sum(axis=1)
    return Recorded(every, label, capture, tuple(depths), ready, packets)
