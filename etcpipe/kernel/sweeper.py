"""Flows that ended, found by a thread that walks the kernel's table: no packet has to come.

The table is read in the kernel's memory, some thousand places at a time, with pauses between
them: a round over everything takes PERIOD_S or, where the table is so large, as long as
DUTY of one processor needs. Flows past their timeout are taken out, and a record says what they
were after that.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from time import monotonic, monotonic_ns

import numpy as np

from etcpipe.errors import EtcpipeError
from etcpipe.kernel import status
from etcpipe.kernel.flow_table import FlowTable, Window
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import END_REASONS, ENUMS, FLOW_RECORD

log = logging.getLogger(__name__)

PERIOD_S = 5.0
DUTY = 0.05
# The clock of packets past the first N lags by a tick of up to 10 ms.
SLACK_NS = 20_000_000

SYN, ACK = 0x02, 0x10
CLOSED = ENUMS["flow_status"].index("FLOW_CLOSED")
IDLE, IS_CLOSED, SOURCE, ESTABLISH, ACTIVE = (
    END_REASONS.index(name) for name in ("idle", "closed", "source", "establish", "active")
)


class Sweeper:
    """Takes ended flows out of a tap's table; a context manager around its thread.

    Args:
        table: of a tap.
        settings: its timeouts.
        counters_fd: the tap's packet_counters, to count FLOWS_ENDED where others see it and
            a later consumer goes on; None: nowhere but in `counters`.
        on_records: called with (n,) FLOW_RECORD, n > 0, from the sweeper's thread: flows
            that ended, and every active_timeout_s those that go on (reason "active").
        period_s: seconds a round takes at least.

    Attributes:
        on_records: may be changed at any time.
        on_slice, on_round: called with each slice of the table, (n,) FLOW_KEY and (n,)
            FLOW_STATE, and after the last one; from the sweeper's thread.
        counters: FLOWS_ENDED, and FLOWS_ACTIVE (interim records).
        failure: what ended the thread early, an error of on_records.
    """

    def __init__(
        self,
        table: FlowTable,
        settings: TapSettings,
        on_records: Callable[[np.ndarray], None] | None = None,
        period_s: float = PERIOD_S,
        counters_fd: int | None = None,
    ):
        self.counters = {"FLOWS_ENDED": 0, "FLOWS_ACTIVE": 0}
        self.failure: Exception | None = None
        self._table, self._counters_fd = table, counters_fd
        self._limits_ns = {
            name: np.int64(getattr(settings, f"{name}_timeout_s") * 1e9)
            for name in ("establish", "idle", "active", "tombstone")
        }
        self.on_records = on_records
        self.on_slice: Callable[[np.ndarray, np.ndarray], None] | None = None
        self.on_round: Callable[[], None] | None = None
        self._period_s = period_s
        self._round_ns = monotonic_ns()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcpipe-sweeper", daemon=True)

    def __enter__(self) -> "Sweeper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread; flows that ended since its last round stay in the table."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> None:
        """Walk the whole table once, without pauses."""
        for _ in self._round():
            pass

    def rest(self) -> None:
        """Report every flow that is left, as it is now; the table stays as it is."""
        for window in self._table.windows():
            reasons, _ = self._judge(window.states, monotonic_ns())
            reasons[reasons == ACTIVE] = SOURCE
            self._report(_records(window.keys, window.states, reasons))

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                end = monotonic() + self._period_s
                for took_s in self._round():
                    if self._stopping.wait(took_s * (1 / DUTY - 1)):
                        return
                self._stopping.wait(max(0.0, end - monotonic()))
        except (OSError, EtcpipeError) as error:  # the consumer sees it and ends
            self.failure = error

    def _round(self) -> Iterator[float]:
        """Walk over the table; yield the seconds that each slice took."""
        now, before = monotonic_ns(), self._round_ns
        self._round_ns = now
        started = monotonic()
        for window in self._table.windows():
            if self.on_slice:
                self.on_slice(window.keys, window.states)
            self._sweep_window(window, now, before)
            yield monotonic() - started
            started = monotonic()
        if self.on_round:
            self.on_round()

    def _sweep_window(self, window: Window, now: int, before: int) -> None:
        keys, states = window.keys, window.states
        reasons, silent = self._judge(states, now)
        active = ~silent & self._is_due(states, now, before)
        if active.any():
            self.counters["FLOWS_ACTIVE"] += int(active.sum())
            self._report(_records(keys[active], states[active], np.full(active.sum(), ACTIVE)))
        if silent.any():
            taken, last = window.take(silent)
            self._count_ended(len(taken))
            self._report(_records(keys[taken], last, reasons[taken]))

    def _judge(self, states: np.ndarray, now: int) -> tuple[np.ndarray, np.ndarray]:
        """Return why each flow ended (ACTIVE: it did not), and whether: bpf/flows.h in NumPy."""
        flags = states["tcp_flags"][:, 0] | states["tcp_flags"][:, 1]
        half_open = flags & (SYN | ACK) == SYN
        closed = states["status"] == CLOSED
        limits = np.where(half_open, self._limits_ns["establish"], self._limits_ns["idle"])
        limits = np.where(closed, self._limits_ns["tombstone"], limits)
        age = np.int64(now - SLACK_NS) - states["last_ns"].astype(np.int64)
        silent = age > limits
        reasons = np.where(closed, IS_CLOSED, np.where(half_open, ESTABLISH, IDLE))
        return np.where(silent | closed, reasons, ACTIVE), silent

    def _is_due(self, states: np.ndarray, now: int, before: int) -> np.ndarray:
        """Return whether each flow's age passed a multiple of the active timeout this round."""
        first = states["first_ns"].astype(np.int64)
        limit = self._limits_ns["active"]
        return (now - first) // limit > np.maximum(before - first, 0) // limit

    def _count_ended(self, n: int) -> None:
        self.counters["FLOWS_ENDED"] += n
        if self._counters_fd is not None:
            status.add(self._counters_fd, "FLOWS_ENDED", n)

    def _report(self, records: np.ndarray) -> None:
        if self.on_records and len(records):
            self.on_records(records)


def _records(keys: np.ndarray, states: np.ndarray, reasons: np.ndarray) -> np.ndarray:
    records = np.zeros(len(keys), FLOW_RECORD)
    records["key"], records["state"], records["reason"] = keys, states, reasons
    return records
