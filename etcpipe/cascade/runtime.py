"""The cascade at work: rows of flows go in, verdicts come out, each flow answered once.

    add()    takes early rows, as their packets arrive, and the closing row of each flow
    poll()   returns verdicts when a batch is full or a deadline has passed
    left()   returns the flows that were answered early and need no more rows

A row goes to the stage that its flow has reached, waits in that stage's queue, and is judged in a
batch. A sure answer is the verdict. An unsure answer takes the flow to the next stage: at once if
that stage sees no more packets, or if no more will come, else with the row that has them. Time is
passed in, so with workers.Inline the same rows give the same verdicts.

Every flow has a closing row unless it left before, so every flow is answered. It is answered only
once, because the answer to an early row counts only while the table of states (states.py) expects
it.
"""

from collections.abc import Callable, Sequence
from time import thread_time_ns

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import COUNTERS, Records, Wording, no_records, verdicts_of
from etcpipe.cascade.escalation import Load
from etcpipe.cascade.pool import Batch, RowPool
from etcpipe.cascade.queues import StageQueue
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.states import SLOTS, FlowStates
from etcpipe.cascade.steps import Steps
from etcpipe.cascade.steps_native import NativeSteps
from etcpipe.cascade.turns import TurnBudget
from etcpipe.cascade.workers import Inline, Job, Workers
from etcpipe.verdict import (
    EVENT_EARLY,
    EVENT_REVISED,
    EVENT_VERDICT,
    SOURCE_DEGRADED,
    VerdictBatch,
)

NO_TURN = -1, 0
NO_BOUND = 1 << 62
# A turn is assumed to take as long as about the last ten did.
TURNS_REMEMBERED = 10


