"""Capture files as a source of packet batches, with a flow table of their own.

The files are read by libpcap (pcap and pcapng, micro- and nanoseconds, either byte order)
and tracked by the rules that the kernel programs use (bpf/flows.h), so a capture gives the
same flows, ranks and directions as the same packets would live. Only the first N packets
of a flow come out; the others are accounted to their flow in C and never copied.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import PacketColumns
from etcpipe.errors import CaptureError, UsageError
from etcpipe.layout import (
    CONSTANTS,
    COUNT_RULES,
    FLOW_KEY,
    FLOW_RECORD,
    FLOW_STATE,
    PACKET_COUNTERS,
)
from etcpipe.parsing import parse_bits

STDIN = "-"
BATCH_MAX = CONSTANTS["BATCH_MAX"]
SNAP_LEN = CONSTANTS["SNAP_LEN_DEFAULT"]
FLOWS_MAX = 4_194_304
FLOWS_LIMIT = 1 << 28

# Packets read in one call of C: some milliseconds, so that Ctrl-C and progress stay prompt.
PACKETS_A_READ = 32_768
PROGRESS_EVERY_S = 0.1

# LINKTYPE numbers that bpf/parsing.h is led to by etcpipe/native/link.h.
LINK_TYPES = frozenset({0, 1, 9, 12, 14, 50, 101, 104, 108, 113, 228, 229, 276})


class _Room:
    """Where a batch is."""

    def __init__(self) -> None:
        self.columns = PacketColumns(BATCH_MAX)
        self.arena = np.zeros(BATCH_MAX * SNAP_LEN, np.uint8)


class Capture:
    """Iterates over the first packets of flows in some capture files, once.

    The files are read in the order given as one stream: flows live on from one to the
    next, timestamps stay as they are. Unreadable regular files fail here, before any work.
    A batch is yielded when it is full or a file ends, whatever a pipe is slow to bring.

    Args:
        paths: pcap or pcapng files, or "-" for standard input.
        first_n: packets of a flow that come out, 1 .. FIRST_N_MAX.
        count: which packets count towards first_n, a name of layout.COUNT_RULES.
        idle_timeout_s: silence after which a flow has ended, by the capture's clock.
        establish_timeout_s: the same for a SYN that nobody answered.
        tombstone_timeout_s: silence after which an ended flow's tuple may be used anew by
            other packets than a SYN.
        sample: track one flow of so many, chosen by a hash of its key as the kernel does.
        sample_seed: moves the sample.
        decap, key_vlan, key_tunnel: see etcpipe.parsing.parse_bits().
        filter: packets to look at, in libpcap's syntax; None: all.
        max_flows: room in the flow table; packets of flows beyond it are counted only.
        on_progress: called about ten times a second with bytes read and bytes in all.

    Attributes:
        warnings: one line for each file that could be read only in part.
        parse: how packets are parsed, for Regroup.

    Raises:
        CaptureError: a file is missing, not readable, empty, no capture, or of a link type
            that etcpipe cannot parse. While iterating: the same of standard input.
        UsageError: an argument is out of range, or the filter has a fault.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        first_n: int = 10,
        count: str = "payload",
        idle_timeout_s: float = 120.0,
        establish_timeout_s: float = 5.0,
        tombstone_timeout_s: float = 30.0,
        sample: int = 1,
        sample_seed: int = 0,
        decap: bool = False,
        key_vlan: bool = False,
        key_tunnel: bool = False,
        filter: str | None = None,
        max_flows: int = FLOWS_MAX,
        on_progress: Callable[[int, int | None], None] | None = None,
    ):
        timeouts_s = (establish_timeout_s, idle_timeout_s, tombstone_timeout_s)
        _check_range("first_n", first_n, CONSTANTS["FIRST_N_MAX"], " packets")
        _check_range("sample", sample, CONSTANTS["SAMPLE_MAX"])
        _check_range("max_flows", max_flows, FLOWS_LIMIT)
        _check_timeouts(timeouts_s)
        if count not in COUNT_RULES:
            raise UsageError(f"count {count!r}: one of {', '.join(COUNT_RULES)}")
        self.warnings: list[str] = []
        self._paths = [os.fspath(path) for path in paths]
        self.parse = parse_bits(decap, key_vlan, key_tunnel)
        self._first_n = first_n
        self._filter = filter
        self._on_progress = on_progress
        self._sizes = [_check(path, filter) for path in self._paths]
        self._bytes_before = 0
        self._reader: object | None = None
        self._progress_at = time.monotonic()
        self._tracker = _native.tracker_new(
            first_n,
            COUNT_RULES[count],
            max_flows,
            tuple(round(timeout_s * 1e9) for timeout_s in timeouts_s),
            sample,
            sample_seed,
            self.parse,
        )
        self._rooms = [_Room()]

    def ahead(self) -> Iterator[PacketBatch]:
        """See etcpipe.pipeline.Lender; at a pipe nobody waits for a batch with another one."""
        self._rooms.append(_Room())
        for batch in self:
            yield batch
            if self.is_piped:
                yield self._rooms[0].columns.batch(self._rooms[0].arena, 0)

    def release(self, batch: PacketBatch) -> None:
        """Take back a batch: its place is filled by the next but one."""

    def __iter__(self) -> Iterator[PacketBatch]:
        for path in self._paths:
            self._reader = _open(path, self._filter)
            link_type, _ = _native.pcap_link_type(self._reader)
            yield from self._read(path, link_type)
            if self._reader is None:
                return
            self._bytes_before += _native.pcap_bytes_read(self._reader)
            self._reader = None
        self._report_progress(True)

    def _read(self, path: str, link_type: int) -> Iterator[PacketBatch]:
        more = True
        while more and self._reader is not None:
            room = self._rooms[0]
            self._rooms.reverse()
            rows, more, damage = _native.pcap_read(
                self._reader,
                self._tracker,
                room.columns.address,
                room.arena.ctypes.data,
                BATCH_MAX,
                SNAP_LEN,
                self._first_n,
                PACKETS_A_READ,
            )
            if damage:
                self.warnings.append(f"{_name(path)}: read in part: {damage}")
            self._report_progress(False)
            yield room.columns.batch(room.arena, rows, link_type=link_type)

    def _report_progress(self, end: bool) -> None:
        if self._on_progress and (end or time.monotonic() >= self._progress_at):
            self._progress_at = time.monotonic() + PROGRESS_EVERY_S
            self._on_progress(*self.progress)

    @property
    def is_piped(self) -> bool:
        """Is a pipe among the files, so that packets may come slowly?"""
        return None in self._sizes

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes read, and bytes in all or None where a pipe is among the files."""
        done = self._bytes_before
        if self._reader is not None:
            done += _native.pcap_bytes_read(self._reader)
        sizes = [size for size in self._sizes if size is not None]
        return done, sum(sizes) if len(sizes) == len(self._sizes) else None

    @property
    def counters(self) -> dict[str, int]:
        """Packets by what became of them, names of layout.PACKET_COUNTERS."""
        return dict(zip(PACKET_COUNTERS, _native.tracker_counters(self._tracker), strict=True))

    def clock_ns(self) -> int | None:
        """Return the last packet's timestamp; every packet before it was yielded."""
        clock_ns = _native.tracker_status(self._tracker)[2]
        return clock_ns or None

    def records(self, flows: FlowBatch) -> np.ndarray:
        """Return (flows,) FLOW_STATE as of now; flow_id 0 where the flow has ended."""
        states = np.zeros(len(flows), FLOW_STATE)
        keys = np.ascontiguousarray(flows.key, FLOW_KEY)
        flow_ids = np.ascontiguousarray(flows.flow_id, np.uint64)
        _native.tracker_states(
            self._tracker,
            keys.ctypes.data,
            flow_ids.ctypes.data,
            states.ctypes.data,
            len(states),
        )
        return states

    def ended(self) -> np.ndarray:
        """Return (flows,) FLOW_RECORD of the flows that ended since the last call.

        A flow ends when nothing came for the idle timeout, or when its tuple begins a new
        one. Records are kept until they are asked for.
        """
        _, ended, _ = _native.tracker_status(self._tracker)
        records = np.empty(ended, FLOW_RECORD)
        _native.tracker_take(self._tracker, records.ctypes.data, len(records))
        return records

    def finish(self) -> np.ndarray:
        """End all flows; return (flows,) FLOW_RECORD of those not returned before."""
        flows, ended, _ = _native.tracker_status(self._tracker)
        records = np.empty(flows + ended, FLOW_RECORD)
        _native.tracker_finish(self._tracker, records.ctypes.data, len(records))
        return records

    def close(self) -> None:
        """Close the file being read; an iteration under way ends with its next step."""
        self._reader = None


