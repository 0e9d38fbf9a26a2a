"""Regrouping: packets of many flows go in, flows whose model input is complete come out.

Each packet brings its flow's id and its rank in the flow, which the tracker gave it. So a
packet has its place, row `id % slots` and column `rank`, without any hash. All backends
compute exactly this:

    A row keeps the packets of rank 0 .. N-1 of one flow. It is closed, and comes out once, by
      depth    rank N-1 arrived, whatever closes the row then; ranks that it overtook may still
               come within the same batch
      idle     no packet for `wait_s`, by the packets' clock
      end      flush()
      evicted  a newer flow has the same slot, or all rows are taken: then the one that was
               not updated for longest goes
    and packets of its flow are ignored from then on. Where two packets in a row are more
    than `wait_s` apart, the row is closed before the second one, however late it is noticed.
    So a row's content follows from its packets and not from how they were cut into batches
    or when expire() was called, as long as packets are less than GRACE_NS out of order.

    ready_ns  idle: the last packet's time + wait_s, else the last packet's time
    lost      ranks below the highest one of the row that never arrived
    order     depth, idle and evicted as they happen in the batch; then rows with the last rank
              but not all others; then idle ones, the least recently updated first

    A flow of a cascade has early rows too, one at each of `depths`: once the packet of rank
    depth - 1 arrived, what the row holds of ranks below depth at the end of the batch comes out,
    and the flow goes on. take_early() returns them in the order in which those packets came.

    A super-packet (segment_len > 0) stands for ceil(payload / segment_len) packets of
    consecutive ranks: each has its own lengths and part of the payload, FIN and PSH are on the
    last one, CWR is on the first.

Each packet is counted once, in this order of tests: UNPARSED (no flow id), STRAGGLERS (the slot
has a newer flow), LATE (its row was closed, or is by this packet), BEYOND (rank N or more),
UNPARSED (not to be parsed), DUPLICATES (all its ranks are there), STORED. Rows are counted as
FLOWS (opened), EVICTED (slot needed), POOL_FULL (row needed), LEFT (by leave()), and the ranks
they lack as LOST.
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

# A row outlives its waiting time by this much, for packets that are late in a ring or a capture.
GRACE_NS = 100_000_000
# Rows that expiry closes at once, so that a call is bounded; the next one goes on.
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

# "reference" is the definition in Python, for tests and for reading.
BACKENDS = {"cpu": "regroup_native", "gpu": "regroup_failover", "reference": "regroup_cpu"}


# Returns when a batch's frames may be reused: what waits for the flows that it completes.
Staged = Callable[[], Callable[[], FlowBatch]]


@dataclass(frozen=True)
class Settings:
    """What a backend needs to know; checked by Regroup."""

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
    """Flows on their way.

    Attributes:
        depth: (flows,) uint8, packets at which each row came out.
        flows: rows with these packets alone; reason is READY_DEPTH, ready_ns the time of the
            newest of them, lost the ranks that a higher one overtook.
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
            slots: places for flows, pending or closed; as many as the tracker's ids may be
                apart while the older one still sends.
            wait_s: a flow is complete when it says nothing for so long.
            mask: "strict", "standard" or "none", see etcpipe.gpu.mask.
            max_rows: pending flows at most.
            raw_memory: bytes for raw views of pending flows at most, bounds max_rows too.
            parse: how packets are parsed, etcpipe.parsing.parse_bits(), as the tracker does.
            depths: numbers of packets below first_n at which a flow has an early row.
            device: "cpu", "gpu" or "reference".
            threads: processors that "cpu" uses, worth it where raw bytes are kept: each takes
                some of the slots and its share of max_rows, and rows come out by thread.

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
            batch: frames are copied as far as needed and may be reused afterwards.
            now_ns: the time by the packets' clock, up to which all packets have been added;
                None: the batch's newest packet.

        Raises:
            ValueError: a column has the wrong dtype or length.
        """
        return self._backend.add(batch, now_ns)

    def begin(self, batch: PacketBatch, now_ns: int | None = None) -> Callable[[], FlowBatch]:
        """Take packets and return what returns the flows that are complete.

        On a GPU they are brought to the host meanwhile, and judged if there is a scorer: so
        begin the next batch first. Frames may be reused at once. Arguments as of add().
        """
        return self.stage(batch, now_ns)()

    def stage(self, batch: PacketBatch, now_ns: int | None = None) -> Staged:
        """Take packets and return what goes on as begin() does, from where frames may be reused.

        A GPU reads them until then, so that another batch may be staged meanwhile, whose frames
        are somewhere else. Go on with each once, in the order in which they were staged.
        Arguments as of add().
        """
        stage = getattr(self._backend, "stage", None)
        if stage:
            return stage(batch, now_ns)
        flows = self._backend.add(batch, now_ns)
        return lambda: lambda: flows

    @property
    def is_ahead(self) -> bool:
        """Does a batch that was staged go on by itself, while another one is looked for?"""
        return hasattr(self._backend, "stage")

    def expire(self, now_ns: int) -> FlowBatch:
        """Return the flows that are idle by now_ns, GRACE_NS later than they became it."""
        return self._backend.expire(now_ns)

    def flush(self) -> FlowBatch:
        """Return all flows that are left."""
        return self._backend.flush()

    def take_early(self) -> EarlyRows:
        """Return the early rows since the last call; take them after each add()."""
        return self._backend.take_early()

    def leave(self, flow_id: np.ndarray) -> None:
        """End flows that need no more rows: what comes of them from now on is LATE.

        Args:
            flow_id: (flows,) uint64; flows whose row is closed or unknown are passed over.
        """
        self._backend.leave(np.ascontiguousarray(flow_id, np.uint64))

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: Sequence[str]
    ) -> "Scorer | None":
        """Have flows judged on the GPU from now on, and return what has their scores.

        Their bytes stay there: raw of the flows that come out then has a length of 0.

        Args:
            runner: one on the GPU.
            view, depth, columns: as of etcpipe.gpu.views.compute().

        Returns:
            None where flows are regrouped or the model runs on the CPU: nothing changes.

        Raises:
            UnsupportedError: the GPU has no memory left for the rows: nothing changes.
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
