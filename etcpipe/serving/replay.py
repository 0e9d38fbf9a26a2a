"""A schedule goes through a cascade's runtime: who answered each flow, with what, and when.

The clock is the processor's while there is work, and jumps over the time in which there is none.
So all that serving costs is real (queues, views, inference, the interpreter), hours of recorded
gaps pass in seconds, and what is measured is one processor that does nothing else and serves
everything in turn, whatever the machine does besides. The replay's own work stops the clock.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.workers import Inline, Judge
from etcpipe.errors import EtcpipeError
from etcpipe.model import Answers
from etcpipe.serving.arrivals import Schedule
from etcpipe.serving.pace import Pace
from etcpipe.verdict import SOURCE_DEGRADED, SOURCE_TIMEOUT, VerdictBatch

# Events of one step when only the speed counts.
CHUNK = 1024
# Capacity is found to a part in 2 ** HALVINGS, by how many flows may be served worse.
HALVINGS, DEGRADED_MOST = 6, 0.01


# Nanoseconds of work, from any time on.
Work = Callable[[], int]


class SkippingClock:
    """Processor time since it was made, with what was skipped, without what it was stopped for."""

    def __init__(self, work: Work = time.thread_time_ns) -> None:
        self._work = work
        self._zero_ns = work()

    def now_ns(self) -> int:
        return self._work() - self._zero_ns

    def skip_to(self, at_ns: int) -> None:
        """Make it at_ns now, if that is later."""
        self._zero_ns -= max(at_ns - self.now_ns(), 0)

    @contextmanager
    def stopped(self) -> Iterator[int]:
        """Stop it for the block, which gets the time."""
        now_ns = self.now_ns()
        yield now_ns
        self._zero_ns += self.now_ns() - now_ns


@dataclass
class Outcome:
    """What became of each flow of a schedule.

    Attributes:
        said: (instances,) int, the class; -1 "unknown" or unanswered.
        stage: (instances,) int, which one decided; -1: nobody answered.
        row_ns: (instances,) when the row that decided was there.
        answered_ns: (instances,) when the answer was.
        infer_ns: (instances,) its share of the batches that it was in.
        degraded, timed_out: (instances,) bool.
        busy_s: processor time that all of it took, at full speed.
        counters: of the runtime.
    """

    said: np.ndarray
    stage: np.ndarray
    row_ns: np.ndarray
    answered_ns: np.ndarray
    infer_ns: np.ndarray
    degraded: np.ndarray
    timed_out: np.ndarray
    busy_s: float
    counters: dict[str, int]

    @classmethod
    def of(cls, instances: int) -> "Outcome":
        """Return one of which nothing is known yet."""
        return cls(
            said=np.full(instances, -1),
            stage=np.full(instances, -1),
            row_ns=np.zeros(instances, np.int64),
            answered_ns=np.zeros(instances, np.int64),
            infer_ns=np.zeros(instances, np.int64),
            degraded=np.zeros(instances, bool),
            timed_out=np.zeros(instances, bool),
            busy_s=0.0,
            counters={},
        )

    def take(self, verdicts: VerdictBatch, now_ns: int) -> np.ndarray:
        """Note final verdicts; return (flows,) int, whose they are.

        Raises:
            EtcpipeError: a flow is answered twice.
        """
        verdicts = verdicts.final()
        who = verdicts.flows.flow_id.astype(np.int64) - 1
        if (self.stage[who] >= 0).any():
            raise EtcpipeError("a flow was answered twice: report this as a bug")
        self.said[who], self.stage[who] = verdicts.label, verdicts.stage
        self.row_ns[who], self.answered_ns[who] = verdicts.flows.ready_ns, now_ns
        self.infer_ns[who] = verdicts.infer_ns
        self.degraded[who] = verdicts.source == SOURCE_DEGRADED
        self.timed_out[who] = verdicts.source == SOURCE_TIMEOUT
        return who


class _Feed:
    """Has the rows of a schedule, but none of flows that have their answer."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._next = [0] * len(schedule.rows)
        self.is_done = np.zeros(len(schedule), bool)

    def until(self, at_ns: int) -> list[tuple[FlowBatch, np.ndarray | None]]:
        """Return the rows that came until at_ns since the last call, for Runtime.add().

        As regrouping gives them: all early ones, and then all closing ones.
        """
        early, depths, closing = [], [], None
        for i, kind in enumerate(self._schedule.rows):
            first = self._next[i]
            self._next[i] = last = int(np.searchsorted(kind.at_ns, at_ns, side="right"))
            wanted = ~self.is_done[kind.instance[first:last]]
            flows = kind.flows.select(slice(first, last))
            if not wanted.all():
                flows = flows.select(wanted)
            if kind.depth:
                early.append(flows)
                depths.append(np.full(len(flows), kind.depth, np.uint8))
            elif len(flows):
                closing = flows
        found: list[tuple[FlowBatch, np.ndarray | None]] = []
        if any(map(len, early)):
            found.append((concatenate(early), np.concatenate(depths)))
        return [*found, (closing, None)] if closing else found


