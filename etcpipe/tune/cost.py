"""The cost of serving a point of the search: measured, not modelled.

The processor time of a flow has three parts: regrouping its packets, computing its columns, and
running the model. Each is timed as it runs in the pipeline, on recorded flows, interleaved with a
reference (see timing). Latency is the wait for the flow's packets, by their recorded gaps, plus the
grace of a silent flow (gpu.regroup.GRACE_NS), plus extraction and inference for one flow alone.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.errors import UsageError
from etcpipe.gpu.inference import ROWS_AT_ONCE
from etcpipe.gpu.regroup import GRACE_NS, ROWS_MAX, SLOTS, Regroup
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.layout import READY_REASONS
from etcpipe.tune import zero_loss
from etcpipe.tune.cache import Cache
from etcpipe.tune.data import until_silent
from etcpipe.tune.instructions import instructions_of
from etcpipe.tune.profile import traffic_of
from etcpipe.tune.timing import Stopwatch, Timing
from etcpipe.tune.zero_loss import Throughput

FLOWS = 1024  # flows whose columns the pipeline computes at once
THROUGHPUT_FLOWS = 16_384  # flows of which the traffic for measuring throughput is made
PENDING_MAX = 1 << 23
OFFERED = 1.5  # offered rate, as a multiple of what the timed pieces of work alone would allow
_REFERENCE = "reference"  # key in the cache
RATE = 10_000  # new flows a second in the traffic for timing regrouping


class Inference(Protocol):
    """A Runner or a Model."""

    def infer(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Cost:
    """The cost of one flow.

    Attributes:
        cpu_ns: processor time in all, the sum of the medians of its three parts.
        cpu_ns_p20, cpu_ns_mad: of the same; mad is the noise.
        regroup_ns, extract_ns, infer_ns: the parts.
        alone_ns: extraction and inference of a flow that is alone in its batch.
        wait_s, wait_s_p95: from a flow's first packet to the one that completes its row, or to
            the end of the waiting time; mean and 95th percentile.
        latency_s: mean time from a flow's first packet to its verdict: wait_s, the grace of
            silent flows, and alone_ns.
        reference_ns: nominal time of the reference, to compare machines.
        samples: number of samples behind the medians.
        is_disturbed: the machine was too busy for reliable figures.
        flows_per_s: zero-loss throughput of one core; None: not measured.
        instructions: of extraction and inference of a flow; None if they cannot be counted.
    """

    cpu_ns: float
    cpu_ns_p20: float
    cpu_ns_mad: float
    regroup_ns: float
    extract_ns: float
    infer_ns: float
    alone_ns: float
    wait_s: float
    wait_s_p95: float
    latency_s: float
    reference_ns: float
    samples: int
    is_disturbed: bool = False
    flows_per_s: float | None = None
    instructions: float | None = None


class Profiler:
    """Measures points on the flows of one dataset.

    Args:
        flows: with at least as many packets each as the deepest point; FLOWS of them, drawn
            by seed, are timed, all of them tell how long a flow waits.
        view: whose columns a point has.
        wait_s: what the flows were regrouped with; a point may wait less long.
        cache: measured points, to be measured no more; None keeps none.

    Raises:
        UsageError: no flow has a packet.
    """

    def __init__(
        self,
        flows: FlowBatch,
        view: str = "stats",
        wait_s: float = 1.0,
        cache: Cache | None = None,
        seed: int = 0,
    ) -> None:
        has_packets = (flows.packets["present"] != 0).any(axis=1)
        if not has_packets.any():
            raise UsageError("no flow has a packet: there is nothing to measure on")
        self._every = flows.select(has_packets)
        self._drawn = np.sort(np.random.default_rng(seed).choice(len(self._every), FLOWS))
        self._view = VIEWS[view]
        self._wait_s = wait_s
        self._cache = cache
        self._stopwatch = _stopwatch(cache)
        self._regroup: dict[tuple[int, float], Timing] = {}

    def measure(
        self,
        columns: Sequence[str],
        depth: int,
        model: Inference,
        key: str = "",
        wait_s: float | None = None,
    ) -> Cost:
        """Return the cost of a point.

        Args:
            columns: in the model's order.
            depth: packets of a flow, 1 to as many as the flows were read with.
            key: names the model in the cache; without one nothing is kept.
            wait_s: of the point; the profiler's by default.

        Raises:
            UsageError: no column, one that the view lacks, or a depth out of range.
        """
        self._check(columns, depth)
        wait_s = self._wait_s if wait_s is None else wait_s
        name = f"{self._view.name} {' '.join(sorted(columns))} {depth} {wait_s} {key}"
        known = self._cache.get(name) if self._cache is not None and key else None
        if known:
            return Cost(**known)
        cost = self._measure(tuple(columns), depth, model, wait_s)
        if self._cache is not None and key and not cost.is_disturbed:
            self._cache.put(name, asdict(cost))
        return cost

    def throughput(
        self,
        columns: Sequence[str],
        depth: int,
        model: Inference,
        seconds: float = 1.0,
        wait_s: float | None = None,
    ) -> Throughput:
        """Return how many flows a second one core handles without loss; takes about ten seconds.

        Args:
            columns, depth, model, wait_s: as of measure().
            seconds: of traffic that must go by without loss.

        Raises:
            UsageError: as of measure().
        """
        self._check(columns, depth)
        wait_s = self._wait_s if wait_s is None else wait_s
        rate = OFFERED * 1e9 / self.measure(columns, depth, model, wait_s=wait_s).cpu_ns
        drawn = np.random.default_rng(0).choice(len(self._every), THROUGHPUT_FLOWS)
        traffic = traffic_of(self._every.select(np.sort(drawn)), depth, rate)
        rows = partial(compute, self._view, depth=depth, columns=tuple(columns))

        def judge(flows: FlowBatch) -> None:
            for start in range(0, len(flows), FLOWS):
                table = rows(flows.select(slice(start, start + FLOWS)))
                for first in range(0, len(table), ROWS_AT_ONCE):
                    model.infer(table[first : first + ROWS_AT_ONCE])

        pending = 2 ** math.ceil(math.log2(2 * rate * (wait_s + 1)))
        pending = min(pending, PENDING_MAX)
        room = {"slots": max(pending, SLOTS), "max_rows": max(pending, ROWS_MAX)}
        make_regroup = partial(Regroup, depth, wait_s=wait_s, **room)
        return zero_loss.search(traffic, make_regroup, judge, seconds)

    def wait_s(self, depth: int, wait_s: float | None = None) -> np.ndarray:
        """Return (flows,) float64, how long each flow waits for its row, by recorded gaps.

        A flow that ends earlier waits until its end.
        """
        return self._waits(depth, self._wait_s if wait_s is None else wait_s)[0]

    def until_row_s(self, depth: int, wait_s: float | None = None) -> float:
        """Return the mean time from a flow's first packet until its row comes out.

        That is wait_s(), plus GRACE_NS for silent flows.
        """
        waits, is_idle = self._waits(depth, self._wait_s if wait_s is None else wait_s)
        return float(waits.mean()) + float(is_idle.mean()) * GRACE_NS / 1e9

    def _waits(self, depth: int, wait_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return how long each flow waits, and (flows,) bool, whether it fell silent."""
        flows = until_silent(self._every, wait_s)
        present = flows.packets["present"] != 0
        taken = present & (np.cumsum(present, axis=1) <= depth)
        times = flows.packets["timestamp_ns"].astype(np.int64)
        flow = np.arange(len(times))
        last = taken.shape[1] - 1 - taken[:, ::-1].argmax(axis=1)
        waited = np.maximum(times[flow, last] - times[flow, taken.argmax(axis=1)], 0) / 1e9
        has_ended = flows.reason == READY_REASONS.index("end")
        is_idle = (taken.sum(axis=1) < depth) & ~has_ended
        return waited + np.where(is_idle, wait_s, 0), is_idle

    def _check(self, columns: Sequence[str], depth: int) -> None:
        if not columns:
            raise UsageError("no feature is left: a point needs one at least")
        try:
            self._view.chosen(columns)
        except ValueError as error:
            raise UsageError(str(error)) from error
        most = self._every.packets.shape[1]
        if not 1 <= depth <= most:
            raise UsageError(f"depth {depth}: the flows were read with 1 to {most} packets")

    def _measure(
        self, columns: tuple[str, ...], depth: int, model: Inference, wait_s: float
    ) -> Cost:
        flows = _cut(until_silent(self._every.select(self._drawn), wait_s), depth)
        alone = flows.select(slice(1))
        rows = partial(compute, self._view, depth=depth, columns=columns)
        few = flows.select(slice(ROWS_AT_ONCE))
        some = rows(few)
        times = self._stopwatch.time(
            {
                "extract": lambda: rows(flows),
                "infer": lambda: model.infer(some),
                "alone": lambda: model.infer(rows(alone)),
            }
        )
        parts = [
            self._time_of_regroup(depth, wait_s),
            _a_flow(times["extract"], FLOWS),
            _a_flow(times["infer"], ROWS_AT_ONCE),
        ]
        waits = self.wait_s(depth, wait_s)
        return Cost(
            cpu_ns=sum(part.median for part in parts),
            cpu_ns_p20=sum(part.p20 for part in parts),
            cpu_ns_mad=math.hypot(*(part.mad for part in parts)),
            regroup_ns=parts[0].median,
            extract_ns=parts[1].median,
            infer_ns=parts[2].median,
            alone_ns=times["alone"].median,
            wait_s=float(waits.mean()),
            wait_s_p95=float(np.percentile(waits, 95)),
            latency_s=self.until_row_s(depth, wait_s) + times["alone"].median / 1e9,
            reference_ns=self._stopwatch.nominal_ns,
            samples=min(part.samples for part in parts),
            is_disturbed=any(part.is_disturbed for part in [*parts, times["alone"]]),
            instructions=instructions_of(lambda: model.infer(rows(few)), len(few)),
        )

    def _time_of_regroup(self, depth: int, wait_s: float) -> Timing:
        """Return the time for regrouping a flow, measured once for each depth and wait.

        The traffic includes the packets after the wait, which are looked at and ignored.
        """
        known = self._regroup.get((depth, wait_s))
        if known is None or known.is_disturbed:
            traffic = traffic_of(self._every.select(self._drawn), depth, RATE)
            regroup = Regroup(depth, wait_s=wait_s)

            def run() -> None:
                for batch in traffic.batches():
                    regroup.add(batch)
                traffic.come_again()

            for _ in range(traffic.generations):
                run()
            timing = self._stopwatch.time({"regroup": run})["regroup"]
            known = self._regroup[depth, wait_s] = _a_flow(timing, FLOWS)
        return known


def _stopwatch(cache: Cache | None) -> Stopwatch:
    """Return a stopwatch with the same reference as for earlier points."""
    known = cache.get(_REFERENCE) if cache is not None else None
    stopwatch = Stopwatch(known["ns"] if known else None)
    if cache is not None and not known:
        cache.put(_REFERENCE, {"ns": stopwatch.nominal_ns})
    return stopwatch


def _a_flow(timing: Timing, flows: int) -> Timing:
    """Return the time for one flow of a piece of work on several."""
    return replace(
        timing, median=timing.median / flows, p20=timing.p20 / flows, mad=timing.mad / flows
    )


def _cut(flows: FlowBatch, depth: int) -> FlowBatch:
    """Return flows as regrouping to that depth makes them, without room for more packets."""
    values = vars(flows) | {
        "packets": np.ascontiguousarray(flows.packets[:, :depth]),
        "raw": flows.raw[:, :depth, :0],
    }
    return FlowBatch(**values)
