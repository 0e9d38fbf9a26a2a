"""The steps of rows through the stages, row by row: the definition.

place      a new row goes to a stage; or aside, while an earlier row of its flow is being judged;
           or nowhere, as its flow is answered or waits for more packets than the row has
answer     the answer of a stage is sure; or the next stage takes the row at once; or the flow
           waits for the packets that the next stage sees
verdicts   the verdicts on rows, early or final
leave      rows and their flows have their final answer

steps_native.py does the same a batch at a time, and is what runs.
"""

from typing import NamedTuple

import numpy as np

from etcpipe.batch import rows_of
from etcpipe.cascade.pool import RowPool
from etcpipe.cascade.states import (
    NONE,
    NOT_TOLD,
    QUEUED,
    SAID,
    VERDICT,
    WAITING,
    FlowStates,
)
from etcpipe.layout import READY_REASONS
from etcpipe.model import Answers, sources, waits_ns
from etcpipe.verdict import EVENT_REVISED

# Reasons of complete rows whose flows will have no more packets.
OVER = tuple(READY_REASONS.index(reason) for reason in ("idle", "end"))


class Placed(NamedTuple):
    """Where new rows went; all others left their place.

    Attributes:
        queued: (stage, whether the flows have ended, places of rows) for each queue.
        aside: places of rows that wait until an earlier row of their flow is answered.
        refused: places of closing rows for which the first stage has no room.
        skipped: number of early rows for which it has no room.
    """

    queued: list[tuple[int, bool, np.ndarray]]
    aside: np.ndarray
    refused: np.ndarray
    skipped: int


class Answered(NamedTuple):
    """Places of judged rows by what happens next; all others left their place.

    Attributes:
        sure: rows whose flows are answered.
        at_once: rows that the next stage takes as they are.
        told: unsure rows whose flow had no early answer yet. They can still be read, as their
            places have not been reused.
    """

    sure: np.ndarray
    at_once: np.ndarray
    told: np.ndarray


