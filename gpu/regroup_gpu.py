"""Regrouping on a GPU: the host's side of gpu/regroup_plan.cu and regroup_rows.cu.

The device has the slots, the rows and their bytes. Per batch of at most BATCH_MAX packets the
host uploads the columns, learns which rows were closed, and asks for them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.gpu.cuda import Call, Device, launch, launch_all
from etcpipe.gpu.cuda_source import CONSTANTS
from etcpipe.gpu.inference import Runner
from etcpipe.gpu.regroup import COUNTERS, EXPIRE_MAX, GRACE_NS, EarlyRows, Settings
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
        self._batch = Batch(device)
        self._outputs = Outputs(device, settings, self._tables.table)
        self._early = EarlyRowsDue(settings, self._outputs) if settings.depths else None
        self._leaving = Leaving(device)
        self._added = 0
        self._clock_ns = 0

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        return self.begin(batch, now_ns)()

    def begin(self, batch: PacketBatch, now_ns: int | None) -> Callable[[], FlowBatch]:
        """See etcpipe.gpu.regroup.Regroup.begin()."""
        _check(batch)
        newest = int(batch.timestamp_ns.max(initial=0))
        self._clock_ns = max(self._clock_ns, newest)
        now_ns = newest if now_ns is None else now_ns
        closed: list[Rows] = []
        holed: dict[int, int] = {}  # flow id -> row
        flow_ids: list[np.ndarray] = []
        rows, n_idle = NO_ROWS, None
        for start in range(0, len(batch), BATCH_MAX):
            closed += self._gather(rows)  # of the part before: the next one needs the room
            ids, state = self._plan(batch, start, min(start + BATCH_MAX, len(batch)), now_ns)
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
            n_idle = self._find_idle(now_ns)
        rows = np.concatenate([rows, full, self._close_idle(n_idle)])
        if self._early:
            self._early.end()
        closed += self._gather(rows)
        return lambda: self._outputs.joined(closed)

    def expire(self, now_ns: int) -> FlowBatch:
        return self._outputs.joined(self._gather(self._close_idle(self._find_idle(now_ns))))

    def flush(self) -> FlowBatch:
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
        values = self._tables.state.read()["counters"].tolist()
        return dict(zip(COUNTERS, values, strict=True))

    @property
    def pending(self) -> int:
        return int(self._tables.state.read()["pending"])

    def _plan(
        self, batch: PacketBatch, start: int, end: int, now_ns: int
    ) -> tuple[np.ndarray, np.void]:
        """Take some packets; return their flows and what that did to the tables.

        Idle rows are looked for in the same go: right unless the host closes rows first.
        """
        self._batch.write(batch, start, end, self._added + 1)
        self._added += end - start
        table, record = self._tables.table, self._batch.record
        launch_all(
            self._device,
            [
                ("regroup_parse", PARSE_BLOCKS, table, record),
                *self._tracking(),
                ("regroup_plan", 1, table, record),
                ("regroup_scatter", self._scatter_blocks, table, record),
                *self._finding_idle(now_ns, self._after_ns),
            ],
        )
        state = self._tables.state.read()
        if self._early:
            self._early.note(*self._batch.places(end - start))
        return self._flow_ids(batch, start, end), state

    def _tracking(self) -> list[Call]:
        """Return the kernels that find the packets' flows: none, the tracker gave them."""
        return []

    def _flow_ids(self, batch: PacketBatch, start: int, end: int) -> np.ndarray:
        """Return the flow of each packet."""
        return batch.flow_id[start:end]

    def _close_holed(self, holed: dict[int, int], flow_ids: np.ndarray) -> np.ndarray:
        """Close and return rows, in the order in which their flows come in the batch."""
        ids, at = np.unique(flow_ids, return_index=True)
        first = dict(zip(ids.tolist(), at.tolist(), strict=True))
        rows = np.array([holed[i] for i in sorted(holed, key=first.__getitem__)], np.uint32)
        return self._close(rows, np.full(len(rows), DEPTH, np.uint8))

    def _close_idle(self, n_found: int) -> np.ndarray:
        rows = self._tables.found_rows(n_found)[0][:EXPIRE_MAX]
        return self._close(rows, np.full(len(rows), IDLE, np.uint8))

    def _finding_idle(self, now_ns: int, after_ns: int) -> list[Call]:
        """Return the kernels that find the open rows that are idle, told what that means."""
        table, idle = self._tables.table, self._tables.idle
        idle.write(now_ns=now_ns, after_ns=after_ns, limit=ALL)
        kernels = ("regroup_idle_limit", "regroup_idle")
        return [(kernel, self._scan_blocks, table, idle) for kernel in kernels]

    def _find_idle(self, now_ns: int, after_ns: int | None = None) -> int:
        """Return how many open rows are idle."""
        launch_all(self._device, self._finding_idle(now_ns, after_ns or self._after_ns))
        return int(self._tables.state.read()["n_idle"])

    def _close(self, rows: np.ndarray, why: np.ndarray) -> np.ndarray:
        """Close and return rows."""
        self._outputs.close(rows, why)
        return rows

    def _gather(self, rows: np.ndarray) -> list[Rows]:
        """Begin to bring closed rows to the host, and make them free."""
        if self._early:
            self._early.copy(rows)
        return self._outputs.gather(rows)


def _check(batch: PacketBatch) -> None:
    columns: dict[str, tuple[type, int]] = {"memory": (np.uint8, len(batch.memory))}
    columns |= {name: (dtype, len(batch)) for name, dtype in DTYPES.items()}
    for name, (dtype, length) in columns.items():
        column = getattr(batch, name)
        if column.dtype != dtype or column.shape != (length,):
            raise ValueError(f"{name} must be an array of {length} {np.dtype(dtype)}")
