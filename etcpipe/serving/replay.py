"""A schedule goes through a cascade's runtime: who answered each flow, with what, and when.

The clock is the processor's while there is work, and jumps over the time in which there is none.
So all that serving costs is real (queues, views, inference, the interpreter), hours of recorded
gaps pass in seconds, and what is measured is one processor that does nothing else and serves
everything in turn, whatever the machine does besides.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.workers import Inline, Judge
from etcpipe.errors import EtcpipeError
from etcpipe.model import Answers
from etcpipe.serving.arrivals import Rows, Schedule
from etcpipe.verdict import SOURCE_DEGRADED, SOURCE_TIMEOUT, VerdictBatch

# Events of one step when only the speed counts.
CHUNK = 1024


class SkippingClock:
    """Processor time since it was made, and what was skipped."""

    def __init__(self) -> None:
        self._zero_ns = time.thread_time_ns()

    def now_ns(self) -> int:
        return time.thread_time_ns() - self._zero_ns

    def skip_to(self, at_ns: int) -> None:
        """Make it at_ns now, if that is later."""
        self._zero_ns -= max(at_ns - self.now_ns(), 0)


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
        busy_s: processor time that all of it took.
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
        times = (np.zeros(instances, np.int64) for _ in range(3))
        nobody = (np.full(instances, -1) for _ in range(2))
        return cls(*nobody, *times, *(np.zeros(instances, bool) for _ in range(2)), 0.0, {})

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
    """Hands the rows of a schedule to a runtime, but none of flows that have their answer."""

    def __init__(self, schedule: Schedule, runtime: Runtime) -> None:
        self._schedule, self._runtime = schedule, runtime
        self._next = [0] * len(schedule.rows)
        self.is_done = np.zeros(len(schedule), bool)

    def until(self, at_ns: int, now_ns: int) -> None:
        """Add all rows that are there at at_ns."""
        for i, kind in enumerate(self._schedule.rows):
            first = self._next[i]
            self._next[i] = last = int(np.searchsorted(kind.at_ns, at_ns, side="right"))
            if last > first:
                self._add(kind, slice(first, last), now_ns)

    def _add(self, kind: Rows, which: slice, now_ns: int) -> None:
        wanted = ~self.is_done[kind.instance[which]]
        flows = kind.flows.select(which)
        if not wanted.all():
            flows = flows.select(wanted)
        if len(flows):
            depth = np.full(len(flows), kind.depth, np.uint8) if kind.depth else None
            self._runtime.add(flows, now_ns, depth)


def by_processor_time(stages: Sequence[Serving]) -> list[Serving]:
    """Return stages whose models say how long they took on the processor."""

    def timed(judge: Judge) -> Judge:
        def judged(flows: FlowBatch) -> Answers:
            began = time.thread_time_ns()
            answers = judge(flows)
            return answers._replace(took_ns=time.thread_time_ns() - began)

        return judged

    return [replace(one, judge=timed(one.judge)) for one in stages]


def replay(schedule: Schedule, stages: Sequence[Serving]) -> Outcome:
    """Return what becomes of flows that come as the schedule says.

    Raises:
        EtcpipeError: a flow was answered twice, or not at all.
    """
    runtime = Runtime(by_processor_time(stages), Inline(sheds=True))
    clock, outcome = SkippingClock(), Outcome.of(len(schedule))
    feed, times = _Feed(schedule, runtime), schedule.times_ns
    began = time.thread_time()
    done = 0
    while done < len(times) or any(runtime.waiting):
        now_ns = clock.now_ns()
        done = int(np.searchsorted(times, now_ns, side="right"))
        feed.until(now_ns, now_ns)
        for verdicts in runtime.poll(clock.now_ns()):
            feed.is_done[outcome.take(verdicts, clock.now_ns())] = True
        following = [int(times[done])] if done < len(times) else []
        if (deadline_ns := runtime.deadline_ns) is not None:
            following.append(deadline_ns)
        if following:
            clock.skip_to(min(following))
    return _finished(outcome, runtime, time.thread_time() - began)


def at_full_speed(schedule: Schedule, stages: Sequence[Serving]) -> Outcome:
    """Return what becomes of flows whose rows come as soon as they can be taken; see capacity."""
    runtime = Runtime(by_processor_time(stages))  # nothing is turned away
    outcome, times = Outcome.of(len(schedule)), schedule.times_ns
    feed = _Feed(schedule, runtime)
    began = time.thread_time()
    for last in range(CHUNK, len(times) + CHUNK, CHUNK):
        until_ns = int(times[min(last, len(times)) - 1])
        feed.until(until_ns, until_ns)
        for verdicts in runtime.poll(until_ns):
            feed.is_done[outcome.take(verdicts, until_ns)] = True
    for verdicts in runtime.drain(lambda: int(times[-1])):
        outcome.take(verdicts, int(times[-1]))
    return _finished(outcome, runtime, time.thread_time() - began)


def _finished(outcome: Outcome, runtime: Runtime, busy_s: float) -> Outcome:
    if (outcome.stage < 0).any():
        unanswered = int((outcome.stage < 0).sum())
        raise EtcpipeError(f"{unanswered} flows were not answered: report this as a bug")
    outcome.busy_s, outcome.counters = busy_s, runtime.counters
    return outcome


def capacity(schedule: Schedule, stages: Sequence[Serving]) -> float:
    """Return new flows a second that one processor serves when it has no time to spare."""
    return len(schedule) / at_full_speed(schedule, stages).busy_s