def by_processor_time(stages: Sequence[Serving], work: Work = time.thread_time_ns) -> list[Serving]:
    """Return stages whose models say how long they took on the processor."""

    def timed(judge: Judge) -> Judge:
        def judged(flows: FlowBatch) -> Answers:
            began = work()
            answers = judge(flows)
            return answers._replace(took_ns=work() - began)

        return judged

    return [replace(one, judge=timed(one.judge)) for one in stages]


def replay(
    schedule: Schedule,
    stages: Sequence[Serving],
    pace: Pace | None = None,
    work: Work = time.thread_time_ns,
) -> Outcome:
    """Return what becomes of flows that come as the schedule says.

    Args:
        pace: looks at the machine meanwhile, while the clock stands.
        work: what is measured: time of the processor, or of a model of it.

    Raises:
        EtcpipeError: a flow was answered twice, or not at all.
    """
    runtime = Runtime(by_processor_time(stages, work), Inline(sheds=True), clock=work)
    outcome, feed, times = Outcome.of(len(schedule)), _Feed(schedule), schedule.times_ns
    clock = SkippingClock(work)
    done = 0
    while done < len(times) or any(runtime.waiting):
        with clock.stopped() as now_ns:
            done = int(np.searchsorted(times, now_ns, side="right"))
            rows = feed.until(now_ns)
        for flows, depth in rows:
            runtime.add(flows, clock.now_ns(), depth)
        verdicts = runtime.poll(clock.now_ns())
        with clock.stopped() as now_ns:
            for one in verdicts:
                feed.is_done[outcome.take(one, now_ns)] = True
            if pace:
                pace.look(now_ns)
        following = [int(times[done])] if done < len(times) else []
        if (deadline_ns := runtime.deadline_ns) is not None:
            following.append(deadline_ns)
        if following:
            clock.skip_to(min(following))
    return _finished(outcome, runtime)


def at_full_speed(schedule: Schedule, stages: Sequence[Serving]) -> Outcome:
    """Return what becomes of flows whose rows come as soon as they can be taken."""
    runtime = Runtime(by_processor_time(stages))  # nothing is turned away
    outcome, feed, times = Outcome.of(len(schedule)), _Feed(schedule), schedule.times_ns
    clock = SkippingClock()
    for last in range(CHUNK, len(times) + CHUNK, CHUNK):
        until_ns = int(times[min(last, len(times)) - 1])
        with clock.stopped():
            rows = feed.until(until_ns)
        for flows, depth in rows:
            runtime.add(flows, until_ns, depth)
        verdicts = runtime.poll(until_ns)
        with clock.stopped():
            for one in verdicts:
                feed.is_done[outcome.take(one, until_ns)] = True
    verdicts = runtime.drain(lambda: int(times[-1]))
    with clock.stopped() as busy_ns:
        for one in verdicts:
            outcome.take(one, int(times[-1]))
    outcome.busy_s = busy_ns / 1e9
    return _finished(outcome, runtime)


def _finished(outcome: Outcome, runtime: Runtime) -> Outcome:
    if (outcome.stage < 0).any():
        unanswered = int((outcome.stage < 0).sum())
        raise EtcpipeError(f"{unanswered} flows were not answered: report this as a bug")
    outcome.counters = runtime.counters
    return outcome


def full_speed(schedule: Schedule, stages: Sequence[Serving]) -> float:
    """Return new flows a second that one processor serves in full batches, however late."""
    return len(schedule) / at_full_speed(schedule, stages).busy_s


def sustained(
    schedules: Callable[[float], Schedule],
    stages: Sequence[Serving],
    most: float,
    pace: Pace | None = None,
) -> float:
    """Return the new flows a second at which one processor still gives its best answers.

    That is the highest rate, found by bisection, at which at most DEGRADED_MOST of the flows keep
    a lesser answer for want of time. Batches of an open loop are small while it is in time, so it
    is less than full_speed().

    Args:
        schedules: flows that come at a rate, in an open loop.
        most: rate below which it is.
        pace: as for replay(); its times are of all replays.
    """
    low, high = 0.0, most
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        if replay(schedules(rate), stages, pace).degraded.mean() <= DEGRADED_MOST:
            low = rate
        else:
            high = rate
    return low
