"""Regrouping on a GPU: the host's side of gpu/regroup_plan.cu and regroup_rows.cu.

The device holds the slots, the rows and their bytes. For each batch of at most BATCH_MAX packets
the host uploads the columns, learns which rows were closed, and fetches these. While it waits for
that, the next batch is staged: its columns are uploaded and its headers are parsed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import get_ident

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.errors import DeviceLostError
from etcpipe.gpu.cuda import Call, Device, launch, launch_all
from etcpipe.gpu.cuda_source import CONSTANTS
from etcpipe.gpu.inference import Runner
from etcpipe.gpu.regroup import COUNTERS, EXPIRE_MAX, GRACE_NS, EarlyRows, Settings, Staged
from etcpipe.gpu.regroup_early_gpu import EarlyRowsDue
from etcpipe.gpu.regroup_output_gpu import Outputs, Rows
from etcpipe.gpu.regroup_tables_gpu import BATCH_MAX, Batch, Leaving, Tables
from etcpipe.gpu.scorer_gpu import Scorer
from etcpipe.gpu.views import View
from etcpipe.gpu.views_gpu import ViewComputer

DEPTH, IDLE, END = (CONSTANTS[f"READY_{name}"] for name in ("DEPTH", "IDLE", "END"))
ALL = (1 << 64) - 1
NO_ROWS = np.zeros(0, np.uint32)
PARSE_BLOCKS = BATCH_MAX // 128
LEAVE_BLOCKS = BATCH_MAX // 256


@dataclass(eq=False)
class Turn:
    """A batch on its way through the tables.

    Attributes:
        first_number: number of its first packet among all packets.
        is_parsed: have the headers of the packets in the room been parsed?
        state: waits for the state of the tables after it; None before its turn.
        failure: why there is no state.
        closed: the rows that it closed; None before it was regrouped.
    """

    batch: PacketBatch
    now_ns: int
    room: Batch
    first_number: int
    is_parsed: bool = False
    state: Callable[[], np.void] | None = None
    failure: DeviceLostError | None = None
    closed: list[Rows] | None = None


class Backend:
    """See etcpipe.gpu.regroup.

    Args:
        device: where to compute; None: the GPU.
        scatter_blocks: thread blocks that copy a batch's packets, 8 packets at a time each;
            None: one a multiprocessor. The paper has one in all.

    Raises:
        UnsupportedError: there is no GPU that can be used.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device | None = None,
        scatter_blocks: int | None = None,
    ):
        if device is None:
            from etcpipe.gpu.cuda_cupy import CupyDevice

            device = CupyDevice()
        self._set = settings
        self._device = device
        self._scatter_blocks = scatter_blocks or device.processors
        self._scan_blocks = device.processors
        self._after_ns = settings.wait_ns + GRACE_NS
        self._tables = Tables(device, settings)
        self._rooms = [Batch(device) for _ in range(2)]
        self._turns: deque[Turn] = deque()  # staged batches, the oldest first
        self._state = self._settled = self._tables.state.read()
        self._thread = get_ident()
        self._outputs = Outputs(device, settings, self._tables.table)
        self._early = EarlyRowsDue(settings, self._outputs) if settings.depths else None
        self._leaving = Leaving(device)
        self._added = 0
        self._clock_ns = 0

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        return self.stage(batch, now_ns)()()

    def stage(self, batch: PacketBatch, now_ns: int | None) -> Staged:
        """See etcpipe.gpu.regroup.Regroup.stage()."""
        _check(batch)
        newest = int(batch.timestamp_ns.max(initial=0))
        self._clock_ns = max(self._clock_ns, newest)
        self._thread = get_ident()
        while len(self._turns) >= len(self._rooms):
            self._settle_first()
        room = next(room for room in self._rooms if room not in [t.room for t in self._turns])
        turn = Turn(batch, newest if now_ns is None else now_ns, room, self._added + 1)
        self._added += len(batch)
        self._turns.append(turn)
        if len(batch):
            self._upload(turn, 0)
            if len(self._turns) == 1:
                self._plan(turn)
            else:
                turn.is_parsed = True
                launch_all(self._device, self._parsing(room))
        return partial(self._settle, turn)

    def _settle(self, turn: Turn) -> Callable[[], FlowBatch]:
        """Return a function that waits for the rows of a batch, once its frames may be reused."""
        while turn.closed is None:
            self._settle_first()
        closed = turn.closed
        return lambda: self._outputs.joined(closed)

    def _settle_first(self) -> None:
        """Regroup the oldest staged batch, and let the next one use the tables."""
        turn = self._turns[0]
        closed = self._regroup(turn)
        turn.closed, self._settled = closed, self._state
        self._turns.popleft()
        if self._turns and len(self._turns[0].batch):
            try:
                self._plan(self._turns[0])
            except DeviceLostError as error:  # it belongs to the next batch: this one is done
                self._turns[0].failure = error

    def _settle_all(self) -> None:
        while self._turns:
            self._settle_first()

    def _regroup(self, turn: Turn) -> list[Rows]:
        """Begin to fetch the rows that a batch closes; its first part is in the stream already."""
        batch = turn.batch
        closed: list[Rows] = []
        holed: dict[int, int] = {}  # flow id -> row
        flow_ids: list[np.ndarray] = []
        rows, n_idle = NO_ROWS, None
        for start in range(0, len(batch), BATCH_MAX):
            if start:
                closed += self._gather(rows)  # those of the part before: this one needs the room
                self._upload(turn, start)
                self._plan(turn)
            ids, state = self._planned(turn, start)
            n_idle = int(state["n_idle"])
            flow_ids.append(ids)
            rows = state["closed"][: state["n_closed"]]
            gone = set(rows.tolist())
            holed = {flow: row for flow, row in holed.items() if row not in gone}
            found = slice(state["n_holed"])
            packets, open_rows = state["holed_packet"][found], state["holed_row"][found]
            holed |= dict(zip(ids[packets].tolist(), open_rows.tolist(), strict=True))
        full = self._close_holed(holed, np.concatenate(flow_ids)) if holed else NO_ROWS
        if holed or n_idle is None:
            n_idle = self._find_idle(turn.now_ns)
        rows = np.concatenate([rows, full, self._close_idle(n_idle)])
        if self._early:
            self._early.end()
        return closed + self._gather(rows)

    def expire(self, now_ns: int) -> FlowBatch:
        self._settle_all()
        return self._outputs.joined(self._gather(self._close_idle(self._find_idle(now_ns))))

    def flush(self) -> FlowBatch:
        self._settle_all()
        rows, last_ns = self._tables.found_rows(self._find_idle(now_ns=0, after_ns=ALL))
        silent_ns = self._clock_ns - last_ns.astype(object)
        why = np.where(silent_ns > self._set.wait_ns, IDLE, END).astype(np.uint8)
        return self._outputs.joined(self._gather(self._close(rows, why)))

    def take_early(self) -> EarlyRows:
        if not self._early:
            return EarlyRows(np.zeros(0, np.uint8), self._outputs.joined([]))
        return self._early.take()

    def leave(self, flow_id: np.ndarray) -> None:
        for start in range(0, len(flow_id), BATCH_MAX):
            record = self._leaving.write(flow_id[start : start + BATCH_MAX])
            launch(self._device, "regroup_leave", LEAVE_BLOCKS, self._tables.table, record)

    def scorer(self, runner: Runner, view: View, depth: int, columns: Sequence[str]) -> Scorer:
        """See etcpipe.gpu.regroup.Regroup.scorer()."""
        kept = self._set.first_n, self._set.raw_len
        branch = self._outputs.branch
        computer = ViewComputer(branch, view, *kept, depth, columns)
        scorer = self._outputs.scorer = Scorer(branch, computer, runner)
        return scorer

    @property
    def counters(self) -> dict[str, int]:
        return _counters(self._state_now())

    @property
    def settled_counters(self) -> dict[str, int]:
        """The counters after the last batch that was regrouped, without asking the GPU."""
        return _counters(self._settled)

    @property
    def pending(self) -> int:
        return int(self._state_now()["pending"])

    def _state_now(self) -> np.void:
        """Return the state of the tables, for other threads the one after the last batch.

        Only one thread may use the device: copies of another would go through the same buffers.
        """
        if get_ident() == self._thread:
            self._state = self._tables.state.read()
        return self._state

    def _upload(self, turn: Turn, start: int) -> None:
        """Upload the part of a batch that begins at `start` into its room."""
        end = min(start + BATCH_MAX, len(turn.batch))
        turn.room.write(turn.batch, start, end, turn.first_number + start)
        turn.is_parsed = False

    def _plan(self, turn: Turn) -> None:
        """Run the part of a batch in its room against the tables, and ask for their state.

        Idle rows are looked for in the same launch, which is right unless the host closes rows
        before.
        """
        table, record = self._tables.table, turn.room.record
        launch_all(
            self._device,
            [
                *([] if turn.is_parsed else self._parsing(turn.room)),
                *self._tracking(turn.room),
                ("regroup_plan", 1, table, record),
                ("regroup_scatter", self._scatter_blocks, table, record),
                *self._finding_idle(turn.now_ns, self._after_ns),
            ],
        )
        turn.state = self._tables.state.read_later()

    def _planned(self, turn: Turn, start: int) -> tuple[np.ndarray, np.void]:
        """Return the flows of a part and the state after it, once its frames may be reused."""
        if turn.failure:
            raise turn.failure
        assert turn.state is not None
        self._state = state = turn.state()
        n = min(len(turn.batch) - start, BATCH_MAX)
        if self._early:
            self._early.note(*turn.room.places(n))
        return self._flow_ids(turn, start, n), state

    def _parsing(self, room: Batch) -> list[Call]:
        """Return the kernel that parses the headers; it needs no table."""
        return [("regroup_parse", PARSE_BLOCKS, self._tables.table, room.record)]

    def _tracking(self, room: Batch) -> list[Call]:
        """Return the kernels that find the packets' flows; none here, as the tracker did."""
        return []

    def _flow_ids(self, turn: Turn, start: int, n: int) -> np.ndarray:
        """Return the flow id of each packet."""
        return turn.batch.flow_id[start : start + n]

    def _close_holed(self, holed: dict[int, int], flow_ids: np.ndarray) -> np.ndarray:
        """Close rows, in the order of their flows in the batch, and return them."""
        ids, at = np.unique(flow_ids, return_index=True)
        first = dict(zip(ids.tolist(), at.tolist(), strict=True))
        rows = np.array([holed[i] for i in sorted(holed, key=first.__getitem__)], np.uint32)
        return self._close(rows, np.full(len(rows), DEPTH, np.uint8))

    def _close_idle(self, n_found: int) -> np.ndarray:
        rows = self._tables.found_rows(n_found)[0][:EXPIRE_MAX]
        return self._close(rows, np.full(len(rows), IDLE, np.uint8))

    def _finding_idle(self, now_ns: int, after_ns: int) -> list[Call]:
        """Return the kernels that find idle open rows."""
        table, idle = self._tables.table, self._tables.idle
        idle.write(now_ns=now_ns, after_ns=after_ns, limit=ALL)
        kernels = ("regroup_idle_limit", "regroup_idle")
        return [(kernel, self._scan_blocks, table, idle) for kernel in kernels]

    def _find_idle(self, now_ns: int, after_ns: int | None = None) -> int:
        """Return the number of idle open rows."""
        launch_all(self._device, self._finding_idle(now_ns, after_ns or self._after_ns))
        return int(self._tables.state.read()["n_idle"])

    def _close(self, rows: np.ndarray, why: np.ndarray) -> np.ndarray:
        """Close rows and return them."""
        self._outputs.close(rows, why)
        return rows

    def _gather(self, rows: np.ndarray) -> list[Rows]:
        """Begin to copy closed rows to the host, and free them."""
        if self._early:
            self._early.copy(rows)
        return self._outputs.gather(rows)


def _counters(state: np.void) -> dict[str, int]:
    return dict(zip(COUNTERS, state["counters"].tolist(), strict=True))


def _check(batch: PacketBatch) -> None:
    columns: dict[str, tuple[type, int]] = {"memory": (np.uint8, len(batch.memory))}
    columns |= {name: (dtype, len(batch)) for name, dtype in DTYPES.items()}
    for name, (dtype, length) in columns.items():
        column = getattr(batch, name)
        if column.dtype != dtype or column.shape != (length,):
            raise ValueError(f"{name} must be an array of {length} {np.dtype(dtype)}")