class Runtime:
    """Serves flows; one thread calls it."""

    def __init__(
        self,
        stages: Sequence[Serving],
        workers: Workers | None = None,
        *,
        early: bool = False,
        slots: int = SLOTS,
        steps: type[Steps] = NativeSteps,
        clock: Callable[[], int] = thread_time_ns,
    ):
        """Begin without any flows.

        Args:
            workers: run the models; None: in the caller's thread, and rows wait for room.
            early: tell the first answer of an unsure flow too.
            slots: places for flows between two stages.
            steps: moves rows through the stages; Steps is the definition.
            clock: processor time in nanoseconds, to measure turns.
        """
        self.classes = stages[0].classes
        self.models = tuple(one.name for one in stages)
        self.depths = tuple(one.stage.packets for one in stages)
        self._wording = Wording(self.classes, self.models)
        self._stages = stages
        self._decide = [one.decider() for one in stages]
        self._queues = [StageQueue(one.stage) for one in stages]
        self._loads = [Load(one.stage) for one in stages]
        self._budget = TurnBudget(min(one.latency_ms for one in stages), len(stages))
        self._workers, self._clock = workers or Inline(), clock
        self._running: set[int] = set()
        self._turn = NO_TURN  # the stage that was submitted last, and when
        self._states = FlowStates(slots)
        self._rows: RowPool  # made with the first rows, whose shape it takes
        self._steps: Steps
        self._make_steps: type[Steps] | None = steps  # None once they are made
        self._parked: list[np.ndarray] = []  # rows whose flow has an earlier row being judged
        self._has_answered = False  # since the parked rows were placed
        self._turn_ns = 0  # recent processor time of a turn in which batches start
        self._spent_ns = 0  # of this turn so far
        self._placing_ns = 0  # processor time of placing rows, not yet attributed to a batch
        self._tell_early = early
        self._finished: list[tuple[np.ndarray, int | None]] = []  # places, source if not judged
        self._verdicts: list[VerdictBatch] = []
        self._left: list[np.ndarray] = []
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._records: Records = no_records

    @property
    def counters(self) -> dict[str, int]:
        """Flows and rows by what became of them, named as in COUNTERS."""
        return self._counters | {"CASCADE_FORGOTTEN": self._states.forgotten}

    @property
    def waiting(self) -> list[int]:
        """Rows in each stage's queue."""
        return [len(queue) for queue in self._queues]

    @property
    def is_idle(self) -> bool:
        """Is no row waiting or being judged? Flows may still wait for packets."""
        return not (self._running or self._parked or any(self.waiting))

    @property
    def states(self) -> FlowStates:
        """The states of flows between two of their rows."""
        return self._states

    @property
    def deadline_ns(self) -> int | None:
        """When the next batch is due even if it is not full; None while no row waits."""
        return min((queue.deadline_ns for queue in self._queues if len(queue)), default=None)

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None:
        """Take rows.

        Args:
            flows: at most one row of a flow for each depth; ready_ns is by the clock of now_ns.
            now_ns: the time, which must not decrease; 0 offline.
            depth: (flows,) uint8, packets at which early rows came out; None: closing rows.
        """
        if not len(flows):
            return
        began_ns = self._clock()
        if self._make_steps:
            self._rows = RowPool(flows)
            self._steps = self._make_steps(self._rows, self._states, self.depths, self._tell_early)
            self._make_steps = None
        if depth is not None and self._workers.sheds:
            flows, depth = self._turn_away(flows, depth)
        places = self._rows.put(flows, 0 if depth is None else depth)
        if depth is not None and (depth[1:] < depth[:-1]).any():
            places = places[np.argsort(depth, kind="stable")]  # the rows of a flow in order
        self._place(places, now_ns)
        self._tell(now_ns)  # before other rows take their places
        took_ns = self._clock() - began_ns
        self._placing_ns += took_ns
        self._spent_ns += took_ns

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]:
        """Return verdicts that are ready, after starting the batches that are due.

        Args:
            records: FLOW_STATE of flows; None: nothing is known of them.
            flush: start batches that are not full, as soon as a worker is free.
        """
        self._records, began_ns = records or no_records, self._clock()
        # what falls due during this turn would be late in the next one
        until_ns = now_ns + (self._turn_ns if self._workers.sheds else 0)
        has_begun = False
        self._collect(now_ns)
        self._take_up(now_ns)
        while (stage := self._next_due(until_ns, flush)) is not None:
            self._submit(stage)
            self._collect(now_ns)
            self._take_up(now_ns)
            has_begun = True
        self._tell(now_ns)
        if has_begun:
            took_ns = self._spent_ns + self._clock() - began_ns
            self._turn_ns += (took_ns - self._turn_ns) // TURNS_REMEMBERED
            self._budget.turned(took_ns)
        self._spent_ns = 0
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def drain(self, now: Callable[[], int], records: Records | None = None) -> list[VerdictBatch]:
        """Return the verdicts on all rows that were added."""
        verdicts = self.poll(now(), records, flush=True)
        while self._running or any(self.waiting):
            self._workers.wait()
            verdicts += self.poll(now(), records, flush=True)
        return verdicts

    def left(self) -> np.ndarray:
        """Return (flows,) uint64, ids answered since the last call while they go on."""
        left, self._left = self._left, []
        return np.concatenate(left) if left else np.zeros(0, np.uint64)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def _turn_away(self, flows: FlowBatch, depth: np.ndarray) -> tuple[FlowBatch, np.ndarray]:
        """Drop rows of the first stage for which there is no time, before they are copied."""
        is_first = depth == self.depths[0]
        room = self._loads[0].room(len(self._queues[0]), self._room(0))
        refused = int(np.count_nonzero(is_first)) - room
        if refused <= 0:
            return flows, depth
        self._count("CASCADE_SKIPPED", refused)
        stays = ~is_first | (is_first.cumsum() <= room)
        return flows.select(stays), depth[stays]

    def _place(self, places: np.ndarray, now_ns: int, due_ns: int = 0) -> None:
        """Put rows where they belong: in a queue, aside, or nowhere; rows of a flow in order."""
        room = NO_BOUND
        if self._workers.sheds:
            room = self._loads[0].room(len(self._queues[0]), self._room(0))
        placed = self._steps.place(places, room)
        if len(placed.aside):
            self._parked.append(placed.aside)
        self._count("CASCADE_SKIPPED", placed.skipped)
        self._finish(placed.refused, "CASCADE_UNJUDGED")
        for stage, is_over, rows in placed.queued:
            self._enqueue(stage, rows, now_ns, due_ns, is_over)

    def _enqueue(
        self, stage: int, places: np.ndarray, now_ns: int, due_ns: int = 0, is_over: bool = False
    ) -> None:
        """Add rows to a queue; due_ns: the deadline of rows that have waited already."""
        if stage and self._workers.sheds:
            places = self._shed(stage, places, now_ns)
        queue = self._queues[stage]
        while len(places):
            first, places = places[: queue.room], places[queue.room :]
            if len(first) and due_ns:
                queue.pass_on(first, due_ns)
            elif len(first):
                queue.push(first, is_over, now_ns)
            if len(places):  # they wait until there is room
                self._submit(stage)
                self._collect(now_ns)

    def _shed(self, stage: int, places: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the rows that a later stage takes; the other flows are answered now."""
        queue = self._queues[stage]
        probability = self._rows.state["probability"][places]
        taken = self._loads[stage].choose(probability, len(queue), self._room(stage), now_ns)
        if taken.all():
            return places
        is_full = queue.room <= np.count_nonzero(taken)
        why = "CASCADE_QUEUE_FULL" if is_full else "CASCADE_HELD"
        self._finish(places[~taken], why)
        return places[taken]

    def _room(self, stage: int) -> int:
        """Return how many rows a stage may take, by its queue and by the time of the turn."""
        room = self._queues[stage].room
        if not self._workers.is_in_turn(stage):
            return room
        waiting = sum(n for i, n in enumerate(self.waiting) if self._workers.is_in_turn(i))
        return self._budget.room(waiting, room)

    def _next_due(self, now_ns: int, flush: bool) -> int | None:
        """Return the stage with the earliest deadline whose batch can run now."""
        due = [
            (queue.deadline_ns, stage)
            for stage, queue in enumerate(self._queues)
            if ((len(queue) and flush) or queue.is_due(now_ns))
            and stage not in self._running
            and self._workers.has_room(stage)
        ]
        return min(due)[1] if due else None

    def _submit(self, stage: int) -> None:
        self._running.add(stage)
        self._turn = stage, self._clock()
        queue = self._queues[stage]
        due_ns, places = queue.deadline_ns, queue.pop()
        batch = Batch(places, self._rows.flows(places), due_ns)
        self._workers.submit(stage, batch, self._stages[stage].judge)

    def _collect(self, now_ns: int) -> None:
        (stage, began_ns), self._turn = self._turn, NO_TURN
        for job in self._workers.done():
            self._running.discard(job.stage)
            self._answer(job, now_ns)
            took_ns = job.answers.took_ns
            if job.stage == stage:  # in this turn: count the work around the model too
                took_ns = max(took_ns, self._clock() - began_ns + self._placing_ns)
                self._placing_ns = 0
                self._budget.judged(job.rows.size)
            self._loads[job.stage].finished(job.rows.size, took_ns)
            self._has_answered = True

    def _take_up(self, now_ns: int) -> None:
        """Place the rows that were set aside, if flows were answered since; they are due now."""
        if self._parked and self._has_answered:
            parked, self._parked, self._has_answered = self._parked, [], False
            self._place(np.concatenate(parked), now_ns, due_ns=now_ns)

    def _answer(self, job: Job, now_ns: int) -> None:
        """Take the answers of a stage: verdicts on sure flows; the others go on."""
        answers, is_last = job.answers, job.stage + 1 == len(self._stages)
        sure = None if is_last else self._decide[job.stage](answers.label, answers.probability)
        answered = self._steps.answer(job.rows.places, job.stage, answers, sure)
        if len(answered.told):
            self._emit(answered.told, now_ns, EVENT_EARLY)
            self._count("CASCADE_EARLY", len(answered.told))
        why = "CASCADE_LAST" if is_last else "CASCADE_SURE"
        self._finish(answered.sure, why)
        if len(answered.at_once):
            self._enqueue(job.stage + 1, answered.at_once, now_ns, job.rows.due_ns)

    def _finish(self, places: np.ndarray, why: str) -> None:
        """End flows with their present answers; _tell() makes the verdicts."""
        if not len(places):
            return
        is_judged = why in ("CASCADE_SURE", "CASCADE_LAST")
        self._finished.append((places, None if is_judged else SOURCE_DEGRADED))
        self._count(why, len(places))
        self._left.append(self._steps.leave(places))

    def _tell(self, now_ns: int) -> None:
        """Make the verdicts on flows that ended since, while their rows are in their places."""
        finished, self._finished = self._finished, []
        for source in (None, SOURCE_DEGRADED):
            parts = [places for places, why in finished if why == source]
            if not parts:
                continue
            places = parts[0] if len(parts) == 1 else np.concatenate(parts)
            said = self._emit(places, now_ns, EVENT_VERDICT, source)
            if self._tell_early:
                self._count("CASCADE_REVISED", int((said["event"] == EVENT_REVISED).sum()))

    def _emit(
        self, places: np.ndarray, now_ns: int, event: int, source: int | None = None
    ) -> np.ndarray:
        """Make verdicts on rows and return them as VERDICT; see Steps.verdicts()."""
        said = self._steps.verdicts(places, now_ns, event, source)
        flows = self._rows.flows(places)
        self._verdicts.append(verdicts_of(flows, said, self._wording, self._records))
        return said

    def _count(self, name: str, n: int) -> None:
        self._counters[name] += n