class Steps:
    """The steps, on the rows of a pool and the table of states."""

    def __init__(
        self, pool: RowPool, states: FlowStates, depths: tuple[int, ...], tell_early: bool
    ):
        """Make them for stages that wait for `depths` packets."""
        self._pool, self._states = pool, states
        self._depths, self._tell_early = depths, tell_early

    def place(self, places: np.ndarray, room: int) -> Placed:
        """Return where rows go; the first stage takes at most `room` of them."""
        queued: dict[tuple[int, bool], list[int]] = {}
        aside, refused, skipped = [], [], 0
        for place in places.tolist():
            stage = self._stage_of(place)
            depth = int(self._pool.depth[place])
            if stage is None:
                self._pool.free(_one(place))
            elif stage < 0:
                aside.append(place)
            elif stage == 0 and not room and depth:
                self._pool.free(_one(place))
                skipped += 1
            elif stage == 0 and not room:
                self._pool.state["stage"][place] = 0
                refused.append(place)
            else:
                room -= stage == 0
                self._await(place, stage)
                is_over = not depth and self._pool.column("reason", _one(place))[0] in OVER
                queued.setdefault((stage, bool(is_over)), []).append(place)
        parts = [(*key, _array(queued[key])) for key in sorted(queued)]
        return Placed(parts, _array(aside), _array(refused), skipped)

    def answer(
        self, places: np.ndarray, stage: int, answers: Answers, sure: np.ndarray | None
    ) -> Answered:
        """Return what the answers of a stage on rows mean.

        Args:
            sure: (rows,) bool, which answers are sure; None: all.
        """
        said, took_ns = said_of(answers, sure), answers.took_ns // max(len(places), 1)
        found: tuple[list[int], list[int], list[int]] = ([], [], [])
        for place, one in zip(places.tolist(), said, strict=True):
            state = self._pool.state[place : place + 1]
            if self._pool.depth[place] and not self._states.is_awaited(state["flow_id"])[0]:
                self._pool.free(_one(place))  # the flow was forgotten
                continue
            for name in ("label", "probability", "runner_up", "packets_used"):
                state[name] = one[name]
            state["stage"] = stage
            state["infer_ns"] += np.uint64(took_ns)
            if one["sure"]:
                found[0].append(place)
                continue
            if self._tell_early and state["told"][0] == NOT_TOLD:
                state["told"] = state["label"]
                found[2].append(place)
            if self._goes_on(place, stage + 1):
                found[1].append(place)
        return Answered(*map(_array, found))

    def verdicts(
        self, places: np.ndarray, now_ns: int, event: int, source: int | None = None
    ) -> np.ndarray:
        """Return (rows,) VERDICT, the verdicts on rows.

        Args:
            now_ns: the time; all time since a row was complete except inference is queueing.
            event: index into EVENTS, unless an earlier answer is corrected.
            source: index into SOURCES; None: by the reason why each row was complete.
        """
        state, flows = self._pool.state[places], self._pool.flows(places)
        verdicts = np.zeros(len(places), VERDICT)
        for name in ("probability", "label", "runner_up", "packets_used", "stage", "infer_ns"):
            verdicts[name] = state[name]
        queue_ns = now_ns - flows.ready_ns.view(np.int64) - state["infer_ns"].astype(np.int64)
        verdicts["queue_ns"] = np.maximum(queue_ns, 0)
        verdicts["wait_ns"] = waits_ns(flows)
        verdicts["depth"] = np.array(self._depths)[state["stage"]]
        is_other = (state["told"] != NOT_TOLD) & (state["told"] != state["label"])
        verdicts["event"] = np.where(is_other, EVENT_REVISED, event)
        verdicts["source"] = sources(flows) if source is None else source
        return verdicts

    def leave(self, places: np.ndarray) -> np.ndarray:
        """Remove answered rows and flows; return (flows,) uint64, those that still have packets."""
        flow_id = self._pool.column("flow_id", places)
        self._states.clear(flow_id)
        self._pool.free(places)
        return flow_id[self._pool.depth[places] > 0]

    def _stage_of(self, place: int) -> int | None:
        """Return the stage that a row goes to; -1: it is put aside; None: it is not needed."""
        state, is_newer = self._states.look_up(self._pool.column("flow_id", _one(place)))
        self._pool.state[place] = state[0]
        depth, following = self._pool.depth[place], int(state["next"][0])
        if state["status"][0] == QUEUED:
            return -1
        if state["status"][0] == WAITING:
            return following if not depth or depth >= self._depths[following] else None
        # rows may come earlier than the first stage wants them, see life.py
        is_early = depth and (is_newer[0] or depth < self._depths[0])
        return 0 if state["status"][0] == NONE and not is_early else None

    def _goes_on(self, place: int, following: int) -> bool:
        """Advance an unsure flow; return whether the next stage takes the row at once."""
        depth = self._pool.depth[place]
        if not depth or depth >= self._depths[following]:
            self._await(place, following)
            return True
        state = self._pool.state[place : place + 1]
        state["status"], state["next"] = WAITING, following
        self._states.put(state)
        self._pool.free(_one(place))
        return False

    def _await(self, place: int, stage: int) -> None:
        """Record that a row goes to a stage, if its flow goes on."""
        state = self._pool.state[place : place + 1]
        state["next"] = stage
        if self._pool.depth[place]:
            state["status"] = QUEUED
            self._states.put(state)


def said_of(answers: Answers, sure: np.ndarray | None) -> np.ndarray:
    """Return (rows,) SAID."""
    said = np.empty(len(answers.label), SAID)
    said["label"], said["probability"] = answers.label, answers.probability
    said["runner_up"], said["packets_used"] = answers.runner_up, answers.packets_used
    said["sure"] = True if sure is None else sure
    return said


def sources_of_reasons() -> np.ndarray:
    """Return (reasons + 1,) uint8, index into SOURCES by reason; the last one is of empty rows."""
    rows = rows_of(len(READY_REASONS) + 1, 1, 0)
    rows.packets["present"][:-1] = 1
    rows.reason[:-1] = np.arange(len(READY_REASONS))
    return sources(rows)


def _one(place: int) -> np.ndarray:
    return np.array([place], np.int64)


def _array(places: list[int]) -> np.ndarray:
    return np.array(places, np.int64)
