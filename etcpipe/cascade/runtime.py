"""The cascade at work: rows of flows go in, verdicts come out, each flow answered once.

    add()    early rows, as their packets arrive, and the closing row of each flow
    poll()   verdicts on flows, whenever a batch was worth it or a deadline passed
    left()   flows that were answered early and need no more rows

A row goes to the stage that its flow is due at, waits in that stage's queue, and is judged in a
batch. A sure answer is the verdict. An unsure one takes the flow to the next stage: at once where
that one sees no more packets, or where no more come; else with the row that brings them. Time is
passed in, so with workers in turn (workers.Inline) the same rows give the same verdicts.

Every flow has a closing row unless it left, so every flow is answered, and only once: an early
row's answer counts only while the table of states knows that it is awaited (states.py).
"""

from collections.abc import Callable, Sequence
from time import thread_time_ns

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import (
    COUNTERS,
    Records,
    Wording,
    no_records,
    take_answers,
    verdicts_of,
)
from etcpipe.cascade.escalation import Load
from etcpipe.cascade.pool import Batch, RowPool
from etcpipe.cascade.queues import StageQueue
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.states import (
    NONE,
    NOT_TOLD,
    QUEUED,
    SLOTS,
    WAITING,
    FlowStates,
    first_of_each,
    has_doubles,
)
from etcpipe.cascade.workers import Inline, Job, Workers
from etcpipe.verdict import EVENT_EARLY, EVENT_REVISED, EVENT_VERDICT, VerdictBatch

# Where a row goes that goes to no stage.
NOWHERE, ASIDE = -1, -2
NO_TURN = -1, 0


