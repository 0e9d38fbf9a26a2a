"""When flows begin, and therefore when each of their rows arrives.

Arrivals form an open loop: flows arrive however far behind the serving side is. A closed loop, in
which the next flow waits for the last answer, would hide every queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.layout import READY_REASONS
from etcpipe.serving.recorded import Recorded

# Bursts: this many times the mean rate, for BURST_S on average; in between the rate is lower, so
# that the mean is kept.
BURST_FACTOR, BURST_S, CALM_S = 2.5, 0.02, 0.06
_DEPTH = READY_REASONS.index("depth")


def poisson(flows: int, rate: float, seed: int) -> np.ndarray:
    """Return (flows,) float64 ascending seconds, independent arrivals of a mean rate."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, flows))


def bursty(flows: int, rate: float, seed: int) -> np.ndarray:
    """Return (flows,) float64 ascending seconds of a Poisson process with a changing rate.

    Two rates alternate, for exponentially distributed times (Markov-modulated Poisson process).
    """
    rng = np.random.default_rng(seed)
    calm = (1 - BURST_FACTOR * BURST_S / (BURST_S + CALM_S)) * (BURST_S + CALM_S) / CALM_S
    # arrivals at unit rate, transformed by the integral of the rate
    wanted = np.cumsum(rng.exponential(1.0, flows))
    turns = int(4 * (flows / rate / (BURST_S + CALM_S) + 10))
    lasts = rng.exponential(np.tile([CALM_S, BURST_S], turns))
    rates = rate * np.tile([calm, BURST_FACTOR], turns)
    at = np.concatenate([[0.0], np.cumsum(lasts)])
    expected = np.concatenate([[0.0], np.cumsum(lasts * rates)])
    return np.interp(wanted, expected, at)


@dataclass(frozen=True)
class Rows:
    """Rows of one kind, in the order in which they arrive.

    Attributes:
        depth: packets at which they came out early; 0 for closing rows.
        at_ns: (rows,) int64 ascending.
        instance: (rows,) int, the flow in the schedule.
        flows: the rows for the models; flow_id is the instance + 1.
    """

    depth: int
    at_ns: np.ndarray
    instance: np.ndarray
    flows: FlowBatch


@dataclass(frozen=True)
class Schedule:
    """The flows of a schedule, and all their rows.

    Attributes:
        base: (instances,) int, the recorded flow of each.
        start_ns: (instances,) int64, when its first packet arrives.
        rows: of each early depth, and the closing ones last.
    """

    base: np.ndarray
    start_ns: np.ndarray
    rows: list[Rows]

    def __len__(self) -> int:
        return len(self.base)

    @cached_property
    def times_ns(self) -> np.ndarray:
        """(events,) int64 ascending, when rows of any kind arrive."""
        return np.sort(np.concatenate([one.at_ns for one in self.rows]))


def schedule(
    recorded: Recorded,
    start_s: np.ndarray,
    depths: Sequence[int] | None = None,
    longest_wait_s: float = np.inf,
    seed: int = 1,
) -> Schedule:
    """Return a schedule of recorded flows, each about equally often.

    Args:
        start_s: (instances,) ascending.
        depths: of the rows, some of the recorded ones; the last one closes a flow.
        longest_wait_s: limit for the time from a flow's first packet to a row. It does not change
            the rate of rows, but the steady state is reached sooner.
    """
    rng = np.random.default_rng(seed)
    depths = recorded.depths if depths is None else depths
    turns = -(-len(start_s) // len(recorded))
    base = np.concatenate([rng.permutation(len(recorded)) for _ in range(turns)])[: len(start_s)]
    start_ns = np.round(start_s * 1e9).astype(np.int64)
    kinds = []
    for depth in depths:
        is_last = depth == depths[-1]
        there = np.flatnonzero(is_last | (recorded.packets[base] >= depth))
        waits_s = np.minimum(recorded.at(depth), longest_wait_s)
        waits_ns = np.round(waits_s * 1e9).astype(np.int64)
        at_ns = start_ns[there] + waits_ns[base[there]]
        order = np.argsort(at_ns, kind="stable")
        there, at_ns = there[order], at_ns[order]
        flows = recorded.rows(depth).select(base[there])
        is_full = recorded.packets[base[there]] >= depth
        flows = replace(
            flows,
            flow_id=(there + 1).astype(np.uint64),
            ready_ns=at_ns.astype(np.uint64),
            reason=np.where(is_full, _DEPTH, flows.reason).astype(np.uint8),
        )
        kinds.append(Rows(0 if is_last else depth, at_ns, there, flows))
    return Schedule(base, start_ns, kinds)