def _name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _check_range(name: str, value: int, most: int, unit: str = "") -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{name} {value}: 1 to {most}{unit}")


def _check_timeouts(timeouts_s: tuple[float, float, float]) -> None:
    for name, timeout_s in zip(("establish", "idle", "tombstone"), timeouts_s, strict=True):
        if not 0 < timeout_s <= 1e9:
            raise UsageError(f"{name} timeout {timeout_s:g}: more than 0 and at most 1e9 seconds")


def _check(path: str, filter: str | None) -> int | None:
    """Return the size of a file that can be read, None if it is a pipe."""
    if path == STDIN:
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        raise CaptureError(f"{path}: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return None
    _open(path, filter)
    return status.st_size


def _open(path: str, filter: str | None) -> object:
    """Return a reader of the file, with the filter set."""
    try:
        fd = 0 if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CaptureError(f"{path}: {_reason(error)}") from error
    try:
        reader = _native.pcap_open(fd)
    except (OSError, ValueError) as error:
        raise CaptureError(f"{_name(path)}: {_no_capture(fd, error)}") from error
    finally:
        if fd:
            os.close(fd)
    number, name = _native.pcap_link_type(reader)
    if number not in LINK_TYPES:
        raise CaptureError(
            f"{_name(path)}: link type {number} ({name}) is not supported: "
            "Ethernet, Linux cooked, raw IP, PPP, HDLC and loopback captures are"
        )
    if filter:
        try:
            _native.pcap_filter(reader, filter)
        except ValueError as error:
            raise UsageError(f"filter {filter!r}: {error}") from error
    return reader


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _no_capture(fd: int, error: Exception) -> str:
    """Return why libpcap did not take the file, in our words where they are clearer."""
    if isinstance(error, OSError):
        return _reason(error)
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        return "is a directory"
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        return "the file is empty"
    return f"not a pcap or pcapng file: {error}"
