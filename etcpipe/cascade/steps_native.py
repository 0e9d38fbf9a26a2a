"""The steps of steps.py in C (etcpipe/native/cascade.c), a batch of rows at a time."""

import numpy as np

from etcpipe import _native
from etcpipe.cascade.pool import RowPool
from etcpipe.cascade.states import RECORDS, SAID, VERDICT, FlowStates
from etcpipe.cascade.steps import Answered, Placed, Steps, said_of, sources_of_reasons
from etcpipe.model import Answers
from etcpipe.verdict import EVENT_REVISED

_BYTES = np.dtype((np.void, SAID.itemsize))
_FLOWS = RECORDS["cascade_flows"]
# Counts of cascade_place(): three lists of rows, rows in no list, and two lists for each stage.
_ASIDE, _REFUSED, _SKIPPED, _, _TO_STAGES = range(5)


class NativeSteps(Steps):
    """The steps, with one call for each batch."""

    def __init__(
        self, pool: RowPool, states: FlowStates, depths: tuple[int, ...], tell_early: bool
    ):
        super().__init__(pool, states, depths, tell_early)
        self._arrays = np.array(depths, np.uint16), sources_of_reasons()
        addresses = [array.ctypes.data for array in self._arrays]
        sizes = len(depths), len(self._arrays[1]) - 1
        self._record = np.array(
            (*states.addresses, addresses[0], sizes[0], addresses[1], sizes[1], tell_early), _FLOWS
        )
        self._at = self._record.ctypes.data, pool.address
        self._counts = np.zeros(_TO_STAGES + 2 * len(depths), np.uint64)
        self._counts_at = self._counts.ctypes.data

    def place(self, places: np.ndarray, room: int) -> Placed:
        n = len(places)
        to, lists = np.empty(n, np.uint8), np.empty(n, np.int64)
        addresses = _native.address(to), _native.address(lists), self._counts_at
        _native.cascade_place(*self._at, _native.address(places), n, room, *addresses)
        counts, parts, first = self._counts.tolist(), [], 0
        for count in counts:
            parts.append(lists[first : first + count])
            first += count
        queued = [
            (i // 2, i % 2 == 1, part) for i, part in enumerate(parts[_TO_STAGES:]) if len(part)
        ]
        return Placed(queued, parts[_ASIDE], parts[_REFUSED], counts[_SKIPPED])

    def answer(
        self, places: np.ndarray, stage: int, answers: Answers, sure: np.ndarray | None
    ) -> Answered:
        n, said, lists = len(places), said_of(answers, sure), np.empty(3 * len(places), np.int64)
        of_rows = _native.address(places), n, _native.address(said.view(_BYTES))
        took_ns = answers.took_ns // max(n, 1)
        addresses = _native.address(lists), self._counts_at
        _native.cascade_answer(*self._at, *of_rows, stage, took_ns, *addresses)
        counts = self._counts.tolist()
        return Answered(*(lists[i * n : i * n + counts[i]] for i in range(3)))

    def verdicts(
        self, places: np.ndarray, now_ns: int, event: int, source: int | None = None
    ) -> np.ndarray:
        room = np.empty(len(places) * VERDICT.itemsize, np.uint8)
        how = event, EVENT_REVISED, -1 if source is None else source
        of_rows = _native.address(places), len(places)
        _native.cascade_verdicts(*self._at, *of_rows, now_ns, *how, _native.address(room))
        return room.view(VERDICT)

    def leave(self, places: np.ndarray) -> np.ndarray:
        left = np.empty(len(places), np.uint64)
        of_rows = _native.address(places), len(places)
        return left[: _native.cascade_leave(*self._at, *of_rows, _native.address(left))]
