"""Passes a schedule through a cascade's runtime: which stage answered each flow, how and when.

The clock runs with processor time while there is work, and skips the time in which there is none.
So all costs of serving are real (queues, views, inference, the interpreter), hours of recorded gaps
pass in seconds, and the result is that of a dedicated processor, whatever else the machine does.
The replay's own work stops the clock.
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

# Events in one step when only the speed matters.
CHUNK = 1024
# Capacity is found to one part in 2 ** HALVINGS; this share of flows may be degraded.
HALVINGS, DEGRADED_MOST = 6, 0.01


# Returns nanoseconds of work since an arbitrary time.
Work = Callable[[], int]


class SkippingClock:
    """Processor time since its creation, plus skipped time, minus time in which it was stopped."""

    def __init__(self, work: Work = time.thread_time_ns) -> None:
        self._work = work
        self._zero_ns = work()

    def now_ns(self) -> int:
        return self._work() - self._zero_ns

    def skip_to(self, at_ns: int) -> None:
        """Advance it to at_ns, if that is later."""
        self._zero_ns -= max(at_ns - self.now_ns(), 0)

    @contextmanager
    def stopped(self) -> Iterator[int]:
        """Stop it during the block, which gets the time."""
        now_ns = self.now_ns()
        yield now_ns
        self._zero_ns += self.now_ns() - now_ns


@dataclass
class Outcome:
    """The outcome for each flow of a schedule.

    Attributes:
        said: (instances,) int, the class; -1 "unknown" or unanswered.
        stage: (instances,) int, the stage that decided; -1: none.
        row_ns: (instances,) when the deciding row arrived.
        answered_ns: (instances,) time of the answer.
        infer_ns: (instances,) its share of the time of its batches.
        degraded, timed_out: (instances,) bool.
        busy_s: processor time of all work, at full speed.
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
        """Return an outcome without any answer."""
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
        """Take final verdicts; return (flows,) int, the flows.

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
    """The rows of a schedule, without those of answered flows."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._next = [0] * len(schedule.rows)
        self.is_done = np.zeros(len(schedule), bool)

    def until(self, at_ns: int) -> list[tuple[FlowBatch, np.ndarray | None]]:
        """Return the rows that came until at_ns since the last call, for Runtime.add().

        As from regrouping: all early rows, then all closing rows.
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
    """Return stages whose models report their processor time."""

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
    """Replay a schedule and return the outcome.

    Args:
        pace: measures the machine meanwhile, with the clock stopped.
        work: the clock of work: processor time, or a model of it.

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
    """Replay rows as fast as they can be taken and return the outcome."""
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
    an earlier stage's answer for lack of time. Batches of an open loop are small as long as it
    keeps up, so this is less than full_speed().

    Args:
        schedules: returns a schedule at a rate, in an open loop.
        most: an upper bound of the rate.
        pace: as for replay(); it covers all replays.
    """
    low, high = 0.0, most
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        if replay(schedules(rate), stages, pace).degraded.mean() <= DEGRADED_MOST:
            low = rate
        else:
            high = rate
    return low