class Runtime:
    """Serves flows; one thread calls it."""

    def __init__(
        self,
        stages: Sequence[Serving],
        workers: Workers | None = None,
        *,
        early: bool = False,
        slots: int = SLOTS,
    ):
        """Make one that has seen nothing.

        Args:
            workers: where models run; None: in the caller's turn, and rows wait for room.
            early: tell the first answer of an unsure flow too.
            slots: places for flows between two stages.
        """
        self.classes = stages[0].classes
        self.models = tuple(one.name for one in stages)
        self.depths = tuple(one.stage.packets for one in stages)
        self._depth_of = np.array(self.depths, np.uint16)
        self._wording = Wording(self.classes, self.models, self._depth_of)
        self._stages = stages
        self._decide = [one.decider() for one in stages]
        self._queues = [StageQueue(one.stage) for one in stages]
        self._loads = [Load(one.stage) for one in stages]
        self._workers = workers or Inline()
        self._running: set[int] = set()
        self._turn = NO_TURN  # stage whose batch was submitted last, and when
        self._states = FlowStates(slots)
        self._rows: RowPool  # made for the first rows, as long as they are
        self._has_rows = False
        self._parked: list[np.ndarray] = []  # rows of flows of which an earlier one is judged
        self._has_answered = False  # since these were placed
        self._placing_ns = 0  # processor time of placing rows that no batch has accounted for
        self._tell_early = early
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
        """Does no row wait, and is none judged? Flows may wait for more packets."""
        return not (self._running or self._parked or any(self.waiting))

    @property
    def states(self) -> FlowStates:
        """What is kept of flows between two of their rows."""
        return self._states

    @property
    def deadline_ns(self) -> int | None:
        """When the next batch is due, however few rows it has; None while no row waits."""
        return min((queue.deadline_ns for queue in self._queues if len(queue)), default=None)

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None:
        """Take rows.

        Args:
            flows: at most one row of a flow for each depth; ready_ns is of the clock of now_ns.
            now_ns: the time, never less than before; 0 offline.
            depth: (flows,) uint8, packets at which early rows came out; None: closing rows.
        """
        if not len(flows):
            return
        began_ns = thread_time_ns()
        if not self._has_rows:
            self._rows, self._has_rows = RowPool(flows), True
        places = self._rows.put(flows, 0 if depth is None else depth)
        if depth is None or not has_doubles(flows.flow_id):
            self._place(places, now_ns)
        else:
            for one in sorted(set(depth.tolist())):  # a flow's rows in their order
                self._place(places[depth == one], now_ns)
        self._placing_ns += thread_time_ns() - began_ns

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]:
        """Return verdicts that are ready, after starting the batches that are due.

        Args:
            records: FLOW_STATE of flows; None: nothing is known of them.
            flush: rows wait for nothing but a free worker.
        """
        self._records = records or no_records
        self._collect(now_ns)
        while True:
            while (stage := self._next_due(now_ns, flush)) is not None:
                self._submit(stage)
                self._collect(now_ns)
            if not self._take_up(now_ns):
                break
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

    def _place(self, places: np.ndarray, now_ns: int) -> None:
        """Bring rows, of a flow one at most, where they are due: to a queue, aside, or nowhere."""
        pool = self._rows
        state, is_newer = self._states.look_up(pool.column("flow_id", places))
        pool.keep(places, state)
        depth = pool.depth[places]
        goes_on, status = depth > 0, state["status"]
        # regrouping may give rows earlier than the first stage wants them, see life.py
        to = np.where((is_newer | (depth < self.depths[0])) & goes_on, NOWHERE, 0)
        if len(status.nonzero()[0]):
            stage = state["next"]
            came = ~goes_on | (depth >= self._depth_of[stage])
            to[status != NONE] = NOWHERE
            to = np.where((status == WAITING) & came, stage, to)
            to[status == QUEUED] = ASIDE
        kinds = set(to.tolist())
        for one in sorted(kinds):
            chosen = places[to == one] if len(kinds) > 1 else places
            if one == ASIDE:
                self._parked.append(chosen)
            elif one == NOWHERE:
                pool.free(chosen)
            else:
                self._enqueue(one, chosen, now_ns)

    def _enqueue(self, stage: int, places: np.ndarray, now_ns: int, due_ns: int = 0) -> None:
        """Take rows into a queue; due_ns is the deadline of those that are passed on."""
        if self._workers.sheds:
            places = self._shed(stage, places, now_ns)
        queue = self._queues[stage]
        while len(places):
            first, places = places[: queue.room], places[queue.room :]
            if len(first):
                self._mark(stage, first)
                if due_ns:
                    queue.pass_on(first, due_ns)
                else:
                    queue.push(first, self._rows.is_over(first), now_ns)
            if len(places):  # they wait until there is room
                self._submit(stage)
                self._collect(now_ns)

    def _mark(self, stage: int, places: np.ndarray) -> None:
        """Note that flows that go on have a row in a queue."""
        awaited = (self._rows.depth[places] > 0).nonzero()[0]
        if len(awaited):
            state = self._rows.state.take(places.take(awaited))
            state["status"], state["next"] = QUEUED, stage
            self._states.put(state)

    def _shed(self, stage: int, places: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the rows that a stage takes; the flows of the others are answered now."""
        queue, load = self._queues[stage], self._loads[stage]
        if stage == 0:
            room = load.room(len(queue), queue.room)
            if room >= len(places):
                return places
            taken = np.arange(len(places)) < room
        else:
            probability = self._rows.state["probability"][places]
            taken = load.choose(probability, len(queue), queue.room, now_ns)
        refused = places.take((~taken).nonzero()[0])
        if not len(refused):
            return places
        if stage == 0:
            goes_on = self._rows.depth[refused] > 0
            skipped = refused[goes_on]
            self._count("CASCADE_SKIPPED", len(skipped))
            self._rows.free(skipped)
            refused, why = refused[~goes_on], "CASCADE_UNJUDGED"
        else:
            is_full = queue.room <= len(places) - len(refused)
            why = "CASCADE_QUEUE_FULL" if is_full else "CASCADE_HELD"
        state = self._rows.state.take(refused)
        if stage == 0:
            state["stage"] = 0
        self._finish(refused, state, why, now_ns)
        return places[taken]

    def _next_due(self, now_ns: int, flush: bool) -> int | None:
        """Return the stage with the earliest deadline among those whose batch can run now."""
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
        self._turn = stage, thread_time_ns()
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
            if job.stage == stage:  # in this turn: what is done around the model takes time too
                took_ns = max(took_ns, thread_time_ns() - began_ns + self._placing_ns)
                self._placing_ns = 0
            self._loads[job.stage].finished(job.rows.size, took_ns)
            self._has_answered = True

    def _take_up(self, now_ns: int) -> bool:
        """Place rows that were set aside, if flows were answered since; return whether."""
        if not (self._parked and self._has_answered):
            return False
        parked = np.concatenate(self._parked)
        flow_id = self._rows.column("flow_id", parked)
        waits = self._states.is_awaited(flow_id)
        self._has_answered = has_doubles(flow_id)
        if self._has_answered:  # of each flow only the first row now, and the others after it
            waits[~first_of_each(flow_id)] = True
        placed = parked.take((~waits).nonzero()[0])
        if not len(placed):
            return False
        self._parked = [parked[waits]] if len(placed) < len(parked) else []
        self._place(placed, now_ns)
        return True

    def _answer(self, job: Job, now_ns: int) -> None:
        """Take what a stage said: verdicts on sure flows, the way on for others."""
        places, flows = job.rows.places, job.rows.flows
        state = self._rows.state.take(places)
        take_answers(state, job.stage, job.answers)
        is_awaited = (self._rows.depth[places] == 0) | self._states.is_awaited(flows.flow_id)
        if not is_awaited.all():  # the others were forgotten
            self._rows.free(places[~is_awaited])
            places, state = places[is_awaited], state.compress(is_awaited)
        following = job.stage + 1
        if following == len(self._stages):
            self._finish(places, state, "CASCADE_LAST", now_ns, flows)
            return
        sure = self._decide[job.stage](state["label"], state["probability"])
        of_sure = sure.nonzero()[0]
        if len(of_sure) == len(places):
            self._finish(places, state, "CASCADE_SURE", now_ns, flows)
            return
        if len(of_sure):
            self._finish(places.take(of_sure), state.take(of_sure), "CASCADE_SURE", now_ns)
        unsure = (~sure).nonzero()[0]
        due_ns = job.rows.due_ns
        self._go_on(places.take(unsure), state.take(unsure), following, due_ns, now_ns)

    def _go_on(
        self, places: np.ndarray, state: np.ndarray, following: int, due_ns: int, now_ns: int
    ) -> None:
        """Take flows to the next stage, or have them wait for the packets that it sees."""
        if self._tell_early:
            self._tell(places, state, now_ns)
        depth = self._rows.depth[places]
        waits = (depth > 0) & (depth < self.depths[following])
        of_waiting = waits.nonzero()[0]
        if len(of_waiting):
            waiting = state.take(of_waiting)
            waiting["status"], waiting["next"] = WAITING, following
            self._states.put(waiting)
            self._rows.free(places.take(of_waiting))
        if len(of_waiting) < len(places):
            others = (~waits).nonzero()[0]
            at_once = places.take(others)
            self._rows.keep(at_once, state.take(others))
            self._enqueue(following, at_once, now_ns, due_ns)

    def _tell(self, places: np.ndarray, state: np.ndarray, now_ns: int) -> None:
        """Make early verdicts on flows that have had none."""
        first = (state["told"] == NOT_TOLD).nonzero()[0]
        if not len(first):
            return
        told = state.take(first)
        event = np.full(len(told), EVENT_EARLY, np.uint8)
        self._emit(self._rows.flows(places.take(first)), told, event, now_ns)
        state["told"][first] = told["label"]
        self._count("CASCADE_EARLY", len(told))

    def _finish(
        self,
        places: np.ndarray,
        state: np.ndarray,
        why: str,
        now_ns: int,
        batch: FlowBatch | None = None,
    ) -> None:
        """Make the verdicts on flows: they are answered.

        Args:
            batch: their rows, perhaps with others of which there is no answer any more.
        """
        if not len(places):
            return
        flows = batch if batch and len(batch) == len(places) else self._rows.flows(places)
        told = state["told"]
        revised = ((told != NOT_TOLD) & (told != state["label"])).nonzero()[0]
        event = np.full(len(places), EVENT_VERDICT, np.uint8)
        event[revised] = EVENT_REVISED
        self._emit(flows, state, event, now_ns, why not in ("CASCADE_SURE", "CASCADE_LAST"))
        self._count(why, len(places))
        self._count("CASCADE_REVISED", len(revised))
        self._states.clear(flows.flow_id)
        self._left.append(flows.flow_id[self._rows.depth[places] > 0])
        self._rows.free(places)

    def _emit(
        self,
        flows: FlowBatch,
        state: np.ndarray,
        event: np.ndarray,
        now_ns: int,
        degraded: bool = False,
    ) -> None:
        self._verdicts.append(
            verdicts_of(flows, state, event, now_ns, self._wording, self._records, degraded)
        )

    def _count(self, name: str, n: int) -> None:
        self._counters[name] += n
