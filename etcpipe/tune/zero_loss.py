"""Zero-loss throughput: the highest rate of new flows that one core judges without any loss.

Traffic is offered at a higher rate than the core can handle, and a share of it is kept, by buckets
of a hash of the flow. Bisection finds the largest share without loss. Packets wait in a ring like
that of AF_XDP and are lost if it is full. There is no wire: packets arrive by a clock, which is the
processor time of the code that handles them, so that other processes on the machine do not matter.
The result stands for a dedicated core, without kernel and driver.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.gpu.regroup import GRACE_NS, Regroup
from etcpipe.layout import CONSTANTS
from etcpipe.tune.profile import Traffic, part_of

BUCKETS = 512
RING = 8192  # descriptors that can wait, as in a live ring
COALESCED_NS = 1_000_000  # after so long packets are handed over, however few
RAMP_MAX_NS = 3_000_000_000  # where flows are waited for longer, memory still grows
# Counters of regrouping: flows that were cut short, and packets that could not be used.
LOSSES = ("REGROUP_EVICTED", "REGROUP_POOL_FULL", "REGROUP_UNPARSED")

Judge = Callable[[FlowBatch], object]


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial with the traffic of some buckets.

    Attributes:
        buckets: number of buckets that were kept, of BUCKETS.
        lost: counters of losses that are not 0, by name; a trial ends with the first loss.
        flows: number of judged rows.
        packets: number of handled packets.
        busy: share of the time in which the processor worked.
        capacity: rows per second of processor time; a ring hides more than that only briefly.
    """

    buckets: int
    lost: dict[str, int]
    flows: int
    packets: int
    busy: float
    capacity: float


@dataclass(frozen=True)
class Throughput:
    """The highest rates without loss.

    Attributes:
        flows_per_s: new flows.
        packets_per_s: packets among the first N of these flows.
        buckets: kept, of BUCKETS.
        trials: in the order in which they were made.
    """

    flows_per_s: float
    packets_per_s: float
    buckets: int
    trials: tuple[Trial, ...]


def search(
    traffic: Traffic,
    make_regroup: Callable[[], Regroup],
    judge: Judge,
    seconds: float = 1.0,
    ring: int = RING,
) -> Throughput:
    """Return what one core handles without loss; 0 if a single bucket is too much.

    Args:
        traffic: offered at more than a core can handle; it is repeated.
        seconds: of traffic that must pass without loss.
        judge: called with complete rows whenever there are any.
    """
    bucket = _buckets(traffic)
    trials = []
    low, high = 0, BUCKETS + 1  # the largest share without loss, the smallest with loss
    capacity = math.inf
    while high - low > 1:
        kept = (low + high) // 2
        trial = _trial(_part(traffic, bucket < kept), make_regroup(), judge, seconds, ring)
        trials.append(replace(trial, buckets=kept))
        if trial.lost:
            high = kept
        else:
            low, capacity = kept, trial.capacity
    per_s = 1e9 / traffic.lasts_ns
    offered = int((traffic.batch.rank[bucket < low] == 0).sum()) * per_s
    sustained = min(1, capacity / offered) if offered else 0
    return Throughput(
        flows_per_s=offered * sustained,
        packets_per_s=int((bucket < low).sum()) * per_s * sustained,
        buckets=low,
        trials=tuple(trials),
    )


def _trial(traffic: Traffic, regroup: Regroup, judge: Judge, seconds: float, ring: int) -> Trial:
    """Feed the traffic for a time by its clock, or until something is lost.

    Before that, a ramp without processor time lasts until rows end as fast as they begin. Flows
    that began before the ramp have no packets.
    """
    core = _Core(regroup, judge, ring)
    ramp_ns = min(regroup.settings.wait_ns + GRACE_NS, RAMP_MAX_NS)
    ramp, measured = (math.ceil(ns / traffic.lasts_ns) for ns in (ramp_ns, seconds * 1e9))
    for number in range(ramp + measured):
        part = traffic
        if number < traffic.generations:
            part = _part(traffic, traffic.batch.flow_id >= np.uint64(traffic.first_id))
        core.feed(part.batch, is_ramp=number < ramp)
        if core.lost:
            break
        traffic.come_again()
    return Trial(0, core.lost, core.flows, core.packets, core.busy, core.capacity)


class _Core:
    """The simulated core and its clock.

    Attributes:
        lost: counters of losses that are not 0.
    """

    def __init__(self, regroup: Regroup, judge: Judge, ring: int) -> None:
        self._regroup, self._judge, self._ring = regroup, judge, ring
        self._clock_ns = self._busy_ns = self._measured_from_ns = self._flows_in_ramp = 0
        self.flows = self.packets = 0
        self.lost: dict[str, int] = {}

    @property
    def busy(self) -> float:
        """The share of processor time in all time after the ramp."""
        return self._busy_ns / max(self._clock_ns - self._measured_from_ns, 1)

    @property
    def capacity(self) -> float:
        """Rows per second of processor time after the ramp; inf if none ended."""
        ended = self.flows - self._flows_in_ramp
        return 1e9 * ended / max(self._busy_ns, 1) if ended else math.inf

    def feed(self, batch: PacketBatch, is_ramp: bool) -> None:
        """Handle packets as they arrive, until the first loss."""
        arrivals = batch.timestamp_ns.astype(np.int64)
        done = 0
        while done < len(arrivals) and not self.lost:
            here = int(np.searchsorted(arrivals, self._clock_ns, "right"))
            if here <= done:
                self._clock_ns = int(arrivals[done]) + COALESCED_NS
                continue
            if here - done > self._ring and not is_ramp:
                self.lost["RING_FULL"] = here - done - self._ring
            end = min(here, done + CONSTANTS["BATCH_MAX"])
            took_ns = self._handle(part_of(batch, done, end))
            self._clock_ns += 0 if is_ramp else took_ns
            self._busy_ns += took_ns
            done = end
        self.packets += done
        counters = self._regroup.counters
        self.lost |= {name: counters[name] for name in LOSSES if counters[name]}
        if is_ramp:
            self._busy_ns, self._measured_from_ns = 0, self._clock_ns
            self._flows_in_ramp = self.flows

    def _handle(self, batch: PacketBatch) -> int:
        """Handle a batch and return the processor time that it took, ns."""
        before = time.thread_time_ns()
        ready = self._regroup.add(batch)
        if len(ready):
            self._judge(ready)
        self.flows += len(ready)
        return time.thread_time_ns() - before


def _buckets(traffic: Traffic) -> np.ndarray:
    """Return (packets,), the bucket of each packet's flow, the same in each repetition.

    Source: the mixing step of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014).
    """
    mixed = (traffic.batch.flow_id - np.uint64(1)) % np.uint64(traffic.flows)
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(BUCKETS)


def _part(traffic: Traffic, kept: np.ndarray) -> Traffic:
    """Return some packets as if the others had not been sent."""
    columns = {
        name: column[kept]
        for name, column in vars(traffic.batch).items()
        if isinstance(column, np.ndarray) and name != "memory"
    }
    return replace(traffic, batch=replace(traffic.batch, **columns))
