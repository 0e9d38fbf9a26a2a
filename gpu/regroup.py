"""Regrouping: packets of many flows go in, flows whose model input is complete come out.

Each packet brings its flow's id and its rank in the flow, which the tracker gave it. So a
packet has its place, row `id % slots` and column `rank`, without any hash. All backends
compute exactly this:

    A row keeps the packets of rank 0 .. N-1 of one flow. It is closed, and comes out once, by
      depth    rank N-1 arrived, whatever closes the row then; ranks that it overtook may still
               come within the same batch
      idle     no packet for `wait_s`, by the packets' clock
      end      flush()
      evicted  a newer flow needs the same slot, or all rows are taken: then the least recently
               updated row is closed
    and later packets of its flow are ignored. If two successive packets are more than `wait_s`
    apart, the row is closed before the second one, however late that is noticed. So the content
    of a row depends on its packets alone, and not on how they were cut into batches or when
    expire() was called, as long as packets are less than GRACE_NS out of order.

    ready_ns  idle: the last packet's time + wait_s, else the last packet's time
    lost      ranks below the highest one of the row that never arrived
    order     depth, idle and evicted as they happen in the batch; then rows with the last rank
              but not all others; then idle ones, the least recently updated first

    A flow of a cascade has early rows too, one at each of `depths`: once the packet of rank
    depth - 1 has arrived, a copy of the row with the ranks below depth comes out at the end of the
    batch, and the flow goes on. take_early() returns these rows in the order of those packets.

    A super-packet (segment_len > 0) stands for ceil(payload / segment_len) packets of
    consecutive ranks: each has its own lengths and part of the payload, FIN and PSH are on the
    last one, CWR is on the first.

Each packet is counted once, by the first of these that applies: UNPARSED (no flow id), STRAGGLERS
(the slot has a newer flow), LATE (its row was closed, or is closed by this packet), BEYOND (rank N
or more), UNPARSED (its headers cannot be parsed), DUPLICATES (all its ranks are there already),
STORED. Rows are counted as FLOWS (opened), EVICTED (slot needed), POOL_FULL (row needed) and LEFT
(by leave()), and the ranks that they lack as LOST.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.gpu.mask import MASKS
from etcpipe.layout import CONSTANTS

if TYPE_CHECKING:
    from etcpipe.gpu.inference import Runner
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.gpu.views import View

# A row stays open this much longer than its waiting time, for packets that arrive out of order.
GRACE_NS = 100_000_000
# Rows that one call closes because they are idle; this bounds the call, the next one continues.
EXPIRE_MAX = 4096
SLOTS = 1 << 20
ROWS_MAX = 1 << 18
RAW_MEMORY = 512 << 20
RAW_LEN_MAX = 65535
THREADS_MAX = 64

COUNTERS = (
    "REGROUP_STORED",
    "REGROUP_DUPLICATES",
    "REGROUP_LATE",
    "REGROUP_STRAGGLERS",
    "REGROUP_BEYOND",
    "REGROUP_UNPARSED",
    "REGROUP_FLOWS",
    "REGROUP_LOST",
    "REGROUP_EVICTED",
    "REGROUP_POOL_FULL",
    "REGROUP_LEFT",
)

# "reference" is the definition in Python, for tests and for readers.
BACKENDS = {"cpu": "regroup_native", "gpu": "regroup_failover", "reference": "regroup_cpu"}


# Returns as soon as the frames of a batch may be reused; what it returns waits for the flows.
Staged = Callable[[], Callable[[], FlowBatch]]


@dataclass(frozen=True)
class Settings:
    """The settings of a backend, checked by Regroup."""

    first_n: int
    raw_len: int
    slots: int
    max_rows: int
    wait_ns: int
    mask: str
    parse: int = 0
    depths: tuple[int, ...] = ()
    threads: int = 1


class EarlyRows(NamedTuple):
    """Rows of flows that go on.

    Attributes:
        depth: (flows,) uint8, packets at which each row came out.
        flows: rows with these packets alone; reason is READY_DEPTH, ready_ns the time of the
            newest of them, lost the number of lower ranks that have not arrived.
    """

    depth: np.ndarray
    flows: FlowBatch


class Backend(Protocol):
    """What each backend implements, as class Backend in its module."""

    def __init__(self, settings: Settings): ...

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch: ...

    def expire(self, now_ns: int) -> FlowBatch: ...

    def flush(self) -> FlowBatch: ...

    def take_early(self) -> EarlyRows: ...

    def leave(self, flow_id: np.ndarray) -> None: ...

    @property
    def counters(self) -> dict[str, int]: ...

    @property
    def pending(self) -> int: ...


class Regroup:
    """Gathers each flow's first N packets.

    Returned arrays are copies that stay valid. add() and expire() return at most a few
    thousand rows, flush() at most `max_rows`.
    """

    def __init__(
        self,
        first_n: int,
        raw_len: int = 0,
        *,
        slots: int = SLOTS,
        wait_s: float = 1.0,
        mask: str = "strict",
        max_rows: int = ROWS_MAX,
        raw_memory: int = RAW_MEMORY,
        parse: int = 0,
        depths: Sequence[int] = (),
        device: str = "cpu",
        threads: int = 1,
    ):
        """Make an empty table.

        Args:
            first_n: packets of a flow that are kept.
            raw_len: bytes of each that are kept in the raw view, 0 for none.
            slots: places for flows, pending or closed; at least as many as the ids of two live
                flows can differ by.
            wait_s: a flow that is silent for this long is complete.
            mask: "strict", "standard" or "none", see etcpipe.gpu.mask.
            max_rows: pending flows at most.
            raw_memory: bytes for raw views of pending flows at most; it limits max_rows too.
            parse: how packets are parsed, as by the tracker; see etcpipe.parsing.parse_bits().
            depths: numbers of packets below first_n at which a flow has an early row.
            device: "cpu", "gpu" or "reference".
            threads: number of threads of "cpu", of use where raw bytes are kept. Each thread has
                a part of the slots and of max_rows, and rows come out thread by thread.

        Raises:
            UsageError: a setting is out of range.
            UnsupportedError: the device has no backend here.
        """
        _require(1 <= first_n <= CONSTANTS["FIRST_N_MAX"], f"first_n {first_n}", "1 to 64")
        _require(0 <= raw_len <= RAW_LEN_MAX, f"raw_len {raw_len}", f"0 to {RAW_LEN_MAX}")
        _require(1 <= slots <= 1 << 30, f"slots {slots}", "1 to 2^30")
        _require(1 <= max_rows <= 1 << 30, f"max_rows {max_rows}", "1 to 2^30")
        _require(0 < wait_s <= 86400, f"wait_s {wait_s}", "above 0 and at most a day")
        _require(mask in MASKS, f"mask {mask!r}", ", ".join(MASKS))
        _require(device in BACKENDS, f"device {device!r}", ", ".join(BACKENDS))
        _require(1 <= threads <= THREADS_MAX, f"threads {threads}", f"1 to {THREADS_MAX}")
        early = tuple(sorted(set(depths)))
        _require(
            all(1 <= depth < first_n for depth in early), f"depths {depths}", f"1 to {first_n - 1}"
        )
        if raw_len:
            max_rows = max(1, min(max_rows, raw_memory // (first_n * raw_len)))
        wait_ns = round(wait_s * 1e9)
        self.settings = Settings(
            first_n, raw_len, slots, max_rows, wait_ns, mask, parse, early, threads
        )
        self._backend = _load(device)(self.settings)

    def add(self, batch: PacketBatch, now_ns: int | None = None) -> FlowBatch:
        """Take packets and return the flows that are complete.

        Args:
            batch: its frames may be reused afterwards: what is needed of them is copied.
            now_ns: the time, by the packets' clock, up to which all packets have been added;
                None: that of the newest packet of the batch.

        Raises:
            ValueError: a column has the wrong dtype or length.
        """
        return self._backend.add(batch, now_ns)

    def begin(self, batch: PacketBatch, now_ns: int | None = None) -> Callable[[], FlowBatch]:
        """Take packets and return a function that returns the flows that are complete.

        On a GPU these are copied to the host meanwhile, and judged if there is a scorer, so begin
        the next batch before calling it. Frames may be reused at once. Arguments as of add().
        """
        return self.stage(batch, now_ns)()

    def stage(self, batch: PacketBatch, now_ns: int | None = None) -> Staged:
        """Take packets and return a function that continues as begin() does.

        Frames may be reused once that function has returned; until then a GPU may read them, so a
        batch that is staged meanwhile must have its frames elsewhere. Call each function once,
        in the order in which the batches were staged. Arguments as of add().
        """
        stage = getattr(self._backend, "stage", None)
        if stage:
            return stage(batch, now_ns)
        flows = self._backend.add(batch, now_ns)
        return lambda: lambda: flows

    @property
    def is_ahead(self) -> bool:
        """Is a staged batch processed in the background, so that two may be on their way?"""
        return hasattr(self._backend, "stage")

    def expire(self, now_ns: int) -> FlowBatch:
        """Return the flows that were idle GRACE_NS before now_ns."""
        return self._backend.expire(now_ns)

    def flush(self) -> FlowBatch:
        """Return all flows that are left."""
        return self._backend.flush()

    def take_early(self) -> EarlyRows:
        """Return the early rows since the last call; take them after each add()."""
        return self._backend.take_early()

    def leave(self, flow_id: np.ndarray) -> None:
        """End flows that need no more rows; later packets of them count as LATE.

        Args:
            flow_id: (flows,) uint64; closed and unknown flows are ignored.
        """
        self._backend.leave(np.ascontiguousarray(flow_id, np.uint64))

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: Sequence[str]
    ) -> "Scorer | None":
        """Judge flows on the GPU from now on, and return the scorer that has their scores.

        Their bytes stay there: `raw` of the flows that come out has a length of 0.

        Args:
            runner: a runner on the GPU.
            view, depth, columns: as of etcpipe.gpu.views.compute().

        Returns:
            None if flows are regrouped or judged on the CPU; then nothing changes.

        Raises:
            UnsupportedError: the GPU has no memory left for the rows; nothing changes.
        """
        if runner.device == "cpu":
            return None
        make = getattr(self._backend, "scorer", None)
        return make(runner, view, depth, columns) if make else None

    @property
    def counters(self) -> dict[str, int]:
        """Packets and rows by what became of them, named as in COUNTERS."""
        return self._backend.counters

    @property
    def pending(self) -> int:
        """Flows whose row is open."""
        return self._backend.pending


def _require(condition: bool, setting: str, allowed: str) -> None:
    if not condition:
        raise UsageError(f"{setting} is out of range: {allowed}")


def _load(device: str) -> type[Backend]:
    name = f"etcpipe.gpu.{BACKENDS[device]}"
    try:
        return import_module(name).Backend
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UnsupportedError(f"regrouping on device {device!r} is not available here") from error
