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

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import Records, Wording, answered, no_records, verdicts_of
from etcpipe.cascade.escalation import Load
from etcpipe.cascade.queues import StageQueue
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.states import NONE, NOT_TOLD, QUEUED, SLOTS, WAITING, FlowStates, Rows
from etcpipe.cascade.workers import Inline, Job, Workers
from etcpipe.verdict import (
    EVENT_EARLY,
    EVENT_REVISED,
    EVENT_VERDICT,
    VerdictBatch,
)

COUNTERS = (
    "CASCADE_SURE",  # flows answered before the last stage, being sure
    "CASCADE_LAST",  # by the last stage
    "CASCADE_HELD",  # not passed on: the next stage had no time, the answer stays
    "CASCADE_QUEUE_FULL",  # nor room
    "CASCADE_UNJUDGED",  # the first stage had neither: unknown
    "CASCADE_SKIPPED",  # early rows for which it had neither; a later row tries again
    "CASCADE_EARLY",  # early answers told
    "CASCADE_REVISED",  # and told otherwise later
    "CASCADE_FORGOTTEN",  # flows that lost their place to one a whole table later
)

# Where a row goes that goes to no stage.
NOWHERE, ASIDE = -1, -2


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
        self._states = FlowStates(slots)
        self._parked: list[Rows] = []  # rows of flows of which an earlier one is being judged
        self._has_answered = False  # since these were placed
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
        depths = np.zeros(len(flows), np.uint8) if depth is None else depth
        different = sorted(set(depths.tolist()))
        everywhere = np.arange(len(flows))
        for one in different:  # a flow's rows in their order
            at = everywhere if len(different) == 1 else np.flatnonzero(depths == one)
            self._place(flows, at, depths[at], now_ns)

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

    def _place(self, batch: FlowBatch, at: np.ndarray, depth: np.ndarray, now_ns: int) -> None:
        """Put rows of a batch where their flows are due: a queue, aside, or nowhere."""
        state, is_newer = self._states.look_up(batch.flow_id[at])
        rows, status, stage = Rows(batch, at, depth, state), state["status"], state["next"]
        place = np.full(rows.size, NOWHERE)
        place[(status == NONE) & ~(is_newer & rows.goes_on)] = 0
        if status.any():
            came = ~rows.goes_on | (depth >= self._depth_of[stage])
            place = np.where((status == WAITING) & came, stage, place)
            place[status == QUEUED] = ASIDE
        for one in sorted(set(place.tolist())):
            chosen = rows.select(place == one)
            if one == ASIDE:
                self._parked.append(chosen)
            elif one != NOWHERE:
                self._enqueue(one, chosen, now_ns)

    def _enqueue(self, stage: int, rows: Rows, now_ns: int) -> None:
        if rows.size and self._workers.sheds:
            rows = self._shed(stage, rows, now_ns)
        queue = self._queues[stage]
        while rows.size:
            first, rows = rows.split(min(queue.room, rows.size))
            if first.size:
                first.state["status"], first.state["next"] = QUEUED, stage
                goes_on = first.goes_on
                if goes_on.any():
                    self._states.put(first.state[goes_on])
                queue.push(first, now_ns)
            if rows.size:  # they wait until there is room
                self._submit(stage)
                self._collect(now_ns)

    def _shed(self, stage: int, rows: Rows, now_ns: int) -> Rows:
        """Return the rows that a stage takes; the flows of the others are answered now."""
        queue, load = self._queues[stage], self._loads[stage]
        if stage == 0:
            taken = np.arange(rows.size) < load.room(len(queue), queue.room)
        else:
            probability = rows.state["probability"]
            taken = load.choose(probability, len(queue), queue.room, now_ns)
        if taken.all():
            return rows
        refused = rows.select(~taken)
        if stage == 0:
            self._count("CASCADE_SKIPPED", int(refused.goes_on.sum()))
            refused = refused.select(~refused.goes_on)
            refused.state["stage"] = 0
            why = "CASCADE_UNJUDGED"
        else:
            is_full = queue.room <= int(taken.sum())
            why = "CASCADE_QUEUE_FULL" if is_full else "CASCADE_HELD"
        self._finish(refused, why, now_ns)
        return rows.select(taken)

    def _next_due(self, now_ns: int, flush: bool) -> int | None:
        """Return the stage with the earliest deadline among those whose batch can run now."""
        due = [
            (queue.deadline_ns, stage)
            for stage, queue in enumerate(self._queues)
            if (len(queue) and flush) or queue.is_due(now_ns)
        ]
        due = [
            (deadline_ns, stage)
            for deadline_ns, stage in due
            if stage not in self._running and self._workers.has_room(stage)
        ]
        return min(due)[1] if due else None

    def _submit(self, stage: int) -> None:
        self._running.add(stage)
        self._workers.submit(stage, self._queues[stage].pop(), self._stages[stage].judge)

    def _collect(self, now_ns: int) -> None:
        for job in self._workers.done():
            self._running.discard(job.stage)
            self._loads[job.stage].finished(job.rows.size, job.answers.took_ns)
            self._answer(job, now_ns)
            self._has_answered = True

    def _take_up(self, now_ns: int) -> bool:
        """Place rows that were set aside, if flows were answered since; return whether."""
        if not (self._parked and self._has_answered):
            return False
        parked, self._parked = self._parked, []
        self._has_answered = False
        for rows in parked:
            self._place(rows.batch, rows.at, rows.depth, now_ns)
        return True

    def _answer(self, job: Job, now_ns: int) -> None:
        """Take what a stage said: verdicts on sure flows, the way on for others."""
        rows = answered(job)
        is_awaited = ~rows.goes_on | self._states.is_awaited(rows.flow_id)
        rows = rows.select(is_awaited)  # the others were forgotten
        following = job.stage + 1
        if following == len(self._stages):
            self._finish(rows, "CASCADE_LAST", now_ns)
            return
        sure = self._decide[job.stage](rows.state["label"], rows.state["probability"])
        if sure.any():
            self._finish(rows.select(sure), "CASCADE_SURE", now_ns)
        if not sure.all():
            self._go_on(rows.select(~sure), following, now_ns)

    def _go_on(self, unsure: Rows, following: int, now_ns: int) -> None:
        """Take flows to the next stage, or have them wait for the packets that it sees."""
        if self._tell_early:
            self._tell(unsure, now_ns)
        waits = unsure.goes_on & (unsure.depth < self.depths[following])
        if waits.any():
            waiting = unsure.state[waits]
            waiting["status"], waiting["next"] = WAITING, following
            self._states.put(waiting)
        if not waits.all():
            self._enqueue(following, unsure.select(~waits), now_ns)

    def _tell(self, rows: Rows, now_ns: int) -> None:
        """Make early verdicts on flows that have had none."""
        first = rows.state["told"] == NOT_TOLD
        if not first.any():
            return
        event = np.full(int(first.sum()), EVENT_EARLY, np.uint8)
        self._emit(rows.select(first), event, now_ns)
        rows.state["told"] = np.where(first, rows.state["label"], rows.state["told"])
        self._count("CASCADE_EARLY", int(first.sum()))

    def _finish(self, rows: Rows, why: str, now_ns: int) -> None:
        """Make the verdicts on flows: they are answered."""
        if not rows.size:
            return
        told = rows.state["told"]
        is_revised = (told != NOT_TOLD) & (told != rows.state["label"])
        event = np.where(is_revised, EVENT_REVISED, EVENT_VERDICT).astype(np.uint8)
        self._emit(rows, event, now_ns, why not in ("CASCADE_SURE", "CASCADE_LAST"))
        self._count(why, rows.size)
        self._count("CASCADE_REVISED", int(is_revised.sum()))
        self._states.clear(rows.flow_id)
        self._left.append(rows.flow_id[rows.goes_on])

    def _emit(self, rows: Rows, event: np.ndarray, now_ns: int, degraded: bool = False) -> None:
        self._verdicts.append(
            verdicts_of(rows, event, now_ns, self._wording, self._records, degraded)
        )

    def _count(self, name: str, n: int) -> None:
        self._counters[name] += n
